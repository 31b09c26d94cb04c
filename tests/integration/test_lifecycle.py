"""What happens when devices die in the middle of an answer, and that nothing is left over in the end."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from processes import is_over, wait_until
from tiny_text_model import save_text_model

import shardnet
from shardnet.errors import BadRequest, ClusterError, DamagedCheckpoint, DeviceLost
from shardnet.loader import ModelFiles

pytestmark = pytest.mark.usefixtures("warm_devices")


def pids_of(cluster: shardnet.Cluster) -> dict[str, int]:
    return {answer["device"]: answer["pid"] for answer in cluster.describe()}


def threads_of_shardnet() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("shardnet")}


def test_nothing_is_left_over_after_the_block(tiny: Path) -> None:
    with shardnet.Cluster.local(2, threads_per_device=1) as cluster:
        pids = pids_of(cluster)
        cluster.load(tiny).generate(["x"], max_new_tokens=2)
    assert not any(psutil.pid_exists(pid) for pid in pids.values())
    assert not threads_of_shardnet()


def test_an_exception_in_the_block_ends_everything_and_a_closed_model_says_so(tiny: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        with shardnet.Cluster.local(2, threads_per_device=1) as cluster:
            pids = pids_of(cluster)
            model = cluster.load(tiny)
            model.stream("x", max_new_tokens=500)
            _ = 1 / 0
    assert not any(psutil.pid_exists(pid) for pid in pids.values())
    assert not threads_of_shardnet()
    asked: tuple[Callable[[], object], ...] = (
        lambda: model.generate(["x"], max_new_tokens=2),
        model.report,
        model.reset_report,
        lambda: model.write_profile(tiny / "profile"),
    )
    for ask in asked:  # once, the last three spoke of an object that was released
        with pytest.raises(BadRequest, match="the model was closed"):
            ask()
    for ask in (cluster.describe, lambda: cluster.load(tiny), cluster.__enter__):
        with pytest.raises(BadRequest, match="this cluster was closed"):
            ask()


@pytest.mark.parametrize("victim", ["device-0", "device-1", "device-2"])
def test_others_take_over_from_a_killed_device_and_no_token_changes(tiny: Path, victim: str) -> None:
    told: list[shardnet.Event] = []
    with shardnet.Cluster.local(3, threads_per_device=1) as cluster:
        pids = pids_of(cluster)
        model = cluster.load(tiny, dtype="float32", on_event=told.append)
        prompts = ["a long answer", "another", "a third one"]
        expected = [each.token_ids for each in model.generate(prompts, max_new_tokens=200)]
        streams = [model.stream(prompt, max_new_tokens=200) for prompt in prompts]
        next(streams[0])
        os.kill(pids[victim], signal.SIGKILL)
        for stream in streams:
            "".join(stream)
        assert [stream.result.token_ids for stream in streams] == expected
        assert victim not in model.plan.devices
        lost, recovered = model.events
        assert (lost.event, lost.device, recovered.event) == ("lost", victim, "recovered")
        assert re.fullmatch(rf"{victim} is lost \(.*SIGKILL\): its units? .* to device-.*", lost.text)
        assert tuple(told) == model.events
        assert [report.device for report in model.report()] == [stop.device for stop in model._deployment.ring.plan]
        again = cluster.load(tiny, dtype="float32")
        assert victim not in again.plan.devices


def test_a_killed_device_is_seen_in_the_profile(tiny: Path, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with shardnet.Cluster.local(3, threads_per_device=1) as cluster:
        pids = pids_of(cluster)
        model = cluster.load(tiny, dtype="float32", split=[2, 2, 2], record_spans=True)
        rings = model._deployment._rings  # type: ignore[attr-defined]
        victim = rings.current.stages[1]
        stream = model.stream("a long answer", max_new_tokens=1500)
        wait_until(lambda: next(stream, "") and any(span[0] == "compute" for span in list(victim.spans)))
        os.kill(pids["device-1"], signal.SIGKILL)
        "".join(stream)
        model.write_profile(tmp_path / "run")
        [recovered] = [event for event in model.events if event.event == "recovered"]
    trace = json.loads((tmp_path / "run" / "trace.json").read_text())["traceEvents"]
    assert {"device-1 lost", "recovered"} <= {each["name"] for each in trace if each["ph"] == "i"}
    [recovery] = [each for each in trace if each["name"] == "recovery" and each["ph"] == "X"]
    assert recovery["dur"] == pytest.approx(recovered.seconds * 1e6, abs=2000)
    whole = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard" / "run")).Reload()
    assert [point.value for point in whole.Scalars("recovery/seconds")] == pytest.approx([recovered.seconds], abs=0.002)
    assert [whole.Scalars("plan/devices")[index].value for index in (0, -1)] == [3, 2]
    assert (tmp_path / "run" / "tensorboard" / "stage-1-device-1").is_dir()


def test_a_device_killed_while_nobody_asks_is_noticed(tiny: Path) -> None:
    with shardnet.Cluster.local(2, threads_per_device=1) as cluster:
        model = cluster.load(tiny)
        os.kill(pids_of(cluster)["device-1"], signal.SIGKILL)
        wait_until(lambda: len(model.events) == 2, 5)
        assert model.plan.devices == ("device-0",)


def test_all_devices_killed_is_a_sentence(tiny: Path) -> None:
    with shardnet.Cluster.local(1, threads_per_device=1) as cluster:
        model = cluster.load(tiny)
        os.kill(pids_of(cluster)["device-0"], signal.SIGKILL)
        with pytest.raises(DeviceLost):
            for _ in model.stream("x", max_new_tokens=2000):
                pass
        with pytest.raises(ClusterError, match="every device"):
            cluster.load(tiny)


def test_a_checkpoint_that_breaks_while_loading_leaves_the_cluster_as_it_was(tiny: Path, tmp_path: Path) -> None:
    for file in tiny.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with shardnet.Cluster.local(2, threads_per_device=1) as cluster:
        with pytest.raises(DamagedCheckpoint, match=r"model\.safetensors"):
            cluster.load(tmp_path)
        assert cluster.load(tiny).generate(["x"], max_new_tokens=2)[0].token_ids


def test_two_models_at_once_on_the_same_devices(tiny: Path, tmp_path: Path) -> None:
    other = save_text_model(tmp_path, num_blocks=2)
    with shardnet.Cluster.local(2, threads_per_device=1) as cluster:
        first, second = cluster.load(tiny, dtype="float32"), cluster.load(other, dtype="float32")
        alone = [first.generate(["abc"], max_new_tokens=12)[0], second.generate(["abc"], max_new_tokens=12)[0]]
        streams = [first.stream("abc", max_new_tokens=12), second.stream("abc", max_new_tokens=12)]
        for stream, expected in zip(streams, alone, strict=True):
            assert "".join(stream) == expected.text
        first.close()
        assert second.generate(["abc"], max_new_tokens=12)[0].token_ids == alone[1].token_ids


@pytest.mark.parametrize("when", ["profiling", "loading"])
@pytest.mark.parametrize("victim", ["device-0", "device-2"])
def test_a_device_killed_before_the_model_stands_is_named_within_5_s(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str, victim: str
) -> None:
    """Once, the load waited for the others' shards first, and the error named no stage."""
    killed_s: list[float] = []
    if when == "profiling":
        monkeypatch.setenv("SHARDNET_CACHE", str(tmp_path))  # where the devices have no profiles yet
    with shardnet.Cluster.local(3, threads_per_device=1) as cluster:
        pids = pids_of(cluster)

        def kill_once(what: str, done: float, total: float) -> None:
            if what.startswith(when) and not killed_s:
                killed_s.append(time.monotonic())
                os.kill(pids[victim], signal.SIGKILL)

        split = None if when == "profiling" else [2, 2, 2]
        held = "before the model was placed" if split is None else f"stage {1 + int(victim[-1])} of 3"
        try:
            model = cluster.load(tiny, split=split, cache_dir=tmp_path, progress=kill_once)
            wait_until(lambda: len(model.events) == 2, 5)  # a small model may stand before its device is missed
        except DeviceLost as lost:
            assert re.search(rf"{victim} is lost .*SIGKILL.*{held}", str(lost))
            assert lost.device == victim
        assert time.monotonic() - killed_s[0] < 5
        assert victim not in {stage.device for stage in cluster.load(tiny, cache_dir=tmp_path).plan.stages}


