"""A run's outcome as people and programs read it: a table, beside what was predicted, and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from testbed.outcome import Felt, Outcome
from testbed.play import Played

WORDS = {
    "links": "link speeds, delays, losses and cuts (all links are this machine's loopback)",
    "memory": "memory limits (no control group holds the devices to what they say)",
}
HEADER = ("event", "at s", "known after s", "repaired after s", "next token after s")


def not_emulated(missing: Sequence[str]) -> str:
    """One sentence; empty where nothing is missing."""
    return f"Not emulated here: {' and '.join(WORDS[each] for each in missing)}." if missing else ""


def verdict(played: Played) -> str:
    """One sentence: whether the texts are right."""
    if played.errors:
        return f"Ended early: {played.errors[0]}"
    if played.is_right:
        return "The text is the undisturbed one, token for token."
    wrong = [number for number, ids in enumerate(played.ids) if ids != played.expected[number]]
    return f"WRONG: the texts of conversations {', '.join(map(str, wrong))} differ from the undisturbed ones."


def as_dict(played: Played, predicted: Outcome | None) -> dict[str, Any]:
    """For `--json`. Seconds, and tokens per second."""
    return {
        "is_right": played.is_right,
        "errors": played.errors,
        "not_emulated": not_emulated(played.missing),
        "measured": played.outcome.as_dict(),
        "predicted": None if predicted is None else predicted.as_dict(),
        "token_ids": played.ids,
    }


def as_table(measured: Outcome, predicted: Outcome | None) -> str:
    """What each event came to, and the speeds around them; predictions stand in brackets."""
    rows = [HEADER]
    for number, felt in enumerate(measured.felt):
        same = _same(felt, predicted, number)
        values = [felt.at_s, felt.known_s, felt.repaired_s, felt.token_s]
        other = [None] * 4 if same is None else [same.at_s, same.known_s, same.repaired_s, same.token_s]
        cells = [_cell(one, two, predicted) for one, two in zip(values, other, strict=True)]
        rows.append((felt.event, *cells) if felt.is_emulated else (felt.event, cells[0], "not emulated", "", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*table, "", *_figures(measured, predicted)])


def _figures(measured: Outcome, predicted: Outcome | None) -> list[str]:
    before = _cell(measured.before_per_s, predicted and predicted.before_per_s, predicted)
    after = _cell(measured.after_per_s, predicted and predicted.after_per_s, predicted)
    gaps = ", ".join(f"{gap.seconds:.2f} s at {gap.at_s:.1f} s" for gap in measured.gaps)
    lines = [f"tokens/s before the first event {before}, after the last {after}", f"longest gaps: {gaps or 'none'}"]
    if predicted is not None:
        lines.append(f"predicted:    {', '.join(f'{gap.seconds:.2f} s at {gap.at_s:.1f} s' for gap in predicted.gaps)}")
    return lines


def _same(felt: Felt, predicted: Outcome | None, number: int) -> Felt | None:
    """The same event in the other run; of two alike, the one that comes as late."""
    alike = [] if predicted is None else [each for each in predicted.felt if each.event == felt.event]
    return alike[min(number, len(alike) - 1)] if alike else None


def _cell(measured: float | None, predicted: float | None, shown: Outcome | None) -> str:
    text = "-" if measured is None else f"{measured:.2f}"
    if shown is None:
        return text
    return f"{text} ({'-' if predicted is None else f'{predicted:.2f}'})"
