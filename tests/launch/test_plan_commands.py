"""`shardnet plan` and `shardnet simulate` as a user types them; no process is started."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_hub import FakeHub, fake_hub, use
from plan_cli import refused, shardnet
from tiny_gguf import write_gguf

from shardnet.described.model_sizes import unit_works
from shardnet.launch.files.config_files import load_model_config
from shardnet.quantised.kv_names import KV_DTYPES

PLAN_KEYS = {
    *("method", "objective", "stages", "lap_s", "bottleneck_s", "rate_per_s", "simulated_rate_per_s", "energy_j"),
    *("optimal", "gap", "left_out", "solve_s", "why"),
}
HOME = ("--model", "llama-2-7b", "--bits", "4", "--cluster", "home")
PROBLEM: dict[str, Any] = {
    "units": [
        {"name": f"u{i}", "weight_bytes": 1e8, "kv_bytes_per_token": 1000, "output_bytes": 2000} for i in range(6)
    ],
    "devices": [
        {"name": "pixel", "memory_bytes": 4e8, "unit_seconds": [0.01] * 6, "active_w": 4.0},
        {"name": "laptop", "memory_bytes": 8e8, "unit_seconds": [0.002] * 6, "active_w": 30.0},
    ],
    "links": [
        {"from": "pixel", "to": "laptop", "latency_s": 0.003, "bytes_per_s": 1e7},
        {"from": "laptop", "to": "pixel", "latency_s": 0.003, "bytes_per_s": 1e7},
    ],
    "source": "pixel",
    "context_tokens": 100,
}


@pytest.fixture
def problem_file(tmp_path: Path) -> str:
    path = tmp_path / "problem.json"
    path.write_text(json.dumps(PROBLEM))
    return str(path)


def test_a_problem_file_gives_exactly_the_documented_keys(problem_file: str) -> None:
    plan = json.loads(shardnet("plan", "--problem", problem_file, "--json"))
    assert set(plan) == PLAN_KEYS
    assert set(plan["stages"][0]) == {"device", "first_unit", "last_unit"}
    assert plan["stages"] == [
        {"device": "pixel", "first_unit": 0, "last_unit": 0},
        {"device": "laptop", "first_unit": 1, "last_unit": 5},
    ]
    assert plan["lap_s"] == pytest.approx(0.01 + 5 * 0.002 + 2 * 0.003 + 2008 / 1e7)


def test_a_plan_and_its_run_need_no_torch(problem_file: str) -> None:
    """As the docs have it; once, messages were imported for the name of a type, and PyTorch with them."""
    for command in ("plan", "simulate"):
        asked = ["shardnet", command, "--problem", problem_file, "--json"]
        program = (
            f"import sys; sys.argv = {asked}; from shardnet.launch import cli\n"
            "try:\n    cli.main()\nexcept SystemExit as ended:\n    assert ended.code == 0\n"
            "assert not {'torch', 'transformers'} & set(sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)


@pytest.mark.parametrize("objective", ["latency", "throughput", "energy"])
def test_every_objective(problem_file: str, objective: str) -> None:
    arguments = ("plan", "--problem", problem_file, "--objective", objective, "--in-flight", "2", "--json")
    assert json.loads(shardnet(*arguments))["objective"] == objective


def test_a_model_on_a_cluster_as_a_table() -> None:
    told = shardnet("plan", *HOME)
    assert "llama-2-7b on home" in told and "predicted:" in told and "Left out" in told and "estimated" in told


def test_compare_shows_every_method_and_none_beats_auto() -> None:
    told = shardnet("plan", *HOME, "--compare")
    for method in ("solo", "even", "memory", "edgeshard", "lingualinked", "exact", "auto"):
        assert f"\n {method} " in told
    compared = json.loads(shardnet("plan", *HOME, "--compare", "--json"))
    laps = {plan["method"]: plan["lap_s"] for plan in compared["plans"]}
    assert compared["chosen"]["lap_s"] <= min(laps.values()) * (1 + 1e-9)
    assert set(compared["chosen"]) == PLAN_KEYS


def test_explain_plans_again_for_each_change() -> None:
    told = json.loads(shardnet("plan", *HOME, "--explain", "--json"))
    assert any("busiest" in sentence for sentence in told["limits"])
    changes = [each["change"] for each in told["what_if"]]
    assert "another laptop" in changes and any("bandwidth" in change for change in changes)
    assert "What would help" in shardnet("plan", *HOME, "--explain")


def test_explain_says_where_memory_and_bits_are_the_limit(problem_file: str) -> None:
    told = json.loads(shardnet("plan", *HOME, "--explain", "--json"))["limits"]
    assert "The weights have as few bits as can be planned with." in told
    told = json.loads(shardnet("plan", "--problem", problem_file, "--explain", "--json"))["limits"]
    assert not any("cannot hold the whole model" in sentence or "few bits" in sentence for sentence in told)
    told = json.loads(shardnet("plan", "-m", "llama-2-13b", "-c", "home", "--bits", "8", "--explain", "--json"))
    assert any("The fastest device, laptop, cannot hold the whole model" in sentence for sentence in told["limits"])


def test_fewer_bits_are_faster_and_a_better_link_helps() -> None:
    lap = {}
    for bits in ("4", "8"):
        lap[bits] = json.loads(shardnet("plan", "-m", "llama-2-7b", "-c", "home", "--bits", bits, "--json"))["lap_s"]
    assert lap["4"] < lap["8"]
    slow, fast = (
        json.loads(
            shardnet("plan", "-m", "qwen3-8b", "-c", "phones_and_cloud", "--bandwidth", f"all:cloud={mbit}", "--json")
        )
        for mbit in (0.2, 200)
    )
    assert fast["lap_s"] < slow["lap_s"]


def test_simulate_plans_within_a_lap_limit(problem_file: str) -> None:
    arguments = ("simulate", "--problem", problem_file, "--objective", "energy", "-n", "4", "--json")
    assert json.loads(shardnet(*arguments, "--lap-limit", "0.03"))["plan"]["lap_s"] <= 0.03


def test_a_lap_limit_bounds_energy_plans(problem_file: str) -> None:
    arguments = ("plan", "--problem", problem_file, "--objective", "energy", "--json")
    free = json.loads(shardnet(*arguments))
    limited = json.loads(shardnet(*arguments, "--lap-limit", "0.03"))
    assert limited["lap_s"] <= 0.03 and limited["energy_j"] >= free["energy_j"] - 1e-12


def test_a_model_folder_needs_only_its_configuration(tmp_path: Path) -> None:
    config = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    config |= {"intermediate_size": 128, "vocab_size": 256, "max_position_embeddings": 512}
    (tmp_path / "config.json").write_text(json.dumps(config))
    plan = json.loads(shardnet("plan", "--model", str(tmp_path), "--cluster", "home", "--context", "256", "--json"))
    assert plan["stages"][-1]["last_unit"] == 4


def test_the_embedded_model_is_known_by_the_name_that_other_commands_use() -> None:
    plan = json.loads(shardnet("plan", "--model", "smollm2-135m-instruct", "--cluster", "home", "--json"))
    assert plan["stages"][-1]["last_unit"] == 31


def test_a_gguf_file_that_is_damaged_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF\3\0")
    error = refused("plan", "--model", str(tmp_path / "x.gguf"), "--cluster", "home")
    assert "damaged GGUF file" in str(error) and error.exit_code == 2


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with fake_hub() as hub:
        use(hub, tmp_path / "home", monkeypatch)
        yield hub


def test_of_a_model_on_the_hub_its_configuration_is_fetched(hub: FakeHub) -> None:
    config = {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 256, "n_positions": 1024}
    hub.add("org/gpt2", {"config.json": json.dumps(config).encode(), "model.safetensors": b"not fetched"})
    plan = json.loads(shardnet("plan", "--model", "org/gpt2@main", "--cluster", "home", "--json"))
    assert plan["stages"][-1]["last_unit"] == 3 and hub.fetched() == {"config.json"}
    assert "no model org/none" in str(refused("plan", "--model", "org/none", "--cluster", "home"))


def test_of_a_gguf_file_on_the_hub_its_beginning_is_fetched(hub: FakeHub, tmp_path: Path) -> None:
    """It is planned with as the same file here, in as few bits."""
    file = write_gguf(tmp_path / "tiny-Q8_0.gguf")
    hub.add("org/tiny-GGUF", {file.name: file.read_bytes() + bytes(3 << 20)})
    asked = ("--cluster", "home", "--context", "64", "--json")
    on_hub, here = (shardnet("plan", "--model", model, *asked) for model in ("org/tiny-GGUF:Q8_0", str(file)))
    assert json.loads(on_hub)["stages"] == json.loads(here)["stages"]
    assert hub.sent[file.name] == 1 << 20


def test_plots_are_pictures(tmp_path: Path) -> None:
    plan, run = tmp_path / "plan.png", tmp_path / "run.png"
    shardnet("plan", *HOME, "--plot", str(plan))
    shardnet("simulate", *HOME, "-n", "20", "--event", "t=5 slow laptop 2x", "--plot", str(run))
    for path in (plan, run):
        assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000


@pytest.mark.parametrize("option", [("plan", "--plot"), ("simulate", "--plot"), ("simulate", "--trace")])
def test_a_file_that_cannot_be_written_is_refused_before_the_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, option: tuple[str, str]
) -> None:
    monkeypatch.setattr("shardnet.launch.plan.inputs.load_cluster", None)  # calling it would be an error
    command, name = option
    error = refused(command, *HOME, name, str(tmp_path / "no" / "plan.png"))
    assert f"Name another file with {name}" in str(error) and error.exit_code == 2


def test_a_plot_needs_a_name_that_says_its_format(tmp_path: Path) -> None:
    for name in ("plan", "plan.foo"):
        assert "Name a file such as plan.png" in str(refused("plan", *HOME, "--plot", str(tmp_path / name)))
    assert not list(tmp_path.iterdir())


def test_a_calm_run_agrees_with_the_formulas() -> None:
    told = json.loads(shardnet("simulate", *HOME, "-f", "3", "--prompt-tokens", "0", "-n", "60", "--json"))
    assert told["predicted"] is True and told["failed"] is None and told["tokens"] == 180
    assert told["rate_per_s"] == pytest.approx(told["plan"]["rate_per_s"], rel=0.01)


def test_a_run_with_events_a_trace_and_a_table(tmp_path: Path) -> None:
    trace, events = tmp_path / "trace.json", tmp_path / "events.yaml"
    events.write_text("events:\n  - t=6 leave laptop\n  - {at_s: 2, kind: slow, device: board, factor: 2}\n")
    told = shardnet("simulate", *HOME, "-n", "300", "--events", str(events), "--trace", str(trace))
    assert "What happened" in told and "leave laptop" in told and "others hold what" in told
    assert len(json.loads(trace.read_text())["traceEvents"]) > 40


CHURN = ("--in-flight", "2", "--context", "256", "--duration-s", "300", "--stay-s", "60")


def test_devices_that_come_and_go_cost_a_share_that_is_told() -> None:
    told = json.loads(shardnet("simulate", *HOME, *CHURN, "--seed", "5", "--json"))
    assert told["failed"] is None and told["tokens"] == 128 * told["answers"] > 0 and told["duration_s"] >= 300
    repairs = told["repairs"]
    assert repairs["repairs"] > 0 and 0 < repairs["lost_share"] < 1
    assert set(repairs["lost_s"]) == {"detection", "waiting", "load", "moving"}
    table = shardnet("simulate", *HOME, *CHURN, "--seed", "5", "--standby", "cold", "--goodbye", "0.5")
    assert "Lost to repairs" in table and "detection: until a loss is known" in table


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--stay-s", "60"), "--stay-s needs --duration-s"),
        (("--duration-s", "60", "--away-s", "9"), "need --stay-s"),
        (("--duration-s", "60", "--goodbye", "0.5"), "need --stay-s"),
        (("--duration-s", "60", "--requests", "9"), "--requests does not go with --duration-s"),
        (("--duration-s", "60", "--trace", "trace.json"), "--trace does not go with --duration-s"),
        (("--standby", "lukewarm"), "standby must be one of none, cold, warm, hot"),
    ],
)
def test_a_run_of_a_duration_refuses_what_it_cannot_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sentence in str(refused("simulate", *HOME, *options))


def test_kv_memory_is_kept_for_the_whole_run(problem_file: str) -> None:
    """Runs were predicted whose prompt alone was beyond the model's context, on KV memory for 1024 tokens."""
    assert "1 session of 1024 tokens" in shardnet("simulate", *HOME, "-n", "20")
    assert "1 session of 2020 tokens" in shardnet("simulate", *HOME, "-n", "20", "--prompt-tokens", "2000")
    too_long = refused("simulate", *HOME, "-n", "20", "--prompt-tokens", "9000")
    assert "llama-2-7b has a context of 4096 tokens, but 9020 are asked for" in str(too_long)
    beyond = refused("simulate", *HOME, "-n", "20", "--prompt-tokens", "1000", "--context", "1019")
    assert "Prompt and answer have 1020 tokens together, more than the 1019 of --context." in str(beyond)
    assert too_long.exit_code == beyond.exit_code == 2
    of_file = refused("simulate", "--problem", problem_file, "--prompt-tokens", "200000")
    assert of_file.exit_code == 3, "1.2 GB of KV caches beside 0.6 of weights, on 1.2"


