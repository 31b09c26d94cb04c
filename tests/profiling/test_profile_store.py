from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path

import pytest
from damage import damaged, damaged_text
from hypothesis import given, settings
from hypothesis import strategies as st

from shardnet.described.model_sizes import UnitWork
from shardnet.errors import UsageError
from shardnet.profiling.hardware import Hardware
from shardnet.profiling.measurement import DeviceMeasurement, LinkMeasurement, StepTiming, UnitMeasurement
from shardnet.profiling.power import PowerState
from shardnet.profiling.store import ProfileStore, current_versions, why_stale

DAY_S = 86_400.0
PHONE = Hardware("aarch64", "Tensor", 8, (), 8 * 2**30, True)
VERSIONS = {"torch": "2.13.0", "python": "3.11.2"}
MADE = DeviceMeasurement("pixel", "small", "bfloat16", PHONE, VERSIONS, 1000 * DAY_S, 10.0, 2**31, 4, (), ())


@pytest.mark.parametrize(
    ("hardware", "versions", "age_days", "expected"),
    [
        (PHONE, VERSIONS, 0, None),
        (PHONE, VERSIONS, 30, None),
        (PHONE, VERSIONS, 31, "it is 31 days old"),
        (PHONE, VERSIONS, -0.5, None),
        (PHONE, VERSIONS, -2, "it was made in the future: the clock was wrong then, or is now"),
        (PHONE, {**VERSIONS, "torch": "2.14.0"}, 1, "torch was 2.13.0 and is 2.14.0"),
        (PHONE, {"torch": "2.13.0"}, 1, "python was 3.11.2 and is none"),
        (dataclasses.replace(PHONE, cpu="Snapdragon"), VERSIONS, 1, "the hardware changed (Tensor to Snapdragon)"),
    ],
)
def test_why_stale(hardware: Hardware, versions: dict[str, str], age_days: float, expected: str | None) -> None:
    assert why_stale(MADE, hardware, versions, (1000 + age_days) * DAY_S) == expected


def test_saved_and_loaded(tmp_path: Path) -> None:
    store = ProfileStore(tmp_path / "new" / "profiles")
    assert store.load("pixel", "small", "bfloat16") is None
    path = store.save(MADE)
    assert store.load("pixel", "small", "bfloat16") == MADE
    assert store.load("pixel", "small", "float32") is None
    store.save(dataclasses.replace(MADE, num_threads=2))
    loaded = store.load("pixel", "small", "bfloat16")
    assert loaded is not None and loaded.num_threads == 2
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # no half files are left


def test_a_link_is_kept_for_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, link = ProfileStore(tmp_path), LinkMeasurement("a", "b", 1e-4, 2e-4, 1e9, 1e9, 3e-4, 3e-4, 1e-3, 1e-3)
    assert store.load_link("laptop-1", 1152, 0.0) is None
    store.save_link("laptop-1", 1152, 1000 * DAY_S, link)
    assert store.load_link("laptop-1", 1152, 1000.9 * DAY_S) == link
    assert store.load_link("laptop-1", 1152, 1001.1 * DAY_S) is None
    assert store.load_link("laptop-1", 1152, 999 * DAY_S) is None, "it was made in the future"
    assert store.load_link("laptop-2", 1152, 1000 * DAY_S) is None
    assert store.load_link("laptop-1", 256, 1000 * DAY_S) is None
    monkeypatch.setattr("shardnet.profiling.store.current_versions", lambda: {"torch": "9.9"})
    assert store.load_link("laptop-1", 1152, 1000 * DAY_S) is None


def test_names_that_look_alike_do_not_share_a_file(tmp_path: Path) -> None:
    store = ProfileStore(tmp_path)
    paths = {store.path("a b", "m", "float32"), store.path("a-b", "m", "float32"), store.path("a", "b-m", "float32")}
    assert len(paths) == 3
    assert store.path("../../evil", "/etc/passwd", "float32").parent == tmp_path


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", '{"format": 0}', '{"format": 1}', '{"format": 1, "measurement": {}}']
)
def test_a_damaged_file_is_measured_anew(tmp_path: Path, damage: str) -> None:
    store = ProfileStore(tmp_path)
    store.save(MADE).write_text(damage)
    assert store.load("pixel", "small", "bfloat16") is None


def test_a_file_of_other_fields_is_measured_anew(tmp_path: Path) -> None:
    store = ProfileStore(tmp_path)
    path = store.save(MADE)
    values = json.loads(path.read_text())
    values["measurement"]["unknown"] = 1
    path.write_text(json.dumps(values))
    assert store.load("pixel", "small", "bfloat16") is None


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = ProfileStore(tmp_path / "file" / "profiles")
    for attempt in (store.require_writable, lambda: store.save(MADE)):
        with pytest.raises(UsageError, match=r"Cannot keep profiles in .*profiles: .*Make that folder writable"):
            attempt()


def test_versions_are_those_that_change_the_speed() -> None:
    assert {"python", "torch", "transformers", "system"} == set(current_versions())


WORK = UnitWork("block 0", 100, 200, 8.0, 64, 200.0, 400.0, 4.0)
STEPS = (StepTiming(1, 1, 64, 0.003, 5), StepTiming(1, 1, 512, 0.004, 5), StepTiming(1, 16, 0, 0.01, 5))
WHOLE = dataclasses.replace(MADE, units=(UnitMeasurement(WORK, (0, 1), STEPS),), power_before=PowerState(80.0, False))


@settings(max_examples=60, derandomize=True, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_measured_anew_or_can_be_used(data: st.DataObject) -> None:
    """Texts for seconds, units of index 7 of 3 and times without a decode step were believed, and broke their users."""
    with tempfile.TemporaryDirectory() as folder:
        store = ProfileStore(folder)
        path = store.save(WHOLE)
        good = json.loads(path.read_text())
        path.write_bytes(data.draw(damaged_text(data.draw(damaged(good)))))
        found = store.load("pixel", "small", "bfloat16")
    if found is not None:
        profile = found.to_profile()
        assert len(profile.decode_unit_s) == found.num_units
        assert all(0 < seconds < 1e12 for seconds in (*profile.decode_unit_s, *profile.prefill_unit_s_per_token))
        why_stale(found, PHONE, VERSIONS, 1001 * DAY_S)


@settings(max_examples=40, derandomize=True, deadline=None)
@given(data=st.data())
def test_a_damaged_link_is_measured_anew_or_can_be_used(data: st.DataObject) -> None:
    link = LinkMeasurement("a", "b", 1e-4, 2e-4, 1e9, 1e9, 3e-4, 3e-4, 1e-3, 1e-3)
    with tempfile.TemporaryDirectory() as folder:
        store = ProfileStore(folder)
        store.save_link("net", 1152, 1000 * DAY_S, link)
        path = next(Path(folder).iterdir())
        path.write_bytes(data.draw(damaged_text(data.draw(damaged(json.loads(path.read_text()))))))
        found = store.load_link("net", 1152, 1000 * DAY_S)
    assert found is None or all(0 < each.bytes_per_s < 1e19 for each in found.to_profiles())
