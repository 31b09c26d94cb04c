"""`shardnet quality`: windows, comparisons, and the command over real devices."""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
import torch
from chosen_bits import make_up_times
from in_process_ring import ring_in_process, scored_alone
from lasting_in_process import LastingInProcess, lasting_in_process
from transformers import AutoTokenizer
from warm_python import WARM_PYTHON

from shardnet.cluster.load_options import LoadOptions
from shardnet.errors import BadRequest
from shardnet.launch.generate.options import DeviceOptions, GenerateOptions, OutputOptions
from shardnet.launch.quality.options import QualityRequest, TextOptions, read_kv_dtypes, read_schemes
from shardnet.launch.quality.results import Measured, compare, reference_of
from shardnet.launch.quality.run import QualityResult, _keep_losses, run_quality
from shardnet.launch.quality.tables import as_object, show
from shardnet.launch.quality.windows import windows_of
from shardnet.profiling.losses import LossStore
from shardnet.progress import silent
from shardnet.session.options import GenerationOptions
from shardnet.session.scores import Scores
from shardnet.source.running_cluster import RunningCluster

TEXT = "It is only new here, said Jonas. So was I, said Marta: nobody let me write the log.\n"


@pytest.mark.parametrize("size", [2, 3, 8, 100])
@pytest.mark.parametrize("num_tokens", [2, 3, 7, 8, 9, 12, 13, 55])
def test_every_token_is_scored_once_and_has_half_a_window_before_it(num_tokens: int, size: int) -> None:
    windows = windows_of(num_tokens, size)
    scored = [token for window in windows for token in range(window.scored_from, window.end)]
    assert scored == list(range(1, num_tokens))
    assert all(2 <= window.end - window.first <= size for window in windows)
    assert all(window.scored_from - window.first >= max(1, size // 2) for window in windows[1:])


def measured(scheme: str, likelihoods: tuple[float, ...], likeliest: tuple[int, ...]) -> Measured:
    return Measured(scheme, likelihoods, likeliest, 100, 7.0, 50.0)


def test_schemes_are_compared_with_the_one_of_most_bits() -> None:
    few = measured("float16", (-1.0, -2.2, -3.0, -1.0), (1, 2, 3, 9))
    full = measured("float32", (-1.0, -2.0, -3.0, -0.8), (1, 2, 3, 4))
    assert reference_of([few, full]) is full and reference_of([few]) is few
    one, other = compare([few, full])
    assert (other.change, other.same_likeliest) == (None, None)
    assert other.perplexity == pytest.approx(math.exp(6.8 / 4))
    assert one.change == pytest.approx(one.perplexity / other.perplexity - 1)
    assert one.change_error == pytest.approx(math.exp(0.1) * 0.11547 / 2, rel=1e-3)
    assert one.same_likeliest == 0.75


def test_a_model_that_knows_nothing_has_no_finite_perplexity(capsys: pytest.CaptureFixture[str]) -> None:
    nothing = measured("bfloat16", (-2000.0, -900.0), (1, 2))
    rows = compare([measured("float32", (-1.0, -2.0), (1, 2)), nothing])
    result = QualityResult("tiny", "a text", 3, 1, 3, ("a", "b"), "float32", rows)
    assert as_object(result)["rows"][1]["perplexity"] is None
    json.dumps(as_object(result), allow_nan=False)
    show(result, None)
    assert "inf" in capsys.readouterr().out
    assert Scores([1, 2], [-2000.0], [2]).perplexity == math.inf


@pytest.mark.parametrize(("num_tokens", "is_kept"), [(255, False), (256, True)])
def test_losses_by_a_few_tokens_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_tokens: int, is_kept: bool
) -> None:
    """They are chance, and `--quality` would go by them."""
    monkeypatch.setenv("SHARDNET_CACHE", str(tmp_path))
    rows = compare([measured("bfloat16", (-1.0, -2.0), (1, 2)), measured("int4", (-1.5, -2.0), (1, 2))])
    _keep_losses("m", rows, num_tokens, "a text")
    assert bool(LossStore(tmp_path).load("m")) == is_kept


def test_losses_that_cannot_be_kept_are_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SHARDNET_CACHE", str(tmp_path))
    (tmp_path / "losses").write_text("")
    rows = compare([measured("bfloat16", (-1.0, -2.0), (1, 2)), measured("int4", (-1.5, -2.0), (1, 2))])
    _keep_losses("m", rows, 1000, "a text")
    assert "Cannot keep what was measured in" in caplog.text and "--quality goes without" in caplog.text


def test_the_text_that_is_shipped_says_where_it_is_from() -> None:
    text = TextOptions().read()
    assert text.startswith("The Ferry Clock") and "```python" in text and len(text) > 7000
    about = resources.files("shardnet.configs_data").joinpath("texts/README.md").read_text("utf-8")
    assert "the_ferry_clock.txt" in about and "Apache-2.0" in about
    program = text.split("```python\n")[1].split("```")[0]
    printed: list[str] = []
    exec(compile(program, "ferry", "exec"), {"__name__": "__main__", "print": printed.append})  # noqa: S102
    assert printed == ["18 minutes on the water"]


def test_what_cannot_be_read_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadRequest, match="float16, but one is 'int3'"):
        read_schemes("float32,int3")
    with pytest.raises(BadRequest, match="--weights names something twice"):
        read_schemes("float32, float32")
    with pytest.raises(BadRequest, match="--kv-dtype must be some of auto, int8, but one is 'q8_0'"):
        read_kv_dtypes("auto,q8_0")
    with pytest.raises(BadRequest, match="The text file '/none/there' cannot be read: No such file"):
        TextOptions(text="/none/there").read()
    (tmp_path / "empty").write_text(" \n")
    with pytest.raises(BadRequest, match="There is no text: empty is empty"):
        TextOptions(text=str(tmp_path / "empty")).read()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\xff"), "ascii"))
    with pytest.raises(BadRequest, match=r"Standard input is not text in UTF-8 \(byte 1\)"):
        TextOptions(text="-").read()


