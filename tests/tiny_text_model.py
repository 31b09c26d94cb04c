"""A tiny random Llama with a tokenizer of bytes and a chat template: a whole model folder, made in a moment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch


def save_text_model(
    folder: Path,
    *,
    num_blocks: int = 4,
    intermediate: int = 128,
    ends: bool = True,
    labels: Sequence[str] = (),
    **said: Any,
) -> Path:
    """Save it there; returns the folder. Its context is 4096 tokens, one for each byte of text. Its answers end when it
    says so, or, unless `ends`, when they are as long as was asked for.

    Args:
        labels: of a classifier.
        said: besides, in its configuration.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

    vocabulary = {byte: index for index, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    end = len(vocabulary)
    vocabulary["<end>"] = end
    bytes_tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    bytes_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_tokenizer.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytes_tokenizer, eos_token="<end>")
    tokenizer.chat_template = "{% for each in messages %}{{ each['role'] }}: {{ each['content'] }}\n{% endfor %}answer:"
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=intermediate,
        num_hidden_layers=num_blocks,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=end if ends else None,
        **({"id2label": dict(enumerate(labels))} if labels else {}),
        **said,
    )
    (LlamaForSequenceClassification if labels else LlamaForCausalLM)(config).save_pretrained(folder)
    return folder
