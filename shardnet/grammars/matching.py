"""Which tokens may come next in an answer that follows a grammar. The only module that knows llguidance.

Shapes: V vocabulary of the model.
"""

from __future__ import annotations

import importlib.util
import json
import threading
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shardnet.errors import BadRequest, UnsupportedModel
from shardnet.foreign.libraries import read_by_others
from shardnet.foreign.quoting import shortened

MOST_GRAMMARS = 16
"""That stay compiled for each model."""
MOST_VOCABULARY_BYTES = 256 << 20
_REASON = 400
_END = "<|shardnet: end of a grammar|>"
"""What llguidance takes for the end of an answer, lest that be a token of the model's: which ones are, sessions say."""
_INSTALL = "pip install 'shardnet[grammar]'"


def is_installed() -> bool:
    """Whether this machine can read grammars."""
    return importlib.util.find_spec("llguidance") is not None


def check_grammar(grammar: str, option: str = "grammar") -> None:
    """See that a grammar is one, where llguidance is installed; else the device with the head says so.

    Args:
        option: by which it was given.

    Raises:
        BadRequest: it is none, or says what cannot be followed.
    """
    if not grammar or not is_installed():
        return
    from llguidance import LLMatcher

    fault = LLMatcher.validate_grammar(grammar, limits=_limits())
    if fault:
        raise BadRequest(_not_followed(option, fault), option=option)


def pack_tokenizer(tokenizer: Any, model: str) -> bytes:
    """What the tokens of a model spell, as it travels: its `transformers` tokenizer.

    Raises:
        UnsupportedModel: it cannot be written down.
    """
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None:
        raise UnsupportedModel(
            f"answers of {model} cannot follow a grammar: its tokenizer has no fast form (tokenizer.json)."
        )
    from tokenizers import Tokenizer

    plain = Tokenizer.from_str(fast.to_str())
    plain.no_padding()
    plain.no_truncation()
    plain.add_special_tokens([_END])
    return zlib.compress(json.dumps([plain.token_to_id(_END), plain.to_str()]).encode())


class Vocabulary:
    """What the tokens of a model spell, and the grammars that were compiled for it. For any thread.

    Args:
        packed: by `pack_tokenizer`.

    Raises:
        BadRequest: there is no llguidance.
        UnsupportedModel: it cannot use this tokenizer.
    """

    def __init__(self, packed: bytes) -> None:
        if not is_installed():
            raise BadRequest(
                f"an answer is to follow a grammar, and llguidance is missing where the head is. Install it: {_INSTALL}"
            )
        from llguidance import LLTokenizer

        with read_by_others(
            lambda reason: UnsupportedModel(f"no grammar can be followed with this tokenizer: {reason}.")
        ):
            unpacked = zlib.decompressobj().decompress(packed, MOST_VOCABULARY_BYTES)
            end, tokenizer = json.loads(unpacked)
            self._tokenizer: Any = LLTokenizer(tokenizer, eos_token=end)
        self._compiled: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    def matcher(self, grammar: str) -> Matcher:
        """For one answer, at its beginning.

        Raises:
            BadRequest: this is no grammar that can be followed.
        """
        with self._lock:
            compiled = self._compiled.pop(grammar, None)
        if compiled is None:
            compiled = self._compile(grammar)
        with self._lock:
            self._compiled[grammar] = compiled
            while len(self._compiled) > MOST_GRAMMARS:
                self._compiled.popitem(last=False)
            return Matcher(compiled.deep_copy(), tuple(self._tokenizer.eos_tokens))

    def _compile(self, grammar: str) -> Any:
        from llguidance import LLMatcher

        with read_by_others(_refused):
            compiled = LLMatcher(self._tokenizer, grammar, log_level=0, limits=_limits())
        if compiled.is_error():
            raise BadRequest(_not_followed("grammar", compiled.get_error()))
        return compiled


class Matcher:
    """Where one answer stands in its grammar. For one thread."""

    def __init__(self, matcher: Any, own_ends: Sequence[int]) -> None:
        """Args: `own_ends`, the tokens that llguidance takes for ends."""
        self._matcher = matcher
        self._own_ends = own_ends

    def allowed(self, num_ids: int, ending_ids: Sequence[int]) -> Tensor:
        """Whether each of the ids of a model may come next: bool [V]. Its ends, where the answer is whole.

        Raises:
            BadRequest: the answer does not follow the grammar, or following it further takes too much.
        """
        with read_by_others(_refused):
            packed = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        if self._matcher.is_error():
            raise BadRequest(_not_followed("grammar", self._matcher.get_error()))
        bits = np.unpackbits(packed, bitorder="little", count=num_ids if num_ids <= 8 * len(packed) else None)
        found = torch.zeros(num_ids, dtype=torch.bool)
        found[: len(bits)] = torch.from_numpy(bits).bool()
        _set(found, self._own_ends, False)
        if self._matcher.is_accepting():
            _set(found, ending_ids, True)
        return found

    def take(self, token_ids: Sequence[int]) -> None:
        """These come next in the answer.

        Raises:
            BadRequest: they do not follow the grammar.
        """
        with read_by_others(_refused):
            if token_ids and not self._matcher.consume_tokens(list(token_ids)):
                raise BadRequest(_not_followed("grammar", self._matcher.get_error()))


def _set(found: Tensor, ids: Sequence[int], value: bool) -> None:
    known = [each for each in ids if 0 <= each < len(found)]
    found[torch.tensor(known, dtype=torch.long)] = value


def _limits() -> Any:
    from llguidance import LLParserLimits

    return LLParserLimits(verbose_errors=False)


def _refused(reason: str) -> BadRequest:
    return BadRequest(_not_followed("grammar", reason))


def _not_followed(option: str, fault: str) -> str:
    plain = " ".join(fault.split())
    return f"{option} is not one that an answer can follow: {shortened(plain, _REASON)}."
