"""Consecutive units with their weights, ready to run. Knows sessions only by their caches, and no network.

Shapes: T new tokens of all sessions in the step, S those among them behind which one may be sampled, H hidden size, V
vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from shardnet.models.attention import RaggedKV
from shardnet.models.blocks import Block
from shardnet.models.family import Family
from shardnet.models.kv import BlockKV, Segment, stored_as
from shardnet.models.lean import short_ways
from shardnet.models.own_attention import LoneKV, run_alone
from shardnet.models.products import projection_of
from shardnet.models.rotary import RotaryTables, Turn
from shardnet.models.rounded import HeadSizes
from shardnet.models.sizes import context_of
from shardnet.models.unit import LoadedUnit
from shardnet.quantised.kv_names import AUTO
from shardnet.quantised.kv_rows import ROW_DTYPE, encode


class _Block(NamedTuple):
    """A decoder block, and for which kind of block its rotary table is."""

    module: nn.Module
    kind: str | None


class Shard:
    """Consecutive units of a model: others can be added, and taken. Made by `shardnet.loader.load_shard`.

    Args:
        config: of the whole model, a `transformers` one or a `PlainConfig`.
        units: at least one, in order.
        bytes_read: from the checkpoint to make them; less where the device held some of the weights already.
        kv_dtype: in what keys and values are kept: one of `kv_names.KV_DTYPES`.
    """

    def __init__(
        self,
        config: Any,
        family: Family,
        units: Sequence[LoadedUnit],
        dtype: torch.dtype,
        bytes_read: int = 0,
        kv_dtype: str = AUTO,
    ) -> None:
        self.config = config
        self.family = family
        self.units = tuple(units)
        self.dtype = dtype
        self.bytes_read = bytes_read
        self.kv_dtype = kv_dtype
        self.num_units_total = int(config.num_hidden_layers) + 2
        self.device = next(iter(self.units[0].weights.values())).device
        """Where weights and caches are, and where it computes."""
        self._tables: dict[str | None, RotaryTables] = {}
        self.relink()

    @property
    def first_unit(self) -> int:
        return self.units[0].index

    @property
    def last_unit(self) -> int:
        return self.units[-1].index

    @property
    def num_units(self) -> int:
        return len(self.units)

    @property
    def next_unit(self) -> int:
        """Which takes the results; after the last one comes the first."""
        return (self.last_unit + 1) % self.num_units_total

    @property
    def has_embedding(self) -> bool:
        return self.first_unit == 0

    @property
    def has_head(self) -> bool:
        return self.last_unit == self.num_units_total - 1

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Every module by the name that the whole transformers model gives it."""
        return {path: module for unit in self.units for path, module in unit.modules.items()}

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights; a tensor that embedding and head share counts once."""
        weights = {id(tensor): tensor for unit in self.units for tensor in unit.weights.values()}
        return sum(tensor.nbytes for tensor in weights.values())

    @property
    def kv_layout(self) -> tuple[BlockKV, ...]:
        """What each block keeps of a token, in numbers of `kv_row_dtype`."""
        return self.kv_layout_of(self.first_unit, self.last_unit)

    def kv_layout_of(self, first_unit: int, last_unit: int) -> tuple[BlockKV, ...]:
        """The same of some of the units."""
        units = (unit for unit in self.units if first_unit <= unit.index <= last_unit)
        return tuple(stored_as(self.kv_dtype, unit.kv) for unit in units if unit.kv is not None)

    @property
    def kv_row_dtype(self) -> torch.dtype:
        return self.dtype if self.kv_dtype == AUTO else ROW_DTYPE

    @property
    def kv_bytes_per_token(self) -> int:
        return self.kv_row_dtype.itemsize * sum(block.elements_per_token for block in self.kv_layout)

    @property
    def head_sizes(self) -> HeadSizes:
        """Of keys and values; all blocks of a model are alike in that."""
        _, key_dim, value_dim = self.family.kv(self.config)
        return HeadSizes(key_dim, value_dim)

    def as_kept(self, heads: Tensor) -> Tensor:
        """Keys or values [..., d] as caches have them, [..., W] of `kv_row_dtype`."""
        return heads.to(self.dtype) if self.kv_dtype == AUTO else encode(heads)

    @property
    def _rounded(self) -> HeadSizes | None:
        """None where keys and values are kept as they are."""
        return None if self.kv_dtype == AUTO else self.head_sizes

    def join(self, other: Shard) -> None:
        """Have the units of another shard, which follow its own, too. Not while a step runs."""
        assert other.first_unit == self.last_unit + 1, (other.first_unit, self.last_unit)
        self.units = (*self.units, *other.units)
        self.bytes_read += other.bytes_read
        self.relink()

    def trim(self, first_unit: int, last_unit: int) -> None:
        """Have these units alone, some of its own. Not while a step runs."""
        assert self.first_unit <= first_unit <= last_unit <= self.last_unit, (first_unit, last_unit)
        self.units = tuple(unit for unit in self.units if first_unit <= unit.index <= last_unit)
        self.relink()

    def relink(self) -> None:
        """Look at the units again: to be called after modules of theirs were replaced."""
        first, last = self.units[0], self.units[-1]
        self._embedding = list(first.modules.values()) if self.has_embedding else []
        head = list(last.modules.values()) if self.has_head else []
        self._head = [projection_of(module) for module in head]
        self._windows = {unit.kv.layer: unit.window for unit in self.units if unit.kv is not None}
        self._blocks = [
            _Block(module, self.family.turned(self.config, unit.kv.layer))
            for unit in self.units
            if unit.kv is not None
            for module in unit.modules.values()
        ]
        self._lean = short_ways(
            [
                (block, kind, self._windows[block.self_attn.layer_idx])
                for block, kind in self._blocks
                if isinstance(block, Block)
            ]
        )
        self._tables = self._tables_of({block.kind for block in self._blocks})

    def _tables_of(self, kinds: set[str | None]) -> dict[str | None, RotaryTables]:
        """The tables of these kinds of blocks: those that are there, and new ones."""
        rotary = next((unit.rotary for unit in self.units if unit.rotary is not None), None)
        if rotary is None:
            return {}
        limit = context_of(self.config)
        return {
            kind: self._tables.get(kind) or RotaryTables(rotary, self.dtype, limit, kind, self.device) for kind in kinds
        }

    @torch.inference_mode()
    def forward(self, inputs: Tensor, segments: Sequence[Segment]) -> Tensor:
        """Run the new tokens of some sessions. Their caches get the new keys and values; the caller advances them.

        Wherever the shard computes, what it takes and gives is on the CPU, and done when it is given.

        Args:
            inputs: token ids [T] int64 where the shard holds the embedding, else hidden states [T, H] in `dtype`.
            segments: whose tokens these are, in the order of `inputs`; their `num_tokens` add up to T.

        Returns:
            Hidden states [T, H], or, where the shard holds the head, the logits [S, V] in float32 of each session's
            last tokens (`Segment.num_logits`). What else is wanted of tokens, their segments take (`Segment.at_head`).
        """
        hidden, positions = inputs.to(self.device)[None], None
        if self._embedding:
            positions = positions_of(segments, self.device)
            hidden = self.family.embed(self._embedding, self.config, hidden, positions)
        if self._blocks:
            if positions is None:
                positions = positions_of(segments, self.device)
            hidden = self._run_blocks(hidden, positions, segments)
        outputs = self._logits(hidden[0], segments) if self._head else hidden[0]
        return outputs.cpu()

    def _run_blocks(self, hidden: Tensor, positions: Tensor, segments: Sequence[Segment]) -> Tensor:
        """All sessions' tokens [1, T, H] -> [1, T, H].

        torch's attention multiplies what a token may not see by 0, which leaves no number where that is none. So a
        session's tokens are run again, apart, where one of them may have spoiled those before it: a wrong guess, say.
        """
        outputs = self._run_together(hidden, positions, segments)
        if len(segments) == hidden.shape[1] or _is_finite(outputs):
            return outputs
        end = 0
        for segment in segments:
            own = slice(end, end + segment.num_tokens)
            end = own.stop
            if segment.num_tokens > 1 and not _is_finite(outputs[:, own]):
                outputs[:, own] = self._run_apart(hidden[:, own], positions[:, own], segment)
        return outputs

    def _run_apart(self, hidden: Tensor, positions: Tensor, segment: Segment) -> Tensor:
        """One session's tokens [1, t, H]: those before the first one that is no number, and then the others."""
        kv, length, outputs = segment.kv, segment.kv.length, torch.empty_like(hidden)

        def run(first: int, end: int) -> Tensor:
            kv.length = length + first
            try:
                rows = slice(first, end)
                return self._run_together(hidden[:, rows], positions[:, rows], [Segment(kv, end - first)])
            finally:
                kv.length = length

        good, bad = 0, segment.num_tokens  # so many are good, and one of those up to the second number is not
        while bad - good > 1:
            middle = (good + bad) // 2
            tried = run(good, middle)
            if _is_finite(tried):
                outputs[:, good:middle], good = tried, middle
            else:
                bad = middle
        outputs[:, good:] = run(good, segment.num_tokens)
        return outputs

    def _run_together(self, hidden: Tensor, positions: Tensor, segments: Sequence[Segment]) -> Tensor:
        run = self._run_alone if self.family.alone else self._run_ragged
        return run(hidden, positions, segments)

    def _run_ragged(self, hidden: Tensor, positions: Tensor, segments: Sequence[Segment]) -> Tensor:
        """All sessions' tokens [1, T, H] as one row through stock blocks."""
        kv = RaggedKV(segments, self._windows, self._rounded)
        end = max(segment.kv.length + segment.num_tokens for segment in segments)
        if self._lean:
            signed = {kind: tables.signed_at(positions, end) for kind, tables in self._tables.items()}
            return self._run_lean(hidden[0], signed, kv)
        turns = {kind: tables.at(positions, end) for kind, tables in self._tables.items()}
        arguments = {self.family.cache_argument: kv, "attention_mask": None, "position_ids": positions}
        for block in self._blocks:
            hidden = block.module(hidden, position_embeddings=turns.get(block.kind), **arguments)
        return hidden

    def _run_lean(self, hidden: Tensor, turns: Mapping[str | None, Turn], kv: RaggedKV) -> Tensor:
        """The same by the short way, [T, H] -> [1, T, H]."""
        for run in self._lean:
            hidden = run(hidden, turns, kv)
        return hidden[None]

    def _run_alone(self, hidden: Tensor, positions: Tensor, segments: Sequence[Segment]) -> Tensor:
        """Each session's tokens by themselves: blocks whose attention is code of their own."""
        assert self.family.alone is not None
        blocks = [block.module for block in self._blocks]
        sizes = [segment.num_tokens for segment in segments]
        outputs = []
        for segment, part, places in zip(segments, hidden.split(sizes, 1), positions.split(sizes, 1), strict=True):
            arguments = self.family.alone(self._tables.get(None), self.config, part, places)
            kv = LoneKV(segment.kv, self._rounded)
            outputs.append(run_alone(blocks, part, kv, arguments, self.family.cache_argument))
        return torch.cat(outputs, 1)

    def _logits(self, hidden: Tensor, segments: Sequence[Segment]) -> Tensor:
        """Hidden [T, H] -> logits [S, V] of the last tokens of each session, as many as it asks for; what else
        is wanted is taken.
        """
        rows: list[int] = []
        end = 0
        for segment in segments:
            end += segment.num_tokens
            if segment.at_head is not None:
                own = hidden[end - segment.num_tokens : end]
                segment.at_head.fill(own, self._logits_of, self.config.vocab_size)
            else:
                rows.extend(range(end - segment.num_logits, end))
        return self._logits_of(hidden[rows] if len(rows) < hidden.shape[0] else hidden)

    @torch.inference_mode()
    def logits_of(self, hidden: Tensor) -> Tensor:
        """Last hidden states [t, H] -> logits [t, V] in float32, where the shard holds the head. On the CPU both."""
        return self._logits_of(hidden.to(self.device)).cpu()

    @torch.inference_mode()
    def normed(self, hidden: Tensor) -> Tensor:
        """The same behind all of the head but its last matrix, as the model has them: [t, H] in float32."""
        hidden = hidden.to(self.device)
        for module in self._head[:-1]:
            hidden = module(hidden)
        return hidden.float().cpu()

    def _logits_of(self, hidden: Tensor) -> Tensor:
        """Hidden [t, H] -> logits [t, V]."""
        for module in self._head:
            hidden = module(hidden)
        return self.family.finish(self.config, hidden).float()


def _is_finite(rows: Tensor) -> bool:
    """Whether all numbers are, by one pass over them."""
    return math.isfinite(rows.sum(dtype=torch.float32).item())


def positions_of(segments: Sequence[Segment], device: torch.device) -> Tensor:
    """The place of every new token in its own session, [1, T]."""
    places = [
        place for segment in segments for place in range(segment.kv.length, segment.kv.length + segment.num_tokens)
    ]
    return torch.tensor([places], device=device)
