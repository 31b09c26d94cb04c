from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from processes import is_over, wait_until

from shardnet.profiling import power
from shardnet.profiling.power import (
    UNKNOWN_POWER,
    PowerState,
    PowerWatch,
    battery_from_sysfs,
    battery_from_termux,
    hottest_c,
    package_joules,
    read_power,
)


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_termux_tells_all() -> None:
    answer = {"percentage": 81, "status": "DISCHARGING", "temperature": 31.5, "current": -512_000, "voltage": 4000}
    assert battery_from_termux(json.dumps(answer)) == PowerState(81.0, False, 31.5, 2.048)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("", None),
        ("no API", None),
        ("[1]", None),
        ("{}", UNKNOWN_POWER),
        ('{"percentage": 50, "status": "CHARGING", "current": 900000}', PowerState(50.0, True)),
        ('{"percentage": "x", "status": null, "temperature": 20}', PowerState(battery_c=20.0)),
        ('{"percentage": 80, "temperature": "22.3"}', PowerState(80.0, battery_c=22.3)),
        ('{"temperature": -214748364.8, "percentage": NaN}', UNKNOWN_POWER),
        ('{"percentage": 80, "plugged": "PLUGGED_AC", "status": "NOT_CHARGING"}', PowerState(80.0, True)),
        ('{"percentage": 80, "plugged": "PLUGGED_USB", "status": "DISCHARGING"}', PowerState(80.0, False)),
        ('{"percentage": 80, "plugged": "UNPLUGGED", "status": "UNKNOWN"}', PowerState(80.0, False)),
        ('{"status": "DISCHARGING", "current": -1000000}', PowerState(is_charging=False, drawn_w=3.85)),
    ],
)
def test_any_field_of_termux_may_be_missing(answer: str, expected: PowerState | None) -> None:
    assert battery_from_termux(answer) == expected


def test_a_laptops_battery(tmp_path: Path) -> None:
    base = "sys/class/power_supply"
    write(
        tmp_path,
        **{
            f"{base}/AC/type": "Mains\n",
            f"{base}/hid-mouse/type": "Battery\n",
            f"{base}/hid-mouse/scope": "Device\n",
            f"{base}/hid-mouse/capacity": "5\n",
            f"{base}/zBAT0/type": "Battery\n",
            f"{base}/zBAT0/status": "Discharging\n",
            f"{base}/zBAT0/capacity": "67\n",
            f"{base}/zBAT0/current_now": "1500000\n",
            f"{base}/zBAT0/voltage_now": "12000000\n",
            f"{base}/zBAT0/temp": "314\n",
        },
    )
    assert battery_from_sysfs(tmp_path) == PowerState(67.0, False, 31.4, 18.0)
    write(tmp_path, **{f"{base}/zBAT0/status": "Charging\n"})
    state = battery_from_sysfs(tmp_path)
    assert state is not None and state.is_charging and state.drawn_w is None


def test_no_battery_is_no_error(tmp_path: Path) -> None:
    assert battery_from_sysfs(tmp_path) is None
    assert hottest_c(tmp_path) is None


def test_the_hottest_sane_zone_counts(tmp_path: Path) -> None:
    base = "sys/class/thermal"
    readings = {"0": "41000\n", "1": "52\n", "2": "-274000\n", "3": "999000\n", "4": "nonsense"}
    write(tmp_path, **{f"{base}/thermal_zone{zone}/temp": text for zone, text in readings.items()})
    assert hottest_c(tmp_path) == 52.0


def test_a_command_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = tmp_path / "termux-battery-status"
    command.write_text("#!/bin/sh\nsleep 60 &\necho $! > waits\nwait\n")
    command.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(power, "TERMUX_S", 0.2)
    assert isinstance(read_power(tmp_path), PowerState)
    wait_until(lambda: is_over(int((tmp_path / "waits").read_text())))  # also what the script has started
    command.write_text("""#!/bin/sh\necho '{"percentage": 12, "status": "FULL"}'\n""")
    assert read_power(tmp_path).battery_percent == 12.0


WAITS = """
from shardnet.process.signals import raised
from shardnet.profiling.power import read_power

with raised():
    read_power()
"""


def test_who_is_told_to_end_waits_for_no_command_that_never_answers(tmp_path: Path) -> None:
    command = tmp_path / "termux-battery-status"
    command.write_text(
        f"#!/bin/sh\nsleep 600 &\necho $! > {tmp_path}/begun\nmv {tmp_path}/begun {tmp_path}/waits\nwait\n"
    )
    command.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    reading = subprocess.Popen([sys.executable, "-c", WAITS], env={**os.environ, "PATH": path})
    wait_until((tmp_path / "waits").exists)
    reading.terminate()
    assert reading.wait(60) == 128 + signal.SIGTERM
    wait_until(lambda: is_over(int((tmp_path / "waits").read_text())))


def test_counters_of_the_processors_packages_are_added(tmp_path: Path) -> None:
    assert package_joules(tmp_path) is None
    base = "sys/class/powercap"
    write(
        tmp_path,
        **{
            f"{base}/intel-rapl:0/energy_uj": "2000000",
            f"{base}/intel-rapl:1/energy_uj": "3000000",
            f"{base}/intel-rapl:0:0/energy_uj": "1000000",  # the cores, part of package 0
        },
    )
    assert package_joules(tmp_path) == 5.0


def test_the_watch_reads_the_battery_as_it_is_told() -> None:
    told = threading.Event()

    def read() -> PowerState:
        told.set()
        return PowerState(drawn_w=6.0)

    with PowerWatch(read) as watch:
        assert told.wait(20)
    assert watch.active_w == 6.0


def test_the_watch_ends_its_thread_and_prefers_the_counters_where_there_is_no_battery(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    joules = iter([10.0, 1e9])
    monkeypatch.setattr(power, "package_joules", lambda: next(joules))
    with PowerWatch() as watch:
        thread = watch._thread
        assert thread.is_alive()
    assert not thread.is_alive()
    assert watch.active_w is not None and watch.active_w > 0
