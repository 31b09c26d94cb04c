"""What is asked of a simulated cluster, and how it answers to what happens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from shardnet.described.schema import require
from shardnet.foreign.bounds import SECONDS, SESSIONS, TOKENS, Amount, Count, check_fields
from shardnet.foreign.quoting import quoted
from shardnet.policy.membership import Limits
from shardnet.policy.rebalance import Policy, Replan
from shardnet.policy.succession import STANDBY, WARM

MAX_STEPS = 2_000_000
"""Tokens and chunks of prompts in one run."""
MAX_LEGS = 2_500_000
"""Stages and links that they cross in all: each is recorded, and these take 500 MB."""
MAX_UNRECORDED_LEGS = 10_000_000
"""The same where nothing is recorded, as in a run of a given duration."""
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
    duration_s: Annotated[float | None, SECONDS] = None
    """For so long every answer is followed by another one, instead of `requests`; nothing is traced then."""

    def __post_init__(self) -> None:
        check_fields(self)
        require(self.duration_s is None or self.requests is None, "say either how many requests, or for how long.")
        require(
            self.num_steps <= MAX_STEPS,
            f"{self.num_steps} tokens and chunks of prompts are more than the {MAX_STEPS} that are simulated; "
            "ask for fewer.",
        )

    def check_size(self, legs_of_lap: int, rate_per_s: float, num_chunks: int | None = None) -> None:
        """Refuse a run that would take too long.

        Args:
            legs_of_lap: stages and links that a token crosses.
            rate_per_s: tokens of all sessions.
            num_chunks: of each prompt; None takes full ones.

        Raises:
            BadConfiguration: it would.
        """
        num_steps = self.num_steps if num_chunks is None else self.num_requests * (self.new_tokens + num_chunks)
        steps, most = float(num_steps), MAX_LEGS
        if self.duration_s is not None:
            steps, most = steps + rate_per_s * self.duration_s, MAX_UNRECORDED_LEGS
        legs = round(min(steps * legs_of_lap, 1e18))
        require(
            legs <= most,
            f"The run would cross {legs} stages and links, more than the {most} that are simulated; ask for fewer "
            f"tokens{'' if self.duration_s is None else ', or for less time'}.",
        )

    @property
    def num_steps(self) -> int:
        """Tokens and full chunks of prompts."""
        return self.num_requests * (self.new_tokens + -(-self.prompt_tokens // self.prefill_chunk))

    @property
    def chunk_tokens(self) -> int:
        """Of a prompt, in a chunk that is no last one; of a shorter prompt, all."""
        return max(1, min(self.prefill_chunk, self.prompt_tokens))

    @property
    def num_requests(self) -> int:
        return self.in_flight if self.requests is None else self.requests


@dataclass(frozen=True)
class Recovery:
    """How the cluster answers to what happens: as the runtime does, by `policy/`."""

    replan: Replan | None = None
    """Makes the best plan of a problem; without it only losses change the plan."""
    policy: Policy = field(default_factory=Policy)
    limits: Limits = field(default_factory=Limits)
    """How long a device may be silent."""
    detect_s: float = 1.0
    """Until a device that is gone without a word is known to be lost."""
    cut_known_s: float = 4.0
    """Until it is known that nothing arrives over a link: what was sent is not answered for 2 s, and then a ping."""
    cut_sure_s: float = 120.0
    """Until what is sent over it is given up."""
    look_every_s: float = 1.0
    """Between two looks at the stage times."""
    search_every_s: float = 0.0
    """Between two searches for a better plan, where devices come and go all the time; 0 for one at every look."""
    load_bytes_per_s: dict[str, float] = field(default_factory=dict)
    default_load_bytes_per_s: float = 200e6
    """Of a device that is not in `load_bytes_per_s`."""
    standby: str = WARM
    """Of `STANDBY`: what is kept ready for a loss."""
    standby_gib: float | None = None
    """That each device gives for it at most; half of what the plan leaves free where None."""
    settled_s: float = 0.0
    """So long before the run the model was loaded."""
    rebalance: bool = True
    """False: only losses and devices that leave change the plan."""
    is_source_apart: bool = False
    """The prompts are with a coordinator that holds no units, as in `Cluster`, so that every device may go; and devices
    pass nothing on for each other."""

    def __post_init__(self) -> None:
        require(self.standby in STANDBY, f"standby must be one of {', '.join(STANDBY)}, but is {quoted(self.standby)}.")