def test_a_plan_of_ones_own_can_be_simulated(tmp_path: Path, problem_file: str) -> None:
    path = tmp_path / "plan.json"
    stages = [
        {"device": "pixel", "first_unit": 0, "last_unit": 2},
        {"device": "laptop", "first_unit": 3, "last_unit": 5},
    ]
    path.write_text(json.dumps({"stages": stages}))
    arguments = ("simulate", "--problem", problem_file, "--plan", str(path), "--prompt-tokens", "0", "--json")
    assert json.loads(shardnet(*arguments))["lap_s"] == pytest.approx(0.036 + 0.006 + 2008 / 1e7)
    path.write_text("[]")
    assert "is no plan" in str(refused(*arguments))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("plan",), "--problem FILE, or --model M and --cluster FILE"),
        (("plan", "--problem", "/nowhere.json"), "Cannot read the problem file /nowhere.json"),
        (("plan", "-m", "llama-2-7", "-c", "home"), "did you mean 'llama_2_7b'"),
        (("plan", "-m", "llama-2-7b", "-c", "hom"), "did you mean 'home'"),
        (("plan", *HOME, "--method", "exat"), "did you mean 'exact'"),
        (("plan", *HOME, "--objective", "speed"), "--objective 'speed' is unknown"),
        (("plan", *HOME, "--in-flight", "0"), "--in-flight must be a whole number, 1 or more, but is 0"),
        (("plan", *HOME, "--lap-limit", "-3"), "--lap-limit must be a number, greater than 0, but is -3.0"),
        (("plan", *HOME, "--time-limit", "nan"), "--time-limit must be a number, greater than 0, but is nan"),
        (("plan", *HOME, "--source", "lap"), "did you mean 'laptop'"),
        (("plan", *HOME, "--bandwidth", "a=3"), "write it like phone:cloud=10"),
        (("plan", *HOME, "--dtype", "fp8"), "unknown dtype 'fp8'"),
        (("plan", "-m", "llama-2-7b", "-c", "home", "--bits", "5"), "5 bits"),
        (("plan", "-m", "llama-2-7b", "-c", "home", "--bits", "0"), "0 bits"),
        (("plan", *HOME, "--context", "5000"), "context of 4096 tokens"),
        (("plan", *HOME, "--context", "0"), "context_tokens must be a whole number, 1 or more"),
        (("plan", *HOME, "--sessions", "0"), "--sessions must be a whole number, 1 or more"),
        (("plan", "-m", "", "-c", "home"), "--model must not be empty"),
        (("plan", "-m", "llama-2-7b", "-c", "/"), "/ is a folder; give a file, or one of the names edgeshard_testbed"),
        (("simulate", *HOME, "--event", "t=5"), "cannot read the event"),
        (
            ("simulate", *HOME, "--event", "t=2 leave laptop", "--event", "t=1 leave laptop"),
            "event 't=2 leave laptop': laptop is gone by then, and must be there.",
        ),
        (
            ("simulate", *HOME, "--event", "t=1 join laptop", "--event", "t=2 join laptop"),
            "event 't=2 join laptop': laptop is there by then, and must be gone.",
        ),
        (("simulate", *HOME, "--event", "t=5 leave nobody"), "no device is called 'nobody'"),
        (("simulate", *HOME, "--new-tokens", "0"), "--new-tokens must be a whole number, 1 or more"),
        (("simulate", *HOME, "--jitter", "-1"), "--jitter must be a number, 0 or more"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments: tuple[str, ...], said: str) -> None:
    error = refused(*arguments)
    assert said in str(error) and error.exit_code == 2


