"""How a model's authors propose to choose tokens: as transformers' `generate` would choose them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shardnet.errors import DamagedCheckpoint
from shardnet.loader import read_authored

GREEDY = {"temperature": 0.0}


@pytest.mark.parametrize(
    ("told", "proposed"),
    [
        (None, GREEDY),
        ({"eos_token_id": 2}, GREEDY),
        ({"temperature": 0.7}, GREEDY),
        ({"do_sample": False, "temperature": 0.7, "top_p": 0.9}, {"temperature": 0.0, "top_p": 0.9}),
        ({"repetition_penalty": 1.1}, {"temperature": 0.0, "repetition_penalty": 1.1}),
        ({"do_sample": "yes"}, GREEDY),
        ({"do_sample": True}, {"temperature": 1.0, "top_k": 50}),
        ({"do_sample": True, "temperature": 0.6, "top_k": 20, "min_p": 0.1}, None),
        ({"do_sample": True, "top_p": 0}, {"temperature": 1.0, "top_k": 50, "top_p": 1e-9}),
        ({"do_sample": True, "temperature": "hot", "top_k": 2.5, "top_p": True}, {"temperature": 1.0, "top_k": 50}),
    ],
)
def test_what_is_proposed(tmp_path: Path, told: dict[str, Any] | None, proposed: dict[str, Any] | None) -> None:
    if told is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(told))
    if proposed is None:
        assert told is not None
        proposed = {name: value for name, value in told.items() if name != "do_sample"}
    assert read_authored(tmp_path).sampling == proposed


def test_the_defaults_are_those_of_transformers() -> None:
    from transformers import GenerationConfig

    theirs = GenerationConfig._get_default_generation_params()
    assert (theirs["do_sample"], theirs["temperature"], theirs["top_k"], theirs["top_p"]) == (False, 1.0, 50, 1.0)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text("[]")
    with pytest.raises(DamagedCheckpoint):
        read_authored(tmp_path)
