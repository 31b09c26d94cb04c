"""`shardnet bench`: what is measured and where, what is made of it, a run of it, and what it refuses."""

from __future__ import annotations

import csv
import itertools
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_text_model import save_text_model

from shardnet.cluster.load_options import LoadOptions
from shardnet.errors import BadRequest, UsageError
from shardnet.launch.bench.grid import Place, Point, places_of, points_of
from shardnet.launch.bench.options import BenchOptions, read_counts, read_splits
from shardnet.launch.bench.percentiles import percentile
from shardnet.launch.bench.prompts import Prompts
from shardnet.launch.bench.run import Found, Measured
from shardnet.launch.bench.tables import as_csv, as_object, row_of
from shardnet.launch.bench.turns import Turn, rate_together
from shardnet.launch.commands import perform
from shardnet.profiling import power

pytestmark = pytest.mark.usefixtures("warm_devices")
POINT = Point("sessions", 2, 16, 3)
TURNS = (Turn(10.0, 0.5, (0.1, 0.2), None), Turn(30.0, 0.3, (0.3, 0.4), 2.0, 8, 5), Turn(20.0, 0.4, (), 4.0, 4, 1))
FOUND = Found("m", "float32", "a machine", "2.13.0", (Measured(("a", "b"), (2, 4), 0.05, POINT, TURNS),))


def test_all_combinations_are_measured() -> None:
    options = BenchOptions(prompt=(16, 64), prefill=(128,), sessions=(4, 8), tokens=32, devices=(1, 3))
    assert points_of(options) == [
        Point("decode", 1, 16, 32),
        Point("decode", 1, 64, 32),
        Point("prefill", 1, 128, 1),
        Point("sessions", 4, 16, 32),
        Point("sessions", 8, 16, 32),
        Point("sessions", 4, 64, 32),
        Point("sessions", 8, 64, 32),
    ]
    assert points_of(BenchOptions(what="prefill")) == [Point("prefill", 1, 512, 1)]
    assert places_of(options) == [Place(1, None), Place(3, None)]
    assert places_of(BenchOptions()) == [Place(3, None)]
    assert places_of(BenchOptions(splits=((2, 4), (3, 3)))) == [Place(2, (2, 4)), Place(2, (3, 3))]


def test_lists_are_read() -> None:
    assert read_counts("--devices")("1, 3,3") == (1, 3)
    assert read_counts("--devices")(None) == ()
    assert read_splits(["2,4", "6"]) == ((2, 4), (6,))
    assert read_splits(None) == ()


def test_prompts_are_others_each_time_and_the_same_in_the_next_run() -> None:
    first, again = Prompts(500), Prompts(500)
    drawn = [first.draw(8) for _ in range(3)]
    assert drawn == [again.draw(8) for _ in range(3)] and len({tuple(prompt) for prompt in drawn}) == 3
    of_text = Prompts(500, [7, 8, 9])
    one, other = of_text.draw(4), of_text.draw(3)
    assert one[1:] == [7, 8, 9] and other[1:] == [7, 8] and one[0] != other[0]
    with pytest.raises(BadRequest, match="a prompt is to have 5 tokens, but the text of --text has 3"):
        of_text.draw(5)


def test_percentiles_lie_between_values() -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], 50) == 2.5
    assert percentile([1.0, 2.0], 90) == pytest.approx(1.9)
    assert percentile([5.0], 99) == 5.0
    assert percentile([], 50) is None


def test_a_rate_is_that_of_the_time_in_which_all_answer() -> None:
    assert rate_together([[0.0, 1.0, 2.0]]) == 1.0
    assert rate_together([[0.0, 1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 9.0]]) == 2.0
    assert rate_together([[0.0, 1.0], [2.0, 4.0]]) == pytest.approx(3 / 4), "they never answered at once"


def test_a_row_has_medians_and_spreads() -> None:
    row = row_of(FOUND.rows[0])
    assert (row["tokens_per_s"], row["tokens_per_s_least"], row["tokens_per_s_most"]) == (20.0, 10.0, 30.0)
    assert row["first_token_ms"] == pytest.approx(400) and row["token_ms_p50"] == pytest.approx(250)
    assert row["joules_per_token"] == 3.0 and row["split"] == "2,4" and row["predicted_lap_ms"] == 50.0
    assert (row["guesses_checked"], row["guesses_right"]) == (12, 6)
    [line] = csv.DictReader(as_csv(FOUND).splitlines())
    assert line["tokens_per_s"] == "20.0" and line["split"] == "2,4"
    assert as_object(FOUND)["rows"][0]["turns"][1]["gaps_s"] == [0.3, 0.4]


