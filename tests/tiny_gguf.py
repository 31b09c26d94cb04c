"""A tiny random model in a GGUF file, as llama.cpp would write it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np

SIZES: dict[str, Any] = {"hidden": 64, "intermediate": 96, "blocks": 2, "heads": 4, "kv_heads": 2, "experts": 4}
TEMPLATE = "{% for message in messages %}<s>{{ message['role'] }}: {{ message['content'] }}</s>{% endfor %}"


def write_gguf(
    path: Path,
    architecture: str = "llama",
    kind: str = "Q8_0",
    more: Callable[[gguf.GGUFWriter], object] = lambda writer: None,
) -> Path:
    """A small random model with a byte-level vocabulary, as llama.cpp would write it; `more` adds to it."""
    writer = gguf.GGUFWriter(path, architecture)
    hidden, blocks, kv = SIZES["hidden"], SIZES["blocks"], SIZES["kv_heads"] * SIZES["hidden"] // SIZES["heads"]
    tokens = vocabulary()
    writer.add_name("tiny")
    writer.add_context_length(128)
    writer.add_embedding_length(hidden)
    writer.add_block_count(blocks)
    writer.add_feed_forward_length(SIZES["intermediate"])
    writer.add_head_count(SIZES["heads"])
    writer.add_head_count_kv(SIZES["kv_heads"])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    if architecture == "llama":
        writer.add_rope_dimension_count(hidden // SIZES["heads"])
    elif architecture != "phi3":  # what it says of attention comes by `more`
        writer.add_key_length(hidden // SIZES["heads"])
        writer.add_expert_count(SIZES["experts"])
        writer.add_expert_used_count(2)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * (len(tokens) - 3))
    writer.add_token_merges(["h e", "he l", "l o", "Ġ w"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_chat_template(TEMPLATE)
    random = np.random.default_rng(0)

    def add(name: str, *shape: int, plain: bool = False) -> None:
        values = random.standard_normal(shape).astype(np.float32)
        quantisation = gguf.GGMLQuantizationType.F32 if plain else gguf.GGMLQuantizationType[kind]
        writer.add_tensor(name, gguf.quantize(values, quantisation), raw_dtype=quantisation)

    add("token_embd.weight", len(tokens), hidden)
    add("output_norm.weight", hidden, plain=True)
    for block in range(blocks):
        add(f"blk.{block}.attn_norm.weight", hidden, plain=True)
        add(f"blk.{block}.ffn_norm.weight", hidden, plain=True)
        if architecture == "phi3":
            add(f"blk.{block}.attn_qkv.weight", hidden + 2 * kv, hidden)
        else:
            add(f"blk.{block}.attn_q.weight", hidden, hidden)
            add(f"blk.{block}.attn_k.weight", kv, hidden)
            add(f"blk.{block}.attn_v.weight", kv, hidden)
        add(f"blk.{block}.attn_output.weight", hidden, hidden)
        add_feed_forward(add, architecture, block)
    more(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_feed_forward(add: Any, architecture: str, block: int) -> None:
    hidden, inner, experts = SIZES["hidden"], SIZES["intermediate"], SIZES["experts"]
    if architecture == "phi3":
        add(f"blk.{block}.ffn_up.weight", 2 * inner, hidden)
        add(f"blk.{block}.ffn_down.weight", hidden, inner)
        return
    if architecture == "llama":
        add(f"blk.{block}.ffn_gate.weight", inner, hidden)
        add(f"blk.{block}.ffn_up.weight", inner, hidden)
        add(f"blk.{block}.ffn_down.weight", hidden, inner)
        return
    inner = 768  # transformers reads no width of experts from GGUF: its default stands
    add(f"blk.{block}.attn_q_norm.weight", 16, plain=True)
    add(f"blk.{block}.attn_k_norm.weight", 16, plain=True)
    add(f"blk.{block}.ffn_gate_inp.weight", experts, hidden, plain=True)
    add(f"blk.{block}.ffn_gate_exps.weight", experts, inner, hidden)
    add(f"blk.{block}.ffn_down_exps.weight", experts, hidden, inner)
    add(f"blk.{block}.ffn_up_exps.weight", experts, inner, hidden)


def vocabulary() -> list[str]:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return ["<pad>", "<s>", "</s>", *bytes_to_unicode().values(), "he", "hel", "lo", "Ġw"]
