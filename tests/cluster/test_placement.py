"""What is said where a model is not placed."""

from __future__ import annotations

import pytest

from shardnet.cluster.placement import (
    LEAST_KV_TOKENS,
    check_num_devices,
    check_split,
    kv_budgets,
    problem_of,
    setting_aside,
)
from shardnet.errors import BadRequest, DoesNotFit
from shardnet.plan import DeviceProfile, ModelProfile, Plan, StagePlan, UnitProfile
from shardnet.planner.rules.spread import spread_counts

GIB = 2**30
PROFILE = ModelProfile("tiny", "llama", "float32", (UnitProfile("u", GIB, 0, 8),) * 2, 1024)
DEVICES = [DeviceProfile(f"d{index}", 3 * GIB) for index in range(6)]


def test_memory_set_aside_for_kv_caches_is_named() -> None:
    """Once: "1 devices offer 0.00 GiB", and a shorter context was advised."""
    with pytest.raises(DoesNotFit) as refused, setting_aside(2**60, PROFILE, DEVICES[:1]):
        spread_counts([[1.0, 1.0]], [GIB, GIB], [0])
    said = "tiny needs 2.00 GiB for its weights beside the 1073741824.00 GiB that kv_memory_bytes sets aside on each "
    assert str(refused.value) == (said + "device: d0 has 3.00 GiB free. Set less aside, leave it out, or add a device.")
    with pytest.raises(DoesNotFit, match=r"d3 has 3\.00 GiB, \.\.\. free"), setting_aside(2**60, PROFILE, DEVICES):
        raise DoesNotFit
    with pytest.raises(DoesNotFit, match=r"^as it is$"), setting_aside(None, PROFILE, DEVICES):
        raise DoesNotFit("as it is")


def test_memory_set_aside_beside_a_split_is_named() -> None:
    plan = Plan((StagePlan("d0", 0, 1),))
    with pytest.raises(DoesNotFit, match=r"and the 2\.00 GiB of kv_memory_bytes.* Set less aside, give it fewer units"):
        kv_budgets(plan, PROFILE, DEVICES[:1], 2 * GIB)


def test_a_placement_leaves_room_for_a_short_session_and_for_what_is_kept_of_it() -> None:
    units = (UnitProfile("u", GIB, 100, 256), UnitProfile("v", GIB, 30, 8))
    profile = ModelProfile("tiny", "llama", "float32", units, 1024)
    plan, least_bytes = Plan((StagePlan("d0", 0, 1),)), 2 * GIB + LEAST_KV_TOKENS * (130 + 256 + 16)
    assert kv_budgets(plan, profile, [DeviceProfile("d0", least_bytes)], None) == [least_bytes - 2 * GIB]
    with pytest.raises(DoesNotFit):
        kv_budgets(plan, profile, [DeviceProfile("d0", least_bytes - 1)], None)
    for memory_bytes, is_enough in ((least_bytes, True), (least_bytes - 1, False)):
        device = DeviceProfile("d0", memory_bytes, (1.0, 1.0), (1.0, 1.0))
        problem = problem_of(profile, [device], [], context_tokens=LEAST_KV_TOKENS, kv_memory_bytes=None)
        assert (problem.devices[0].memory_bytes >= sum(problem.unit_memory_bytes)) == is_enough


def test_one_device_is_no_devices() -> None:
    with pytest.raises(DoesNotFit, match=r"; the only device offers 1\.00 GiB\. Add"):
        spread_counts([[1.0, 1.0]], [GIB, GIB], [GIB])
    with pytest.raises(BadRequest, match="the split names 1 device, but there are 2"):
        check_split([2], 2, 2, "tiny")
    with pytest.raises(BadRequest, match=r"more than the 1 unit of .* Use at most 1 device\."):
        check_num_devices(2, 1, "tiny")


def test_a_sum_is_shown_where_there_is_one() -> None:
    """Once: "but 40 = 40"."""
    with pytest.raises(BadRequest, match=r"away, but it gives 40\.$"):
        check_split([40], 1, 32, "tiny")
    with pytest.raises(BadRequest, match=r"away, but 30\+10 = 40\.$"):
        check_split([30, 10], 2, 32, "tiny")
