"""The modules of consecutive units, on the meta device: nothing else of the model is built, and no weight is real.

What the units are: see `models.unit`. A source has the stock modules of `transformers`, which know all that a
checkpoint may say. A device has modules of its own where these are known to give the same (`recipes`), and does
without `transformers` then.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from shardnet.errors import UnsupportedModel
from shardnet.foreign.libraries import read_by_others
from shardnet.models.attention import register_attention
from shardnet.models.blocks import Block, Embedding, Rotary, linear, norm
from shardnet.models.families import family_of
from shardnet.models.family import Family, leave_logits
from shardnet.models.heads import LM_HEAD, SCORE, classifier_of, is_classifier
from shardnet.models.kv import BlockKV
from shardnet.models.lean import SIDE_BY_SIDE
from shardnet.models.plain_config import PlainConfig, full_config
from shardnet.models.recipes import Recipe, recipe_of
from shardnet.models.unit import LoadedUnit
from shardnet.models.weightless import ONE_AT_A_TIME, to_meta, weightless
from shardnet.models.windows import windows_of
from shardnet.quantised.linear import held_in


@dataclass(frozen=True, slots=True)
class Slot:
    """A place in a module that waits for a tensor."""

    name: str
    """As the whole transformers model calls it; for a tied tensor, the name of the one that it is tied to."""
    module: nn.Module
    attribute: str
    shape: torch.Size
    is_buffer: bool


@dataclass
class Skeleton:
    """The modules of units first_unit..last_unit, by the names that the whole model gives them."""

    config: Any
    family: Family
    first_unit: int
    last_unit: int
    embedding: dict[str, nn.Module]
    blocks: dict[str, nn.Module]
    head: dict[str, nn.Module]
    rotary: nn.Module | None
    tied: dict[str, str]
    """Names of tensors that are views of others: {"lm_head.weight": "model.embed_tokens.weight"}."""
    frame: Any
    """The whole stock model with a single block: what transformers' tables of names want to see. Else None."""
    windows: dict[int, int | None]
    """How many tokens each of the blocks sees, its own included; None where it sees all."""

    @property
    def num_units_total(self) -> int:
        return int(self.config.num_hidden_layers) + 2

    @property
    def layers(self) -> tuple[int, ...]:
        """Indices of the decoder blocks in the whole model."""
        return tuple(range(max(self.first_unit, 1) - 1, min(self.last_unit, self.num_units_total - 2)))

    @property
    def kv_layout(self) -> tuple[BlockKV, ...]:
        heads, key_dim, value_dim = self.family.kv(self.config)
        return tuple(BlockKV(layer, heads, key_dim, value_dim) for layer in self.layers)

    def units(self) -> Iterator[tuple[int, dict[str, nn.Module]]]:
        """Each unit with its modules."""
        if self.first_unit == 0:
            yield 0, self.embedding
        for layer, (path, block) in zip(self.layers, self.blocks.items(), strict=True):
            yield layer + 1, {path: block}
        if self.last_unit == self.num_units_total - 1:
            yield self.last_unit, self.head

    def filled(self, weights: Mapping[str, Tensor]) -> list[LoadedUnit]:
        """The units, whose slots have these weights in them, by name."""
        caches = {block.layer: block for block in self.kv_layout}
        units = []
        for index, modules in self.units():
            own = {slot.name: weights[slot.name] for slot in self.slots(modules) if slot.name in weights}
            for path, held in held_in(modules):
                own |= {f"{path}.{name}": tensor for name, tensor in held.matrix.tensors.items()}
            kv = caches.get(index - 1)
            window, rotary = (None, None) if kv is None else (self.windows[kv.layer], self.rotary)
            units.append(LoadedUnit(index, modules, own, kv, window, rotary))
        return units

    def move_buffers(self, device: torch.device) -> None:
        """Have the tables that blocks keep for themselves there, where their weights are. Not the rotary module's."""
        for _, modules in self.units():
            for module in modules.values():
                for part in module.modules():
                    part._buffers = {name: None if it is None else it.to(device) for name, it in part._buffers.items()}

    def neighbours(self, modules: dict[str, nn.Module]) -> Iterator[list[Slot]]:
        """The slots of `modules`, those together whose tensors are to lie one behind the other in memory."""
        slots = {slot.name: slot for slot in self.slots(modules)}
        for path, module in modules.items():
            for names in SIDE_BY_SIDE if isinstance(module, Block) else ():
                together = [slots.pop(f"{path}.{name}") for name in names if f"{path}.{name}" in slots]
                if together:
                    yield together
        for slot in slots.values():
            yield [slot]

    def slots(self, modules: dict[str, nn.Module]) -> Iterator[Slot]:
        """The places of all tensors that a checkpoint holds for `modules`."""
        for path, module in modules.items():
            kept = module.state_dict(keep_vars=True)
            for name, tensor in kept.items():
                owner_path, _, attribute = name.rpartition(".")
                owner = module.get_submodule(owner_path)
                full_name = f"{path}.{name}"
                yield Slot(
                    self.tied.get(full_name, full_name), owner, attribute, tensor.shape, attribute in owner._buffers
                )


def skeleton_to_run(config: Any, first_unit: int, last_unit: int) -> Skeleton:
    """The modules of units first_unit..last_unit, both included, as a device runs them.

    Args:
        config: a `transformers` one, or a `PlainConfig`.

    Raises:
        UnsupportedModel: as `build_skeleton`, or `transformers` is needed and not installed.
    """
    recipe = recipe_of(config)
    if recipe is not None:
        return _lean_skeleton(config, recipe, first_unit, last_unit)
    with ONE_AT_A_TIME:  # a device imports transformers here
        return build_skeleton(full_config(config) if isinstance(config, PlainConfig) else config, first_unit, last_unit)