def test_a_run_measures_everything_and_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SHARDNET_CACHE", str(tmp_path / "cache"))
    counter = itertools.count(0, 5)
    monkeypatch.setattr(power, "package_joules", lambda: float(next(counter)))  # most machines have none to read
    model = save_text_model(tmp_path / "model")
    asked = [
        "--model",
        str(model),
        "--split",
        "6",
        "--split",
        "2,4",
        "--tokens",
        "6",
        "--prompt",
        "8",
        "--prefill",
        "40",
    ]
    files = ["--csv", str(tmp_path / "rates.csv"), "--plot", str(tmp_path / "rates.png")]
    once = ["--sessions", "2,3", "--repetitions", "2", "--warm-up", "0", "--threads", "1", "--dtype", "float32"]
    assert perform(["bench", *asked, *files, *once, "--json"]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    shown = [(row["what"], row["split"], row["sessions"], row["repetitions"]) for row in told["rows"]]
    assert shown == [
        (what, split, sessions, 2)
        for split in ("6", "2,4")
        for what, sessions in (("decode", 1), ("prefill", 1), ("sessions", 2), ("sessions", 3))
    ]
    gaps = [len(turn["gaps_s"]) for row in told["rows"] for turn in row["turns"]]
    assert gaps == [5, 5, 0, 0, 10, 10, 15, 15] * 2, "no answer ends early"
    assert all(row["tokens_per_s"] > 0 and row["joules_per_token"] > 0 for row in told["rows"])
    lines = list(csv.DictReader((tmp_path / "rates.csv").open()))
    assert [line["what"] for line in lines] == [row["what"] for row in told["rows"]]
    assert (tmp_path / "rates.png").stat().st_size > 1000


def test_the_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    from shardnet.launch.bench.tables import as_table

    as_table(FOUND)
    printed = capsys.readouterr().out
    assert "20 (10 to 30)" in printed and "J a token" in printed
    assert "guesses right" in printed and "6 of 12" in printed
    plain = replace(FOUND.rows[0], turns=TURNS[:1])
    as_table(replace(FOUND, rows=(plain,)))
    assert "guesses" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--devices", "0"], "--devices must be whole numbers from 1 on, such as 1,2,3, but is '0'."),
        (["--devices", "two"], "--devices must be whole numbers"),
        (["--prompt", "1,,2"], "--prompt must be whole numbers"),
        (["--split", "3,x"], "--split must be whole numbers of units"),
        (["--what", "decode,dance"], "--what must be of decode, prefill, sessions, but is 'decode,dance'."),
        (["--tokens", "1"], "--tokens must be 2 or more, but is 1."),
        (["--repetitions", "0"], "--repetitions must be 1 or more, but is 0."),
        (["--cluster", "here", "--devices", "2"], "--cluster measures a model where it is."),
        (["--cluster", "here", "--dtype", "float32"], "options for loading one go with shardnet load."),
        (["--temperature", "-1"], "--temperature must be"),
        (["--text", "no/such/file"], "--text cannot be read: no/such/file: No such file or directory."),
        (["--text", os.devnull], f"--text must name a text, but {os.devnull} is empty."),
        (["--model", ""], "--model must not be empty"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: list[str], sentence: str) -> None:
    with pytest.raises(BadRequest) as refused:
        perform(["bench", *arguments])
    assert sentence in str(refused.value)


def test_files_that_cannot_be_written_are_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Cannot write .* --csv"):
        perform(["bench", "--csv", str(tmp_path / "no" / "rates.csv")])
    with pytest.raises(UsageError, match="--plot draws"):
        perform(["bench", "--plot", str(tmp_path / "rates.txt")])


def test_conversations_beyond_the_context_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARDNET_CACHE", str(tmp_path / "cache"))
    model = save_text_model(tmp_path / "model")
    with pytest.raises(BadRequest, match="would have 5000 tokens"):
        perform(["bench", "--model", str(model), "--split", "6", "--prefill", "4999", "--json"])


def test_only_what_is_said_of_loading_counts_with_a_cluster() -> None:
    asked = BenchOptions(cluster="here")
    asked.check_load(LoadOptions(standby="none", rebalance=False))
    with pytest.raises(BadRequest):
        asked.check_load(LoadOptions(context_tokens=64))
