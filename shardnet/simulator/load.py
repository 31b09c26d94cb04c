"""What is asked of a simulated cluster, and how it answers to what happens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from shardnet.described.schema import require
from shardnet.foreign.bounds import SESSIONS, TOKENS, Amount, Count, check_fields
from shardnet.policy.membership import Limits
from shardnet.policy.rebalance import Policy, Replan

MAX_STEPS = 2_000_000
"""Tokens and chunks of prompts in one run."""
MAX_LEGS = 2_500_000
"""Stages and links that they cross in all: each is recorded, and these take 500 MB."""
_MANY = Count(1, TOKENS.most)


@dataclass(frozen=True)
class Load:
    """What is asked of the cluster."""

    in_flight: Annotated[int, SESSIONS] = 1
    """Sessions at once."""
    requests: Annotated[int | None, _MANY] = None
    """In all; as many as `in_flight` where None."""
    prompt_tokens: Annotated[int, TOKENS] = 0
    new_tokens: Annotated[int, _MANY] = 64
    prefill_chunk: Annotated[int, _MANY] = 128
    jitter: Annotated[float, Amount(2)] = 0.0
    """Spread of every compute and hop time: the sigma of a log-normal factor with mean 1."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        require(
            self.num_steps <= MAX_STEPS,
            f"{self.num_steps} tokens and chunks of prompts are more than the {MAX_STEPS} that are simulated; "
            "ask for fewer.",
        )

    @property
    def num_steps(self) -> int:
        """Tokens and chunks of prompts."""
        return self.num_requests * (self.new_tokens + -(-self.prompt_tokens // self.prefill_chunk))

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
    """Until a device that is gone, or a link that is cut, is known as that."""
    suspect_s: float = Limits().suspect_after_s
    """Until a frozen device is taken for lost; thawed later, it is a device without units."""
    look_every_s: float = 0.5
    """Between two looks at the stage times."""
    load_bytes_per_s: dict[str, float] = field(default_factory=dict)
    default_load_bytes_per_s: float = 200e6
    """Of a device that is not in `load_bytes_per_s`."""
    rebalance: bool = True
    """False: only losses change the plan."""
    is_source_apart: bool = False
    """The prompts are with a coordinator that holds no units, as in `Cluster`, so that every device may go."""
