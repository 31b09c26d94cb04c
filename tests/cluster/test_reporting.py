"""Reports that are asked for while stages become one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from shardnet.cluster.ring import reports_of
from shardnet.errors import ClusterError


class Released:
    """In the place of a stage that is part of another one by now."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self._then = then

    def report(self) -> str:
        self._then()
        raise ClusterError("The object on b was released already.")


class There:
    def report(self) -> str:
        return "a"


class Stages:
    """In the place of a ring."""

    def __init__(self, *stages: Any) -> None:
        self.stages = list(stages)


def test_stages_that_have_become_one_are_asked_anew() -> None:
    ring = Stages(There())
    ring.stages.append(Released(lambda: ring.stages.pop()))
    assert reports_of(lambda: ring) == ["a"]


def test_another_ring_is_asked() -> None:
    rings = [Stages(There(), Released()), Stages(There()), Stages(There())]
    assert reports_of(lambda: rings.pop(0)) == ["a"]


def test_a_stage_that_is_gone_is_said_to_be() -> None:
    ring = Stages(There(), Released())
    with pytest.raises(ClusterError, match="on b was released"):
        reports_of(lambda: ring)
