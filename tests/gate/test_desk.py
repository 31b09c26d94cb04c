"""What commands ask of the gate of a coordinator's host."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from trusted import GATES, Home

from shardnet.gate.desk import TrustDesk
from shardnet.trust.invitations import MOST_OPEN, Invitations


class Asked:
    def __init__(self, folder: Path, **options: float) -> None:
        self.invitations = Invitations(**options)  # type: ignore[arg-type]
        home = Home(folder)
        self._desk = TrustDesk(home.admission, self.invitations, lambda: GATES, lambda name: None, dict)

    def __call__(self, ask: str) -> Any:
        answer = self._desk._answer(json.dumps({"ask": ask}).encode())
        return answer.get("answer", answer.get("error"))

    @property
    def num_open(self) -> int:
        return len(self.invitations.open(time.time()))


def test_a_coordinator_that_is_started_again_and_again_uses_no_invitations_up(tmp_path: Path) -> None:
    """After 32 times there was no room for another one, and no coordinator started any more."""
    ask = Asked(tmp_path)
    first = ask("screen")
    for _ in range(2 * MOST_OPEN):
        assert ask("screen") == first
    assert ask.num_open == 1
    ask.invitations.use_token(ask.invitations.open(time.time())[0].token, time.time())
    second = ask("screen")
    assert second["number"] != first["number"] and ask.num_open == 1


def test_a_screen_shows_a_code_that_counts(tmp_path: Path) -> None:
    ask = Asked(tmp_path, code_life_s=-1.0)
    numbers = {ask("screen")["number"] for _ in range(2 * MOST_OPEN)}
    assert len(numbers) == 2 * MOST_OPEN and ask.num_open == 1


def test_there_is_room_for_the_screen_however_many_were_invited(tmp_path: Path) -> None:
    ask = Asked(tmp_path)
    invited = [ask("invite") for _ in range(MOST_OPEN)]
    assert "no more can be" in ask("invite")
    screen = ask("screen")
    assert screen["code"] is not None and ask.num_open == MOST_OPEN
    assert invited[0]["number"] not in {each["number"] for each in ask("open")}
    assert ask("screen") == screen


@pytest.mark.parametrize("question", [b"", b"[]", b'{"ask": 1}', b"{" * 2000, b"\xff"])
def test_what_is_no_question_is_told_so(tmp_path: Path, question: bytes) -> None:
    assert Asked(tmp_path)._desk._answer(question) == {"error": "This is no question that a gate answers."}
