"""What a status tells of devices that say what cannot be."""

from __future__ import annotations

import json
from math import inf, nan

import pytest
from lasting_in_process import lasting_in_process

from shardnet.coordinator.status import as_object
from shardnet.errors import ClusterError
from shardnet.foreign.plain_files import parse_json
from shardnet.profiling.power import PowerState


@pytest.mark.parametrize("told", [nan, inf, -1.0, 1e300])
def test_a_battery_that_cannot_be_is_not_told(told: float) -> None:
    """NaN is in no JSON: nobody would see the cluster any more."""
    with lasting_in_process() as cluster:
        cluster.workers["a"].power = lambda: PowerState(told, True, told)
        cluster.workers["b"].power = lambda: PowerState(81.0, False, 31.5)
        shown = parse_json(json.dumps(as_object(cluster.coordinator.status())), "the status", ClusterError)
    a, b = shown["members"]
    assert (a["battery_percent"], a["is_charging"]) == (None, True)
    assert (b["battery_percent"], b["is_charging"], b["temperature_c"]) == (81.0, False, 31.5)
