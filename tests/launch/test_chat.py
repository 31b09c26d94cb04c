"""Turns of a chat with a model of real stages in one process, whatever happens to these meanwhile."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lasting_in_process import LastingInProcess, lasting_in_process
from processes import wait_until

from shardnet.cluster.model import Model
from shardnet.errors import BadRequest, DeviceLost
from shardnet.launch.cluster import chat
from shardnet.launch.cluster.chat import Chat
from shardnet.launch.cluster.chat_history import PLAIN_STOP, History
from shardnet.session.options import GenerationOptions
from shardnet.timeline.events import Event

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
    chat = Chat(lambda: model, GenerationOptions(max_new_tokens=8), History())
    chat.take("Hello")
    ((text, answer),) = chat.history.turns
    expected = "".join(model.stream("User: Hello\nAssistant:", max_new_tokens=8, stop=PLAIN_STOP))
    assert (text, answer) == ("Hello", expected)
    assert capsys.readouterr().out == f"{expected}\n"


def test_tokens_are_chosen_as_the_authors_propose_but_for_what_is_given(
    model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    model.proposed_sampling = {"temperature": 0.9, "top_k": 50, "repetition_penalty": 1.3}
    said = [{"role": "user", "content": "Hello"}]
    for given, options in (
        ((), model.proposed_sampling),
        (("temperature",), {"top_k": 50, "repetition_penalty": 1.3}),
        (("temperature", "repetition_penalty"), {}),
    ):
        chat = Chat(lambda: model, GenerationOptions(max_new_tokens=12, seed=5), History(), given=given)
        chat.take("Hello")
        assert chat.history.turns[0][1] == "".join(model.stream(said, max_new_tokens=12, seed=5, **options))
    assert len(set(capsys.readouterr().out.splitlines())) == 3


def test_what_happens_to_the_cluster_is_told_where_a_line_ends(
    cluster: LastingInProcess, model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    """A device is lost in the midst of an answer: not a character of it is another one, and none stands in between."""
    expected = "".join(model.stream([{"role": "user", "content": "Hello"}], max_new_tokens=NUM_LONG))
    chat = Chat(lambda: model, GenerationOptions(max_new_tokens=NUM_LONG), History())
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


def test_a_chat_goes_on_with_the_model_that_is_loaded_in_its_place(
    cluster: LastingInProcess, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once, nothing could be asked any more, and what was said was lost."""
    source = cluster.connect()
    source.load(tiny, dtype="float32", split=[3, 3])
    chat = Chat(lambda: source.model, GenerationOptions(max_new_tokens=8), History())
    chat.take("Hello")
    source.load(tiny, dtype="float32", split=[4, 2])
    chat.take("Hello again")
    assert [text for text, _ in chat.history.turns] == ["Hello", "Hello again"]
    assert capsys.readouterr().err.count("shardnet: from here on ") == 1


def test_a_turn_that_fails_is_not_part_of_what_was_said(model: Model) -> None:
    chat = Chat(lambda: model, GenerationOptions(max_new_tokens=8), History())
    model.close()
    with pytest.raises(Exception, match="the model was closed"):
        chat.take("Hello")
    assert chat.history.turns == []


def test_what_cannot_be_saved_leaves_no_file_behind(model: Model, tmp_path: Path) -> None:
    """Or the same name could not be tried again."""
    chat = Chat(lambda: model, GenerationOptions(max_new_tokens=8), History(system="half a character: \udcff"))
    with pytest.raises(BadRequest, match="cannot be written: "):
        chat.take(f"/save {tmp_path / 'chat.json'}")
    assert list(tmp_path.iterdir()) == []
    chat.take("/system Be brief.")
    chat.take(f"/save {tmp_path / 'chat.json'}")
    assert (tmp_path / "chat.json").read_text().endswith("}\n")


class BrokenAnswer:
    """Half a line, and then no more."""

    def __init__(self, may_break: threading.Event) -> None:
        self._may_break = may_break

    def __iter__(self) -> Iterator[str]:
        yield "half a li"
        self._may_break.wait(60)
        raise DeviceLost("the answer is lost", device="b")


class Told:
    """Two events, one after the other; `has_told` once the first is on its way. Whoever asks for a third waits."""

    def __init__(self) -> None:
        self.has_told, self.is_back = threading.Event(), threading.Event()
        self._events = [Event(0.0, "lost", "b is lost"), Event(1.0, "lost", "a is lost")]

    def new(self) -> list[Event]:
        if len(self._events) < 2:
            self.has_told.set()
        if not self._events:
            self.is_back.wait(60)
        return [self._events.pop(0)] if self._events else []


def test_what_has_happened_is_said_where_an_answer_breaks_off_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor is somebody waited for, to hear more of it, who does not answer: a coordinator that was killed, say."""
    monkeypatch.setattr(chat, "LOOK_S", 0.01)
    monkeypatch.setattr(chat, "LAST_LOOK_S", 0.1)
    news: Any = Told()
    answer: Any = BrokenAnswer(news.has_told)
    with pytest.raises(DeviceLost, match="the answer is lost"):
        chat._show(answer, news, may_stop=True)
    news.is_back.set()
    shown = capsys.readouterr()
    assert shown.out == "half a li\n" and "shardnet: b is lost.\n" in shown.err


def test_ctrl_c_that_the_caller_ignores_is_not_heeded() -> None:
    """As a shell has it of what it starts in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with chat._interruptible():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