def shardnet(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*WARM_PYTHON, "-m", "shardnet.launch.cli", "quality", *arguments],
        capture_output=True,
        text=True,
        input=stdin,
        timeout=180,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.usefixtures("warm_python")
def test_a_loss_without_bits_to_choose_is_refused_at_once() -> None:
    done = shardnet("--model", "smollm2-135m-instruct", "--weights", "bfloat16,int4", "--quality", "1%")
    assert done.returncode == 2 and "name auto in --weights, too" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_loss_may_be_allowed_by_what_is_measured_just_before(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, all rows but the last were measured, and then it was said that they had to be."""
    monkeypatch.setenv("SHARDNET_CACHE", str(tmp_path))
    make_up_times(monkeypatch)
    load = LoadOptions(quality="50%")
    with ring_in_process(2) as ring:
        monkeypatch.setattr("shardnet.launch.quality.run.open_cluster", lambda *_: ring.connect())
        model = GenerateOptions(str(tiny), (), DeviceOptions(), load, GenerationOptions(), OutputOptions())
        schemes = ("bfloat16", "int8", "int4", "auto")
        result = run_quality(QualityRequest(model, schemes, "a text", 4 * TEXT, None, 1024), silent)
    assert [row.weights for row in result.rows] == list(schemes)
    assert result.rows[-1].weight_bytes < result.rows[0].weight_bytes


@pytest.mark.usefixtures("warm_python")
class TestCommand:
    def test_schemes_are_measured_side_by_side(self, tiny: Path, tmp_path: Path) -> None:
        """In windows, and as transformers has it."""
        plot = tmp_path / "quality.svg"
        arguments = (
            "-m",
            str(tiny),
            "--weights",
            "float32,bfloat16,int8",
            "--split",
            "3,3",
            "--threads",
            "1",
            "--json",
        )
        done = shardnet(*arguments, "--text", "-", "--tokens", "70", "--window", "32", "--plot", str(plot), stdin=TEXT)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        ids = AutoTokenizer.from_pretrained(tiny)(TEXT)["input_ids"][:70]
        expected = [
            value
            for window in windows_of(70, 32)
            for value in scored_alone(tiny, ids[window.first : window.end])[0][window.scored_from - window.first - 1 :]
        ]
        assert len(expected) == 69
        full, half, quarter = found["rows"]
        assert full["perplexity"] == pytest.approx(math.exp(-sum(expected) / 69), rel=1e-4)
        assert (found["title"], found["num_tokens"], found["num_windows"]) == ("standard input", 70, 4)
        assert (found["reference"], full["change"], full["same_likeliest"]) == ("float32", None, None)
        assert half["weights"] == "bfloat16" and 0.5 < half["same_likeliest"] <= 1 and abs(half["change"]) < 0.5
        assert half["weight_bytes"] == full["weight_bytes"] // 2
        assert quarter["weights"] == "int8" and 0.5 < quarter["same_likeliest"] <= 1 and abs(quarter["change"]) < 0.5
        assert 0.4 < quarter["weight_bytes"] / half["weight_bytes"] < 0.7
        assert "bfloat16" in plot.read_text() and "MB of weights" in plot.read_text()

    def test_keys_and_values_are_compared_too(self, tiny: Path) -> None:
        arguments = ("-m", str(tiny), "--weights", "float32", "--kv-dtype", "auto,int8", "--split", "3,3", "--json")
        done = shardnet(*arguments, "--text", "-", "--tokens", "40", stdin=TEXT)
        assert done.returncode == 0, done.stderr
        full, rounded = json.loads(done.stdout)["rows"]
        assert (full["kv_dtype"], rounded["kv_dtype"], full["change"]) == ("auto", "int8", None)
        assert 0 < abs(rounded["change"]) < 0.2 and rounded["weight_bytes"] == full["weight_bytes"]

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (("--weights", "int3"), "--weights must be some of"),
            (("--kv-dtype", "int3"), "--kv-dtype must be some of"),
            (("--tokens", "1"), "--tokens must be 2 or more"),
            (("--window", "1"), "--window must be 2 or more"),
            (("--plot", "quality.bmp"), "--plot draws .png, .svg, .pdf"),
            (("--text", "/none/there"), "cannot be read: No such file"),
            (("--devices", "9"), "6 units"),
            (("--also", "/none/there"), "There is no /none/there"),
            (("--also", "a/int8", "--also", "b/int8"), "--also names two checkpoints alike"),
            (("--also", "some/bfloat16"), "or one like weights of a scheme"),
            (("--text", "-"), "There is no text: standard input is empty."),
        ],
    )
    def test_what_is_wrong_is_one_sentence(self, tiny: Path, arguments: tuple[str, ...], sentence: str) -> None:
        done = shardnet("--model", str(tiny), *arguments)
        assert done.returncode == 2 and sentence in done.stderr
        assert (done.stdout, done.stderr.count("\n")) == ("", 1)

    def test_another_checkpoint_that_is_nowhere_is_refused_before_anything_is_measured(self, tiny: Path) -> None:
        done = shardnet("--model", str(tiny), "--also", "nowhere", "--devices", "1", "--tokens", "20")
        assert done.returncode == 2 and "There is no folder 'nowhere' here" in done.stderr
        assert "starting devices" not in done.stderr and "reading" not in done.stderr


class TestOfACluster:
    """It is measured as it holds its model."""

    @pytest.fixture
    def cluster(self, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LastingInProcess:
        with lasting_in_process(2) as cluster:
            options = {"dtype": "bfloat16", "split": (3, 3)}
            cluster.coordinator.begin(str(tiny), options).done.result(60)
            monkeypatch.setattr(RunningCluster, "connect", lambda *_, **__: cluster.connect())
            yield cluster

    def test_it_has_one_row(self, cluster: LastingInProcess, tmp_path: Path) -> None:
        told: list[tuple[str, float, float]] = []
        model = GenerateOptions(
            "", (), DeviceOptions(), LoadOptions(), GenerationOptions(), OutputOptions(), running_in=tmp_path
        )
        request = QualityRequest(model, (), "a text", TEXT, None, 1024)
        result = run_quality(request, lambda *each: told.append(each))
        [row] = result.rows
        assert (row.weights, row.change, result.reference) == ("as loaded", None, "as loaded")
        assert (result.devices, result.num_tokens, result.num_windows) == (("a", "b"), len(TEXT), 1)
        reading = [each for each in told if each[0] == "reading with weights as loaded"]
        assert [done for _, done, _ in reading] == list(range(1, len(TEXT)))
        assert torch.isfinite(torch.tensor(row.perplexity))
