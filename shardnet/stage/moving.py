"""A block goes from one stage to its neighbour, with the keys and values of all sessions.

Both halves happen between two steps. Nothing of the two stages' sessions may be on its way between them meanwhile: what
has left the one stage would not go through the block at the other.
"""

from __future__ import annotations

from concurrent.futures import Future
from functools import partial
from typing import NamedTuple

from shardnet.errors import BadRequest
from shardnet.models.unit import LoadedUnit
from shardnet.stage.session_cache import BlockTensors
from shardnet.stage.stage import Stage


class MovingBlock(NamedTuple):
    """What leaves one stage and is to come to another."""

    unit: LoadedUnit
    tensors: dict[int, BlockTensors]
    """Of each session that holds tokens."""


def take_block(stage: Stage, unit: int) -> Future[MovingBlock]:
    """Take the first block of a stage, or its last, from it; its memory is free as soon as nobody holds the result.

    The future fails with BadRequest where that unit is no block at an end of the stage, or its only unit.
    """
    return stage.between_steps(partial(_take, stage, unit))


def put_block(stage: Stage, block: MovingBlock) -> Future[None]:
    """Have a stage work with a block, too.

    The future fails with BadRequest where the block does not lie beside the stage's, or a session's tokens are missing;
    with KVMemorySpent where there is no room for what the open sessions reserve in it. The stage is as before then.
    """
    return stage.between_steps(partial(_put, stage, block))


def _take(stage: Stage, index: int) -> MovingBlock:
    shard, kv = stage.shard, stage.kv
    ends = (shard.units[0], shard.units[-1])
    block = next((unit.kv for unit in ends if unit.index == index), None)
    if block is None or shard.num_units == 1:
        raise BadRequest(
            f"Unit {index} cannot be taken from a stage of units {shard.first_unit} to {shard.last_unit}: only a block "
            "at one of its ends can, and not its only unit."
        )
    if index == shard.last_unit:
        stage.raise_if_behind()
        stage.forget_sent()
    return MovingBlock(shard.take(index), kv.remove_block(block.layer))


def _put(stage: Stage, block: MovingBlock) -> None:
    shard, unit = stage.shard, block.unit
    if unit.kv is None or unit.index not in (shard.first_unit - 1, shard.last_unit + 1):
        raise BadRequest(
            f"Unit {unit.index} cannot come to a stage of units {shard.first_unit} to {shard.last_unit}: "
            "only a block that lies beside them can."
        )
    is_last = unit.index > shard.last_unit
    if is_last:
        stage.raise_if_behind()
    stage.kv.add_block(unit.kv, block.tensors)
    if is_last:
        stage.forget_sent()
    shard.add(unit)
