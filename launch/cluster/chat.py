"""What `shardnet chat` does: one conversation with the model of a cluster, turn by turn."""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from shardnet.cluster.model import Model
from shardnet.errors import BadRequest, ShardnetError
from shardnet.foreign.quoting import counted, shortened
from shardnet.launch.cluster.chat_history import PLAIN_STOP, History, loaded
from shardnet.launch.cluster.chat_lines import Lines
from shardnet.launch.cluster.chat_typed import HELP, Order, order_of, read_turn
from shardnet.launch.files.text_files import read_text_of
from shardnet.process.lasting import default_folder
from shardnet.process.standard_streams import say
from shardnet.session.options import GenerationOptions
from shardnet.session.request import require_writer
from shardnet.session.stream import Generation, Stream
from shardnet.source.running_cluster import RunningCluster
from shardnet.timeline.events import Event

TYPED_FILE = "chat_lines"
"""Beside the default state folder."""
LEAST_ANSWER_TOKENS = 16
"""A conversation that leaves less room in the context has filled it."""
MOST_SEEDS = 2**63
LOOK_S = 1.0
"""How often, while an answer comes, is looked what has happened to the model."""
LAST_LOOK_S = 2.0
"""How long, when it is over, to wait for that: where the coordinator is away, it takes a minute."""
Told = str | Event | Exception | None
"""A piece of an answer, what happened to the model, why there is no more, or that it is over."""


def run(folder: Path, asked: GenerationOptions, system: str, given: Collection[str]) -> None:
    """Chat until the input ends.

    Args:
        given: the fields of `asked` that the user has chosen, and the model's authors may not.

    Raises:
        JoinFailed, ClusterError: the cluster does not answer.
        BadRequest: it holds no model. Of a turn, too, where nobody sits there who could type another one.
    """
    with RunningCluster.connect(folder) as cluster:
        is_typed = sys.stdin.isatty()
        chat = Chat(lambda: cluster.model, asked, History(system), given=given, may_stop=is_typed)
        if not is_typed:
            sys.stdin.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]  # a prompt is looked at later
            while chat.is_going_on:
                chat.take_next(lambda shown: input())
            return
        print(f"{chat.whom}. /help, or Ctrl-D to end.")
        with _interruptible(), Lines(default_folder().parent / TYPED_FILE) as lines:
            while chat.is_going_on:
                _turn(chat, lines)


def _turn(chat: Chat, lines: Lines) -> None:
    """Of somebody who sits there, and can do something about what goes wrong."""
    try:
        chat.take_next(lines.read)
    except KeyboardInterrupt:
        print()
    except ShardnetError as error:
        say(f"shardnet: {error}")


