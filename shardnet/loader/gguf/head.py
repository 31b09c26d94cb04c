"""What a GGUF file says of its model's head. llama.cpp has in `cls.output` what tells classes of texts apart, beside
their names; in a decoder's file (a reranker's), it takes the place of the head that writes text.
"""

from __future__ import annotations

from typing import Any

from shardnet.errors import DamagedCheckpoint, UnsupportedModel
from shardnet.foreign.quoting import quoted
from shardnet.loader.gguf.header import LABELS, GgufHeader
from shardnet.models.heads import CLASSIFIES, SCORE

PARTS = "cls."
"""What the tensors of such a head begin with."""
OUTPUT = "cls.output.weight"
NAMED = {OUTPUT: f"{SCORE}.weight"}
"""In the file, and in the model: transformers' tables do not know it."""


def check_head(header: GgufHeader) -> None:
    """See that the head of the file's model can be read.

    Raises:
        UnsupportedModel: it has more than a matrix.
    """
    other = next((each.name for each in header.tensors if each.name.startswith(PARTS) and each.name != OUTPUT), None)
    if other is not None:
        raise UnsupportedModel(
            f"{header.path.name} holds a classifier with the tensor {quoted(other)}, and only heads of one matrix "
            f"({OUTPUT}) are read from GGUF. Use the model's safetensors version."
        )


def head_of(header: GgufHeader) -> dict[str, Any]:
    """The fields of a configuration that the file asks for: which classes there are; none where it writes text.

    Raises:
        DamagedCheckpoint: its labels are not as many as its head has rows.
    """
    found = next((each for each in header.tensors if each.name == OUTPUT), None)
    if found is None:
        return {}
    num_rows = found.shape[0]
    labels = header.metadata.get(f"{header.architecture}.{LABELS}", [f"LABEL_{at}" for at in range(num_rows)])
    if len(labels) != num_rows:
        raise DamagedCheckpoint(
            f"{header.path} names {len(labels)} labels, and {OUTPUT} has {num_rows} rows. Download it again."
        )
    return {"architectures": [CLASSIFIES], "id2label": dict(enumerate(labels))}
