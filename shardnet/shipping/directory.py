"""Who has which tensors, and who is fetching them, as the coordinator knows it. Pure.

The source of the files is named where nobody else can be asked, and then to one device at a time: that one carries the
tensor, and others get it from there, part by part while it comes. So the source sends nothing twice that a member has.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable

from shardnet.transport.shipping_messages import TensorHolders

Seconds = Callable[[str, str], float]
"""How long a part takes from one device to another."""


class Directory:
    """Of one cluster."""

    def __init__(self, source: str) -> None:
        """Args: `source`, who has the files."""
        self._source = source
        self._holders: dict[str, set[str]] = defaultdict(set)
        """By root."""
        self._carriers: dict[str, str] = {}
        """Devices that were sent to the source for a tensor, by its root."""

    def add(self, device: str, roots: Iterable[str]) -> None:
        """These can be had from a device."""
        for root in roots:
            self._holders[root].add(device)
            if self._carriers.get(root) == device:
                del self._carriers[root]

    def drop(self, device: str) -> None:
        """Nothing can be had from it any more."""
        for holders in self._holders.values():
            holders.discard(device)
        self._carriers = {root: other for root, other in self._carriers.items() if other != device}

    def stop(self, device: str, roots: Iterable[str]) -> None:
        """It does not fetch these any more."""
        for root in roots:
            if self._carriers.get(root) == device:
                del self._carriers[root]

    def holders(self, device: str, root: str, avoided: Collection[str], seconds: Seconds) -> TensorHolders:
        """Where a device is to fetch a tensor; nowhere, if all that could be asked are to be avoided."""
        usable = self._holders[root].difference(avoided, (device,)) if root in self._holders else set()
        source = () if self._source in avoided else (self._source,)
        if usable:
            nearest = sorted(usable, key=lambda holder: (seconds(holder, device), holder))
            return TensorHolders(root, (*nearest, *source), is_coming=False)
        carrier = self._carriers.get(root, device)
        if carrier != device and carrier not in avoided:
            return TensorHolders(root, (carrier,), is_coming=True)
        if source:
            self._carriers[root] = device
        return TensorHolders(root, source, is_coming=False)
