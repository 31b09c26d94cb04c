from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from shardnet.described.schema import Place, read_record
from shardnet.profiling.cores import (
    core_max_khz,
    cpu_quota,
    fast_cores,
    last_level_cache_bytes,
    max_threads,
    usable_cores,
)
from shardnet.profiling.hardware import Hardware, describe_hardware
from shardnet.profiling.memory import (
    group_free_bytes,
    machine_memory,
    memory_budget,
    num_process_threads,
    process_rss_bytes,
    usable_memory_bytes,
)
from shardnet.profiling.phone import is_phone

GIB = 2**30


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("total", "available", "group", "phone", "expected"),
    [
        (16 * GIB, 10 * GIB, None, False, 10 * GIB - GIB // 2),
        (16 * GIB, 4 * GIB, None, False, 4 * GIB - 256 * 2**20),
        (8 * GIB, 6 * GIB, None, True, 4 * GIB),
        (8 * GIB, 2 * GIB, None, True, 2 * GIB - 256 * 2**20),
        (64 * GIB, 60 * GIB, 2 * GIB, False, 2 * GIB - 2 * GIB // 20),
        (GIB, 100 * 2**20, None, False, 0),
    ],
)
def test_memory_budget(total: int, available: int, group: int | None, phone: bool, expected: int) -> None:
    assert memory_budget(total, available, group, phone) == expected


def test_a_control_group_of_version_2_and_its_parents_limit_memory(tmp_path: Path) -> None:
    write(
        tmp_path,
        **{
            "proc/self/cgroup": "0::/user.slice/app.scope\n",
            "sys/fs/cgroup/user.slice/app.scope/memory.max": "max\n",
            "sys/fs/cgroup/user.slice/memory.max": f"{3 * GIB}\n",
            "sys/fs/cgroup/user.slice/memory.current": f"{2 * GIB}\n",
            "sys/fs/cgroup/user.slice/memory.stat": f"anon 5\nactive_file {GIB // 4}\ninactive_file {3 * GIB // 4}\n",
            "proc/meminfo": f"MemTotal: {16 * 2**20} kB\nMemFree: 1 kB\nMemAvailable: {12 * 2**20} kB\n",
        },
    )
    assert group_free_bytes(tmp_path) == 2 * GIB  # 3 limit - (2 used - 1 of files that the kernel would drop)
    assert usable_memory_bytes(tmp_path) == 2 * GIB - 2 * GIB // 20


def test_a_control_group_of_version_1_limits_memory(tmp_path: Path) -> None:
    write(
        tmp_path,
        **{
            "proc/self/cgroup": "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n",
            # Inside a container the mounted folder is the group's own, whatever path is named.
            "sys/fs/cgroup/memory/memory.limit_in_bytes": str(GIB),
            "sys/fs/cgroup/memory/memory.usage_in_bytes": str(GIB // 4),
            "sys/fs/cgroup/memory/docker/memory.limit_in_bytes": str(2**63 - 4096),
        },
    )
    assert group_free_bytes(tmp_path) == GIB - GIB // 4


def test_no_control_group_means_no_limit(tmp_path: Path) -> None:
    assert group_free_bytes(tmp_path) is None


def test_the_slowest_cluster_of_cores_is_left_out() -> None:
    phone = dict.fromkeys(range(4), 1800000) | dict.fromkeys((4, 5, 6), 2400000) | {7: 2_900_000}
    assert fast_cores(set(range(8)), phone) == {4, 5, 6, 7}
    assert fast_cores({4, 5, 6, 7}, phone) == {7}  # the big cluster alone is allowed: of it, too, the slower leave
    server = {core: 3_400_000 + 10_000 * core for core in range(8)}
    assert fast_cores(set(range(8)), server) == set(range(8))
    assert fast_cores({0, 1}, {0: 1_000_000}) == {0, 1}


def test_cores_are_read_and_a_quota_limits_threads(tmp_path: Path) -> None:
    allowed = usable_cores(tmp_path)
    assert allowed  # no clocks there: all allowed cores stay
    for core in allowed:
        write(tmp_path, **{f"sys/devices/system/cpu/cpu{core}/cpufreq/cpuinfo_max_freq": "2000000\n"})
    assert set(core_max_khz(tmp_path)) == allowed
    assert max_threads(tmp_path) == len(allowed)
    write(tmp_path, **{"proc/self/cgroup": "0::/app\n", "sys/fs/cgroup/app/cpu.max": "50000 100000\n"})
    assert max_threads(tmp_path) == 1


def test_a_quota_of_version_1_limits_threads(tmp_path: Path) -> None:
    write(
        tmp_path,
        **{
            "proc/self/cgroup": "3:cpu:/\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "90000",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
    )
    assert max_threads(tmp_path) == 1
    assert cpu_quota(tmp_path) == 0.9
    write(tmp_path, **{"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1"})
    assert cpu_quota(tmp_path) is None
    assert max_threads(tmp_path) == len(usable_cores(tmp_path))


def test_the_largest_cache_counts(tmp_path: Path) -> None:
    assert last_level_cache_bytes(tmp_path) == 32 * 2**20
    base = "sys/devices/system/cpu/cpu0/cache"
    write(tmp_path, **{f"{base}/index0/size": "48K\n", f"{base}/index3/size": "6M\n"})
    assert last_level_cache_bytes(tmp_path) == 6 * 2**20


def test_a_phone_is_known_by_its_files_or_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANDROID_ROOT", raising=False)
    assert not is_phone(tmp_path)
    write(tmp_path, **{"system/build.prop": ""})
    assert is_phone(tmp_path)
    monkeypatch.setenv("ANDROID_ROOT", "/system")
    assert is_phone(tmp_path / "nowhere")


def test_fingerprints_tell_machines_apart_but_not_a_few_megabytes(tmp_path: Path) -> None:
    here = describe_hardware()
    assert here == describe_hardware()
    assert read_record(Hardware, here.as_dict(), Place()) == here
    pixel = Hardware("aarch64", "Tensor G2", 8, (1_803_000,) * 4, 8 * GIB - 300_000_000, True)
    assert dataclasses.replace(pixel, memory_bytes=pixel.memory_bytes - 4096).fingerprint == pixel.fingerprint
    assert dataclasses.replace(pixel, cpu="Tensor G3").fingerprint != pixel.fingerprint
    write(tmp_path, **{"proc/cpuinfo": "processor: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd05\nCPU part\t: 0xd44\n"})
    assert describe_hardware(tmp_path).cpu == "0x41 0xd05 0xd44"


def test_without_proc_the_c_library_says_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, a device without /proc ended the command: "FileNotFoundError: /proc/meminfo"."""

    def missing(*_: object) -> None:
        raise FileNotFoundError("/proc/meminfo")

    monkeypatch.setattr("shardnet.profiling.memory.psutil.virtual_memory", missing)
    monkeypatch.setattr("shardnet.profiling.memory.psutil.Process", missing)
    memory = machine_memory(tmp_path)
    assert 0 < memory.available_bytes <= memory.total_bytes
    assert memory.total_bytes == pytest.approx(machine_memory().total_bytes, rel=0.1)
    assert process_rss_bytes() > 2**20
    assert num_process_threads() >= 1
