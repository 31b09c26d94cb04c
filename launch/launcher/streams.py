"""What `--redirects` and `--tee` say: which of a process's two streams, for all ranks or for some. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

from shardnet.errors import BadRequest
from shardnet.foreign.quoting import quoted

_EVERYWHERE = re.compile(r"[0-3]")
_BY_RANK = re.compile(r"\d{1,4}:[0-3](,\d{1,4}:[0-3])*")


class Streams(NamedTuple):
    """Of one process."""

    out: bool
    err: bool

    def __or__(self, other: object) -> Streams:
        assert isinstance(other, Streams)
        return Streams(self.out or other.out, self.err or other.err)


def streams_by_rank(option: str, text: str, num_ranks: int) -> list[Streams]:
    """What a text says of each local rank: "3" the same of all, "0:1,1:3" each its own; nothing of the others.

    Raises:
        BadRequest: it says something else, or names a rank that is not there.
    """
    if _EVERYWHERE.fullmatch(text):
        return [_streams(text)] * num_ranks
    if not _BY_RANK.fullmatch(text):
        raise BadRequest(
            f"{option} must be 0, 1 (standard output), 2 (standard error) or 3 (both), or say one of these by rank, as "
            f"in 0:1,1:3, but is {quoted(text)}."
        )
    said = {int(rank): _streams(number) for rank, _, number in (each.partition(":") for each in text.split(","))}
    for rank in said:
        _require_rank(option, rank, num_ranks)
    return [said.get(rank, Streams(False, False)) for rank in range(num_ranks)]


def shown_ranks(option: str, text: str, num_ranks: int) -> frozenset[int]:
    """The local ranks that a list names: all where it is empty.

    Raises:
        BadRequest: it is no such list, or names a rank that is not there.
    """
    if not text:
        return frozenset(range(num_ranks))
    if not re.fullmatch(r"\d{1,4}(,\d{1,4})*", text):
        raise BadRequest(f"{option} must be ranks of this node, as in 0,2, but is {quoted(text)}.")
    ranks = frozenset(map(int, text.split(",")))
    for rank in ranks:
        _require_rank(option, rank, num_ranks)
    return ranks


def words(text: str) -> tuple[str, ...]:
    """The words of a list; two commas are one comma of a word."""
    hidden = text.replace(",,", "\0")
    return tuple(each.replace("\0", ",") for each in hidden.split(",") if each)


def _streams(number: str) -> Streams:
    return Streams(bool(int(number) & 1), bool(int(number) & 2))


def _require_rank(option: str, rank: int, num_ranks: int) -> None:
    if rank >= num_ranks:
        raise BadRequest(f"{option} names rank {rank}, but this node has ranks 0 to {num_ranks - 1}.")
