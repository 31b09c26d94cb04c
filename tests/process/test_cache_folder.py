"""The one folder in which converted models and measurements are kept, and who may say where it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from shardnet.errors import UsageError
from shardnet.loader import glance_at, open_model
from shardnet.process.cache_folder import cache_folder


def test_a_caller_comes_before_the_environment_and_that_before_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/x")
    monkeypatch.delenv("SHARDNET_CACHE", raising=False)
    assert cache_folder() == Path("/home/x/.cache/shardnet")
    monkeypatch.setenv("SHARDNET_CACHE", "~/cache")
    assert cache_folder() == Path("/home/x/cache")
    assert cache_folder("~/mine") == cache_folder(Path("~/mine")) == Path("/home/x/mine")


@pytest.mark.parametrize("open_it", [open_model, glance_at])
def test_no_home_folder_is_a_sentence(monkeypatch: pytest.MonkeyPatch, open_it: object) -> None:
    """Python's own `open_model` raised a bare RuntimeError."""
    monkeypatch.delenv("SHARDNET_CACHE", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    with pytest.raises(UsageError, match=r"There is no home folder for ~/\.cache/shardnet\. Set SHARDNET_CACHE"):
        open_it(str(Path(__file__).parent), "float32")  # type: ignore[operator]
