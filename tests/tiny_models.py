# ruff: noqa: C408
"""Tiny random models of every family, saved as real Hugging Face folders. Made once per test session."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

SIZES: dict[str, Any] = dict(
    vocab_size=97,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=0,
)
_UNGROUPED = {name: size for name, size in SIZES.items() if name != "num_key_value_heads"}
_GPT: dict[str, Any] = dict(
    vocab_size=97, n_embd=32, n_layer=3, n_head=4, n_positions=128, bos_token_id=1, eos_token_id=2
)
_FALCON: dict[str, Any] = dict(
    vocab_size=97, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, bos_token_id=1, eos_token_id=2
)
_WINDOWS = ["sliding_attention", "full_attention", "sliding_attention"]
_EXPERTS: dict[str, Any] = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24)

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", SIZES),
    "llama-tied": ("llama", SIZES | dict(tie_word_embeddings=True, attention_bias=True, mlp_bias=True, head_dim=12)),
    "mistral": ("mistral", SIZES | dict(sliding_window=6)),
    "ministral": ("ministral", SIZES | dict(head_dim=8, sliding_window=6, layer_types=_WINDOWS)),
    "qwen2": ("qwen2", SIZES | dict(use_sliding_window=True, sliding_window=6, layer_types=_WINDOWS)),
    "qwen3": ("qwen3", SIZES | dict(head_dim=16)),
    "qwen3-window": ("qwen3", SIZES | dict(use_sliding_window=True, sliding_window=6, max_window_layers=1)),
    "smollm3": (
        "smollm3",  # its attention modules go by use_sliding_window, its masks do not
        SIZES | dict(no_rope_layers=[1, 0, 1], no_rope_layer_interval=2, sliding_window=6, layer_types=_WINDOWS),
    ),
    "gemma": ("gemma", SIZES | dict(head_dim=16)),
    "gemma2": (
        "gemma2",
        SIZES | dict(head_dim=16, sliding_window=6, query_pre_attn_scalar=20, final_logit_softcapping=3.0,
                     attn_logit_softcapping=2.0, layer_types=_WINDOWS),
    ),
    "gemma3_text": (
        "gemma3_text",
        SIZES | dict(head_dim=16, sliding_window=6, query_pre_attn_scalar=20, layer_types=_WINDOWS),
    ),
    "phi3": ("phi3", SIZES | dict(sliding_window=6)),
    "starcoder2": ("starcoder2", SIZES | dict(sliding_window=6)),
    "stablelm": ("stablelm", SIZES | dict(use_qkv_bias=True, partial_rotary_factor=0.5)),
    "stablelm-parallel": ("stablelm", SIZES | dict(use_parallel_residual=True, qk_layernorm=True)),
    "olmo": ("olmo", SIZES | dict(clip_qkv=0.5)),
    "olmo2": ("olmo2", SIZES),
    "olmo3": ("olmo3", SIZES | dict(sliding_window=6, layer_types=_WINDOWS)),
    "nemotron": ("nemotron", SIZES),
    "exaone4": ("exaone4", SIZES | dict(sliding_window=6, layer_types=_WINDOWS)),
    "glm": ("glm", SIZES | dict(head_dim=8)),
    "glm4": ("glm4", SIZES | dict(head_dim=8)),
    "arcee": ("arcee", SIZES),
    "seed_oss": ("seed_oss", SIZES | dict(head_dim=8)),
    "helium": ("helium", SIZES | dict(head_dim=8)),
    "phi": ("phi", SIZES | dict(partial_rotary_factor=0.5)),
    "persimmon": ("persimmon", _UNGROUPED),
    "granite": (
        "granite",
        SIZES | dict(embedding_multiplier=3.0, logits_scaling=2.0, residual_multiplier=0.5, attention_multiplier=0.3),
    ),
    "granitemoe": (
        "granitemoe",
        SIZES | dict(embedding_multiplier=3.0, logits_scaling=2.0, num_local_experts=4, num_experts_per_tok=2),
    ),
    "cohere": ("cohere", SIZES | dict(logit_scale=0.3, use_qk_norm=True)),
    "cohere2": ("cohere2", SIZES | dict(logit_scale=0.3, sliding_window=6, layer_types=_WINDOWS)),
    "mixtral": ("mixtral", SIZES | dict(num_local_experts=4, num_experts_per_tok=2, sliding_window=6)),
    "qwen2_moe": (
        "qwen2_moe",
        SIZES | _EXPERTS | dict(shared_expert_intermediate_size=20, mlp_only_layers=[1], use_sliding_window=True,
                                sliding_window=6, max_window_layers=3),
    ),
    "qwen3_moe": (
        "qwen3_moe",
        SIZES | _EXPERTS | dict(head_dim=16, norm_topk_prob=True, use_sliding_window=True, sliding_window=6),
    ),
    "olmoe": (
        "olmoe", SIZES | dict(num_experts=4, num_experts_per_tok=2, sliding_window=6)  # its masks know no window
    ),
    "apertus": ("apertus", SIZES),
    "cwm": ("cwm", SIZES | dict(head_dim=8, sliding_window=6, layer_types=_WINDOWS)),
    "ernie4_5": ("ernie4_5", SIZES | dict(use_bias=True)),
    "hunyuan_v1_dense": ("hunyuan_v1_dense", SIZES | dict(head_dim=8)),
    "ministral3": (
        "ministral3",
        SIZES | dict(head_dim=8, sliding_window=6, rope_parameters=dict(
            rope_type="yarn", rope_theta=1e4, factor=4.0, original_max_position_embeddings=8, llama_4_scaling_beta=0.5,
            beta_fast=32.0, beta_slow=1.0, mscale=1.0, mscale_all_dim=1.0,
        )),
    ),
    "flex_olmo": ("flex_olmo", SIZES | dict(num_experts=4, num_experts_per_tok=2)),
    "phimoe": ("phimoe", SIZES | dict(num_local_experts=4, num_experts_per_tok=2, sliding_window=6)),
    "hunyuan_v1_moe": ("hunyuan_v1_moe", SIZES | dict(head_dim=8, num_experts=4, moe_topk=2)),
    "vaultgemma": (
        "vaultgemma",
        SIZES | dict(head_dim=16, sliding_window=6, query_pre_attn_scalar=20, final_logit_softcapping=3.0,
                     attn_logit_softcapping=2.0, layer_types=_WINDOWS),
    ),
    "granitemoeshared": (
        "granitemoeshared",
        SIZES | dict(embedding_multiplier=3.0, logits_scaling=2.0, num_local_experts=4, num_experts_per_tok=2,
                     shared_intermediate_size=24),
    ),
    "gpt_neox": ("gpt_neox", _UNGROUPED | dict(rotary_pct=0.5)),
    "gpt_neox-serial": (
        "gpt_neox", _UNGROUPED | dict(use_parallel_residual=False)
    ),
    "gpt2": ("gpt2", _GPT),
    "gpt2-inverse": ("gpt2", _GPT | dict(scale_attn_by_inverse_layer_idx=True, tie_word_embeddings=False)),
    "opt": (
        "opt",
        dict(vocab_size=97, hidden_size=32, ffn_dim=48, num_hidden_layers=3, num_attention_heads=4,
             max_position_embeddings=128, word_embed_proj_dim=32),
    ),
    "opt-350m": (
        "opt",
        dict(vocab_size=97, hidden_size=32, ffn_dim=48, num_hidden_layers=3, num_attention_heads=4,
             max_position_embeddings=128, word_embed_proj_dim=16, do_layer_norm_before=False),
    ),
    "bloom": ("bloom", dict(vocab_size=97, hidden_size=32, n_layer=3, n_head=4, bos_token_id=1, eos_token_id=2)),
    "bloom-odd": (
        "bloom",
        dict(vocab_size=97, hidden_size=48, n_layer=3, n_head=6, apply_residual_connection_post_layernorm=True),
    ),
    "falcon": ("falcon", _FALCON | dict(multi_query=True, new_decoder_architecture=False, alibi=False)),
    "falcon-new": ("falcon", _FALCON | dict(new_decoder_architecture=True, num_kv_heads=2, alibi=False)),
    "falcon-alibi": (
        "falcon",
        _FALCON | dict(multi_query=False, new_decoder_architecture=False, alibi=True, parallel_attn=False, bias=True),
    ),
    "gptj": ("gptj", _GPT | dict(rotary_dim=4)),
}  # fmt: skip
"""Name -> (family, configuration). Chosen so that every quirk of a family is used."""


MIXTURES = (
    "granitemoe", "granitemoeshared", "mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "flex_olmo", "phimoe",
    "hunyuan_v1_moe",
)  # fmt: skip
"""Those with experts that can be held in few bits."""
_WIDER = {
    "hidden_size": 64, "intermediate_size": 96, "moe_intermediate_size": 64, "shared_expert_intermediate_size": 64,
    "shared_intermediate_size": 64, "mlp_only_layers": [],
}  # fmt: skip
"""Rows of whole groups, and experts in all blocks."""


def wider(variant: str) -> dict[str, Any]:
    """Sizes of a mixture all of whose matrices can be held in few bits, to be given to `make_model`."""
    return {name: size for name, size in _WIDER.items() if name in VARIANTS[variant][1]}


LABELS = ("calm", "angry", "so-so")
NO_CLASSIFIER = (
    "granite", "granitemoe", "granitemoeshared", "cohere", "cohere2", "olmoe", "apertus", "cwm", "ernie4_5",
    "flex_olmo", "vaultgemma",
)  # fmt: skip
"""Families of which transformers has no class that tells texts apart."""


def make_model(variant: str, labels: Sequence[str] = (), **other: Any) -> Any:
    """The whole transformers model with random weights, in float32, in the attention that is its family's reference.

    Args:
        labels: of a classifier; one that writes text where there are none.
        other: entries of the configuration that it is to have instead.
    """
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForSequenceClassification

    family, sizes = VARIANTS[variant]
    sizes = sizes | other
    torch.manual_seed(list(VARIANTS).index(variant))
    config = CONFIG_MAPPING[family](**sizes)
    if labels:
        config.id2label, config.label2id = dict(enumerate(labels)), {label: at for at, label in enumerate(labels)}
    model = (AutoModelForSequenceClassification if labels else AutoModelForCausalLM).from_config(
        config, attn_implementation=reference_attention(family), dtype=torch.float32
    )
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms that are all 0 or 1 would hide mistakes
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def reference_attention(family: str) -> str:
    """Falcon with alibi is right in `sdpa` alone; soft-capping in `eager` alone."""
    return "sdpa" if family == "falcon" else "eager"


def save_model(variant: str, folder: Path, labels: Sequence[str] = (), **other: Any) -> Any:
    """Save the model there; returns it."""
    model = make_model(variant, labels, **other)
    model.save_pretrained(folder)
    return model


class TinyModel:
    """A tiny model on disk: its shards, and what the whole transformers model answers."""

    def __init__(self, variant: str, folder: Path) -> None:
        from shardnet.loader import open_model

        self.folder = folder
        whole = save_model(variant, folder)
        self.files = open_model(str(folder), "float32")
        self.num_units = self.files.profile.num_units
        self.ids = torch.randint(3, 97, (14,), generator=torch.Generator().manual_seed(1))
        self.windows: dict[int, int | None] = {}
        """What the whole model's own masks let the last of `ids` see in each block; None for all."""
        with torch.inference_mode(), _masks_of(whole, VARIANTS[variant][0], self.windows):
            self.logits: torch.Tensor = whole(self.ids[None]).logits[0]
            """Of every token of `ids`, [14, V]."""
            self.hidden: torch.Tensor = whole.base_model(self.ids[None]).last_hidden_state[0]
            """Likewise, behind the last norm, [14, H]."""
        self._weights: dict[Any, torch.Tensor] = {}
        self._shards: dict[tuple[int, int, str, str], Any] = {}

    def shard(self, first: int, last: int, dtype: str = "float32", kv_dtype: str = "auto") -> Any:
        """Units first..last, each range loaded once."""
        from shardnet.loader import load_shard

        key = (first, last, dtype, kv_dtype)
        if key not in self._shards:
            tensors = self.files.tensors_of(first, last)
            self._shards[key] = load_shard(
                self.files.config, tensors, first, last, dtype, self._weights, kv_dtype=kv_dtype
            )
        return self._shards[key]


@contextmanager
def _masks_of(whole: Any, family: str, windows: dict[int, int | None]) -> Iterator[None]:
    """In this block, note how far back the mask that each transformers block gets lets it look."""
    from shardnet.models.facts import FACTS

    def note(layer: int, mask: torch.Tensor | None) -> None:
        seen = [] if mask is None else [mask[0, 0, -1] if mask.dtype == torch.bool else mask[0, 0, -1] > -1e30]
        windows[layer] = next((int(row.sum()) for row in seen if not row.all()), None)

    facts = FACTS[family]
    blocks = getattr(whole.get_submodule(facts.base), facts.blocks)
    hooks = [
        block.register_forward_pre_hook(
            lambda _, given, named, at=layer: note(at, named.get("attention_mask")), with_kwargs=True
        )
        for layer, block in enumerate(blocks)
    ]
    yield
    for hook in hooks:
        hook.remove()


_MADE: dict[str, TinyModel] = {}


def tiny_model(variant: str, tmp_path_factory: Any) -> TinyModel:
    """The tiny model of that name, made at its first use in a test session."""
    if variant not in _MADE:
        _MADE[variant] = TinyModel(variant, tmp_path_factory.mktemp(variant))
    return _MADE[variant]
