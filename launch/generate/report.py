"""What a run looked like: as tables for a person, as one object for a program."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from shardnet.foreign.quoting import counted
from shardnet.launch.console import plain_console, size

if TYPE_CHECKING:
    from shardnet.cluster.model import Generation
    from shardnet.timeline.events import Event
    from shardnet.timeline.stage_report import StageReport

_REASONS = {
    "eos": "the model ended its text",
    "length": "the token limit was reached",
    "stop": "a stop text or token appeared",
    "cancelled": "stopped early",
}


LEAST_TABLE_WIDTH = 70
"""In a narrower place a table would cut its words short."""


def stderr_console() -> Console:
    """Where everything goes that is not the model's text. As wide as a table where nothing says how wide it is."""
    is_known = sys.stderr.isatty() or os.environ.get("COLUMNS", "").isdecimal()
    return plain_console(stderr=True, width=None if is_known else 110)


def _cached(one: Generation) -> str:
    return f", {one.cached_prompt_tokens} of them from an earlier answer" if one.cached_prompt_tokens else ""


def _guessed(one: Generation) -> str:
    if not one.guesses_checked or one.tokens_per_pass is None:
        return ""
    guesses = f"{one.guesses_right} of {one.guesses_checked} guesses right"
    return f"; {guesses}, {one.tokens_per_pass:.1f} tokens a pass"


def speed_line(generations: Sequence[Generation], wall_s: float) -> str:
    """Tokens per second and time to first token, of one answer or of several at once."""
    if len(generations) == 1:
        one = generations[0]
        reason = _REASONS.get(one.finish_reason, one.finish_reason)
        rate = "" if one.tokens_per_s is None else f" at {one.tokens_per_s:.1f} tokens/s"
        of_prompt = f"{one.prompt_tokens} prompt tokens{_cached(one)}{_guessed(one)}"
        return (
            f"{counted(len(one.token_ids), 'tokens')}{rate}, the first after "
            f"{one.time_to_first_token_s:.2f} s ({of_prompt}); {reason}."
        )
    num_tokens = sum(len(one.token_ids) for one in generations)
    together = _rate_together(num_tokens, wall_s)
    rate = "" if together is None else f", {together:.1f} tokens/s together"
    first = sorted(one.time_to_first_token_s for one in generations)
    return (
        f"{len(generations)} answers, {counted(num_tokens, 'tokens')}{rate}; "
        f"first tokens after {first[0]:.2f} to {first[-1]:.2f} s."
    )


def _rate_together(num_tokens: int, wall_s: float) -> float | None:
    from shardnet.session.stream import LEAST_TOKENS_OF_A_RATE

    return num_tokens / wall_s if num_tokens >= LEAST_TOKENS_OF_A_RATE else None


def stage_table(stages: Sequence[StageReport], numbers: str, width: int) -> RenderableType:
    """What each stage holds, what its process took at most, and what it did with its time: a row, or narrow lines.

    Args:
        numbers: what the model is held and computed in.
    """
    return _stage_rows(stages, numbers) if width >= LEAST_TABLE_WIDTH else _stage_lines(stages, numbers)


def _stage_lines(stages: Sequence[StageReport], numbers: str) -> RenderableType:
    lines = [f"Stages ({numbers})"]
    for stage in stages:
        lines += [
            f"{stage.device}: units {stage.first_unit}-{stage.last_unit}",
            f"  weights {size(stage.weight_bytes)}",
            f"  peak memory {size(stage.peak_rss_bytes)}",
            f"  compute {stage.compute_share:.0%}, wire {stage.wire_share:.0%}, idle {stage.idle_share:.0%}",
        ]
        if stage.sent_as:
            lines.append(f"  sends {stage.sent_as}")
    return Text("\n".join(lines))


def _stage_rows(stages: Sequence[StageReport], numbers: str) -> RenderableType:
    table = Table(title=f"Stages ({numbers})", title_justify="left")
    table.add_column("device")
    are_others = any(stage.sent_as for stage in stages)
    for heading in ("units", "weights", "peak memory", "compute", "wire", "idle", *(["sends"] if are_others else [])):
        table.add_column(heading, justify="right")
    for stage in stages:
        table.add_row(
            stage.device,
            f"{stage.first_unit}-{stage.last_unit}",
            size(stage.weight_bytes),
            size(stage.peak_rss_bytes),
            *(f"{share:.0%}" for share in (stage.compute_share, stage.wire_share, stage.idle_share)),
            *([stage.sent_as] if are_others else []),
        )
    return table


def as_json(
    generations: Sequence[Generation],
    stages: Sequence[StageReport],
    events: Sequence[Event],
    about: dict[str, Any],
    wall_s: float,
) -> Any:
    """The object that `--json` prints: one answer's keys at the top, or several under "results" with their sums."""
    shared = {**about, "stages": [asdict(stage) for stage in stages], "events": [asdict(event) for event in events]}
    if len(generations) == 1:
        return {**_shown(generations[0]), **shared}
    num_tokens = sum(len(one.token_ids) for one in generations)
    return {
        "results": [_shown(one) for one in generations],
        "num_tokens": num_tokens,
        "tokens_per_s": _rate_together(num_tokens, wall_s),
        "time_to_first_token_s": min(one.time_to_first_token_s for one in generations),
        "prompt_tokens": sum(one.prompt_tokens for one in generations),
        "cached_prompt_tokens": sum(one.cached_prompt_tokens for one in generations),
        "guesses_checked": sum(one.guesses_checked for one in generations),
        "guesses_right": sum(one.guesses_right for one in generations),
        **shared,
    }


def _shown(one: Generation) -> dict[str, Any]:
    """Its fields; what was not asked for is left out."""
    shown = asdict(one)
    return shown if one.logprobs is not None else {name: shown[name] for name in shown if name != "logprobs"}