def test_a_folder_of_the_name_does_not_hide_a_cluster_that_comes_with_shardnet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "laptop" in shardnet("plan", "-m", "llama-2-7b", "-c", "home", "--bits", "4")
    assert "is a folder" in str(refused("plan", "-m", "llama-2-7b", "-c", "./home"))


def test_options_of_models_do_not_go_with_a_problem_file(problem_file: str) -> None:
    assert "--bits does not go with --problem" in str(refused("plan", "--problem", problem_file, "--bits", "4"))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("devices", 0, "memory_bytes"), "2 GB"),
        (("devices", 0, "unit_seconds"), [-1] * 6),
        (("devices", 0, "unit_secnds"), [1] * 6),
        (("devices", 1, "name"), "pixel"),
        (("devices",), []),
        (("links",), []),
        (("source",), "nobody"),
        (("context_tokens",), float("nan")),
    ],
)
def test_impossible_problems_are_refused(tmp_path: Path, path: tuple[Any, ...], value: Any) -> None:
    data = json.loads(json.dumps(PROBLEM))
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    file = tmp_path / "wrong.json"
    file.write_text(json.dumps(data))
    assert refused("plan", "--problem", str(file)).exit_code == 2


def test_what_fits_nowhere_is_exit_code_3() -> None:
    error = refused("plan", "--model", "llama-2-70b", "--cluster", "home", "--dtype", "float32")
    assert error.exit_code == 3
    lost = refused("simulate", *HOME, "-n", "40", "--event", "t=3 leave phone")
    assert lost.exit_code == 3 and "the source phone left" in str(lost)


