"""What a member gives to others of the tensors that lie on its disk: bytes of single parts, and only of checkpoints
that it has opened for this cluster. Who asks says a root and never a path; what is outside of the tensor is refused.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from shardnet.errors import BadRequest, DamagedCheckpoint, ModelNotFound
from shardnet.loader.copies import Copy
from shardnet.loader.parts import PART_BYTES
from shardnet.loader.places import TensorPlace
from shardnet.process.threads import Errands, do_for
from shardnet.shipping.courtesy import Courtesy
from shardnet.shipping.store import MOST_LISTS, Store
from shardnet.transport.shipping_messages import MOST_CHUNK_BYTES, ChunkWanted

MOST_WAITING = 64
"""Requests that wait for the disk; whoever asks for more hears that it is not there yet, and asks again."""


class Shelf:
    """Of one member. Reads on a thread of its own, so that nobody on the network waits for a disk."""

    def __init__(
        self,
        name: str,
        store: Store | None = None,
        is_coming: Callable[[str], bool] = lambda root: False,
        courtesy: Courtesy | None = None,
    ) -> None:
        """Args:
        store: where a device keeps what it has fetched.
        is_coming: whether the tensor of this root is being fetched here now.
        courtesy: towards this device's stages.
        """
        self._name = name
        self._store = store
        self._is_coming = is_coming
        self._courtesy = courtesy or Courtesy()
        self._copies: dict[str, dict[str, TensorPlace]] = {}
        """Of checkpoints that lie here as a whole: where each root is, by the checkpoint's name."""
        self._fetched: dict[str, frozenset[str]] = {}
        """Of those that are fetched: all roots. The one that was told last is the last."""
        self._reader: Errands | None = None
        self._num_waiting = 0
        self._is_closed = False
        self._lock = threading.Lock()

    def open(self, copy: Copy) -> None:
        """From now on others may have the tensors of a copy of this machine; not of one that was never hashed."""
        if not copy.is_local:
            with self._lock:
                self._copies[copy.name] = {place.root: place for place in copy.tensors.values()}

    def open_fetched(self, checkpoint: str, roots: frozenset[str]) -> None:
        """The same for what the store has of a checkpoint, now or later; not of more than it remembers."""
        with self._lock:
            self._fetched.pop(checkpoint, None)
            self._fetched[checkpoint] = roots
            while len(self._fetched) > MOST_LISTS:
                del self._fetched[next(iter(self._fetched))]

    def chunk(self, wanted: ChunkWanted) -> Future[bytes]:
        """Some bytes of a part; none where they are not here yet.

        The future fails with ModelNotFound where this member has not opened such a checkpoint, or has no such tensor
        and does not fetch it now; with BadRequest where the bytes are not within one part of the tensor.
        """
        answer: Future[bytes] = Future()
        with self._lock:
            place = self._copies.get(wanted.checkpoint, {}).get(wanted.root)
            is_known = place is not None or wanted.root in self._fetched.get(wanted.checkpoint, ())
            is_full = self._num_waiting >= MOST_WAITING
            if is_known and not self._is_closed and not is_full:
                self._num_waiting += 1
                self._reader = self._reader or Errands("shardnet-shelf")
                self._reader.do(partial(self._read, answer, place, wanted))
                return answer
        if is_known and not self._is_closed:
            answer.set_result(b"")
        else:
            answer.set_exception(self._has_none(wanted))
        return answer

    def close(self) -> None:
        """Give nothing any more."""
        with self._lock:
            self._is_closed = True
        if self._reader is not None:
            self._reader.end()

    def _has_none(self, wanted: ChunkWanted) -> ModelNotFound:
        return ModelNotFound(f"{self._name} has no tensor {wanted.root[:16]} of {wanted.checkpoint[:16]} for others.")

    def _read(self, answer: Future[bytes], place: TensorPlace | None, wanted: ChunkWanted) -> None:
        try:
            do_for(answer, partial(self._found, place, wanted))
        finally:
            with self._lock:
                self._num_waiting -= 1

    def _found(self, place: TensorPlace | None, wanted: ChunkWanted) -> bytes:
        """As `chunk`. Args: `place`, None where it is looked for in the store."""
        part = wanted.offset // PART_BYTES
        last = wanted.offset + wanted.num_bytes - 1
        if not 1 <= wanted.num_bytes <= MOST_CHUNK_BYTES or wanted.offset < 0 or last // PART_BYTES != part:
            raise BadRequest(
                f"{wanted.num_bytes} bytes from {wanted.offset} on are not within one part of a tensor. Ask for less."
            )
        is_coming = self._is_coming(wanted.root)  # asked first: what comes meanwhile is found then
        if place is None and self._store is not None:
            place = self._store.place_of(wanted.root, part)
        if place is None:
            if is_coming:
                return b""
            raise self._has_none(wanted)
        if last >= place.num_bytes:
            raise BadRequest(f"The tensor {wanted.root[:16]} has {place.num_bytes} bytes: byte {last} is none of them.")
        while (wait_s := self._courtesy.wait_s(time.monotonic())) > 0:
            time.sleep(wait_s)
        return _bytes_at(place, wanted.offset, wanted.num_bytes)


def _bytes_at(place: TensorPlace, offset: int, num_bytes: int) -> bytes:
    try:
        with open(place.file, "rb", buffering=0) as file:
            data = os.pread(file.fileno(), num_bytes, place.offset + offset)
    except OSError as cause:
        raise DamagedCheckpoint(f"The tensor {place.root[:16]} cannot be read: {cause.strerror}.") from cause
    if len(data) != num_bytes:
        raise DamagedCheckpoint(f"The file of the tensor {place.root[:16]} ends early.")
    return data
