"""Writes a Llama of a given shape as a GGUF file in Q4_1, a tensor at a time: random weights, and known text.

    python tests/bench/rivals/chain_model.py FILE.gguf
    python tests/bench/rivals/chain_model.py DRAFT.gguf --draft

The shape is TinyLlama's, 1.1 B parameters, unless a caller asks for another. The linears are random Q4_1 blocks of a
sane scale; embedding and head (Q6_K, as llama.cpp's own files have it) are signs, such that after every token comes
one certain other: the tokens of a *chain*, which goes once through nearly the whole vocabulary. So a prompt can be
written of which it is known where look-up guesses rightly, whatever the shape, and no answer ever ends by itself.

A draft has the same chain, and says another token after some of its tokens: so it agrees with the large model on as
many as is wanted.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
GROUP, SUPER_GROUP = 32, 256
"""Weights in a block of Q4_1, and of Q6_K."""
FIRST = 300
"""The chain begins behind special tokens and single bytes."""
CODE_STD = 4.61
"""Of codes from 0 to 15 that are all equally likely."""
DAMPED = 0.25
"""What a block adds is so much smaller than what comes in: the embedding is heard through all of them."""
COPIED = ("tokens", "token_type", "merges")


@dataclass(frozen=True)
class Shape:
    """Of a Llama."""

    hidden: int = 2048
    intermediate: int = 5632
    blocks: int = 22
    heads: int = 32
    kv_heads: int = 4
    vocabulary: int = 32_000
    context: int = 4096
    seed: int = 11
    wrong: float = 0.0
    """After such a share of the chain's tokens it says another one than comes next."""

    def __post_init__(self) -> None:
        assert self.hidden % SUPER_GROUP == 0 and self.intermediate % GROUP == 0, "whole blocks in a row"

    @property
    def kv_hidden(self) -> int:
        return self.hidden // self.heads * self.kv_heads


DRAFT = Shape(hidden=512, intermediate=1664, blocks=30, heads=8, kv_heads=4, wrong=0.3)
"""Of 133 M parameters in as many blocks as SmolLM2 has of that size."""


def chain_of(shape: Shape) -> list[int]:
    """The tokens in the order in which the model says them; the first follows the last."""
    tokens = np.random.default_rng(shape.seed).permutation(np.arange(FIRST, shape.vocabulary))
    chain: list[int] = tokens.tolist()
    return chain


def said_after(shape: Shape) -> dict[int, int]:
    """What the model says after each token of the chain."""
    chain = np.array(chain_of(shape))
    said = np.roll(chain, -1)
    is_wrong = np.random.default_rng(shape.seed + 1).random(len(chain)) < shape.wrong
    said[is_wrong] = np.roll(said[is_wrong], 1)
    return dict(zip(chain.tolist(), said.tolist(), strict=True))


