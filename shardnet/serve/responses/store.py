"""Responses that are kept for the next turn, in memory: the newest ones, of each client its own."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

MOST, MOST_BYTES = 1000, 64 << 20


@dataclass(frozen=True)
class Kept:
    """One of them."""

    client: str
    response: dict[str, Any]
    items: list[dict[str, Any]]
    """Of its input."""
    messages: list[dict[str, Any]]
    """The chat so far, the response included."""
    num_bytes: int


class Store:
    """Lives in the event loop."""

    def __init__(self, most: int = MOST, most_bytes: int = MOST_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._num_bytes = 0

    def keep(
        self,
        client: str,
        response: dict[str, Any],
        items: list[dict[str, Any]],
        messages: list[dict[str, Any]],
    ) -> None:
        """Keep one, and forget the oldest where there are too many."""
        num_bytes = len(json.dumps([response, items, messages]))
        if num_bytes > self._most_bytes:
            return
        self._kept[response["id"]] = Kept(client, response, items, messages, num_bytes)
        self._num_bytes += num_bytes
        while len(self._kept) > self._most or self._num_bytes > self._most_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._num_bytes -= oldest.num_bytes

    def get(self, client: str, name: str) -> Kept | None:
        """None where there is none, or it is another client's."""
        found = self._kept.get(name)
        return found if found is not None and found.client == client else None

    def drop(self, client: str, name: str) -> bool:
        """Forget one; whether it was there."""
        found = self.get(client, name)
        if found is not None:
            self._num_bytes -= self._kept.pop(name).num_bytes
        return found is not None
