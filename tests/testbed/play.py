"""Plays a script on a bed: loads the model, lets the conversations run, and strikes when the script says so."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import shardnet
from shardnet.cluster.model import Model
from shardnet.coordinator.events import ClusterEvent
from shardnet.errors import ShardnetError
from shardnet.plan import Plan
from shardnet.progress import silent
from shardnet.simulator.events import Event
from shardnet.simulator.script import Script, ScriptConversation
from testbed.bed import Bed
from testbed.outcome import News, Outcome, Struck, outcome_of

LONGEST_S = 300.0
"""A run that takes longer hangs."""
FIRST_ID, MADE_UP = 100, 997
"""Made-up prompts: so many different tokens, from the first one on."""

Tell = Callable[[float, int, str], object]
"""Told what happens: at which second, after how many tokens of the first conversation, in words. From any thread."""


@dataclass
class Played:
    """A run that is over."""

    outcome: Outcome
    ids: list[list[int]]
    """The tokens of each conversation."""
    expected: list[list[int]]
    """Those of the undisturbed run."""
    errors: list[str]
    """Why conversations ended early, where they did."""
    missing: list[str]
    """What the script asks for and this bed does not emulate: "links", "memory"."""
    account: Account = field(default_factory=lambda: Account())
    """What happened when."""

    @property
    def is_right(self) -> bool:
        return self.ids == self.expected


@dataclass
class Account:
    """What has happened so far. Seconds since the conversations began."""

    tell: Tell = lambda at_s, tokens, text: None
    start_s: float = 0.0
    struck: list[Struck] = field(default_factory=list)
    news: list[News] = field(default_factory=list)
    came_s: list[list[float]] = field(default_factory=list)
    """Of each conversation, when its tokens came."""

    def now_s(self) -> float:
        return time.monotonic() - self.start_s

    def say(self, text: str) -> None:
        self.tell(self.now_s(), len(self.came_s[0]) if self.came_s else 0, text)

    def hear(self, kind: str, device: str, text: str, seconds: float | None = None) -> None:
        if self.start_s:
            self.news.append(News(self.now_s(), kind, device, text, seconds))
            self.say(text)


def play(
    script: Script,
    tell: Tell = lambda at_s, tokens, text: None,
    *,
    expected: list[list[int]] | None = None,
    model: str | Path | None = None,
    cache_dir: Path | None = None,
    rebalance: bool = True,
    events_of: Callable[[Plan], Sequence[Event]] | None = None,
) -> Played:
    """
    Args:
        expected: the tokens of an undisturbed run; None has one run first, on the same devices at full speed.
        model: instead of the script's.
        rebalance: whether layers may move.
        events_of: makes the events that happen from where the model was placed, instead of the script's.

    Raises:
        ShardnetError: the model cannot be loaded on these devices.
    """
    account = Account(tell)
    late = [device.name for device in script.devices if device not in script.present]
    bed = Bed(script.devices, script.roads, late=late, cache_dir=cache_dir, tell=partial(_hear_of_member, account))
    with bed:
        placed: dict[str, Any] = {"placement": "auto"} if script.split is None else {"split": script.split}
        loaded = bed.cluster.load(
            model or script.model,
            dtype=script.dtype,
            cache_dir=cache_dir,
            standby=script.standby,
            rebalance=rebalance,
            progress=silent,
            on_event=lambda event: _hear(account, event),
            **placed,
        )
        settled_s = time.monotonic() + script.settle_s
        if events_of is not None:
            script = replace(script, events=tuple(events_of(loaded.plan)))
        tell(0.0, 0, "; ".join(f"{stage.device} has units {stage.units}" for stage in loaded.plan.stages))
        loaded.eos_ids = ()  # every answer has all its tokens
        if expected is None:
            expected = _undisturbed(bed, loaded, script)
        time.sleep(max(0.0, settled_s - time.monotonic()))
        ids, errors = _run(bed, loaded, script, account)
        outcome = outcome_of(account.struck, account.news, account.came_s)
        missing = [each for each in asked_of_a_bed(script) if each not in bed.emulated]
        return Played(outcome, ids, expected, errors, missing, account)


def asked_of_a_bed(script: Script) -> list[str]:
    """What a script needs beside devices that are slow, freeze and die: "links", "memory"."""
    has_links = bool(script.links) or any(event.ways for event in script.events)
    has_limits = any(device.memory_bytes for device in script.devices)
    return [*(["links"] if has_links else []), *(["memory"] if has_limits else [])]


def _hear(account: Account, event: shardnet.Event) -> None:
    account.hear(event.event, event.device, event.text, event.seconds)


def _hear_of_member(account: Account, event: ClusterEvent) -> None:
    if event.event in ("joined", "left"):  # a loss is told by the model, with what becomes of it
        account.hear(event.event, event.device, event.text)


def _undisturbed(bed: Bed, model: Model, script: Script) -> list[list[int]]:
    for device in script.present:
        bed.slow(device.name, 1 / device.slowdown)
    conversations = [_Reading(model, each, number, []) for number, each in enumerate(script.conversations)]
    for each in conversations:
        each.thread.join()
    for device in script.present:
        bed.slow(device.name, 1.0)
    return [each.ids for each in conversations]


def _run(bed: Bed, model: Model, script: Script, account: Account) -> tuple[list[list[int]], list[str]]:
    is_over = threading.Event()
    strike = partial(_strike, bed, account)
    at_token = {event.token: [] for event in script.events if event.token is not None}
    for event in script.events:
        if event.token is not None:
            at_token[event.token].append(event)
    timed = sorted((event for event in script.events if event.at_s is not None), key=lambda event: event.at_s or 0)
    account.came_s = [[] for _ in script.conversations]
    account.start_s = time.monotonic()
    conversations = [
        _Reading(model, each, number, account.came_s[number], at_token if number == 0 else {}, strike)
        for number, each in enumerate(script.conversations)
    ]
    striker = threading.Thread(target=_strike_in_time, args=(timed, account, strike, is_over), daemon=True)
    striker.start()
    deadline_s = time.monotonic() + LONGEST_S
    for each in conversations:
        each.thread.join(max(0.0, deadline_s - time.monotonic()))
    is_over.set()
    striker.join()
    start_s = account.start_s
    account.came_s = [[at_s - start_s for at_s in list(each.came_s)] for each in conversations]
    errors = [each.error or f"it did not end within {LONGEST_S:.0f} s" for each in conversations if not each.is_whole]
    return [list(each.ids) for each in conversations], errors


def _strike_in_time(
    events: Sequence[Event], account: Account, strike: Callable[[Event], object], is_over: threading.Event
) -> None:
    for event in events:
        if is_over.wait(max(0.0, (event.at_s or 0.0) - account.now_s())):
            return
        strike(event)


def _strike(bed: Bed, account: Account, event: Event) -> None:
    at_s = account.now_s()
    is_emulated = bed.strike(event)
    account.struck.append(Struck(event, at_s, is_emulated))
    account.say(str(event) if is_emulated else f"{event}: not emulated here")


class _Reading:
    """A conversation, and the thread that reads its answer."""

    def __init__(
        self,
        model: Model,
        conversation: ScriptConversation,
        number: int,
        came_s: list[float],
        at_token: dict[int, list[Event]] | None = None,
        strike: Callable[[Event], object] = lambda event: None,
    ) -> None:
        self.ids: list[int] = []
        self.came_s = came_s
        self.error = ""
        self._num_tokens = conversation.tokens
        self._at_token, self._strike = at_token or {}, strike
        self._stream = model.stream(
            conversation.prompt or made_up_prompt(conversation.prompt_tokens, number, model.profile.vocabulary),
            max_new_tokens=conversation.tokens,
            temperature=conversation.temperature,
            top_k=conversation.top_k,
            top_p=conversation.top_p,
            repetition_penalty=conversation.repetition_penalty,
            seed=conversation.seed,
        )
        self.thread = threading.Thread(target=self._read, name=f"testbed-{number}", daemon=True)
        self.thread.start()

    @property
    def is_whole(self) -> bool:
        return len(self.ids) == self._num_tokens

    def _read(self) -> None:
        try:
            for token in self._stream._session:
                self.came_s.append(time.monotonic())
                self.ids.append(token.token_id)
                for event in self._at_token.get(len(self.ids), ()):
                    self._strike(event)
        except ShardnetError as error:
            self.error = str(error)


def made_up_prompt(num_tokens: int, number: int, vocabulary: int) -> list[int]:
    """Token ids for the prompt of a conversation; another one for each number."""
    return [(FIRST_ID + (37 * index + 101 * number) % MADE_UP) % vocabulary for index in range(num_tokens)]
