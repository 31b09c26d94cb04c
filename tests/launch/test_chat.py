"""Turns of a chat with a model of real stages in one process, whatever happens to these meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from lasting_in_process import LastingInProcess, lasting_in_process
from processes import wait_until

from shardnet.cluster.model import Model
from shardnet.launch.cluster.chat import Chat
from shardnet.launch.cluster.chat_history import PLAIN_STOP, History
from shardnet.session.options import GenerationOptions

NUM_LONG = 300


@pytest.fixture
def cluster() -> Iterator[LastingInProcess]:
    with lasting_in_process() as cluster:
        yield cluster


@pytest.fixture
def model(cluster: LastingInProcess, tiny: Path) -> Model:
    return cluster.connect().load(tiny, dtype="float32", split=[3, 3])


def test_a_model_that_knows_no_chat_is_asked_in_plain_text(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    model.tokenizer.chat_template = None
    chat = Chat(model, GenerationOptions(max_new_tokens=8), History())
    chat.take("Hello")
    ((text, answer),) = chat.history.turns
    expected = "".join(model.stream("User: Hello\nAssistant:", max_new_tokens=8, stop=PLAIN_STOP))
    assert (text, answer) == ("Hello", expected)
    assert capsys.readouterr().out == f"{expected}\n"


def test_what_happens_to_the_cluster_is_told_where_a_line_ends(
    cluster: LastingInProcess, model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    """A device is lost in the midst of an answer: not a character of it is another one, and none stands in between."""
    expected = "".join(model.stream([{"role": "user", "content": "Hello"}], max_new_tokens=NUM_LONG))
    chat = Chat(model, GenerationOptions(max_new_tokens=NUM_LONG), History())
    num_before = len(cluster.told("session began"))
    turn = threading.Thread(target=chat.take, args=("Hello",))
    turn.start()
    wait_until(lambda: len(cluster.told("session began")) > num_before)
    cluster.lose("b")
    turn.join(60)
    ((_, answer),) = chat.history.turns
    shown = capsys.readouterr()
    assert answer == expected and shown.out == f"{expected}\n"
    assert "shardnet: b is lost" in shown.err


def test_a_turn_that_fails_is_not_part_of_what_was_said(model: Model) -> None:
    chat = Chat(model, GenerationOptions(max_new_tokens=8), History())
    model.close()
    with pytest.raises(Exception, match="the model was closed"):
        chat.take("Hello")
    assert chat.history.turns == []
