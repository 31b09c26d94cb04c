"""The small models that a source has for a large one: each is opened at its first use, and loaded beside the answer."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, NamedTuple

from shardnet.draft.engine import Engine
from shardnet.draft.offering import FirstStage, Offering
from shardnet.errors import BadRequest, DoesNotFit, ShardnetError
from shardnet.loader import ModelFiles, load_shard, open_model
from shardnet.models.plain_config import as_text, from_text
from shardnet.plan import ModelProfile
from shardnet.process.threads import on_thread
from shardnet.profiling.memory import usable_memory_bytes
from shardnet.session.conversation import Conversation
from shardnet.session.request import require_writer
from shardnet.stage.budget import MemoryBudget

KV_SHARE = 0.25
"""Of the memory that is left beside a draft's weights, its keys and values take so much at most."""
_log = logging.getLogger(__name__)


class Wanted(NamedTuple):
    """A draft, as it is asked for."""

    model: str
    weights: str
    num_threads: int


class Drafts:
    """Safe to use from several threads.

    Args:
        profile: of the model whose answers are to be guessed.
        tokenizer: its own.
    """

    def __init__(self, profile: ModelProfile, tokenizer: Any, first_stage: FirstStage) -> None:
        self._profile = profile
        self._tokenizer = tokenizer
        self._first_stage = first_stage
        self._lock = threading.Lock()
        self._engines: dict[Wanted, Future[Engine]] = {}
        self._is_closed = False
        weakref.finalize(self, _close_all, self._engines).atexit = False

    def get(self, wanted: Wanted) -> Draft:
        """Open it, at the first time, and begin to load it.

        Raises:
            BadRequest: it has another tokenizer, or the model was closed.
            ModelNotFound, UnsupportedModel, DamagedCheckpoint: as `open_model`.
        """
        with self._lock:
            if self._is_closed:
                raise BadRequest("the model was closed, and its drafts with it.")
            engine = self._engines.get(wanted)
            if engine is None:
                files = open_model(wanted.model, self._profile.dtype, weights=wanted.weights)
                check_tokenizers(files, self._profile.name, self._tokenizer)
                load = partial(load_engine, files, self._profile.vocabulary, wanted.num_threads)
                engine = self._engines[wanted] = on_thread("shardnet-load-draft", load)
                engine.add_done_callback(partial(_tell_failure, wanted.model))
                if self._is_closed:
                    engine.add_done_callback(_close)
            return Draft(engine, self._first_stage)

    def close(self) -> None:
        """Guess no more. Safe to call twice."""
        self._is_closed = True  # not under the lock: a draft may be on its way from a hub
        _close_all(self._engines)


class Draft:
    """One that is loaded, is being loaded, or could not be."""

    def __init__(self, engine: Future[Engine], first_stage: FirstStage) -> None:
        self.engine = engine
        self._first_stage = first_stage

    def go_ahead(self, conversation: Conversation, prompt_ids: Sequence[int]) -> None:
        """Guess an answer, from now on or once the draft is loaded, as long as somebody holds the conversation."""
        held = weakref.ref(conversation)
        self.engine.add_done_callback(partial(_begin, held, tuple(prompt_ids), Offering(self._first_stage)))


def _begin(
    held: weakref.ref[Conversation], prompt_ids: tuple[int, ...], offering: Offering, engine: Future[Engine]
) -> None:
    conversation = held()
    if conversation is not None and engine.exception() is None:
        conversation.show(engine.result().guess(conversation.spec, prompt_ids, offering.tell))


def check_tokenizers(files: ModelFiles, name: str, tokenizer: Any) -> None:
    """See that ids mean the same to both.

    Raises:
        UnsupportedModel: the draft is a classifier.
        BadRequest: they do not.
    """
    require_writer(files.profile)
    if files.tokenizer().get_vocab() != tokenizer.get_vocab():
        raise BadRequest(
            f"draft {files.name} has another tokenizer than {name}, so that its tokens are other words. Name a smaller "
            "model of the same family.",
            option="draft",
        )


def load_engine(files: ModelFiles, vocabulary: int, num_threads: int) -> Engine:
    """Read all units of a small model, and set it to work.

    Raises:
        DoesNotFit: there is no room for it here.
        DamagedCheckpoint: as `load_shard`.
    """
    last = files.profile.num_units - 1
    tensors = files.tensors_of(0, last)
    shard = load_shard(
        from_text(as_text(files.config)),
        tensors,
        0,
        last,
        files.dtype,
        reserve=partial(_check_room, files.name),
        scheme=files.weights,
    )
    budget = MemoryBudget(int(usable_memory_bytes() * KV_SHARE))
    return Engine(shard, budget, vocabulary, num_threads)


def _check_room(name: str, num_bytes: int) -> None:
    free_bytes = usable_memory_bytes()
    if num_bytes > free_bytes:
        raise DoesNotFit(
            f"its weights take {num_bytes / 2**30:.2f} GiB, and {free_bytes / 2**30:.2f} GiB are free here. Close "
            f"other programs, or name a smaller model than {name}."
        )


def _tell_failure(name: str, engine: Future[Engine]) -> None:
    error = engine.exception()
    if error is not None:
        why = str(error) if isinstance(error, ShardnetError) else f"{type(error).__name__}: {error}"
        _log.warning("answers go on without the draft %s: %s", name, why)


def _close_all(engines: dict[Wanted, Future[Engine]]) -> None:
    for engine in list(engines.values()):
        engine.add_done_callback(_close)


def _close(engine: Future[Engine]) -> None:
    if engine.exception() is None:
        engine.result().close()