def write_chain_model(path: Path, tokenizer: Path, shape: Shape | None = None) -> Path:
    """Write the file, whole or not at all.

    Args:
        tokenizer: a GGUF file with a byte-level one of at least as many tokens, of which the first are taken.
    """
    shape = shape or Shape()
    begun = path.with_name(f"{path.name}.part")
    writer = gguf.GGUFWriter(begun, "llama")
    _describe(writer, shape)
    _copy_tokenizer(writer, gguf.GGUFReader(tokenizer), shape.vocabulary)
    draw = np.random.default_rng(shape.seed)
    signs = _signs(shape, draw)
    tensors = _tensors(shape)
    for name, (kind, num_rows, width) in tensors.items():
        size, num_bytes = gguf.GGML_QUANT_SIZES[kind]
        row_bytes = width // size * num_bytes
        byte_shape = (num_rows, row_bytes) if num_rows else (row_bytes // 4,)
        dtype = np.dtype(np.uint8 if num_rows else np.float32)
        writer.add_tensor_info(name, byte_shape, dtype, max(num_rows, 1) * row_bytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, (_, num_rows, width) in tensors.items():
        writer.write_tensor_data(_values(name, num_rows, width, signs, draw))
    writer.close()
    begun.rename(path)
    return path


def _describe(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_name("chain")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_1)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.blocks)
    writer.add_feed_forward_length(shape.intermediate)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(shape.hidden // shape.heads)
    writer.add_vocab_size(shape.vocabulary)


def _copy_tokenizer(writer: gguf.GGUFWriter, source: gguf.GGUFReader, vocabulary: int) -> None:
    def said(name: str) -> Any:
        return source.fields[f"tokenizer.ggml.{name}"].contents()

    tokens, types, merges = (said(name) for name in COPIED)
    kept = tokens[:vocabulary]
    known = set(kept)
    writer.add_tokenizer_model(said("model"))
    writer.add_tokenizer_pre(said("pre"))
    writer.add_token_list(kept)
    writer.add_token_types(types[:vocabulary])
    writer.add_token_merges([merge for merge in merges if merge.replace(" ", "") in known])
    writer.add_bos_token_id(said("bos_token_id"))
    writer.add_eos_token_id(said("eos_token_id"))
    writer.add_add_bos_token(False)


def _tensors(shape: Shape) -> dict[str, tuple[Kind, int, int]]:
    """Each with its kind, rows (0: it is a vector) and width."""
    hidden, inner = shape.hidden, shape.intermediate
    linears = {
        "attn_q": (hidden, hidden),
        "attn_k": (shape.kv_hidden, hidden),
        "attn_v": (shape.kv_hidden, hidden),
        "attn_output": (hidden, hidden),
        "ffn_gate": (inner, hidden),
        "ffn_up": (inner, hidden),
        "ffn_down": (hidden, inner),
    }
    tensors = {"token_embd.weight": (Kind.Q4_1, shape.vocabulary, hidden)}
    for block in range(shape.blocks):
        for norm in ("attn_norm", "ffn_norm"):
            tensors[f"blk.{block}.{norm}.weight"] = (Kind.F32, 0, hidden)
        for name, (num_rows, width) in linears.items():
            tensors[f"blk.{block}.{name}.weight"] = (Kind.Q4_1, num_rows, width)
    tensors["output_norm.weight"] = (Kind.F32, 0, hidden)
    tensors["output.weight"] = (Kind.Q6_K, shape.vocabulary, hidden)
    return tensors


def _signs(shape: Shape, draw: np.random.Generator) -> dict[str, NDArray[np.bool_]]:
    """What embedding and head are made of: the head's row of a token is the embedding of the one before it."""
    embedding = np.unpackbits(draw.integers(0, 256, (shape.vocabulary, shape.hidden // 8), np.uint8), axis=1)
    chain = np.array(chain_of(shape))
    others = np.arange(FIRST)
    embedding[others] = embedding[chain[others % len(chain)]]
    head = embedding.copy()
    said = said_after(shape)
    head[list(said.values())] = embedding[list(said)]
    head[others] = 1 - head[others]  # said after no token
    return {"token_embd.weight": embedding.astype(bool), "output.weight": head.astype(bool)}


def _values(name: str, num_rows: int, width: int, signs: dict[str, Any], draw: np.random.Generator) -> Any:
    if not num_rows:
        return np.ones(width, np.float32)
    if name == "output.weight":
        return _six_bits(signs[name], draw)
    if name in signs:
        magnitudes = draw.integers(0, 8, (num_rows, width), np.uint8)
        codes = np.where(signs[name], 8 + magnitudes, 7 - magnitudes).astype(np.uint8)
        return _four_bits(codes, np.full((num_rows, width // GROUP), 1 / CODE_STD))
    std = width**-0.5 * (DAMPED if "output" in name or "down" in name else 1.0)
    codes = draw.integers(0, 16, (num_rows, width), np.uint8)
    return _four_bits(codes, std / CODE_STD * draw.uniform(0.8, 1.2, (num_rows, width // GROUP)))


def _four_bits(codes: Bytes, steps: NDArray[np.float64]) -> Bytes:
    """Q4_1: in each group a step, a minimum, and the codes, the second half above the first.

    Args:
        codes: [rows, width], from 0 to 15.
        steps: [rows, width / 32].
    """
    num_rows, num_groups = steps.shape
    grouped = codes.reshape(num_rows, num_groups, 2, GROUP // 2)
    step = steps.astype(np.float16)
    scales = np.stack([step, (-7.5 * step.astype(np.float32)).astype(np.float16)], axis=-1).view(np.uint8)
    packed = grouped[:, :, 0] | grouped[:, :, 1] << 4
    return np.concatenate([scales, packed], axis=-1).reshape(num_rows, -1)


def _six_bits(signs: NDArray[np.bool_], draw: np.random.Generator) -> Bytes:
    """Q6_K of about as large values everywhere, with these signs [rows, width]."""
    num_rows, width = signs.shape
    num_blocks = width // SUPER_GROUP
    magnitudes = draw.integers(0, 16, signs.shape, np.uint8)
    codes = np.where(signs, 40 + magnitudes, 23 - magnitudes).astype(np.uint8).reshape(num_rows, num_blocks, 2, 128)
    low, high = codes & 15, codes >> 4
    lows = low[..., :64] | low[..., 64:] << 4
    quarters = high.reshape(num_rows, num_blocks, 2, 4, 32)
    highs = quarters[..., 0, :] | quarters[..., 1, :] << 2 | quarters[..., 2, :] << 4 | quarters[..., 3, :] << 6
    scales = draw.integers(60, 90, (num_rows, num_blocks, SUPER_GROUP // 16), np.uint8)
    step = np.full((num_rows, num_blocks, 1), width**-0.5 / 16 / 75, np.float16).view(np.uint8)
    parts = [part.reshape(num_rows, num_blocks, -1) for part in (lows, highs)]
    return np.concatenate([*parts, scales, step], axis=-1).reshape(num_rows, -1)


def main() -> int:
    from shardnet.loader.sources import find_embedded

    path = Path(sys.argv[1])
    if not path.exists():
        print(f"Writing {path}", flush=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_chain_model(path, find_embedded(), DRAFT if "--draft" in sys.argv else None)
    print(f"{'Its draft' if '--draft' in sys.argv else 'The model of 1.1 B'} is {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
