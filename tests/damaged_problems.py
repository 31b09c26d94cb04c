"""Problems, clusters, models, plans and options with something damaged, as commands that read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from damage import NAMES, NUMBERS, damaged, damaged_text
from hypothesis import strategies as st

PROBLEM: dict[str, Any] = {
    "units": [
        {"name": f"u{i}", "weight_bytes": 1e8, "kv_bytes_per_token": 1000, "output_bytes": 2000} for i in range(4)
    ],
    "devices": [
        {"name": "pixel", "memory_bytes": 4e8, "unit_seconds": [0.01] * 4, "active_w": 4.0, "battery_j": 1e4},
        {"name": "laptop", "memory_bytes": 3e8, "unit_seconds": [0.002] * 4, "active_w": 30.0},
        {
            "name": "board",
            "memory_bytes": 2e8,
            "unit_seconds": [0.02] * 4,
            "prefill_unit_seconds": [0.001] * 4,
            "active_w": 8,
            "radio_j_per_byte": 1e-7,
        },
    ],
    "links": [
        {"from": a, "to": b, "latency_s": 0.003, "bytes_per_s": 1e7}
        for a in ("pixel", "laptop", "board")
        for b in ("pixel", "laptop", "board")
        if a != b
    ],
    "source": "pixel",
    "pin_embedding": True,
    "pin_head": False,
    "return_bytes": 8,
    "context_tokens": 100,
    "sessions": 1,
}
CLUSTER: dict[str, Any] = {
    "name": "mine",
    "source": "phone-1",
    "seed": 3,
    "pin_head": False,
    "devices": [
        {"name": "phone", "class": "phone_high_end", "count": 2, "spread": 0.2},
        {
            "name": "box",
            "memory_gib": 2.0,
            "read_gb_per_s": 20.0,
            "gflops": 100,
            "active_w": 8.0,
            "radio_j_per_mb": 0.1,
            "battery_wh": 10,
            "measured": [{"model": "m", "bits": 16, "unit_ms": [1.0] * 6, "source": "me"}],
        },
    ],
    "links": [
        {"from": "all", "to": "all", "mbit_per_s": 100, "latency_ms": 5},
        {"from": ["source", "box"], "to": "phone", "mbit_per_s": 8, "latency_ms": 1, "one_way": True},
    ],
}
MODEL: dict[str, Any] = {
    "name": "m",
    "family": "llama",
    "hidden": 64,
    "blocks": 4,
    "heads": 4,
    "kv_heads": 2,
    "intermediate": 128,
    "vocab": 1000,
    "context_tokens": 2048,
    "head_dim": 16,
    "tied": True,
    "sliding_window": 16,
    "global_every": 2,
    "experts": 4,
    "experts_per_token": 2,
    "norms_per_block": 2,
    "attention_bias": "none",
}
CONFIG: dict[str, Any] = {
    "model_type": "gemma3_text",
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 128,
    "vocab_size": 1000,
    "sliding_window": 16,
    "max_position_embeddings": 2048,
    "sliding_window_pattern": 2,
    "tie_word_embeddings": True,
}
EVENTS: dict[str, Any] = {
    "events": ["t=0.1 slow laptop 3x", {"at_s": 0.2, "kind": "slow", "device": "pixel", "to": "laptop", "factor": 2}]
}
PLAN: dict[str, Any] = {
    "method": "mine",
    "stages": [
        {"device": "pixel", "first_unit": 0, "last_unit": 1},
        {"device": "laptop", "first_unit": 2, "last_unit": 3},
    ],
}
NUMERIC = (
    *("--in-flight", "--context", "--sessions", "--bits", "--lap-limit", "--time-limit", "--prompt-tokens"),
    *("--new-tokens", "--requests", "--prefill-chunk", "--jitter", "--seed"),
)
FOR_RUNS = ("--prompt-tokens", "--new-tokens", "--requests", "--prefill-chunk", "--jitter", "--seed", "--event")
WORDED = (
    "--objective",
    "--method",
    "--dtype",
    "--source",
    "--bandwidth",
    "--event",
    "--model",
    "--cluster",
    "--problem",
)
WORDS = (
    "energy",
    "throughput",
    "solo",
    "even",
    "edgeshard",
    "bfloat16",
    "laptop",
    "pixel:laptop=3",
    "t=1 leave laptop",
)


@st.composite
def commands(draw: st.DrawFn, folder: Path) -> list[str]:
    """A command whose file or option is damaged; its files lie in `folder`."""
    kind = draw(
        st.sampled_from(("problem",) * 4 + ("cluster",) * 4 + ("model", "config", "events", "plan", "option", "option"))
    )
    is_run = kind in ("events", "plan") or draw(st.integers(0, 5)) == 0

    def written(what: str, good: Any, endings: tuple[str, ...] = (".json", ".yaml")) -> str:
        path = folder / f"{what}{draw(st.sampled_from(endings))}"
        is_damaged = what == kind
        path.write_bytes(draw(damaged_text(draw(damaged(good)))) if is_damaged else json.dumps(good).encode())
        return str(path)

    if kind in ("cluster", "model", "config"):
        model = written("config", CONFIG, (".json",)) if kind == "config" else written("model", MODEL, (".yaml",))
        arguments = ["--model", model, "--cluster", written("cluster", CLUSTER)]
    else:
        arguments = ["--problem", written("problem", PROBLEM, (".json",))]
    if kind == "events":
        arguments += ["--events", written("events", EVENTS)]
    elif kind == "plan":
        arguments += ["--plan", written("plan", PLAN)]
    elif kind == "option":
        arguments += draw(options(is_run))
    if is_run:
        return ["simulate", *arguments, *draw(st.sampled_from(([], ["--json"], ["-n", "5"])))]
    flags = (["--json"], ["--compare"], ["--explain", "--json"], ["-o", "throughput", "-f", "3"], ["-o", "energy"], [])
    return ["plan", *arguments, *draw(st.sampled_from(flags))]


@st.composite
def options(draw: st.DrawFn, is_run: bool) -> list[str]:
    given_: list[str] = []
    for _ in range(draw(st.integers(1, 2))):
        names = [name for name in (*NUMERIC, *WORDED) if is_run or name not in FOR_RUNS]
        name = draw(st.sampled_from(names))
        numbers = st.sampled_from([f"{each}" for each in NUMBERS if abs(each) < 10 or not abs(each) < 1e5])
        words = st.sampled_from((*WORDS, *NAMES))
        value = draw(numbers if name in NUMERIC and draw(st.integers(0, 4)) else words)
        given_ += [name, value.replace("\x00", "").replace("\ud800", "\udc80")[:100_000]]
    return given_
