"""From the tensors of a GGUF file to those of the transformers model, by transformers' own tables."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from shardnet.errors import DamagedCheckpoint, UnsupportedModel
from shardnet.foreign.libraries import read_by_others
from shardnet.loader.gguf.header import GgufHeader, GgufTensor
from shardnet.loader.gguf.naming import Naming

if TYPE_CHECKING:
    from torch import Tensor


class Unpacker:
    """Reads tensors and gives them the model's names, order of rows, and values. A context manager."""

    def __init__(self, header: GgufHeader, naming: Naming) -> None:
        self._path = header.path
        self._processor, self._names = naming
        self._num_parts = Counter(self._names.values())
        self._parsed: dict[str, dict[str, Tensor]] = {"tensors": {}}
        self._file = header.path.open("rb")

    def __enter__(self) -> Unpacker:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def unpack(self, tensor: GgufTensor) -> list[tuple[str, Tensor]]:
        """The (name, values) that are complete with this tensor: fused experts wait for their other half."""
        import torch

        values = self._dequantize(tensor)
        with read_by_others(lambda reason: self._does_not_belong(tensor, reason)):
            result = self._processor.process(
                weights=values, name=tensor.name, tensor_key_mapping=self._names, parsed_parameters=self._parsed
            )
        if result.name is not None:
            name = self._names.get(result.name)
            return [] if name is None else [(name, torch.from_numpy(result.weights))]
        parsed = self._parsed["tensors"]  # where the processor has put what it fused by itself
        part_of = self._names.get(tensor.name.removesuffix(".weight"))
        if part_of is not None:
            self._num_parts[part_of] -= 1
        ready = [name for name in parsed if self._num_parts[name] <= 0 or part_of is None]
        return [(name, parsed.pop(name)) for name in ready]

    def _dequantize(self, tensor: GgufTensor) -> Any:
        """The values as a numpy array of float32."""
        import numpy as np
        from gguf import dequantize
        from gguf.constants import GGMLQuantizationType

        kind = GGMLQuantizationType(tensor.kind)
        self._file.seek(tensor.offset)
        raw = np.fromfile(self._file, dtype=np.uint8, count=tensor.num_bytes)
        if len(raw) < tensor.num_bytes:
            raise DamagedCheckpoint(
                f"{self._path} ends inside the tensor {tensor.name}: {tensor.num_bytes - len(raw)} of "
                f"{tensor.num_bytes} bytes are missing. Download it again."
            )
        plain = {GGMLQuantizationType.F32: np.float32, GGMLQuantizationType.F16: np.float16}
        data = raw.view(plain[kind]) if kind in plain else raw
        with read_by_others(lambda reason: self._cannot_unpack(tensor, kind.name, reason)):
            return dequantize(data.reshape(*tensor.shape[:-1], -1), kind).reshape(tensor.shape)

    def _does_not_belong(self, tensor: GgufTensor, reason: str) -> DamagedCheckpoint:
        return DamagedCheckpoint(
            f"The tensor {tensor.name} in {self._path} of the shape {list(tensor.shape)} does not belong into such a "
            f"model: {reason}. Download it again."
        )

    def _cannot_unpack(self, tensor: GgufTensor, kind: str, reason: str) -> UnsupportedModel:
        return UnsupportedModel(
            f"{self._path.name} stores {tensor.name} as {kind}, which the package gguf cannot unpack ({reason}). "
            "Use another quantisation of the model, Q4_K_M for example."
        )
