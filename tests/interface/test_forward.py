"""`forward` of a model in a ring: the numbers of transformers' own, or a sentence that says what cannot be had."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from shardnet.errors import BadRequest, ShardnetError, UnsupportedModel
from shardnet.interface.cache import RingCache
from shardnet.interface.ring_model import RingForCausalLM

IDS = torch.randint(3, 250, (2, 40), generator=torch.Generator().manual_seed(3))
PADDED = torch.ones_like(IDS)
PADDED[0, :7] = 0


def check(rows: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(rows, expected, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_logits_and_last_hidden_states_are_those_of_transformers(ringed: RingForCausalLM, whole: Any) -> None:
    expected = whole(IDS, output_hidden_states=True)
    came = ringed(IDS, output_hidden_states=True)
    check(came.logits, expected.logits)
    check(came.hidden_states[-1], expected.hidden_states[-1])
    assert len(came.hidden_states) == len(expected.hidden_states)
    with pytest.raises(UnsupportedModel, match=r"hidden_states\[-1\]"):
        came.hidden_states[0]
    with pytest.raises(UnsupportedModel, match=r"hidden_states\[-1\]"):
        list(came.hidden_states)


@torch.inference_mode()
@pytest.mark.parametrize("kept", [1, 5, 40, torch.tensor([3, 39, 3, -2])])
def test_so_many_logits_are_kept_as_are_asked_for(ringed: RingForCausalLM, whole: Any, kept: int | Tensor) -> None:
    check(ringed(IDS, logits_to_keep=kept).logits, whole(IDS, logits_to_keep=kept).logits)


@torch.inference_mode()
def test_what_goes_on_behind_a_cache_is_as_if_all_came_at_once(ringed: RingForCausalLM, whole: Any) -> None:
    expected = whole(IDS).logits
    output = ringed(IDS[:, :30])
    cache = output.past_key_values
    check(output.logits, expected[:, :30])
    for end in (31, 32, 40):
        begin = cache.get_seq_length()
        output = ringed(IDS[:, begin:end], past_key_values=cache)
        assert output.past_key_values is cache
        check(output.logits, expected[:, begin:end])


@torch.inference_mode()
def test_a_cache_is_cut_reordered_and_repeated(ringed: RingForCausalLM, whole: Any) -> None:
    cache = RingCache()
    ringed(IDS, past_key_values=cache)
    cache.crop(-5)
    assert cache.get_seq_length() == 35
    cache.reorder_cache(torch.tensor([1, 1]))
    both = torch.cat([IDS[[1, 1], :35], IDS[:, 35:]], dim=1)
    check(ringed(IDS[:, 35:], past_key_values=cache).logits, whole(both).logits[:, 35:])
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([3]))
    once_more = torch.cat([both[1:], IDS[:1, :3]], dim=1)
    check(ringed(IDS[:1, :3], past_key_values=cache).logits, whole(once_more).logits[:, -3:])
    cache.reset()
    check(ringed(IDS[:1, :3], past_key_values=cache).logits, whole(IDS[:1, :3]).logits)


@torch.inference_mode()
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing_and_has_no_logits(ringed: RingForCausalLM, whole: Any, side: str) -> None:
    mask = PADDED if side == "left" else PADDED.flip(1)
    logits = ringed(IDS, attention_mask=mask).logits
    assert not logits[mask == 0].any()
    check(logits[0][mask[0] == 1], whole(IDS[:1, mask[0] == 1]).logits[0])
    check(logits[1], whole(IDS[1:]).logits[0])


@torch.inference_mode()
def test_what_is_filled_up_at_the_left_goes_on(ringed: RingForCausalLM, whole: Any) -> None:
    cache = RingCache()
    ringed(IDS[:, :20], attention_mask=PADDED[:, :20], past_key_values=cache)
    logits = ringed(IDS[:, 20:], attention_mask=PADDED, past_key_values=cache).logits
    check(logits[0], whole(IDS[:1, 7:]).logits[0, 13:])
    check(logits[1], whole(IDS[1:]).logits[0, 20:])


@torch.inference_mode()
def test_the_loss_is_that_of_transformers(ringed: RingForCausalLM, whole: Any) -> None:
    labels = IDS.clone()
    labels[0, :5] = -100
    check(ringed(IDS, labels=labels).loss, whole(IDS, labels=labels).loss)
    count = torch.tensor(50)
    check(
        ringed(IDS, labels=labels, num_items_in_batch=count).loss,
        whole(IDS, labels=labels, num_items_in_batch=count).loss,
    )
    with pytest.raises(BadRequest, match="labels must have the shape"):
        ringed(IDS, attention_mask=PADDED, labels=IDS)


@torch.inference_mode()
def test_a_harness_has_the_likelihoods_of_continuations(ringed: RingForCausalLM, whole: Any) -> None:
    """As lm-evaluation-harness asks: filled up at the right, without a mask; only the given places are looked at."""
    batch = torch.zeros((3, 30), dtype=torch.long)
    for row, length in enumerate((30, 22, 25)):
        batch[row, :length] = IDS[row % 2, row : row + length]
    for model, found in ((ringed, []), (whole, [])):
        logits = model(batch).logits.log_softmax(-1)
        found += [
            logits[row, 14 : length - 1].gather(1, batch[row, 15:length, None]).sum()
            for row, length in enumerate((30, 22, 25))
        ]
        if model is ringed:
            came = found
    check(torch.stack(came), torch.stack(found))


def test_it_says_what_it_is(ringed: RingForCausalLM, whole: Any) -> None:
    own = {"_name_or_path": ringed.ring.profile.name}
    assert ringed.config.to_dict() == whole.config.to_dict() | own
    assert (ringed.device, ringed.dtype) == (torch.device("cpu"), torch.float32)
    assert ringed.num_parameters() == whole.num_parameters() and not ringed.num_parameters(only_trainable=True)
    assert ringed.can_generate() and ringed.main_input_name == "input_ids" and not ringed.training
    assert ringed.eval() is ringed and ringed.to("cpu") is ringed and ringed.to(torch.float32) is ringed
    assert ringed(IDS[:, :2], return_dict=False)[0].shape == (2, 2, 257)
    assert ringed(IDS[:, :2], use_cache=False).past_key_values is None


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"input_ids": None}, "input_ids must be token ids"),
    ({"input_ids": IDS[0]}, "input_ids must be token ids"),
    ({"input_ids": IDS + 10_000}, "token"),
    ({"inputs_embeds": torch.ones(2, 3, 64)}, "inputs_embeds is not for a model in a ring"),
    ({"output_attentions": True}, "output_attentions is not for"),
    ({"head_mask": torch.ones(2)}, "head_mask is not for"),
    ({"attention_mask": PADDED[:, :20]}, "attention_mask must have the shape"),
    ({"attention_mask": PADDED[:, None, None]}, "attention_mask must have the shape"),
    ({"attention_mask": PADDED * (torch.arange(40) != 20)}, "attention_mask has a hole"),
    ({"position_ids": torch.arange(40)[None] + 1}, "position_ids must count"),
    ({"past_key_values": DynamicCache()}, "past_key_values must be what this model has given"),
    ({"logits_to_keep": -1}, "logits_to_keep must be"),
    ({"logits_to_keep": torch.tensor([40])}, "logits_to_keep must be"),
    ({"input_ids": torch.ones(1, 4097, dtype=torch.long)}, "the text has 4097 tokens"),
]


@pytest.mark.parametrize(("asked", "sentence"), REFUSED)
def test_what_no_ring_can_do_is_refused_by_name(ringed: RingForCausalLM, asked: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadRequest, match=sentence):
        ringed(**{"input_ids": IDS, **asked})


def test_a_cache_of_another_batch_is_refused(ringed: RingForCausalLM) -> None:
    cache = ringed(IDS).past_key_values
    with pytest.raises(BadRequest, match="is of 2 texts, and input_ids has 1"):
        ringed(IDS[:1], past_key_values=cache)
    assert cache.get_seq_length() == 40, "what is refused changes nothing"


@pytest.mark.parametrize(
    "use",
    [
        lambda model: model.half(),
        lambda model: model.to(torch.bfloat16),
        lambda model: model.to("meta"),
        lambda model: model.train(),
        lambda model: model.save_pretrained("folder"),
        lambda model: model.state_dict(),
        lambda model: model.get_input_embeddings(),
        lambda model: model.get_output_embeddings(),
        lambda model: model.resize_token_embeddings(5),
        lambda model: model.add_adapter(None),
        lambda model: model.load_adapter("folder"),
        lambda model: RingForCausalLM.from_pretrained("folder"),
    ],
)
def test_what_needs_weights_is_refused(ringed: RingForCausalLM, use: Any) -> None:
    with pytest.raises(ShardnetError, match="RingForCausalLM"):
        use(ringed)
