"""What several commands ask alike, and what it may be."""

from __future__ import annotations

import importlib.util
import os
import re
import secrets

from shardnet.errors import BadRequest, UsageError
from shardnet.foreign.quoting import counted, quoted
from shardnet.loader import Glance, glance_at_once
from shardnet.loader.sources import EMBEDDED_NAME
from shardnet.models.heads import writes_none
from shardnet.profiling.phone import machine_label
from shardnet.session.options import GenerationOptions
from shardnet.speculation.guesser import DRAFT

MOST_NAME = 40
DEFAULT_DEVICES = 3
"""Local ones, where nobody said how many."""
DRAFTING = ("draft", "draft_weights", "draft_threads")
"""Of the options of an answer, those that name a draft."""
GUESSING = ("speculate", *DRAFTING)
"""All that say how tokens are guessed."""
SERVER_NEEDS = ("fastapi", "uvicorn", "prometheus_client")
MODEL_HELP = f"A folder in Hugging Face layout, a .gguf file, a hub id, or {EMBEDDED_NAME} (installed already)."


def require_model(option: str, model: str) -> None:
    """
    Raises:
        BadRequest: no model is named.
    """
    if not model.strip():
        raise BadRequest(f"{option} must not be empty; give a folder, a .gguf file, or a hub id.")


def require_draft(asked: GenerationOptions) -> None:
    """
    Raises:
        BadRequest: guesses of a draft are asked for, and none is named.
        ModelNotFound, UnsupportedModel, DamagedCheckpoint: the one on this disk is none.
    """
    if asked.draft is not None:
        require_writer(glance_at_once(asked.draft))
    elif asked.speculate == DRAFT:
        raise BadRequest("--speculate draft needs --draft MODEL, a small model with the same tokenizer.")


def require_writer(seen: Glance | None) -> None:
    """See that a model writes text, as far as it was looked at.

    Raises:
        UnsupportedModel: it is a classifier.
    """
    if seen is not None and seen.num_labels:
        raise writes_none(seen.name)


def require_threads(threads: int | None) -> None:
    """
    Raises:
        BadRequest: this machine has fewer cores.
    """
    num_cores = os.cpu_count() or 1
    if threads is not None and threads > num_cores:
        raise BadRequest(
            f"--threads is {quoted(threads)}, but this machine has {counted(num_cores, 'cores')}; use fewer."
        )


def read_split(text: str | None) -> tuple[int, ...] | None:
    """Units per device from "10,10,12"."""
    if text is None:
        return None
    try:
        counts = tuple(int(count) for count in text.split(","))
    except ValueError:
        counts = ()
    if not counts or min(counts) < 1:
        raise BadRequest(f"--split must be whole numbers of units such as 10,10,12, but is {quoted(text)}.")
    return counts


def given_or_any(seed: int | None) -> int:
    """The seed that was asked for, or any."""
    return secrets.randbelow(2**31) if seed is None else seed


def require_server() -> None:
    """
    Raises:
        UsageError: what a server needs is not installed.
    """
    missing = [name for name in SERVER_NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"a server needs {', '.join(missing)}. Install the extra: pip install 'shardnet[serve]'")


def machine_name() -> str:
    """What a device is called that was given no name: after its machine."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", machine_label()).strip("-._")
    return plain[:MOST_NAME] or "device"
