"""Weights of a GGUF file that devices cannot read as they are (`as_it_is`), converted once into a safetensors file.

They are unpacked exactly (by the `gguf` library), one tensor at a time; names, permutations and offsets are those of
transformers' own GGUF tables, so the weights equal those of `from_pretrained(gguf_file=...)` bit for bit.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from shardnet.loader.gguf.header import GgufHeader
from shardnet.loader.gguf.naming import Naming, Shapes, require_all, require_shape
from shardnet.loader.gguf.tensors import Unpacker
from shardnet.loader.hashing import Hashes
from shardnet.progress import Progress

if TYPE_CHECKING:
    import torch

CONVERTING = "converting the GGUF file, once"


def convert_weights(
    target: Path,
    header: GgufHeader,
    naming: Naming,
    shapes: Shapes,
    dtype: torch.dtype,
    progress: Progress | None,
) -> Hashes:
    """Unpack all tensors that the model wants, one after the other; return the hashes of what was written.

    Raises:
        DamagedCheckpoint, UnsupportedModel: as `prepare`.
    """
    from shardnet.loader.safetensors_writer import SafetensorsWriter

    total = sum(tensor.num_bytes for tensor in header.tensors)
    largest = max(math.prod(shape) for shape in shapes.values())
    done = 0
    with SafetensorsWriter(target, shapes, dtype) as writer, Unpacker(header, naming) as unpacker:
        for tensor in header.tensors:
            is_too_large = math.prod(tensor.shape) > largest  # it is none of the model's, whatever it is called
            for name, values in () if is_too_large else unpacker.unpack(tensor):
                if name in shapes:
                    require_shape(header, tensor.name, values.shape, shapes[name])
                    writer.write(name, values)
            done += tensor.num_bytes
            if progress:
                progress(CONVERTING, done / total, 1.0)
        require_all(header, writer.missing(), shapes)
    return writer.hashes
