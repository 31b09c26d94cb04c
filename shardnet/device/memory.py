"""The memory of one device: what its stages may still take of it, and the budget of their weights and KV caches.

What is reserved and was not written to yet is counted as taken, though the system counts it as free. What other
programs and other devices of the machine do is seen when it is looked at: each time that a model comes.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from typing import Any, Protocol

from torch import Tensor

from shardnet.errors import DoesNotFit
from shardnet.process.allocator import return_freed
from shardnet.process.compute import CPU, has_own_memory
from shardnet.profiling.compute import return_cached, usable_compute_bytes
from shardnet.profiling.memory import usable_memory_bytes
from shardnet.stage.budget import MemoryBudget


class TakesMemory(Protocol):
    """A stage, or one that is being loaded."""

    unread_bytes: int
    """Of its weights, those that are reserved and not in memory yet."""

    @property
    def untouched_bytes(self) -> int:
        """The same of all that it has reserved."""

    @property
    def untouched_bytes_beside(self) -> int:
        """The same of what it keeps on the CPU beside an accelerator."""


class AddedWeights(MutableMapping[Any, Tensor]):
    """The weights that a device has, as one load sees them. What it adds stays reserved for as long as anybody uses it:
    stages share tensors, give some up, and end in any order.

    Args:
        weights: by their names, as long as they are in use.
        budget: from which the load has taken what it adds.
        on_added: called with the bytes of what was added.
    """

    def __init__(
        self, weights: MutableMapping[Any, Tensor], budget: MemoryBudget, on_added: Callable[[int], object]
    ) -> None:
        self._weights = weights
        self._budget = budget
        self._on_added = on_added

    def __getitem__(self, key: Any) -> Tensor:
        return self._weights[key]

    def __setitem__(self, key: Any, tensor: Tensor) -> None:
        self._weights[key] = tensor
        weakref.finalize(tensor, self._budget.release, tensor.nbytes).atexit = False
        self._on_added(tensor.nbytes)

    def __delitem__(self, key: Any) -> None:
        del self._weights[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


class DeviceMemory:
    """
    Args:
        device: its name, for errors.
        stages: gives those that it has now.
        most_bytes: what its owner allows for all of them together; None where only the machine sets limits.
        compute: where its memory is: see `profiling.compute`.
    """

    def __init__(
        self,
        device: str,
        stages: Callable[[], Iterable[TakesMemory]],
        most_bytes: int | None = None,
        compute: str = CPU,
    ) -> None:
        self._compute = compute
        self._most_bytes = most_bytes
        self.budget = MemoryBudget()
        """No limit before the first model comes: there is nobody to keep to it."""
        self.beside = MemoryBudget()
        """The same of the CPU's memory, for what stages keep there where the accelerator has memory of its own."""
        self._device = device
        self._stages = stages
        self._lock = threading.Lock()

    def promised_bytes(self) -> int:
        """What is reserved here and was not written to yet, less what is written and spare: see `MemoryBudget`."""
        return sum(stage.untouched_bytes for stage in self._stages()) - self.budget.spare_bytes

    def allowed_bytes(self) -> int | None:
        """What is left of what its owner allows; None without a limit."""
        return None if self._most_bytes is None else max(self._most_bytes - self.budget.needed_bytes, 0)

    def return_freed(self) -> None:
        """Give what stages have freed back to the machine. Takes some milliseconds."""
        return_freed()
        return_cached(self._compute)

    def reserve_weights(self, num_bytes: int, stage: TakesMemory) -> None:
        """Look at what there is now, and take so much for the weights of a stage; to be released to `budget`.

        Raises:
            DoesNotFit: there is less.
        """
        with self._lock:  # of two models that come together one is first
            needed_bytes = self.budget.needed_bytes  # looked at first: sessions that open meanwhile count twice
            allowed_bytes = self.allowed_bytes()
            free_bytes = max(usable_compute_bytes(self._compute) - self.promised_bytes(), 0)
            if allowed_bytes is not None:
                free_bytes = min(free_bytes, allowed_bytes)
            self.budget.limit_bytes = needed_bytes + free_bytes
            if not self.budget.reserve(num_bytes):
                raise DoesNotFit(
                    f"The weights take {num_bytes / 2**30:.2f} GiB on {self._device}, and {free_bytes / 2**30:.2f} GiB "
                    "are free there beside what is promised to others. Close other models, or add a device."
                )
            stage.unread_bytes = num_bytes
            if has_own_memory(self._compute):
                self._look_beside()

    def _look_beside(self) -> None:
        needed_bytes = self.beside.needed_bytes  # looked at first, as above
        promised_bytes = sum(stage.untouched_bytes_beside for stage in self._stages()) - self.beside.spare_bytes
        self.beside.limit_bytes = needed_bytes + max(usable_memory_bytes() - promised_bytes, 0)
