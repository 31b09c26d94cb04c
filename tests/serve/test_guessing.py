"""A server whose answers are guessed along: their text is the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from processes import wait_until
from serve_client import MODEL, chat, raw_request, served
from tiny_text_model import save_text_model

from shardnet.serve.settings import Settings


@pytest.mark.parametrize("way", ["lookup", "draft"])
def test_answers_are_guessed_and_the_same(tmp_path: Path, way: str) -> None:
    folder = save_text_model(tmp_path / "tiny", ends=False)
    guessing = {"speculate": way, **({"draft": str(folder)} if way == "draft" else {})}
    settings = Settings(names=(MODEL,), guessing=guessing)
    with served(folder, settings) as running:
        [expected] = running.model.generate([[{"role": "user", "content": "hi"}]], max_new_tokens=40)
        assert running.chat(max_tokens=40)[1]["choices"][0]["message"]["content"] == expected.text
        connection = running.connect()
        connection.sendall(raw_request(chat(max_tokens=4000, stream=True)))

        def are_guessed() -> bool:
            told = running.ask("/cluster/status")[1]["sessions"]
            return any(each["guesses_checked"] + each["guesses_right"] > 0 for each in told)

        wait_until(are_guessed)
        connection.close()
        wait_until(lambda: not running.ask("/cluster/status")[1]["sessions"])


def test_who_asks_is_in_the_status(tmp_path: Path) -> None:
    """It said None, and the page "Conversations undefined" of each device."""
    with served(save_text_model(tmp_path / "tiny", ends=False)) as running:
        assert running.ask("/cluster/status")[1]["sessions"] == []
        connection = running.connect()
        connection.sendall(raw_request(chat(max_tokens=4000, stream=True)))
        wait_until(lambda: running.ask("/cluster/status")[1]["sessions"])
        told = running.ask("/cluster/status")[1]
        assert told["sessions"][0]["prompt_tokens"] == len(running.model.encode([{"role": "user", "content": "hi"}]))
        assert {member["num_sessions"] for member in told["members"]} == {1}
        connection.close()
