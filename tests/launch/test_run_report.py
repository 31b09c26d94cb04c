"""What is said of a run: rates only where there is something to tell, and tables that fit."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from shardnet.launch.generate import run as generate_run
from shardnet.launch.generate.report import as_json, speed_line, stage_table, stderr_console
from shardnet.session.stream import Alternative, Generation, TokenLogprob

STAGE: Any = SimpleNamespace(
    device="device-0",
    first_unit=0,
    last_unit=12,
    weight_bytes=135 << 20,
    peak_rss_bytes=448 << 20,
    compute_share=0.34,
    wire_share=0.04,
    idle_share=0.62,
    sent_as="",
)


def answer(num_tokens: int, tokens_per_s: float | None) -> Generation:
    return Generation("text", list(range(num_tokens)), 5, "length", tokens_per_s, 0.1)


def test_a_short_answer_has_no_rate() -> None:
    """Four tokens once came "at 9701 tokens/s"."""
    short, long = answer(4, None), answer(64, 24.7)
    assert speed_line([short], 0.2).startswith("4 tokens, the first after 0.10 s")
    assert speed_line([answer(1, None)], 0.2).startswith("1 token, ")
    assert speed_line([long], 0.2).startswith("64 tokens at 24.7 tokens/s, the first after")
    assert speed_line([short, short], 0.1).startswith("2 answers, 8 tokens, 80.0 tokens/s together;")
    assert speed_line([answer(2, None)] * 2, 0.1).startswith("2 answers, 4 tokens; first tokens after")
    assert as_json([short], [], [], {}, 0.2)["tokens_per_s"] is None
    assert as_json([answer(2, None)] * 2, [], [], {}, 0.2)["tokens_per_s"] is None


def test_json_has_events_though_nothing_happens_yet() -> None:
    """Programs rely on the key: what happens to a ring in mid-answer will stand there."""
    assert as_json([answer(4, None)], [], [], {}, 0.2)["events"] == []
    assert as_json([answer(2, None)] * 2, [], [], {}, 0.2)["events"] == []


@pytest.mark.parametrize("width", [40, 60, 69, 70, 110])
def test_no_word_is_cut_short(width: int) -> None:
    """With COLUMNS=40 there was a table of 110, or one of single letters."""
    console = Console(file=io.StringIO(), width=width)
    console.print(stage_table([STAGE], "bfloat16", width))
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(len(line) <= width for line in printed.splitlines())
    for words in ("device-0", "0-12", "135 MiB", "peak memory", "448 MiB", "compute", "34%", "idle", "62%"):
        assert words in printed


@pytest.mark.parametrize(("columns", "width"), [("40", 40), ("", 110), ("wide", 110)])
def test_the_width_is_that_of_the_environment(monkeypatch: pytest.MonkeyPatch, columns: str, width: int) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert stderr_console().width == width


def test_names_of_others_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """A model's folder called `[b]x` lost its brackets, one called `x[/x]` ended a run with `--stats`."""
    named: Any = SimpleNamespace(**{**vars(STAGE), "device": "[red]phone[/x] :cat:"})
    stderr_console().print(stage_table([named], "bfloat16", 110))
    unit = SimpleNamespace(weight_bytes=1)
    model: Any = SimpleNamespace(profile=SimpleNamespace(name="a[/x][b]:cat:", units=[unit], num_units=1), plan="p [b]")
    cluster: Any = SimpleNamespace(devices=("device-0",))
    generate_run._show_plan(model, cluster)
    said = capsys.readouterr().err
    for name in ("[red]phone[/x] :cat:", "a[/x][b]:cat:: 1 units", "p [b]"):
        assert name in said


def test_joules_are_those_of_all_tokens() -> None:
    done = generate_run._Run([answer(4, None), answer(6, None)], wall_s=2.0)
    assert generate_run._joules_per_token(done, 15.0) == 3.0
    assert generate_run._joules_per_token(done, None) is None
    assert generate_run._joules_per_token(generate_run._Run([answer(0, None)], 1.0), 15.0) is None


def test_what_hidden_states_travel_in_is_said_where_it_is_not_the_models_own_dtype(
    capsys: pytest.CaptureFixture[str],
) -> None:
    smaller: Any = SimpleNamespace(**{**vars(STAGE), "sent_as": "int8"})
    for width in (40, 110):
        stderr_console().print(stage_table([smaller, STAGE], "bfloat16", width))
        assert "int8" in capsys.readouterr().err
        stderr_console().print(stage_table([STAGE], "bfloat16", width))
        assert "sends" not in capsys.readouterr().err


def test_json_has_logprobs_where_they_were_asked_for() -> None:
    likely = TokenLogprob(7, "a", -0.5, (Alternative(7, "a", -0.5), Alternative(8, "b", -1.5)))
    told = as_json([replace(answer(1, None), logprobs=[likely])], [], [], {}, 0.2)
    best = [{"token_id": 7, "text": "a", "logprob": -0.5}, {"token_id": 8, "text": "b", "logprob": -1.5}]
    assert json.loads(json.dumps(told))["logprobs"] == [{**best[0], "alternatives": best}]
    assert "logprobs" not in as_json([answer(1, None)], [], [], {}, 0.2)
    assert "logprobs" not in as_json([answer(1, None)] * 2, [], [], {}, 0.2)["results"][0]
