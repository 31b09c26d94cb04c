"""What is asked of a simulated cluster, and how it answers to what happens."""

from __future__ import annotations

from dataclasses import dataclass, field

from shardnet.described.schema import require
from shardnet.rebalance import Policy, Replan

MAX_TOKENS = 2_000_000


@dataclass(frozen=True)
class Load:
    """What is asked of the cluster."""

    in_flight: int = 1
    """Sessions at once."""
    requests: int | None = None
    """In all; as many as `in_flight` where None."""
    prompt_tokens: int = 0
    new_tokens: int = 64
    prefill_chunk: int = 128
    jitter: float = 0.0
    """Spread of every compute and hop time: the sigma of a log-normal factor with mean 1."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("in_flight", "new_tokens", "prefill_chunk"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1, but is {getattr(self, name)}.")
        require(self.requests is None or self.requests >= 1, f"requests must be at least 1, but is {self.requests}.")
        require(self.prompt_tokens >= 0, f"prompt_tokens must not be negative, but is {self.prompt_tokens}.")
        require(0 <= self.jitter <= 2, f"jitter must be between 0 and 2, but is {self.jitter}.")
        total = self.num_requests * self.new_tokens
        require(
            total <= MAX_TOKENS, f"{total} tokens are more than the {MAX_TOKENS} that are simulated; ask for fewer."
        )

    @property
    def num_requests(self) -> int:
        return self.in_flight if self.requests is None else self.requests


@dataclass(frozen=True)
class Recovery:
    """How the cluster answers to what happens."""

    replan: Replan | None = None
    """Makes the best plan of a problem; without it a slow device stays in the ring and a lost one ends the run."""
    policy: Policy = field(default_factory=Policy)
    detect_s: float = 1.0
    """Until a silent device counts as lost."""
    look_every_s: float = 0.5
    """Between two looks at the stage times."""
    load_bytes_per_s: dict[str, float] = field(default_factory=dict)
    default_load_bytes_per_s: float = 200e6
    """Of a device that is not in `load_bytes_per_s`."""
    rebalance: bool = True
    """False: only losses change the plan."""