def _lean_skeleton(config: Any, recipe: Recipe, first_unit: int, last_unit: int) -> Skeleton:
    family, num_units = _family_to_run(config), config.num_hidden_layers + 2
    layers = range(max(first_unit, 1) - 1, min(last_unit, num_units - 2))
    windows = windows_of(family.facts.window, config, layers)
    vocab, hidden = config.vocab_size, config.hidden_size
    scale = hidden**0.5 if recipe.scales_embedding else None
    embedding = {"model.embed_tokens": Embedding(vocab, hidden, scale)} if first_unit == 0 else {}
    blocks = {f"model.layers.{layer}": Block(config, recipe, layer) for layer in layers}
    head: dict[str, nn.Module] = {}
    if last_unit == num_units - 1:
        head = {"model.norm": norm(recipe, hidden, config), **_last_module(config)}
    ties = config.tie_word_embeddings and not is_classifier(config)
    tied = {"lm_head.weight": "model.embed_tokens.weight"} if ties else {}
    rotary = Rotary(config) if blocks else None
    return Skeleton(
        config, family, first_unit, last_unit, dict(embedding), dict(blocks), head, rotary, tied, None, windows
    )


def _last_module(config: Any) -> dict[str, nn.Module]:
    """Of the head, by its name: one row for each token, or for each label."""
    classifier = classifier_of(config)
    name, outputs = (LM_HEAD, config.vocab_size) if classifier is None else (SCORE, len(classifier.labels))
    return {name: linear(config.hidden_size, outputs, False)}


def build_skeleton(config: Any, first_unit: int, last_unit: int) -> Skeleton:
    """Build the stock modules of units first_unit..last_unit, both included, without weights.

    Raises:
        UnsupportedModel: the family, or a variant of it that the configuration asks for, cannot be cut.
    """
    family = _family_to_run(config)
    facts = family.facts
    _refuse_variants(config)
    register_attention()
    config = copy.deepcopy(config)
    num_units = config.num_hidden_layers + 2
    assert 0 <= first_unit <= last_unit < num_units, (first_unit, last_unit, num_units)
    config._attn_implementation = family.attention
    layers = range(max(first_unit, 1) - 1, min(last_unit, num_units - 2))
    windows = windows_of(facts.window, config, layers)
    # The frame is the whole model with one block: it shows where things are, at a thirtieth of the time.
    frame_config = copy.deepcopy(config)
    frame_config.num_hidden_layers = 1
    with read_by_others(lambda reason: _refused(config, reason)), weightless():  # but for buffers: no file has them
        # Without a dtype: transformers would change torch's default for all threads.
        frame = _class_of(config).from_config(frame_config, attn_implementation=family.attention, dtype=None)
        base = frame.get_submodule(facts.base)
        block_class = type(getattr(base, facts.blocks)[0])
        blocks = {f"{facts.base}.{facts.blocks}.{layer}": block_class(config, layer).eval() for layer in layers}
    for module in (frame, *blocks.values()):
        to_meta(module)
    frame.eval()
    _share_buffers(list(blocks.values()))
    embedding = _present(base, facts.base, facts.embedding) if first_unit == 0 else {}
    last = SCORE if is_classifier(config) else LM_HEAD
    head = _present(base, facts.base, facts.head) | {last: getattr(frame, last)} if last_unit == num_units - 1 else {}
    rotary = getattr(base, facts.rotary) if facts.rotary and blocks else None
    tied = dict(frame._tied_weights_keys or {}) if config.tie_word_embeddings else {}
    return Skeleton(config, family, first_unit, last_unit, embedding, blocks, head, rotary, tied, frame, windows)


def _family_to_run(config: Any) -> Family:
    """How the family is called. What it does to logits of tokens, no classifier of any family does to its scores."""
    family = family_of(config.model_type)
    return replace(family, finish=leave_logits) if is_classifier(config) else family


def _class_of(config: Any) -> Any:
    """The class of transformers that makes the whole model.

    Raises:
        UnsupportedModel: it has no classifier of this family.
    """
    from transformers import (
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
    )

    if classifier_of(config) is None:
        return AutoModelForCausalLM
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise UnsupportedModel(
            f"This {config.model_type} model is to classify, and transformers has no classifier of that family."
        )
    return AutoModelForSequenceClassification


def _refuse_variants(config: Any) -> None:
    """transformers follows these switches in any family, in its masks or in each block's own configuration."""
    is_causal = getattr(config, "is_causal", True) and not getattr(config, "use_bidirectional_attention", False)
    if not is_causal:
        raise UnsupportedModel(
            f"This {config.model_type} model attends in both directions; only causal models can be cut."
        )
    if getattr(config, "is_heterogeneous", False):
        raise UnsupportedModel(
            f"The blocks of this {config.model_type} model differ (per_layer_config); "
            "only models whose blocks are alike can be cut."
        )


def _refused(config: Any, reason: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"transformers cannot build a {config.model_type} model of this configuration: {reason}. Check its config.json."
    )


def _present(base: nn.Module, prefix: str, names: tuple[str, ...]) -> dict[str, nn.Module]:
    """Those of the named modules that the configuration has not left out."""
    return {f"{prefix}.{name}": module for name in names if (module := getattr(base, name, None)) is not None}


def _share_buffers(blocks: list[nn.Module]) -> None:
    """Keep tables that every block computes for itself (GPT-J's sinusoids) once."""
    first: dict[str, Tensor] = dict(blocks[0].named_buffers()) if blocks else {}
    for block in blocks[1:]:
        for name, table in list(block.named_buffers()):
            if name in first and torch.equal(first[name], table):
                path, _, attribute = name.rpartition(".")
                block.get_submodule(path)._buffers[attribute] = first[name]
