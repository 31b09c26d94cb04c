"""`shardnet plan --quality` and `--weights`: bits of units on paper, by what was measured of the model's weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import plan_cli
import pytest
from fake_hub import fake_hub, use
from plan_cli import shardnet
from tiny_gguf import write_gguf

from shardnet.cluster import bits
from shardnet.errors import BadRequest
from shardnet.loader import AT_ONCE_BYTES, fingerprint, open_model
from shardnet.plan import StagePlan
from shardnet.planner import evaluate
from shardnet.planner.bits import Offer, Search
from shardnet.planner.planning import plan as make_plan
from shardnet.process.cache_folder import cache_folder
from shardnet.profiling.losses import Loss, LossStore
from shardnet.quantised.schemes import SCHEMES, bits_of

LINK = {"from": "all", "to": "all", "mbit_per_s": 100, "latency_ms": 1}
DEVICES = [
    {"name": "phone", "memory_gib": 1, "read_gb_per_s": 0.001, "gflops": 10},
    {"name": "board", "memory_gib": 1, "read_gb_per_s": 0.002, "gflops": 10},
]
CLUSTER = {"name": "two", "source": "phone", "devices": DEVICES, "links": [LINK]}


def refused(*arguments: str) -> str:
    """What is said of bad input."""
    error = plan_cli.refused(*arguments)
    assert error.exit_code == 2
    return str(error)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SHARDNET_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def cluster(tmp_path: Path) -> str:
    path = tmp_path / "two.json"
    path.write_text(json.dumps(CLUSTER))
    return str(path)


def measured(model: Path, int8: float, int4: float, *, by_content: bool = True) -> None:
    """As `shardnet quality` would have it, before the weights were hashed or since."""
    copy = open_model(str(model), "bfloat16").copy
    if by_content:
        hashed = fingerprint(copy, cache_folder(), most_bytes=AT_ONCE_BYTES)
        assert hashed is not None
        copy = hashed
    losses = {"int8": Loss(int8, 1000, "a text"), "int4": Loss(int4, 1000, "a text")}
    LossStore(cache_folder()).save(copy.name, losses)


def planned(model: Path, cluster: str, *more: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(shardnet("plan", "-m", str(model), "-c", cluster, *more, "--json"))
    return told


def test_what_was_never_measured_is_asked_for_as_where_a_model_is_loaded(tiny: Path, cluster: str) -> None:
    files = open_model(str(tiny), "bfloat16")
    with pytest.raises(BadRequest) as caught:
        bits.require_floats(files, {})
    asked = ("-m", str(tiny), "-c", cluster, "--quality", "1%")
    assert refused("plan", *asked) == refused("simulate", *asked) == str(caught.value)
    assert str(caught.value).endswith(f"shardnet quality --model {tiny} --weights bfloat16,int8,int4")


@pytest.mark.parametrize("by_content", [True, False])
def test_bits_and_loss_and_speed_are_shown(tiny: Path, cluster: str, by_content: bool) -> None:
    measured(tiny, 0.2, 0.02, by_content=by_content)
    plain, told = planned(tiny, cluster), planned(tiny, cluster, "--quality", "1%")
    assert "unit_weights" not in plain and "predicted_loss" not in plain
    assert set(told["unit_weights"]) == {"int4", "bfloat16"} and len(told["unit_weights"]) == 6
    assert 0 < told["predicted_loss"] <= 0.01
    assert told["lap_s"] < plain["lap_s"]
    table = " ".join(shardnet("plan", "-m", str(tiny), "-c", cluster, "--quality", "1%").split())
    assert "bits" in table and "int4" in table and "bfloat16" in table
    assert f"Predicted loss: {told['predicted_loss']:.2%} more perplexity by weights of few bits." in table
    assert "ms a token" in table


def test_it_is_what_the_search_of_a_load_finds(tiny: Path, cluster: str) -> None:
    """With the times of the paper cluster: those of each scheme alone are what `--weights` says."""
    measured(tiny, 0.005, 0.03)
    told = planned(tiny, cluster, "--quality", "2%")
    alone = {scheme: problem_of(tiny, cluster, scheme) for scheme in ("bfloat16", "int8", "int4")}
    changes = {"bfloat16": 0.0, "int8": 0.005, "int4": 0.03}
    offers = {scheme: Offer(problem, changes[scheme]) for scheme, problem in alone.items()}
    mix = Search(offers, 0.02, "latency", 1, make_plan).best()
    assert told["unit_weights"] == list(mix.schemes)
    assert told["predicted_loss"] == mix.loss
    stages = [StagePlan(**stage) for stage in told["stages"]]
    assert told["lap_s"] == pytest.approx(evaluate(in_mix(offers, mix.schemes), stages).lap_s)
    assert told["lap_s"] == pytest.approx(mix.plan.lap_s)


def in_mix(offers: dict[str, Offer], schemes: Any) -> Any:
    return Search(offers, 1.0, "latency", 1, make_plan).problem_of(schemes)


def problem_of(model: Path, cluster: str, weights: str | None, context: int | None = None) -> Any:
    from shardnet.launch.plan.inputs import read_problem
    from shardnet.launch.plan.options import ProblemOptions

    options = ProblemOptions(model=str(model), cluster=cluster, weights=weights, dtype="bfloat16", context=context)
    return read_problem(options, 1).problem


@pytest.mark.parametrize(("quality", "schemes"), [("0%", {"bfloat16"}), ("50%", {"int4"})])
def test_the_ends_of_what_can_be_allowed(tiny: Path, cluster: str, quality: str, schemes: set[str]) -> None:
    measured(tiny, 0.2, 0.3)
    assert set(planned(tiny, cluster, "--quality", quality)["unit_weights"]) == schemes


def test_other_options_go_with_it(tiny: Path, cluster: str) -> None:
    measured(tiny, 0.2, 0.02)
    asked = ("--quality", "1%", "--kv-dtype", "int8", "--wire", "auto", "--objective", "throughput", "-f", "2")
    told = planned(tiny, cluster, *asked, "--compare", "--explain")
    assert set(told["chosen"]["unit_weights"]) == {"int4", "bfloat16"} and told["chosen"]["predicted_loss"] <= 0.01
    assert "weights int4, which lose 2.00%" in [each["change"] for each in told["what_if"]]


def test_a_plan_is_simulated_in_the_bits_that_it_has(tiny: Path, cluster: str, tmp_path: Path) -> None:
    measured(tiny, 0.2, 0.02)
    asked = ("-m", str(tiny), "-c", cluster)
    told = planned(tiny, cluster, "--quality", "1%")
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(told))
    run = ("simulate", *asked, "--prompt-tokens", "0", "-n", "8", "--context", "1024", "--json")
    again = json.loads(shardnet(*run, "--plan", str(path), "--dtype", "bfloat16"))
    chosen = json.loads(shardnet(*run, "--quality", "1%"))
    for ran in (again, chosen):
        assert ran["plan"]["unit_weights"] == told["unit_weights"]
        assert ran["lap_s"] == pytest.approx(told["lap_s"])
    for bad, said in (
        (["int4"] * 5, "there are schemes for 5 units, but"),
        (["int3"] * 6, "weights are not held as 'int3'"),
        (["float32"] * 6, "take float32 for dtype"),
        (7, "must be a list"),
    ):
        path.write_text(json.dumps({**told, "unit_weights": bad}))
        assert said in refused(*run, "--plan", str(path))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--quality", "lots"), "--quality is how much more perplexity is allowed, such as 1%"),
        (("--quality", "1%", "--bits", "4"), "--quality chooses how weights are held, and so does --bits"),
        (("--weights", "int4", "--bits", "4"), "--weights says how weights are held, and so does --bits"),
        (("--quality", "1%", "--weights", "int4"), "--quality chooses the bits of weights: leave it out"),
        (("--quality", "1%", "--dtype", "float32"), "--quality chooses the bits of weights: leave it out"),
        (("--weights", "int3"), "--weights must be one of auto, int4,"),
        (("--weights", "x" * 10_000), "--weights must be one of auto, int4,"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(
    tiny: Path, cluster: str, options: tuple[str, ...], said: str
) -> None:
    sentence = refused("plan", "-m", str(tiny), "-c", cluster, *options)
    assert said in sentence and len(sentence) < 500


def test_a_model_of_which_there_are_no_weights(cluster: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    known = refused("plan", "-m", "llama-2-7b", "-c", cluster, "--quality", "1%")
    assert "'llama-2-7b' is known by its numbers alone. Name its folder" in known
    config = {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 256, "n_positions": 1024}
    with fake_hub() as hub:
        use(hub, tmp_path, monkeypatch)
        hub.add("org/gpt2", {"config.json": json.dumps(config).encode(), "model.safetensors": b"not fetched"})
        on_hub = refused("plan", "-m", "org/gpt2", "-c", cluster, "--quality", "1%")
        assert hub.fetched() == {"config.json"}
    assert on_hub.endswith("shardnet quality --model org/gpt2 --weights bfloat16,int8,int4")


def test_a_file_with_few_bits_leaves_nothing_to_choose(tmp_path: Path, cluster: str) -> None:
    model = write_gguf(tmp_path / "tiny.gguf")
    said = refused("plan", "-m", str(model), "-c", cluster, "--context", "64", "--quality", "1%")
    assert "has weights of few bits in its file already" in said


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q8_0", "F16"])
def test_a_file_with_few_bits_is_planned_as_it_is_loaded(tmp_path: Path, cluster: str, kind: str) -> None:
    """It was planned with as if its weights were unpacked: what fits did not."""
    model = write_gguf(tmp_path / "tiny.gguf", kind=kind)
    held = open_model(str(model), "bfloat16").profile.units
    for unit, there in zip(problem_of(model, cluster, None, 64).units[1:-1], held[1:-1], strict=True):
        assert unit.weight_bytes == pytest.approx(there.weight_bytes, rel=0.05), unit.name
    asked = ("plan", "-m", str(model), "-c", cluster, "--context", "64")
    assert ("about as its file has them" in " ".join(shardnet(*asked).split())) == (kind != "F16")
    assert "about as its file has them" not in " ".join(shardnet(*asked, "--weights", "bfloat16").split())


def test_what_quantise_has_made_is_planned_in_the_bits_that_it_has(tiny: Path, cluster: str, tmp_path: Path) -> None:
    config = json.loads((tiny / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "shardnet", "weights": "int4-g64", "bits": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert problem_of(tmp_path, cluster, None).units == problem_of(tiny, cluster, "int4-g64").units


def test_options_of_models_do_not_go_with_a_problem_file(tmp_path: Path) -> None:
    for option, value in (("--weights", "int4"), ("--quality", "1%")):
        assert f"{option} does not go with --problem" in refused("plan", "--problem", "p.json", option, value)


@pytest.mark.parametrize("weights", [scheme for scheme in SCHEMES if bits_of(scheme)])
def test_what_units_take_is_about_what_they_take_where_they_are_loaded(tiny: Path, cluster: str, weights: str) -> None:
    held = open_model(str(tiny), "bfloat16", weights=weights).profile.units
    for unit, there in zip(problem_of(tiny, cluster, weights).units, held, strict=True):
        assert unit.weight_bytes == pytest.approx(there.weight_bytes, rel=0.03), unit.name


def test_a_prompt_in_small_chunks_reads_the_weights_for_each(tiny: Path, cluster: str) -> None:
    """The time of a chunk of 128 tokens was divided: chunks of 8 seemed to cost a sixteenth of the reading each."""

    def first_token_s(prompt: int, chunk: int) -> float:
        asked = ("-m", str(tiny), "-c", cluster, "--method", "solo", "-n", "1", "--prompt-tokens", str(prompt))
        told = json.loads(shardnet("simulate", *asked, "--prefill-chunk", str(chunk), "--json"))
        return float(told["time_to_first_token_s"])

    whole = first_token_s(128, 128)
    assert first_token_s(128, 8) > 10 * whole
    assert first_token_s(8, 128) == pytest.approx(first_token_s(8, 8)) == pytest.approx(whole, rel=0.1)
