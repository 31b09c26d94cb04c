"""A cluster's model as a `transformers` model: `forward` reads rows through the ring, and `generate` is transformers'
own.

Shapes: B rows of a batch, T new tokens, K of them whose logits are wanted, V vocabulary, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from shardnet.cluster.model import Model
from shardnet.errors import BadRequest, DamagedCheckpoint, UnsupportedModel
from shardnet.foreign.libraries import read_by_others
from shardnet.interface.batch import check_labels, check_positions, ids_of, kept_columns, mask_of, wanted_of
from shardnet.interface.cache import RingCache
from shardnet.interface.last_hidden import LastHidden
from shardnet.loader.folder import make_config
from shardnet.session.request import require_writer
from shardnet.transport.rows_messages import RowsAsked

IGNORED_LABEL = -100


class RingForCausalLM(PreTrainedModel, GenerationMixin):
    """A loaded model for whatever takes one of transformers. Its weights, keys and values stay where they are.

    Logits and hidden states come in float32 on the CPU, and have no gradient. Those of padding are 0.

    Args:
        model: from `Cluster.load`, or of a running cluster. It is closed by whoever has loaded it.

    Raises:
        UnsupportedModel: the model is a classifier.
        DamagedCheckpoint: transformers finds something wrong in its configurations.
    """

    main_input_name = "input_ids"
    input_modalities = "text"
    _supports_sdpa = True
    _is_stateful = False

    def __init__(self, model: Model) -> None:
        require_writer(model.profile)
        config = make_config(Path(model.profile.name), model.authored.config)
        config.name_or_path = model.profile.name
        super().__init__(config)
        self.ring = model
        """The model on its devices."""
        self.all_tied_weights_keys: dict[str, str] = {}
        proposed = {name: each for name, each in model.authored.generation.items() if name != "cache_implementation"}
        if proposed:
            with read_by_others(
                lambda reason: DamagedCheckpoint(f"generation_config.json of {config.name_or_path}: {reason}.")
            ):
                self.generation_config = GenerationConfig.from_dict(proposed)
        self.eval()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: RingCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **others: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """The logits [B, K, V] behind the new tokens, as transformers' models give them.

        Args:
            input_ids: [B, T]: behind those that `past_key_values` stands for, where it is given.
            attention_mask: 0 for padding, of all tokens. Positions count the others: padding changes nothing.
            output_hidden_states: also the last ones, [B, T, H], behind the last norm: `hidden_states[-1]`.
            others: `num_items_in_batch`, for the loss.

        Raises:
            BadRequest: what no ring can do, by its name; or the texts are longer than the context.
            KVMemorySpent, DeviceLost, UsageError: as `Model.logits`.
        """
        _refuse({"inputs_embeds": inputs_embeds, "output_attentions": output_attentions})
        items = others.pop("num_items_in_batch", None)
        _refuse(others)
        new, cache = ids_of(input_ids), _own(past_key_values)
        ids_before, mask_before = cache.tokens.of(len(new))
        ids, mask = torch.cat([ids_before, new], dim=1), mask_of(attention_mask, mask_before, new)
        sizes = ids_before.shape[1], new.shape[1]
        check_positions(position_ids, mask, new.shape[1])
        stays = bool(self.config.use_cache if use_cache is None else use_cache)
        hidden, loss = None, None
        if self.config.output_hidden_states if output_hidden_states is None else output_hidden_states:
            rows = self._rows(ids, mask, kept_columns(0, *sizes), are_logits=False, stays=stays)
            hidden = LastHidden(rows, self.config.num_hidden_layers)
        logits = self._rows(ids, mask, kept_columns(logits_to_keep, *sizes), are_logits=True, stays=stays)
        if labels is not None:
            check_labels(labels, mask[:, -new.shape[1] :], IGNORED_LABEL)
            loss = self.loss_function(logits, labels, vocab_size=logits.shape[-1], num_items_in_batch=items)
        cache.tokens.hold(ids, mask)
        output = CausalLMOutputWithPast(loss, logits, cache if stays else None, hidden)
        return output.to_tuple() if return_dict is False else output

    def _rows(self, ids: Tensor, mask: Tensor, kept: Tensor, *, are_logits: bool, stays: bool) -> Tensor:
        """Of the columns of a batch that are `kept`, [B, K, V] or [B, K, H]. Rows that are the same are read once."""
        first_column = int(kept.min())
        wanted = wanted_of(ids, mask, first_column)
        texts = list({each.text: None for each in wanted})
        asked = [(self.ring.encode(text), RowsAsked(first, are_logits, stays)) for text, first in texts]
        read = dict(zip(texts, self.ring.read(asked), strict=True))
        width = self.config.vocab_size if are_logits else self.config.hidden_size
        rows = torch.zeros(len(ids), ids.shape[1] - first_column, width)
        for each in wanted:
            came = read[each.text]
            rows[each.row, each.column : each.column + len(came)] = came
        return rows[:, kept - first_column]

    @property
    def device(self) -> torch.device:
        """Where logits come, and ids are taken from."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Of logits; what the devices compute in says `ring.profile`."""
        return torch.float32

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Of the whole model, on all devices. None can be trained here."""
        units = self.ring.profile.units[1:] if exclude_embeddings else self.ring.profile.units
        return 0 if only_trainable else sum(unit.num_parameters for unit in units)

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, *given: Any, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """
        Raises:
            BadRequest: a text is filled up at the right, so that nothing can go on behind it.
        """
        if attention_mask is not None and not bool(attention_mask[:, -1].all()):
            raise BadRequest("a text that goes on is filled up at the left: give the tokenizer padding_side='left'.")
        above: Any = super()
        prepared: dict[str, Any] = above.prepare_inputs_for_generation(
            input_ids, *given, attention_mask=attention_mask, **kwargs
        )
        return prepared

    def _prepare_cache_for_generation(  # type: ignore[override]
        self, generation_config: GenerationConfig, model_kwargs: dict[str, Any], *_: Any, **__: Any
    ) -> None:
        _refuse({"cache_implementation": generation_config.cache_implementation})
        given = model_kwargs.get("past_key_values")
        if given is not None:
            _own(given).is_users()
        elif generation_config.use_cache is not False:
            model_kwargs["past_key_values"] = RingCache()

    def tie_weights(self, *_: Any, **__: Any) -> None:
        """They are tied where they lie."""

    def train(self, mode: bool = True) -> RingForCausalLM:
        """
        Raises:
            UnsupportedModel: it is to be trained.
        """
        if mode:
            raise _in_ring("it cannot be trained from here")
        return super().train(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> RingForCausalLM:
        """What `to`, `half`, `cuda` and their kin do to weights.

        Raises:
            UnsupportedModel: they would change.
        """
        sample = torch.empty(0)
        if (changed := fn(sample)).device != sample.device or changed.dtype != sample.dtype:
            raise _in_ring(
                "it stays there, and is held as it was loaded. Load it with another dtype, or leave this out"
            )
        return self

    @classmethod
    def from_pretrained(cls, *_: Any, **__: Any) -> NoReturn:
        """
        Raises:
            UnsupportedModel: always.
        """
        raise UnsupportedModel("load a model with Cluster.load, and give what comes of that to RingForCausalLM.")

    def save_pretrained(self, *_: Any, **__: Any) -> NoReturn:
        """As the next ones: refused, as weights are not here."""
        raise _in_ring("its weights cannot be saved from here")

    def state_dict(self, *_: Any, **__: Any) -> NoReturn:
        raise _in_ring("its weights are not here")

    def get_input_embeddings(self) -> NoReturn:
        raise _in_ring("its embeddings are not here")

    def get_output_embeddings(self) -> NoReturn:
        raise _in_ring("its head is not here")

    def resize_token_embeddings(self, *_: Any, **__: Any) -> NoReturn:
        raise _in_ring("its embeddings keep their size")

    def add_adapter(self, *_: Any, **__: Any) -> NoReturn:
        raise _in_ring("adapters cannot be put into it from here")

    def load_adapter(self, *_: Any, **__: Any) -> NoReturn:
        raise _in_ring("adapters cannot be put into it from here")


def _own(cache: Any) -> RingCache:
    """The cache that was given, or a new one.

    Raises:
        BadRequest: it is another kind.
    """
    if cache is not None and not isinstance(cache, RingCache):
        raise BadRequest(
            f"past_key_values must be what this model has given (RingCache), but is {type(cache).__name__}. Leave it "
            "out: one is made."
        )
    return RingCache() if cache is None else cache


def _refuse(options: Mapping[str, Any]) -> None:
    """
    Raises:
        BadRequest: one of these is asked for.
    """
    for name, value in options.items():
        is_tensor = isinstance(value, Tensor)
        if (is_tensor and (value.is_floating_point() or bool(value.any()))) or (not is_tensor and value):
            raise BadRequest(f"{name} is not for a model in a ring. Leave it out.", option=name)


def _in_ring(what: str) -> UnsupportedModel:
    return UnsupportedModel(f"a RingForCausalLM lies on the devices of a cluster: {what}.")


# By this name pipelines know which classes write text; no configuration has it.
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["shardnet"] = RingForCausalLM.__name__
