"""What a GGUF file says of windows and of partly turned heads reaches the configuration, or is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_gguf import write_gguf

from shardnet.errors import UnsupportedModel
from shardnet.loader import open_model
from shardnet.loader.gguf.attention import attention_of
from shardnet.models import build_skeleton

HEAD_DIM = 16


def opened(tmp_path: Path, architecture: str, **says: int) -> Any:
    def more(writer: Any) -> None:
        for name, value in says.items():
            writer.add_uint32(f"{architecture}.{name.replace('__', '.')}", value)

    path = write_gguf(tmp_path / "tiny.gguf", architecture, "F16", more=more)
    return open_model(str(path), "float32", cache_dir=tmp_path / "cache")


def test_the_window_and_the_partial_turns_of_phi_3_are_kept(tmp_path: Path) -> None:
    """transformers maps neither: Phi-3 saw everything, and Phi-4-mini turned whole heads, in silence."""
    files = opened(tmp_path, "phi3", attention__sliding_window=6, rope__dimension_count=12)
    assert files.config.sliding_window == 6
    assert files.config.rope_parameters["partial_rotary_factor"] == 0.75
    last = files.profile.num_units - 1
    assert set(build_skeleton(files.config, 0, last).windows.values()) == {6}


def test_whole_heads_and_no_window_are_what_they_were(tmp_path: Path) -> None:
    config = opened(tmp_path, "phi3", rope__dimension_count=HEAD_DIM).config
    assert config.sliding_window is None
    assert config.rope_parameters.get("partial_rotary_factor", 1.0) == 1.0


@pytest.mark.parametrize(
    ("architecture", "says", "words"),
    [
        ("llama", {"attention__sliding_window": 6}, "has a sliding window"),
        ("qwen3moe", {"rope__dimension_count": 8}, "turns 8 dimensions of each head, .* qwen3_moe models 16"),
    ],
)
def test_what_a_family_cannot_do_is_refused(
    tmp_path: Path, architecture: str, says: dict[str, int], words: str
) -> None:
    with pytest.raises(UnsupportedModel, match=words):
        opened(tmp_path, architecture, **says)


def said_by(architecture: str, raw: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    names = {f"{architecture}.{name.replace('__', '.')}": value for name, value in metadata.items()}
    header: Any = SimpleNamespace(architecture=architecture, path=Path("x.gguf"), metadata=names)
    return attention_of(header, {"model_type": architecture, "hidden_size": 64, "num_attention_heads": 4, **raw})


@pytest.mark.parametrize("architecture", ["starcoder2", "stablelm"])
def test_the_base_of_the_angles_is_read_where_transformers_does_not(architecture: str) -> None:
    """StarCoder2's files say 1e5 to 1e6, and models read from them turned with 1e4, in silence."""
    assert said_by(architecture, {}, rope__freq_base=999999.0) == {"rope_theta": 999999.0}
    assert said_by(architecture, {"rope_theta": 5e4}, rope__freq_base=5e4) == {}


def test_heads_may_be_wider_than_their_share_of_the_hidden_state() -> None:
    assert said_by("qwen3", {}, attention__key_length=32, rope__dimension_count=32) == {"partial_rotary_factor": 1.0}


def test_a_window_that_hides_nothing_is_none(tmp_path: Path) -> None:
    opened(tmp_path, "llama", attention__sliding_window=128)
