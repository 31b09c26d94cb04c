"""What the model's files show to be impossible, refused before devices are started. The load looks closer."""

from __future__ import annotations

from shardnet.cluster.loading import check_context
from shardnet.cluster.placement import check_num_devices, check_split
from shardnet.cluster.request import check_length, encode
from shardnet.launch.cache_folder import cache_folder
from shardnet.loader import Glance, glance_at, read_config, read_tokenizer
from shardnet.models.sizes import context_of
from shardnet.progress import Progress

from .generate_options import GenerateOptions

TEMPLATE_TOKENS = 1024
"""More than a chat template, or marks of beginning and end, put around a prompt."""


def refuse_early(options: GenerateOptions, progress: Progress) -> None:
    """Raise where the files show that the request cannot be met.

    Raises:
        BadRequest: more devices than units, a split of other units, a prompt that is longer than the context.
        ModelNotFound, UnsupportedModel, DamagedCheckpoint: as `glance_at`.
    """
    seen = glance_at(options.model, options.dtype, cache_dir=cache_folder(), progress=progress)
    if seen.num_units is not None and not options.uses_running_devices:
        if options.split is not None:
            check_split(options.split, options.num_local_devices, seen.num_units, seen.name)
        check_num_devices(options.num_local_devices, seen.num_units, seen.name)
    if not _fits_surely(options, seen):
        _check_lengths(options, seen)


def _fits_surely(options: GenerateOptions, seen: Glance) -> bool:
    """Whether nothing has to be counted: no tokenizer makes more tokens of a text than it has bytes.

    Reading tokenizer and configuration takes a second, which most requests need not wait for.
    """
    wanted = options.context_tokens or 0
    longest_bytes = max(len(prompt.encode()) for prompt in options.prompts)
    most_tokens = longest_bytes + TEMPLATE_TOKENS + options.max_new_tokens
    return max(most_tokens, wanted) <= seen.context_tokens and most_tokens <= (wanted or most_tokens)


def _check_lengths(options: GenerateOptions, seen: Glance) -> None:
    config = read_config(seen.folder)
    context_tokens = check_context(seen.name, context_of(config), options.context_tokens)
    tokenizer = read_tokenizer(seen.folder)
    for prompt in options.prompts:
        ids = encode(prompt, tokenizer, chat=options.chat, vocabulary=config.vocab_size, model=seen.name)
        check_length(len(ids), options.max_new_tokens, context_tokens)
