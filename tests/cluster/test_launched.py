"""What `shardnet-run` tells its script, and what the script makes of it."""

from __future__ import annotations

import pytest

import shardnet
from shardnet.cluster.launched import ENDPOINT, NUM_DEVICES, MeetingPoint, announced_in
from shardnet.errors import BadRequest, UsageError


def test_what_is_told_is_heard() -> None:
    meeting = MeetingPoint("127.0.0.1:4711", 3)
    assert announced_in(meeting.variables()) == meeting
    assert announced_in(MeetingPoint("unix:/tmp/a/door", 3).variables()) == MeetingPoint("unix:/tmp/a/door", 3)
    assert announced_in({ENDPOINT: "127.0.0.1:4711"}) == MeetingPoint("127.0.0.1:4711", None)


def test_torchruns_own_variables_are_no_cluster_of_ours() -> None:
    assert announced_in({"WORLD_SIZE": "8", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}) is None


@pytest.mark.parametrize("number", ["", "0", "-1", "many"])
def test_an_impossible_number_is_a_sentence(number: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENDPOINT, "127.0.0.1:1")
    monkeypatch.setenv(NUM_DEVICES, number)
    with pytest.raises(BadRequest, match=NUM_DEVICES):
        shardnet.Cluster.connect()


def test_a_given_endpoint_asks_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, the number counted beside any endpoint: under torchrun, `connect` waited for as many devices."""
    monkeypatch.setenv(ENDPOINT, "127.0.0.1:1")
    monkeypatch.setenv(NUM_DEVICES, "none")
    for endpoint in ("nowhere", "", 29500):
        with pytest.raises(UsageError, match="host:port"):
            shardnet.Cluster.connect(endpoint)  # type: ignore[arg-type]


def test_no_endpoint_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENDPOINT, raising=False)
    with pytest.raises(BadRequest, match="shardnet-run"):
        shardnet.Cluster.connect()
    with pytest.raises(BadRequest, match="number of devices must be at least 1, but is 0"):
        shardnet.Cluster.connect("127.0.0.1:1", num_devices=0)
