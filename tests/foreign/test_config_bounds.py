"""One table says what a configuration may say. It knows neither transformers nor files; here it is held to both."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
from tiny_models import VARIANTS

from shardnet.errors import BadConfiguration, DamagedCheckpoint
from shardnet.foreign.config_bounds import (
    ACTIVATIONS,
    ALIASES,
    FIELDS,
    ROPE_TYPES,
    WITHOUT_PADDING,
    check_config,
    numbers_of,
)
from shardnet.models import supported_families
from shardnet.models.weightless import weightless

GOOD: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_family_is_refused(variant: str) -> None:
    """What transformers writes for a model, defaults and all, is within the bounds."""
    from transformers import CONFIG_MAPPING

    family, sizes = VARIANTS[variant]
    for config in (CONFIG_MAPPING[family](**sizes), CONFIG_MAPPING[family]()):
        check_config(config.to_dict(), family)
        check_config(config.to_diff_dict(), family)


def test_the_words_are_those_of_transformers() -> None:
    from transformers.activations import ACT2FN
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    assert set(ACT2FN) == ACTIVATIONS
    assert ROPE_INIT_FUNCTIONS.keys() | {"default", "su"} == ROPE_TYPES


def test_the_aliases_are_those_of_transformers() -> None:
    """A family that calls a size otherwise must not slip past the table."""
    from transformers import CONFIG_MAPPING

    known = {alias: name for name, aliases in ALIASES.items() for alias in aliases}
    for family in supported_families():
        for name, own in CONFIG_MAPPING[family].attribute_map.items():
            assert known.get(name, name) == known.get(own, own), f"{family} calls {name} {own}"
            assert known.get(own, own) in FIELDS
    assert numbers_of({"n_embd": 8, "n_layer": 2}) == {"hidden_size": 8, "num_hidden_layers": 2}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_padding_token_outside_is_refused_where_transformers_refuses_it(variant: str) -> None:
    """It was refused in every family; GPT-2 and four others ask nowhere for it, and real files have odd ones."""
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    family, sizes = VARIANTS[variant]
    config = CONFIG_MAPPING[family](**sizes)
    config.pad_token_id = config.vocab_size
    try:
        with weightless():
            AutoModelForCausalLM.from_config(config, dtype=None)
        is_accepted = True
    except (AssertionError, IndexError):
        is_accepted = False
    assert is_accepted == (family in WITHOUT_PADDING)
    with nullcontext() if is_accepted else pytest.raises(DamagedCheckpoint, match="its pad_token_id is"):
        check_config(config.to_dict(), family)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_size": -64}, "hidden_size must be a whole number, 1 or more, but is -64 instead"),
        ({"n_embd": -64}, "n_embd must be a whole number, 1 or more"),
        ({"hidden_size": 10**12}, "hidden_size must be a whole number, at most 262144"),
        ({"hidden_size": 64.0}, "hidden_size must be a whole number"),
        ({"hidden_size": True}, "hidden_size must be a whole number"),
        ({"num_hidden_layers": 10**9}, "at most 510"),
        ({"rope_theta": 0}, "rope_theta must be a number, greater than 0, but is 0"),
        ({"rope_theta": "x"}, "rope_theta must be a number"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps must be a number"),
        ({"rms_norm_eps": float("inf")}, "rms_norm_eps must be a number"),
        ({"hidden_act": "evil"}, "hidden_act must be one of gelu, .*, but is 'evil' instead"),
        ({"rope_parameters": {"rope_type": "evil"}}, "rope_parameters.rope_type must be one of default, "),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "rope_scaling.factor must be a number, greater than 0"),
        ({"rope_scaling": {"full_attention": {"rope_theta": 0}}}, "rope_scaling.full_attention.rope_theta must be"),
        (
            {"rope_scaling": {"low_freq_factor": 4, "high_freq_factor": 4}},
            "high_freq_factor of 4, which must be larger",
        ),
        ({"rope_scaling": [1]}, "rope_scaling must be an object"),
        ({"text_config": {"hidden_size": 0}}, "text_config.hidden_size must be a whole number, 1 or more"),
        ({"text_config": 5}, "text_config must be an object"),
        ({"quantization_config": 5}, "quantization_config must be an object, but is 5"),
        ({"dtype": "float99"}, "dtype must be one of bfloat16"),
        ({"torch_dtype": 5}, "torch_dtype must be one of"),
        ({"eos_token_id": [1, -1]}, "eos_token_id must be a whole number, 0 or more, but is -1"),
        ({"a": [{}] * 10_000}, "it holds 10008 values, and no configuration needs more than 10000"),
        ({"rope_scaling": {f"a{i}": 1 for i in range(65)}}, "rope_scaling has 65 fields, more than the 64"),
        ({"num_labels": 10**9}, "num_labels must be a whole number, at most"),
        ({"num_key_value_heads": 3}, "4 heads and 3 key-value heads, and the first must be a multiple"),
        ({"num_attention_heads": 3, "num_key_value_heads": 3}, "a hidden size of 64 and 3 heads"),
        ({"pad_token_id": 10**9}, "its pad_token_id is 1000000000, and its vocabulary has 100 tokens"),
        ({"num_experts": 2, "num_experts_per_tok": 4}, "it has 2 experts and uses 4 for each token"),
        ({"sliding_window": 0}, "its sliding_window is 0 tokens; null means that there is none"),
        ({"head_dim": 15, "rope_theta": 1e4}, "its heads have the size 15, and positions turn pairs of their numbers"),
        (
            {"num_attention_heads": 64, "rope_parameters": {"full_attention": {"rope_type": "default"}}},
            "its heads have the size 1, and positions turn pairs",
        ),
        ({"rotary_dim": 3}, "its rotary_dim is 3 and its heads have the size 16; it must be even and no larger"),
    ],
)
def test_what_is_impossible_is_refused(change: dict[str, Any], words: str) -> None:
    check_config(GOOD, "config.json")
    with pytest.raises(DamagedCheckpoint, match=f"^config.json: .*{words}.* Correct it, or download the file again.$"):
        check_config(GOOD | change, "config.json")
    with pytest.raises(BadConfiguration):
        check_config(GOOD | change, "config.json", BadConfiguration)


@pytest.mark.parametrize(
    "change",
    [
        {"sliding_window": 0, "use_sliding_window": False},
        {"pad_token_id": -1, "bos_token_id": -1},
        {"eos_token_id": 5000},
        {"num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 16},
        {"model_type": "falcon", "num_kv_heads": 71, "num_key_value_heads": None},
        {"head_dim": 15},
        {"head_dim": 15, "rope_theta": 1e4, "alibi": True},
        {"head_dim": 15, "rope_theta": 1e4, "no_rope_layers": [0, 0]},
        {"head_dim": 15, "rope_theta": 1e4, "rotary_pct": 0.4},
        {"head_dim": 15, "rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.4}},
        {"intermediate_size": None, "head_dim": None, "rope_scaling": None, "quantization_config": None},
    ],
)
def test_what_real_files_say_is_not(change: dict[str, Any]) -> None:
    check_config(GOOD | change, "config.json")