def interrupted(_: ModelFiles) -> None:
    raise KeyboardInterrupt


def test_a_load_that_fails_leaves_nothing_on_the_devices(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, a stage whose load was under way when another's failed was made all the same, and held by nobody."""
    with shardnet.Cluster.local(2, threads_per_device=1) as cluster:
        cluster.load(tiny, split=[3, 3]).close()
        num_threads = [device["num_os_threads"] for device in cluster.describe()]
        monkeypatch.setattr(ModelFiles, "tokenizer", interrupted)
        for _ in range(5):
            with pytest.raises(KeyboardInterrupt):
                cluster.load(tiny, split=[3, 3])
        wait_until(lambda: [device["num_os_threads"] for device in cluster.describe()] <= num_threads)
        assert not cluster._deployments


def test_streams_that_nobody_reads_end_and_free_their_memory(tiny: Path) -> None:
    with shardnet.Cluster.local(2, threads_per_device=1) as cluster:
        model = cluster.load(tiny, split=[3, 3])
        for _ in range(4):
            model.stream("never read", max_new_tokens=4000)
        for _ in model.stream("read once", max_new_tokens=4000):
            break
        wait_until(lambda: model._deployment.sessions.num_open == 0)
        model._deployment.sessions.settle()
        assert all(report.kv_reserved_bytes == 0 for report in model.report())


def test_ctrl_c_ends_all_answers_at_once(tiny: Path) -> None:
    """Once, `generate` answered every prompt to its end before it raised KeyboardInterrupt."""
    with shardnet.Cluster.local(2, threads_per_device=1) as cluster:
        model = cluster.load(tiny, dtype="float32", split=[3, 3])  # in bfloat16 this answer ends after 26 tokens
        pressed_s: list[float] = []

        def press() -> None:
            wait_until(lambda: model._deployment.sessions.num_open == 6)
            pressed_s.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

        presser = threading.Thread(target=press)
        presser.start()
        with pytest.raises(KeyboardInterrupt):
            model.generate(["a long answer"] * 6, max_new_tokens=4000)
        assert time.monotonic() - pressed_s[0] < 3
        presser.join()
        assert model.generate(["x"], max_new_tokens=3)[0].token_ids


def test_a_model_closed_in_mid_answer_ends_it_with_a_sentence(tiny: Path) -> None:
    with shardnet.Cluster.local(2, threads_per_device=1) as cluster:
        model = cluster.load(tiny, split=[3, 3])
        pieces = iter(model.stream("x", max_new_tokens=4000))
        next(pieces)
        model.close()
        with pytest.raises(BadRequest, match="closed"):
            list(pieces)


def test_a_frozen_device_does_not_keep_the_cluster_from_ending(tiny: Path) -> None:
    """Once, the end waited half a minute for its answer."""
    with shardnet.Cluster.local(2, threads_per_device=1) as cluster:
        pids = pids_of(cluster)
        cluster.load(tiny, split=[3, 3])
        os.kill(pids["device-1"], signal.SIGSTOP)
        frozen_s = time.monotonic()
    assert time.monotonic() - frozen_s < 15
    wait_until(lambda: all(is_over(pid) for pid in pids.values()), timeout_s=5)
    assert not threads_of_shardnet()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_devices": 0}, "at least 1"),
        ({"num_devices": 10**9}, "at most 1024"),  # a list of so many names filled the memory
        ({"num_devices": 1, "threads_per_device": 10**6}, "at most 1024"),
        ({"num_devices": "3"}, "whole number, but is '3'"),
        ({"num_devices": None}, "whole number, but is None"),
        ({"num_devices": 1, "threads_per_device": 0}, "number of threads must be at least 1"),
        ({"num_devices": 1, "threads_per_device": 1.5}, "1.5"),
        ({"num_devices": 1, "log_dir": __file__}, "cannot be written"),
    ],
)
def test_impossible_clusters_are_refused_before_anything_starts(options: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        shardnet.Cluster.local(**options)
