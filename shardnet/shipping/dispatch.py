"""What the coordinator gives to devices that lack weights: lists, who has what, and bytes of its own files where nobody
else has them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path

from shardnet.errors import BadRequest, ModelNotFound
from shardnet.grammars.matching import pack_tokenizer
from shardnet.loader import read_tokenizer
from shardnet.loader.copies import Copy, config_of
from shardnet.loader.parts import PART_BYTES
from shardnet.plan import Link
from shardnet.process.threads import on_thread
from shardnet.shipping.directory import Directory
from shardnet.shipping.shelf import Shelf
from shardnet.shipping.texts import texts_in
from shardnet.transport.base import Transport
from shardnet.transport.shipping_messages import (
    MOST_ROOTS,
    CheckpointList,
    HoldersWanted,
    TensorHolders,
    TensorParts,
    Tensors,
)

LIST_S = 120.0
FAR_S = 1e9
"""Of a link that nobody has measured: it is asked last."""


class Dispatch:
    """Of one cluster."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self._shelf = Shelf(transport.name)
        self._folders: dict[str, Path] = {}
        """Of all checkpoints that this cluster has opened."""
        self._parts: dict[str, dict[str, TensorParts]] = {}
        """Of the tensors that are offered: by checkpoint, and by root."""
        self._directory = Directory(transport.name)
        self._links: dict[tuple[str, str], Link] = {}
        self._lock = threading.Lock()
        transport.expose("tensor_parts", self.tensor_parts)
        transport.expose("tensor_holders", self.tensor_holders)
        transport.expose("tensors_held", self.tensors_held)
        transport.expose("fetch_over", self.fetch_over)
        transport.expose("weights_chunk", self._shelf.chunk)
        transport.expose("model_texts", self.model_texts)
        transport.expose("model_vocabulary", self.model_vocabulary)
        transport.on_members(self._hear)

    def offer(self, copy: Copy) -> None:
        """Sources may have the tokenizer of a copy of this machine; devices its weights, if it goes by its content."""
        self._folders = self._folders | {copy.name: copy.folder}
        if copy.is_local:
            return
        self._shelf.open(copy)
        parts = {
            place.root: TensorParts(place.dtype, place.shape, copy.hashes[place.root])
            for place in copy.tensors.values()
        }
        self._parts = self._parts | {copy.name: parts}

    def has_all(self, device: str, copy: Copy) -> None:
        """A device has a copy of its own."""
        with self._lock:
            self._directory.add(device, {place.root for place in copy.tensors.values()})

    def give_list(self, device: str, copy: Copy) -> Future[tuple[str, ...]]:
        """Let a device know of a checkpoint that it has no copy of, so that it can fetch of it."""
        what = CheckpointList(config_of(copy.folder), {name: place.root for name, place in copy.tensors.items()})
        given = self.transport.call(device, "take_list", copy.name, what, timeout_s=LIST_S)
        given.add_done_callback(partial(self._learn_held, device, copy))
        return given

    def learn(self, links: Iterable[Link]) -> None:
        """How near devices are to each other."""
        with self._lock:
            self._links |= {(link.source, link.target): link for link in links}

    def close(self) -> None:
        """Nothing is given any more."""
        self._shelf.close()

    # ---- endpoints ----

    def tensor_parts(self, wanted: Tensors) -> tuple[TensorParts, ...]:
        """
        Raises:
            ModelNotFound: there is no such checkpoint here for others, or no such tensor in it.
            BadRequest: these are too many at once.
        """
        known = self._offered(wanted.checkpoint, wanted.roots)
        return tuple(known[root] for root in wanted.roots)

    def tensor_holders(self, wanted: HoldersWanted) -> tuple[TensorHolders, ...]:
        """Raises as `tensor_parts`; so do the others."""
        self._offered(wanted.checkpoint, wanted.roots)
        with self._lock:
            return tuple(
                self._directory.holders(wanted.device, root, wanted.avoided, self._seconds) for root in wanted.roots
            )

    def tensors_held(self, held: Tensors) -> None:
        self._offered(held.checkpoint, held.roots)
        self._add(held.device, held.roots)

    def fetch_over(self, given_up: Tensors) -> None:
        self._offered(given_up.checkpoint, given_up.roots)
        with self._lock:
            self._directory.stop(given_up.device, given_up.roots)

    def model_texts(self, checkpoint: str) -> Future[dict[str, bytes]]:
        """What a source needs of a checkpoint that it has no copy of; see `texts`.

        The future fails with ModelNotFound where there is no such checkpoint here.
        """
        return on_thread("shardnet-texts", partial(self._model_texts, checkpoint))

    def model_vocabulary(self, checkpoint: str) -> Future[bytes]:
        """What the tokens of a checkpoint spell, for who is to follow a grammar; see `pack_tokenizer`.

        The future fails with ModelNotFound where there is no such checkpoint here, and with UnsupportedModel.
        """
        return on_thread("shardnet-texts", partial(self._model_vocabulary, checkpoint))

    # ----

    def _model_texts(self, checkpoint: str) -> dict[str, bytes]:
        return texts_in(self._folder_of(checkpoint))

    def _model_vocabulary(self, checkpoint: str) -> bytes:
        return pack_tokenizer(read_tokenizer(self._folder_of(checkpoint)), checkpoint[:16])

    def _folder_of(self, checkpoint: str) -> Path:
        folder = self._folders.get(checkpoint)
        if folder is None:
            raise ModelNotFound(f"{self.transport.name} has no checkpoint {checkpoint[:16]} for others.")
        return folder

    def _offered(self, checkpoint: str, roots: Sequence[str]) -> dict[str, TensorParts]:
        if len(roots) > MOST_ROOTS:
            raise BadRequest(f"{len(roots)} tensors are asked for at once. Ask for {MOST_ROOTS} at most.")
        known = self._parts.get(checkpoint, {})
        missing = next((root for root in roots if root not in known), None)
        if missing is not None:
            raise ModelNotFound(f"{self.transport.name} has no tensor {missing[:16]} of {checkpoint[:16]} for others.")
        return known

    def _add(self, device: str, roots: Iterable[str]) -> None:
        if device in self.transport.members():
            with self._lock:
                self._directory.add(device, roots)

    def _learn_held(self, device: str, copy: Copy, given: Future[tuple[str, ...]]) -> None:
        if given.exception() is None:
            known = {place.root for place in copy.tensors.values()}
            self._add(device, known.intersection(given.result()))

    def _seconds(self, source: str, target: str) -> float:
        link = self._links.get((source, target))
        return FAR_S if link is None else link.seconds(PART_BYTES)

    def _hear(self, joined: Sequence[str], left: Sequence[str]) -> None:
        with self._lock:
            for device in left:
                self._directory.drop(device)
