"""The model of `shardnet generate`, opened before devices are started: what its files rule out ends there."""

from __future__ import annotations

from typing import Any

from shardnet.cluster.loading import check_context
from shardnet.launch.generate.glance import check_number_of_units
from shardnet.launch.generate.options import GenerateOptions
from shardnet.launch.values import require_writer
from shardnet.loader import ModelFiles, glance_at, open_model
from shardnet.progress import Progress
from shardnet.session.prompts import encode
from shardnet.session.request import check_length, check_sampling, sampling_of


def open_early(options: GenerateOptions, tokenizer: Any, progress: Progress, *, must_write: bool = True) -> ModelFiles:
    """The model's files, tokenizer and all, once the hub has been asked and a GGUF file is prepared.

    Args:
        must_write: text, or say how likely one is.

    Raises:
        BadRequest: more devices than units, a split of other units, a prompt that is longer than the context, a
            grammar that no answer can follow, an id that no token has.
        UnsupportedModel: the model is a classifier; and as the next two, by `open_model`.
        ModelNotFound, DamagedCheckpoint
    """
    seen = glance_at(options.model, options.load.dtype, progress=progress)
    if must_write:
        require_writer(seen)
    check_number_of_units(options, seen)
    files = open_model(
        options.model, options.load.dtype, weights=options.load.weights, progress=progress, tokenizer=tokenizer
    )
    profile, tokenizer = files.profile, files.tokenizer()
    context_tokens = check_context(profile.name, profile.context_tokens, options.load.context_tokens, "--context")
    check_sampling(sampling_of(options.generation), profile, files.eos_ids)
    for prompt in options.prompts:
        ids = encode(prompt, tokenizer, chat=options.generation.chat, vocabulary=profile.vocabulary, model=profile.name)
        check_length(len(ids), options.generation.max_new_tokens, context_tokens, "--max-new-tokens")
    return files
