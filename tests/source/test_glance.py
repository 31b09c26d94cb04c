"""The status of a cluster, shown by a socket in its state folder."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from shardnet.coordinator.status_socket import StatusSocket
from shardnet.errors import ClusterError, JoinFailed, UsageError
from shardnet.process.lasting import STATUS
from shardnet.process.state_folder import StateFolder
from shardnet.source import glance as glancing
from shardnet.source.glance import glance

SHOWN = {"members": [{"name": "phone \N{SNOWMAN}"}], "sessions": ["x" * 300_000]}


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateFolder]:
    state = StateFolder(tmp_path / ("deep" * 30) / "state")
    yield state
    state.close()


def test_it_is_shown_to_everyone_who_looks(state: StateFolder) -> None:
    with StatusSocket(state, lambda: SHOWN), ThreadPoolExecutor(8) as threads:
        assert list(threads.map(glance, [state.path] * 20)) == [SHOWN] * 20
    assert not (state.path / STATUS).exists()


def test_one_who_looks_while_the_coordinator_starts_waits_for_it(state: StateFolder) -> None:
    started: list[StatusSocket] = []
    timer = threading.Timer(0.2, lambda: started.append(StatusSocket(state, lambda: SHOWN)))
    timer.start()
    assert glance(state.path) == SHOWN
    timer.join()
    started[0].close()


def test_a_mistake_is_not_for_the_next_one(state: StateFolder) -> None:
    answers: list[Any] = [SHOWN, ZeroDivisionError()]

    def status() -> dict[str, Any]:
        answer: Any = answers.pop()
        if isinstance(answer, Exception):
            raise answer
        return dict(answer)

    with StatusSocket(state, status):
        with pytest.raises(ClusterError, match="says nothing: it has just ended"):
            glance(state.path)
        assert glance(state.path) == SHOWN


def test_where_nobody_answers_is_one_sentence(state: StateFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glancing, "START_S", 0.1)
    monkeypatch.setattr(glancing, "ANSWER_S", 0.1)
    with pytest.raises(ClusterError, match="does not answer"):
        glance(state.path)
    is_over = threading.Event()
    with StatusSocket(state, lambda: {"over": is_over.wait(5)}):
        with pytest.raises(ClusterError, match="does not answer: it takes too long"):
            glance(state.path)
        is_over.set()
    state.close()
    with pytest.raises(JoinFailed, match="No cluster runs in"):
        glance(state.path)


def test_a_folder_of_somebody_else_is_refused(state: StateFolder) -> None:
    with StatusSocket(state, lambda: SHOWN):
        state.path.chmod(0o755)
        with pytest.raises(UsageError, match="must belong to this user"):
            glance(state.path)
        state.path.chmod(0o700)
