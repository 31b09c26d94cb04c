"""Experts in few bits over a ring: the text of one device, whichever device is lost, whatever is kept ready."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from in_process_ring import PROMPT, loaded
from processes import wait_until
from tiny_text_model import save_text_model

from shardnet.cluster import standby

pytestmark = pytest.mark.usefixtures("quick_watch")
NUM_TOKENS = 16


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import AutoConfig, MixtralConfig, MixtralForCausalLM

    folder = save_text_model(tmp_path_factory.mktemp("mixture"), ends=False)
    sizes = AutoConfig.from_pretrained(folder)
    torch.manual_seed(1)
    config = MixtralConfig(
        vocab_size=sizes.vocab_size,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    MixtralForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("held", "kept"), [("int4", "hot"), ("int8", "cold")])
@pytest.mark.parametrize("lost", ["a", "b", "c"])
def test_a_loss_changes_no_token(
    mixture: Path, held: str, kept: str, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standby, "QUIET_S", 0.05)
    with loaded(mixture, [6], weights=held) as (_, whole):
        [expected] = whole.generate([PROMPT], max_new_tokens=NUM_TOKENS)
    with loaded(mixture, [2, 2, 2], weights=held, standby=kept) as (ring, model):
        if kept != "cold":
            wait_until(lambda: sum(event.event == "standby" for event in model.events) >= 3)
        stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
        for _ in range(5):
            next(stream)
        ring.network.kill(lost)
        "".join(stream)
        assert stream.result.token_ids == expected.token_ids
        assert len(set(expected.token_ids)) > 2
