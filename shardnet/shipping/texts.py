"""What a source must read of a model's folder beside the weights, as it travels to one that has no copy."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from shardnet.errors import DamagedCheckpoint
from shardnet.foreign.plain_files import read_bytes
from shardnet.loader.folder import MOST_TOKENIZER_BYTES

NAMES = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
"""Nothing else is given or taken."""


def texts_in(folder: Path) -> dict[str, bytes]:
    """Those of a folder, by name.

    Raises:
        DamagedCheckpoint: one cannot be read, or they are too large.
    """
    texts = {
        name: read_bytes(folder / name, MOST_TOKENIZER_BYTES, "the file", DamagedCheckpoint)
        for name in NAMES
        if os.path.isfile(folder / name)
    }
    if sum(map(len, texts.values())) > MOST_TOKENIZER_BYTES:
        raise DamagedCheckpoint("The tokenizer's files are too large to be sent. Copy the model to that machine.")
    return texts


def write_texts(texts: Mapping[str, bytes], folder: Path) -> None:
    """Write what came into a folder that holds nothing else.

    Raises:
        DamagedCheckpoint: there is something else among it.
        OSError: the disk is full.
    """
    for name, content in texts.items():
        if name not in NAMES or not isinstance(content, bytes):
            raise DamagedCheckpoint("What the coordinator sends as a tokenizer is none. Ask its owner.")
        (folder / name).write_bytes(content)