def test_what_fits_only_with_those_who_join_later_is_said(tmp_path: Path) -> None:
    small = json.loads(json.dumps(PROBLEM))
    small["devices"][0]["memory_bytes"] = 3e8
    (tmp_path / "small.json").write_text(json.dumps(small))
    error = refused("simulate", "--problem", str(tmp_path / "small.json"), "--event", "t=1 join laptop")
    assert error.exit_code == 3 and str(error).startswith("Before laptop joins, nothing fits. The model needs")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("plan", *HOME, "--in-flight", "1" + "0" * 400),
            "--in-flight must be a whole number, at most 1000000, but is",
        ),
        (("plan", *HOME, "--time-limit", "1e300"), "--time-limit must be a number, at most 86400, but is 1e+300"),
        (("plan", *HOME, "--lap-limit", "1e300"), "--lap-limit must be a number, at most 1e+09"),
        (("plan", *HOME, "--sessions", "1" + "0" * 400), "--sessions must be a whole number, at most"),
        (("plan", *HOME, "--context", "1" + "0" * 400), "--context must be a whole number, at most"),
        (("plan", *HOME, "--bits", "1" + "0" * 400), "bits are unknown"),
        (("plan", *HOME, "--dtype", "x" * 100_000), "unknown dtype 'xxx"),
        (("plan", *HOME, "--method", "x" * 100_000), "--method 'xxx"),
        (("plan", *HOME, "--source", "x" * 100_000), "the source 'xxx"),
        (("plan", *HOME, "--bandwidth", "x" * 100_000), "cannot read --bandwidth 'xxx"),
        (
            ("plan", *HOME, "--bandwidth", "phone:laptop=0"),
            "--bandwidth in Mbit/s must be a number, greater than 0, but is",
        ),
        (("plan", *HOME, "--bandwidth", "phone:laptop=1e300"), "in Mbit/s must be a number, at most 1e+09"),
        (("plan", "-m", "x" * 100_000, "-c", "home"), "called 'xxx"),
        (("plan", "-m", "llama-2-7b", "-c", "x" * 100_000), "called 'xxx"),
        (("simulate", *HOME, "--event", "t=" + "9" * 400 + " leave phone"), "at_s must be a number, at most 1e+09"),
        (
            ("simulate", *HOME, "--event", "t=1 slow phone 0.000000000000000001x"),
            "factor must be a number, at least 1e-09",
        ),
        (("simulate", *HOME, "--event", "x" * 100_000), "cannot read the event 'xxx"),
        (("simulate", *HOME, "--new-tokens", "1000000"), "a context of 4096 tokens, but 1000128 are asked for"),
        (("simulate", *HOME, "-n", "3900", "--requests", "250"), "stages and links, more than the 2500000"),
        (("simulate", *HOME, "--prompt-tokens", "1000000000", "--prefill-chunk", "1"), "tokens and chunks of prompts"),
        (("simulate", *HOME, "--seed", "1" + "0" * 400), "--seed must be a whole number"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_it_costs_anything(arguments: tuple[str, ...], said: str) -> None:
    """10^400 in flight and 1e300 seconds ended in "a mistake in shardnet"; messages echoed 200 kB."""
    error = refused(*arguments)
    assert said in str(error) and error.exit_code == 2
    assert len(str(error)) < 1000


@pytest.mark.parametrize("name", ["[/x]", "[b]bold[/b]", ":cat:", "a]", "\\[x", "$\\frac{x$"])
def test_names_are_shown_as_they_are(tmp_path: Path, name: str) -> None:
    """Rich took `[/x]` for the end of a style and raised, and swallowed `[b]`; matplotlib took `$` for a formula."""
    problem = json.loads(json.dumps(PROBLEM).replace("laptop", "@"))
    text = json.dumps(problem).replace("@", json.dumps(name)[1:-1])
    path = tmp_path / f"{name.replace('/', '_')}.json"
    path.write_text(text)
    picture = tmp_path / "plan.png"
    drawn = ("--plot", str(picture)) if "$" in name else ()
    told = shardnet("plan", "--problem", str(path), "--compare", "--explain", *drawn)
    assert told.count(name) >= 3 and path.name in told
    told = shardnet("simulate", "--problem", str(path), "--event", f"t=0.2 slow {name} 2x", "-n", "20")
    assert f"slow {name} 2x" in told and f"pixel to {name}" in told


def test_a_plan_file_that_is_none(tmp_path: Path, problem_file: str) -> None:
    """int() took "3", 1.5 and true for units."""
    path = tmp_path / "plan.json"
    good = {"device": "pixel", "first_unit": 0, "last_unit": 5}
    for stages, said in (
        ([{**good, "last_unit": "5"}], "stages[0].last_unit: must be a whole number, but is '5'"),
        ([{**good, "last_unit": 1.5}], "must be a whole number"),
        ([{**good, "device": ["pixel"]}], "stages[0].device: must be text"),
        ([{**good, "unit": 1}], "unknown key 'unit'"),
        ([good] * 7, "7 stages for the 6 units"),
        ([{**good, "device": "x" * 100_000}], "uses device 'xxx"),
        ({}, "is no plan"),
        ([], "is no plan"),
    ):
        path.write_text(json.dumps({"stages": stages}))
        error = refused("simulate", "--problem", problem_file, "--plan", str(path))
        assert said in str(error) and len(str(error)) < 400


def test_a_run_that_takes_years_is_looked_at_rarely(tmp_path: Path) -> None:
    """A step of 10^8 s was looked at every half second of it."""
    problem = json.loads(json.dumps(PROBLEM))
    for device in problem["devices"]:
        device["unit_seconds"] = [1e7] * 6
    path = tmp_path / "problem.json"
    path.write_text(json.dumps(problem))
    assert "slow laptop" in shardnet("simulate", "--problem", str(path), "--event", "t=5 slow laptop 3x", "-n", "3")


def test_keys_and_values_of_8_bits_leave_room() -> None:
    works = {kv: unit_works(load_model_config("llama-2-7b"), kv_dtype=kv)[1].kv_bytes_per_token for kv in KV_DTYPES}
    assert works == {"auto": 2 * 32 * 128 * 2, "int8": 2 * 32 * (128 + 4)}
    asked = (*HOME, "--context", "4096", "--json")
    plain, rounded = (json.loads(shardnet("plan", *asked, "--kv-dtype", kv_dtype)) for kv_dtype in KV_DTYPES)
    assert rounded["lap_s"] < plain["lap_s"] == json.loads(shardnet("plan", *asked))["lap_s"]
    assert "keys and values are not kept as 'q8_0'; use one of auto, int8" in str(
        refused("plan", *HOME, "--kv-dtype", "q8_0")
    )


def test_each_link_of_a_plan_takes_a_smaller_codec_where_that_pays() -> None:
    """All prompts cross the slow link: the embedding stays on the phone, which has no room for more."""
    limits = [f"--bandwidth=phone:{name}=1" for name in ("laptop", "board", "old-phone")]
    fast, slow = (*HOME, "--wire", "auto"), (*HOME, "--wire", "auto", *limits)
    assert json.loads(shardnet("plan", *fast, "--json"))["codecs"] == {"0": "float16"}
    assert "On no link a smaller codec than float16 pays." in shardnet("plan", *fast)
    told = json.loads(shardnet("plan", *slow, "--json"))
    assert told["codecs"]["0"] == "int8"
    exact = json.loads(shardnet("plan", *HOME, *limits, "--json"))
    assert told["stages"] == exact["stages"] and told["lap_s"] < exact["lap_s"]
    assert "What comes out of unit 0 travels as int8." in shardnet("simulate", *slow)
    assert "codecs" not in exact
