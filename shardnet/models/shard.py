"""Consecutive units with their weights, ready to run. Knows sessions only by their caches, and no network.

Shapes: T new tokens of all sessions in the step, S sessions among them that sample, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shardnet.models.attention import RaggedKV
from shardnet.models.kv import Segment
from shardnet.models.lean import LeanBlock, lean_blocks, lean_tables
from shardnet.models.own_attention import run_alone
from shardnet.models.products import project
from shardnet.models.skeleton import Skeleton


class Shard:
    """Units first_unit..last_unit of a model. Made by `shardnet.loader.load_shard`."""

    def __init__(self, skeleton: Skeleton, dtype: torch.dtype, weight_bytes: int, bytes_read: int) -> None:
        self.first_unit = skeleton.first_unit
        self.last_unit = skeleton.last_unit
        self.num_units_total = skeleton.num_units_total
        self.has_embedding = self.first_unit == 0
        self.has_head = self.last_unit == self.num_units_total - 1
        self.config = skeleton.config
        self.family = skeleton.family
        self.dtype = dtype
        self.weight_bytes = weight_bytes
        """Bytes of the weights; a tensor that embedding and head share counts once."""
        self.bytes_read = bytes_read
        """Bytes read from the checkpoint to make this shard; less where the device held some of the weights already."""
        self.kv_layout = skeleton.kv_layout
        self.kv_bytes_per_token = dtype.itemsize * sum(block.elements_per_token for block in self.kv_layout)
        self.blocks = skeleton.layers
        """Indices of the decoder blocks in the whole model."""
        self.modules = {path: module for _, unit in skeleton.units() for path, module in unit.items()}
        """Every module by the name that the whole transformers model gives it."""
        self._embedding = list(skeleton.embedding.values())
        self._blocks = list(skeleton.blocks.values())
        self._head = list(skeleton.head.values())
        self._rotary = skeleton.rotary
        self._windows = skeleton.windows
        self._lean: list[LeanBlock] = []
        self.relink()

    def relink(self) -> None:
        """Look at the blocks again: to be called after modules of theirs were replaced."""
        self._lean = lean_blocks(self._blocks) if self.family.lean else []

    @property
    def num_units(self) -> int:
        return self.last_unit - self.first_unit + 1

    @torch.inference_mode()
    def forward(self, inputs: Tensor, segments: Sequence[Segment]) -> Tensor:
        """Run the new tokens of some sessions. Their caches get the new keys and values; the caller advances them.

        Args:
            inputs: token ids [T] int64 where the shard holds the embedding, else hidden states [T, H] in `dtype`.
            segments: whose tokens these are, in the order of `inputs`; their `num_tokens` add up to T.

        Returns:
            Hidden states [T, H], or, where the shard holds the head, the logits [S, V] in float32 of each session's
            last token, for the sessions that sample.
        """
        hidden, positions = inputs[None], None
        if self._embedding:
            positions = positions_of(segments, inputs.device)
            hidden = self.family.embed(self._embedding, self.config, hidden, positions)
        if self._blocks:
            if positions is None:
                positions = positions_of(segments, inputs.device)
            if self.family.alone:
                hidden = self._run_alone(hidden, positions, segments)
            else:
                hidden = self._run_ragged(hidden, positions, segments)
        return self._logits(hidden[0], segments) if self._head else hidden[0]

    def _run_ragged(self, hidden: Tensor, positions: Tensor, segments: Sequence[Segment]) -> Tensor:
        """All sessions' tokens [1, T, H] as one row through stock blocks."""
        tables = self.family.rotate(self._rotary, self.config, self.blocks, hidden, positions)
        kv = RaggedKV(segments, self._windows)
        if self._lean and hidden.shape[1] == len(segments):
            row = hidden[0]
            cos, sin = lean_tables(*tables[0])
            for lean in self._lean:
                row = lean(row, cos, sin, kv)
            return row[None]
        arguments = {self.family.cache_argument: kv, "attention_mask": None, "position_ids": positions}
        for block, table in zip(self._blocks, tables, strict=True):
            hidden = block(hidden, position_embeddings=table, **arguments)
        return hidden

    def _run_alone(self, hidden: Tensor, positions: Tensor, segments: Sequence[Segment]) -> Tensor:
        """Each session's tokens by themselves: blocks whose attention is code of their own."""
        assert self.family.alone is not None
        sizes = [segment.num_tokens for segment in segments]
        outputs = []
        for segment, part, places in zip(segments, hidden.split(sizes, 1), positions.split(sizes, 1), strict=True):
            arguments = self.family.alone(self._rotary, self.config, part, places)
            outputs.append(run_alone(self._blocks, part, segment.kv, arguments, self.family.cache_argument))
        return torch.cat(outputs, 1)

    def _logits(self, hidden: Tensor, segments: Sequence[Segment]) -> Tensor:
        """Hidden [T, H] -> logits [S, V] of the last token of each session that samples."""
        ends, end = [], -1
        for segment in segments:
            end += segment.num_tokens
            if segment.wants_logits:
                ends.append(end)
        if len(ends) < hidden.shape[0]:
            hidden = hidden[ends]
        *norms, lm_head = self._head
        for module in norms:
            hidden = module(hidden)
        return self.family.finish(self.config, _scores(lm_head, hidden)).float()


def _scores(lm_head: nn.Module, hidden: Tensor) -> Tensor:
    if type(lm_head) is nn.Linear:
        return project(hidden, lm_head.weight, lm_head.bias)
    scores: Tensor = lm_head(hidden)
    return scores


def positions_of(segments: Sequence[Segment], device: torch.device) -> Tensor:
    """The place of every new token in its own session, [1, T]."""
    places = [
        place for segment in segments for place in range(segment.kv.length, segment.kv.length + segment.num_tokens)
    ]
    return torch.tensor([places], device=device)