@contextmanager
def _interruptible() -> Iterator[None]:
    """In the block Ctrl-C stops what is just being done, and not the program."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # nor anything, if the caller wants it so
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Chat:
    """The conversation.

    Args:
        find_model: gives the model that is loaded now.
        asked, given: as `run`.
        may_stop: whether Ctrl-C in an answer stops that alone.

    Raises:
        ShardnetError: none is.
    """

    def __init__(
        self,
        find_model: Callable[[], Model],
        asked: GenerationOptions,
        history: History,
        *,
        given: Collection[str] = (),
        may_stop: bool = False,
    ) -> None:
        self.is_going_on = True
        self._find_model = find_model
        self._model = find_model()
        require_writer(self._model.profile)
        self._asked = asked
        self._given = given
        self._may_stop = may_stop
        self.history = history
        self._last: Generation | None = None

    @property
    def whom(self) -> str:
        """Who answers, in words."""
        return f"{self._model.profile.name}, over {counted(len(self._model.plan.devices), 'devices')}"

    def take_next(self, read: Callable[[str], str]) -> None:
        """Do what is typed next, and end with the input; see `read_turn` and `take`."""
        try:
            typed = read_turn(read)
        except EOFError:
            self.is_going_on = False
        else:
            self.take(typed)

    def take(self, typed: str) -> None:
        """Do what was typed.

        Raises:
            ShardnetError: it cannot be done. Nothing of it is kept then.
        """
        if not typed.strip():
            return
        order = order_of(typed)
        if order is None:
            self._answer(typed.strip())
        else:
            self._obey(order)

    def _answer(self, text: str) -> None:
        self._follow_model()
        knows_chat = bool(getattr(self._model.tokenizer, "chat_template", None))
        said = self.history.messages(text) if knows_chat else self.history.plain(text)
        ids = self._model.encode(said)
        left = self._model.context_tokens - len(ids)
        if left < LEAST_ANSWER_TOKENS:
            raise BadRequest(
                f"this conversation has {counted(len(ids), 'tokens')}, and the model's context of "
                f"{self._model.context_tokens} leaves no room for an answer. /reset begins anew."
            )
        stop = self._asked.stop if knows_chat else (*self._asked.stop, PLAIN_STOP)
        proposed = self._model.proposed_sampling.items()
        beside = {name: value for name, value in proposed if name not in self._given}
        asked = replace(self._asked, **beside, max_new_tokens=min(left, self._asked.max_new_tokens), stop=stop)
        news = _News(self._model)
        with self._model.stream(ids, **asked) as stream:
            _show(stream, news, may_stop=self._may_stop)
            self._last = stream.result
        self.history.turns.append((text, self._last.text))

    def _follow_model(self) -> None:
        """Go on with the one that is loaded now: somebody may have loaded another one."""
        before, self._model = self._model, self._find_model()
        if self._model is not before:
            say(f"shardnet: from here on {self.whom}.")

    def _obey(self, order: Order) -> None:
        if order.name == "/quit":
            self.is_going_on = False
        elif order.name == "/reset":
            self.history.turns.clear()
        elif order.name == "/system":
            self.history.system = order.rest
        elif order.name == "/save":
            self._save(order.rest)
        elif order.name == "/load":
            self._load(order.rest)
        elif order.name == "/retry":
            self._retry()
        elif order.name == "/stats":
            print(self._stats())
        else:
            print(HELP)

    def _retry(self) -> None:
        """The last answer is kept where no other one comes."""
        if not self.history.turns:
            raise BadRequest("there is no answer yet that /retry could ask for again.")
        before = self.history.turns.pop()
        self._asked = replace(self._asked, seed=(self._asked.seed + 1) % MOST_SEEDS)
        try:
            self._answer(before[0])
        except BaseException:
            self.history.turns.append(before)
            raise

    def _load(self, file: str) -> None:
        if not file:
            raise BadRequest("/load needs the name of a file that /save has written: /load chat.json")
        path = str(Path(file).absolute()) if not file.startswith("~") else os.path.expanduser(file)
        self.history = loaded(read_text_of(path, "chat file"), shortened(file))
        print(f"The chat of {counted(len(self.history.turns), 'turns')} in {shortened(file)} goes on.")

    def _save(self, file: str) -> None:
        if not file:
            raise BadRequest("/save needs the name of a file: /save chat.json")
        content = {"model": self._model.profile.name, "messages": self.history.messages()}
        try:
            _write_new(Path(file).expanduser(), f"{json.dumps(content, ensure_ascii=False, indent=1)}\n")
        except FileExistsError as error:
            raise BadRequest(f"{shortened(file)} exists already. Name another file.") from error
        except (OSError, ValueError, RuntimeError) as error:  # a null byte, no home folder
            reason = getattr(error, "strerror", None) or str(error)
            raise BadRequest(f"{shortened(file)} cannot be written: {reason}. Name another file.") from error
        print(f"What was said is in {shortened(file)}.")

    def _stats(self) -> str:
        last = self._last
        if last is None:
            return "There was no answer yet."
        rate = "" if last.tokens_per_s is None else f", {last.tokens_per_s:.1f} tokens/s"
        used = last.prompt_tokens + len(last.token_ids)
        return (
            f"The last answer: {counted(len(last.token_ids), 'tokens')}{rate}, the first after "
            f"{last.time_to_first_token_s:.2f} s. In use: {used} of {self._model.context_tokens} tokens of context."
        )


def _write_new(path: Path, text: str) -> None:
    """Nothing is left of it where it fails: the disk is full, say.

    Raises:
        OSError, ValueError
    """
    with open(path, "x", encoding="utf-8") as opened:
        try:
            opened.write(text)
            opened.flush()
        except (OSError, ValueError):
            path.unlink()
            raise


def _show(stream: Stream, news: _News, *, may_stop: bool) -> None:
    """Print an answer as it comes, until it is over or Ctrl-C stops it. What happens to the model meanwhile is said
    where a line of the answer ends.

    Raises:
        ShardnetError: what has ended it.
        KeyboardInterrupt: Ctrl-C is meant for more than the answer.
    """
    events: list[Event] = []
    told: queue.SimpleQueue[Told] = queue.SimpleQueue()
    over = threading.Event()
    reader = threading.Thread(target=_read, args=(stream, told), name="shardnet-chat", daemon=True)
    watcher = threading.Thread(target=_watch, args=(news, told, over), name="shardnet-chat-news", daemon=True)
    reader.start()
    watcher.start()
    try:
        _print_all(told, events)
    except KeyboardInterrupt:
        stream.close()
        print(flush=True)
        if not may_stop:
            raise
    finally:
        over.set()
        watcher.join(LAST_LOOK_S)
        _say_all([*events, *_events_in(told)])
    reader.join()


def _print_all(told: queue.SimpleQueue[Told], events: list[Event]) -> None:
    """Until nothing comes any more. What `events` holds then, and what may come of these behind it, is not said yet."""
    is_at_begin = True
    while (each := told.get()) is not None:
        if isinstance(each, Exception):
            print("" if is_at_begin else "\n", end="", flush=True)
            raise each
        if isinstance(each, Event):
            events.append(each)
        else:
            print(each, end="", flush=True)
            is_at_begin = each.endswith("\n")
        if is_at_begin:
            _say_all(events)
            events.clear()
    print(flush=True)


def _events_in(told: queue.SimpleQueue[Told]) -> Iterator[Event]:
    with suppress(queue.Empty):
        while True:
            each = told.get_nowait()
            if isinstance(each, Event):
                yield each


def _say_all(events: Sequence[Event]) -> None:
    for event in events:
        say(f"shardnet: {event.text}.")


def _read(stream: Stream, told: queue.SimpleQueue[Told]) -> None:
    """On a thread of its own: what Ctrl-C interrupts holds no lock then."""
    try:
        for piece in stream:
            told.put(piece)
    except Exception as error:  # whatever it is, nothing comes behind it
        told.put(error)
    else:
        told.put(None)


def _watch(news: _News, told: queue.SimpleQueue[Told], over: threading.Event) -> None:
    """Now and then, and once more when the answer is over."""
    is_over = False
    while not is_over:
        is_over = over.wait(LOOK_S)
        for event in news.new():
            told.put(event)


class _News:
    """What happens to a model from now on."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._known_s = -1.0
        self.new()

    def new(self) -> list[Event]:
        """What has happened since it was asked last; nothing where that cannot be heard: the answer says why."""
        try:
            events = [event for event in self._model.events if event.at_s > self._known_s]
        except ShardnetError:
            return []
        if events:
            self._known_s = events[-1].at_s
        return events
