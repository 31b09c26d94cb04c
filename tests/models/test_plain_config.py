"""A configuration comes to a device as the source has it, and says there what it says here."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from tiny_models import VARIANTS

from shardnet.errors import DamagedCheckpoint, UnsupportedModel
from shardnet.models.plain_config import PlainConfig, as_text, from_text, full_config, values_of
from shardnet.models.skeleton import skeleton_to_run


def config_of(variant: str) -> Any:
    from transformers import CONFIG_MAPPING

    family, sizes = VARIANTS[variant]
    return CONFIG_MAPPING[family](**sizes)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_family_travels_whole(variant: str) -> None:
    config = config_of(variant)
    came = from_text(as_text(config))
    assert values_of(full_config(came)) == values_of(came) == values_of(config)
    assert type(full_config(came)) is type(config)


def test_no_path_travels() -> None:
    config = config_of("llama")
    config._name_or_path = "/home/somebody/model"
    assert "somebody" not in as_text(config)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"model_type": 5}', '{"model_type": "llama", "to_dict": 1}', '{"model_type": "llama"', "1"],
)
def test_what_is_no_configuration_is_refused(text: str) -> None:
    with pytest.raises(DamagedCheckpoint, match=r"^[Tt]he configuration that came"):
        from_text(text)


def test_impossible_numbers_are_refused() -> None:
    values = values_of(config_of("llama")) | {"num_hidden_layers": -3}
    with pytest.raises(DamagedCheckpoint, match="num_hidden_layers"):
        from_text(as_text(PlainConfig(values)))


def test_a_family_that_needs_transformers_says_so_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    config, other = (from_text(as_text(config_of(family))) for family in ("gpt2", "llama"))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UnsupportedModel, match=r"^This gpt2 model needs transformers .* not installed .*Run: pip"):
        skeleton_to_run(config, 0, 1)
    assert skeleton_to_run(other, 0, 4).frame is None


IN_THREADS = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
from shardnet.models.plain_config import from_text
from shardnet.models.skeleton import skeleton_to_run

assert "transformers" not in sys.modules
texts, start = sys.argv[1:], threading.Barrier(len(sys.argv) - 1)

def make(text):
    start.wait()
    return len(skeleton_to_run(from_text(text), 1, 2).blocks)

with ThreadPoolExecutor(len(texts)) as pool:
    assert list(pool.map(make, texts)) == [2] * len(texts)
"""


def test_several_loads_that_are_the_first_to_need_transformers_do_not_meet_in_its_imports() -> None:
    """Its modules import each other in circles: of two threads, one may find what is not whole."""
    texts = [as_text(config_of(variant)) for variant in ("gpt2", "phi3", "bloom", "mixtral")]
    subprocess.run([sys.executable, "-c", IN_THREADS, *texts], check=True, timeout=240)
