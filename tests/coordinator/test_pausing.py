"""A device that pauses holds nothing and stays a member, until it takes work again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from in_process_ring import PROMPT, alone
from lasting_in_process import LastingInProcess, lasting_in_process
from processes import wait_until

from shardnet.errors import BadRequest
from shardnet.launch.cluster import ask
from shardnet.source.running_cluster import RunningCluster
from shardnet.transport.source_messages import COORDINATOR, MemberStatus

NUM_TOKENS = 12


@pytest.fixture
def cluster() -> Iterator[LastingInProcess]:
    with lasting_in_process() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def expected(tiny: Path) -> list[int]:
    return alone(tiny, [PROMPT], NUM_TOKENS)[0]


def told(cluster: LastingInProcess, device: str, endpoint: str, *arguments: str) -> str | None:
    """What a device tells the coordinator, and what that answers."""
    transport = cluster.workers[device].premises.transport
    answer: str | None = transport.call(COORDINATOR, endpoint, device, *arguments, timeout_s=20).result()
    return answer


def members(cluster: LastingInProcess) -> dict[str, MemberStatus]:
    return {member.name: member for member in cluster.coordinator.status().members}


def test_others_take_over_from_a_device_that_pauses_and_it_works_again_later(
    cluster: LastingInProcess, tiny: Path, expected: list[int]
) -> None:
    source = cluster.connect()
    model = source.load(tiny, dtype="float32", placement="spread")
    with model.stream(PROMPT, max_new_tokens=NUM_TOKENS) as stream:
        pieces = iter(stream)
        next(pieces)
        assert told(cluster, "b", "pause", "its battery is at 8%") == "units 3-5 went to a"
        list(pieces)
    assert stream.result.token_ids == expected
    assert told(cluster, "b", "pause", "its battery is at 7%") == ""  # that is known
    there = members(cluster)
    assert (there["b"].state, there["b"].why, there["b"].units) == ("paused", "its battery is at 8%", ())
    assert there["a"].units == ((0, 5),)
    wait_until(lambda: not cluster.workers["b"].holds())
    model = source.load(tiny, dtype="float32", placement="spread")
    assert model.plan.devices == ("a",) and cluster.told("paused") == ["b pauses: its battery is at 8%."]
    told(cluster, "b", "unpause")
    assert members(cluster)["b"].state == "present"
    assert source.load(tiny, dtype="float32", placement="spread").plan.devices == ("a", "b")
    assert cluster.told("unpaused") == ["b takes work again."]
    assert cluster.told("lost") == cluster.told("left") == []


def test_where_nobody_takes_over_the_model_waits_for_the_device(tiny: Path, expected: list[int]) -> None:
    """The owner's wish counts more than the answer, which can be resumed where there is a state folder."""
    with lasting_in_process(1) as cluster:
        source = cluster.connect()
        source.load(tiny, dtype="float32")
        assert told(cluster, "a", "pause", "it is not being charged") == ""
        wait_until(lambda: cluster.told("unloaded"))
        assert "a is lost (it pauses: it is not being charged)" in cluster.coordinator.status().why_none
        assert members(cluster)["a"].state == "paused"
        wait_until(lambda: not cluster.workers["a"].holds())
        told(cluster, "a", "unpause")
        wait_until(lambda: len(cluster.told("loaded")) == 2)
        assert source.model.generate([PROMPT], max_new_tokens=NUM_TOKENS)[0].token_ids == expected


def test_a_paused_device_may_leave_and_may_be_lost(cluster: LastingInProcess) -> None:
    source = cluster.connect()
    for device in ("a", "b"):
        told(cluster, device, "pause", "its battery has 46 degrees")
    assert source.leave("a") == ""
    cluster.leave("a")
    cluster.lose("b")
    wait_until(lambda: not cluster.coordinator.devices)
    assert cluster.told("left") == ["a has left."]
    assert cluster.told("lost") == ["b is lost: its process has ended, or its connection broke."]
    cluster.join("b")
    assert members(cluster)["b"].state == "present"


def test_a_person_lets_a_device_pause_and_work_again(cluster: LastingInProcess, tiny: Path) -> None:
    source = cluster.connect()
    source.load(tiny, dtype="float32", placement="spread")
    asked: list[bool] = []
    why = ""

    def on_pause(must_pause: bool) -> str:
        asked.append(must_pause)
        return why

    with pytest.raises(BadRequest, match=r"^b cannot pause: it is a device of a cluster that ends with its program"):
        source.pause("b")
    assert members(cluster)["b"].state == "present"
    source.load(tiny, dtype="float32", placement="spread")
    cluster.workers["b"].on_pause = on_pause
    assert source.pause("b") == "units 3-5 went to a"
    assert members(cluster)["b"].why == "it was told to"
    assert source.pause("b") == ""
    why = "its battery is at 8%"
    assert source.unpause("b") == why
    assert members(cluster)["b"].state == "paused"
    why = ""
    assert source.unpause("b") == ""
    assert members(cluster)["b"].state == "present"
    assert asked == [True, True, False, False]
    with pytest.raises(BadRequest, match="no device of this cluster is called 'c'"):
        source.pause("c")


def test_the_commands_say_what_became_of_it(
    cluster: LastingInProcess, tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(RunningCluster, "connect", lambda folder: cluster.connect())
    cluster.connect().load(tiny, dtype="float32", placement="spread")
    cluster.workers["b"].on_pause = lambda must_pause: ""
    ask.tell_device(Path("/state"), "pause", "b")
    ask.tell_device(Path("/state"), "unpause", "b")
    cluster.workers["b"].on_pause = lambda must_pause: "its battery has 46 degrees"
    ask.tell_device(Path("/state"), "unpause", "b")
    assert capsys.readouterr().out.splitlines() == [
        "b pauses: units 3-5 went to a.",
        "b takes work again.",
        "b stays paused: its battery has 46 degrees.",
    ]
    with pytest.raises(
        BadRequest, match=r"several devices could pause: a, b\. Name one: shardnet pause b --cluster /state"
    ):
        ask.tell_device(Path("/state"), "pause", None)


def test_a_device_that_pauses_by_itself_does_so_too_where_it_does_not_hear_that_somebody_wants_it(
    cluster: LastingInProcess,
) -> None:
    told(cluster, "b", "pause", "its battery is at 8%")
    with pytest.raises(BadRequest, match="b cannot pause"):
        cluster.connect().pause("b")
    assert members(cluster)["b"].state == "paused"


@pytest.mark.parametrize("what", ["leave", "pause"])
def test_a_name_that_is_empty_is_nobodys(cluster: LastingInProcess, what: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script whose variable is not set means no device, and not the only one."""
    cluster.leave("b")
    wait_until(lambda: cluster.coordinator.devices == ("a",))
    monkeypatch.setattr(RunningCluster, "connect", lambda folder: cluster.connect())
    with pytest.raises(BadRequest, match=r"no device of this cluster is called ''\. There is a"):
        ask.tell_device(Path("/state"), what, "")


def test_goodbyes_of_nobody_are_not_kept(cluster: LastingInProcess) -> None:
    """A member could have filled the coordinator's memory with them."""
    transport = cluster.workers["a"].premises.transport
    transport.call(COORDINATOR, "goodbye", "nobody", timeout_s=20).result()
    assert cluster.coordinator._attendance.leaving == frozenset()
    transport.call(COORDINATOR, "goodbye", "a", timeout_s=20).result()
    assert cluster.coordinator._attendance.leaving == {"a"}
