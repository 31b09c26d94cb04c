"""What tests of whole rings in this process begin with."""

from __future__ import annotations

import pytest

from shardnet.cluster import watch
from shardnet.policy.membership import Limits


@pytest.fixture
def quick_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a real connection shows at once, a watch notices here soon."""
    monkeypatch.setattr(watch, "LIMITS", Limits(ask_every_s=0.02, suspect_after_s=0.3, grace_s=0.02))
    monkeypatch.setattr(watch, "LOOK_EVERY_S", 0.01)
