"""What is known of each model family: where its parts are, how far its blocks look back, what its units weigh.

The one place: `families` adds how the blocks are called, `described` reckons sizes without torch, and `loader/gguf`
finds the tensors of files. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from shardnet.models.windows import Window, no_window, same_window, window_by_layer_type


@dataclass(frozen=True)
class Sizes:
    """What units hold beyond the numbers in `config.json`. The defaults are Llama's."""

    gated: bool = True
    """Three matrices in the feed-forward part, else two."""
    attention_bias: str = "none"
    """`none`, `qkv`, or `all` (the output projection, too)."""
    may_ask_for_bias: bool = False
    """`attention_bias` in a configuration means `all`."""
    mlp_bias: bool = False
    norm_bias: bool = False
    norms_per_block: int = 2
    qk_norm: bool = False
    embedding_norm: bool = False
    tied: bool = False
    """The head has the embedding's weights, where the configuration does not say."""
    positions: int | None = None
    """So many rows more than the context has tokens are in its table of positions; None: it has none."""
    context_tokens: int = 2048
    """Where the configuration does not say."""
    unused: tuple[str, ...] = ()
    """Numbers that its configuration may have and its blocks do not use, by the names of `ModelConfig`."""
    global_every: int = 0
    """With a sliding window each n-th block sees all tokens; 0: windows make its cache no smaller here."""
    names_global: bool = False
    """Its configuration may say another n."""


@dataclass(frozen=True)
class Facts:
    """What is particular to a family. The defaults are Llama's."""

    base: str = "model"
    """The decoder inside the causal language model."""
    embedding: tuple[str, ...] = ("embed_tokens",)
    """What comes before the first block, inside `base`; one that a configuration leaves out is skipped."""
    blocks: str = "layers"
    head: tuple[str, ...] = ("norm",)
    """What comes between the last block and `lm_head`, or `score`, inside `base`, in order of use."""
    rotary: str | None = "rotary_emb"
    window: Window = no_window
    """How far each block looks back: the rule by which the family's own model makes its masks."""
    gguf: str = ""
    """Under which name transformers keeps what it does to the tensors of a GGUF file; its own where empty."""
    sizes: Sizes | None = None
    """None: not to be told from a configuration."""


LIKE_LLAMA = Facts()
_OWN_HEADS = ("kv_heads", "head_dim")

FACTS: dict[str, Facts] = {
    # Llama's shape, block for block.
    "llama": Facts(sizes=Sizes(may_ask_for_bias=True)),
    "mistral": Facts(window=same_window, gguf="llama", sizes=Sizes(global_every=10_001)),  # that is, none
    "qwen2": Facts(window=window_by_layer_type, sizes=Sizes(attention_bias="qkv")),
    "qwen3": Facts(window=window_by_layer_type, sizes=Sizes(qk_norm=True, may_ask_for_bias=True)),
    "smollm3": Facts(window=window_by_layer_type, sizes=Sizes()),
    "phi3": Facts(window=same_window, sizes=Sizes()),
    **dict.fromkeys(("apertus", "arcee", "ernie4_5", "helium", "hunyuan_v1_dense", "seed_oss"), LIKE_LLAMA),
    **dict.fromkeys(("gemma", "glm", "glm4", "stablelm", "olmo", "olmo2", "nemotron"), LIKE_LLAMA),
    **dict.fromkeys(("granite", "cohere"), LIKE_LLAMA),
    **dict.fromkeys(("ministral3", "starcoder2"), Facts(window=same_window)),
    **dict.fromkeys(
        ("cohere2", "cwm", "exaone4", "ministral", "olmo3", "vaultgemma"), Facts(window=window_by_layer_type)
    ),
    # Experts.
    "mixtral": Facts(window=same_window, sizes=Sizes()),
    "qwen2_moe": Facts(window=window_by_layer_type, gguf="qwen2moe"),
    "qwen3_moe": Facts(window=same_window, gguf="qwen3moe", sizes=Sizes(qk_norm=True)),
    "phimoe": Facts(window=same_window),
    **dict.fromkeys(("olmoe", "flex_olmo", "hunyuan_v1_moe", "granitemoe", "granitemoeshared"), LIKE_LLAMA),
    # Norms before and behind each part of a block.
    "gemma2": Facts(window=window_by_layer_type, sizes=Sizes(norms_per_block=4, tied=True, global_every=2)),
    "gemma3_text": Facts(
        window=window_by_layer_type,
        gguf="gemma3",
        sizes=Sizes(norms_per_block=4, qk_norm=True, tied=True, global_every=6, names_global=True),
    ),
    # Other names, learned positions.
    **dict.fromkeys(("phi", "persimmon"), Facts(head=("final_layernorm",))),
    "gpt_neox": Facts(
        base="gpt_neox",
        embedding=("embed_in",),
        head=("final_layer_norm",),
        sizes=Sizes(gated=False, attention_bias="all", mlp_bias=True, norm_bias=True, unused=_OWN_HEADS),
    ),
    "gpt2": Facts(
        base="transformer",
        embedding=("wte", "wpe"),
        blocks="h",
        head=("ln_f",),
        rotary=None,
        sizes=Sizes(
            gated=False,
            attention_bias="all",
            mlp_bias=True,
            norm_bias=True,
            tied=True,
            positions=0,
            context_tokens=1024,
            unused=_OWN_HEADS,
        ),
    ),
    "opt": Facts(
        base="model.decoder",
        embedding=("embed_tokens", "embed_positions", "project_in"),
        head=("final_layer_norm", "project_out"),
        rotary=None,
        sizes=Sizes(
            gated=False,
            attention_bias="all",
            mlp_bias=True,
            norm_bias=True,
            tied=True,
            positions=2,  # its table has an offset of two
            unused=_OWN_HEADS,
        ),
    ),
    "bloom": Facts(
        base="transformer",
        embedding=("word_embeddings", "word_embeddings_layernorm"),
        blocks="h",
        head=("ln_f",),
        rotary=None,
        sizes=Sizes(
            gated=False,
            attention_bias="all",
            mlp_bias=True,
            norm_bias=True,
            embedding_norm=True,
            tied=True,
            unused=(*_OWN_HEADS, "intermediate"),
        ),
    ),
    "falcon": Facts(base="transformer", embedding=("word_embeddings",), blocks="h", head=("ln_f",)),
    "gptj": Facts(base="transformer", embedding=("wte",), blocks="h", head=("ln_f",), rotary=None),
}
"""By the `model_type` of `config.json`."""
