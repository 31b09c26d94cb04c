"""What callers may ask of a model, and the sentence that they get for everything else."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch

from shardnet.cluster.load_options import LoadOptions
from shardnet.errors import BadRequest
from shardnet.session.options import GenerationOptions, stops_of
from shardnet.session.prompts import encode, prompts_of
from shardnet.session.request import check_length, sampling_of


class Letters:
    """A tokenizer of letters, with a chat template that wants the user to begin."""

    chat_template = "yes"

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) - ord("a") for letter in text]}

    def apply_chat_template(self, messages: list[dict[str, str]], **_: Any) -> dict[str, list[int]]:
        if messages[0]["role"] != "user":
            raise ValueError("the user begins")
        return self("".join(message["content"] for message in messages))


def ids_of(prompt: Any, tokenizer: Any = None, *, chat: bool = False) -> list[int]:
    return encode(prompt, tokenizer or Letters(), chat=chat, vocabulary=26, model="letters")


@pytest.mark.parametrize(
    "prompt", ["bcd", [1, 2, 3], (1, 2, 3), torch.tensor([1, 2, 3]), np.array([1, 2, 3]), range(1, 4)]
)
def test_text_and_ids_in_every_form(prompt: Any) -> None:
    ids = ids_of(prompt)
    assert ids == [1, 2, 3] and all(type(token) is int for token in ids)


def test_chats() -> None:
    assert ids_of("bc", chat=True) == [1, 2] == ids_of([{"role": "user", "content": "bc"}])


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("", "empty"), ([], "empty"), (None, "but is None"), (5, "but is 5"), (b"abc", "but is 3 bytes"),
        (bytearray(b"abc"), "text, token ids, or a list"), (memoryview(b"a"), "text, token ids"),
        ({1, 2}, "text, token ids"), ([10**30], "whole number of about 31 digits"),
        ([3.7], "3.7"), (["a"], "'a'"), ([True], "True"), (torch.tensor([[1, 2]]), r"\[1, 2\]"), (torch.tensor(3), "3"),
        ([26], "vocabulary of 26"), ([-1], "-1"), ({"role": "user", "content": "a"}, "list of chat messages"),
        ([{"role": "user"}], "content"), ([{"role": "user", "content": None}], "content"),
        ([{"role": "user", "content": 5}], "with texts"), ([{"role": "user", "content": ["a"]}], "with texts"),
        ([{"role": "user", "content": "a"}, 3], "but one is 3"), ([{"role": 1, "content": "a"}], "role"),
        ([{"role": "system", "content": "a"}], "refuses these messages: the user begins"),
        ("x" * 10_000 + "?", "-34"),
    ],
)  # fmt: skip
def test_what_is_no_prompt(prompt: Any, words: str) -> None:
    with pytest.raises(BadRequest, match=words) as refused:
        ids_of(prompt)
    assert len(str(refused.value)) < 200


def test_half_characters_are_no_text() -> None:
    """Once, a lone surrogate in a prompt raised `TypeError: TextEncodeInput must be Union[...]`."""
    halves: list[tuple[Any, str]] = [
        ("ab\ud83d", r"the prompt is no whole text: its character 3 is '\\ud83d'"),
        (b"a\xff".decode(errors="surrogateescape"), r"'\\udcff', half of a character or a byte"),
        ([{"role": "user", "content": "\udc00"}], "the 'content' of a chat message"),
        ([{"role": "\udc00", "content": "a"}], "the 'role' of"),
        ([{"role": "user", "content": "a", "name": "\udc00"}], "the 'name' of"),
    ]
    for prompt, words in halves:
        for chat in (False, True):
            with pytest.raises(BadRequest, match=words) as refused:
                ids_of(prompt, chat=chat)
            str(refused.value).encode()
    with pytest.raises(BadRequest, match="a stop string is no whole text"):
        stops_of(["a", "\ud83d"])
    assert stops_of("a\0") == ("a\0",) and prompts_of(["a\0"]) == ["a\0"]


@pytest.mark.parametrize("fault", [KeyError("x"), ZeroDivisionError(), AttributeError("x" * 5000), RecursionError()])
def test_a_template_that_fails_is_a_sentence(fault: Exception) -> None:
    class Faulty(Letters):
        def apply_chat_template(self, messages: list[dict[str, str]], **_: Any) -> dict[str, list[int]]:
            raise fault

    with pytest.raises(BadRequest, match="the chat template of letters refuses") as refused:
        ids_of("a", Faulty(), chat=True)
    assert len(str(refused.value)) < 300


def test_a_model_without_a_chat_template() -> None:
    plain = Letters()
    plain.chat_template = ""
    for prompt, chat in (("a", True), ([{"role": "user", "content": "a"}], False)):
        with pytest.raises(BadRequest, match="letters has no chat template"):
            ids_of(prompt, plain, chat=chat)


def test_several_prompts_are_not_one() -> None:
    """Once, `generate("hello")` answered five prompts of one letter, and `generate("")` none."""
    assert prompts_of(("a", [1])) == ["a", [1]]
    for prompts in ("hello", "", b"a", {"role": "user"}):
        with pytest.raises(BadRequest, match="Put it into a list"):
            prompts_of(prompts)
    for nothing in (None, 5):
        with pytest.raises(BadRequest, match="must be a list"):
            prompts_of(nothing)


def test_stop_strings() -> None:
    assert stops_of("ab") == ("ab",)
    assert stops_of(["ab", "c"]) == ("ab", "c")
    assert stops_of(()) == ()
    for stop, words in (("", "empty"), ([""], "empty"), ([3], "3"), (None, "None"), (3, "3")):
        with pytest.raises(BadRequest, match=words):
            stops_of(stop)


def test_numbers_of_numpy_travel_as_plain_ones() -> None:
    given: dict[str, Any] = {"temperature": np.float32(0.5), "top_k": np.int64(3), "top_p": 1, "seed": np.uint8(7)}
    given |= {
        "presence_penalty": np.float32(0.25),
        "logit_bias": {np.int64(5): np.float64(1)},
        "min_tokens": np.int8(2),
    }
    given |= {"stop_token_ids": np.array([9, 4, 9])}
    options = sampling_of(GenerationOptions(**given))
    assert options[:7] == (0.5, 3, 1.0, 0.0, 1.0, 7, "off")
    assert options[7:] == (0.25, 0.0, ((5, 1.0),), 2, False, (9, 4), -1, "")
    assert b"numpy" not in pickle.dumps(options)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("temperature", "hot"), ("temperature", None), ("temperature", True), ("temperature", float("inf")),
        ("top_k", 2.5), ("top_k", "5"), ("top_k", -1), ("top_p", "1"), ("top_p", 0), ("min_p", None), ("min_p", 2),
        ("repetition_penalty", "x"), ("repetition_penalty", 0), ("seed", 1.5), ("seed", None), ("seed", 2**63),
        ("temperature", -0.1), ("temperature", float("nan")), ("top_p", 1.1), ("min_p", 1.5), ("seed", -1),
        ("max_new_tokens", 0), ("max_new_tokens", 1.5),
    ],
)  # fmt: skip
def test_impossible_option_is_named_with_its_value(option: str, value: Any) -> None:
    with pytest.raises(BadRequest) as refused:
        GenerationOptions(**{option: value})
    assert option in str(refused.value) and str(value) in str(refused.value)


def test_numbers_too_large_to_be_written_down() -> None:
    """`str` of more than 4300 digits is an error, and so is `float` of more than 308."""
    large: dict[str, Any] = {"temperature": 10**400, "top_p": -(10**5000), "top_k": 10**5000, "seed": -(10**5000)}
    for option, value in large.items():
        with pytest.raises(BadRequest, match=rf"{option} must .* digits"):
            GenerationOptions(**{option: value})


def test_options_are_called_as_the_caller_calls_them() -> None:
    """Python was told to lower --max-new-tokens, and that max-new-tokens is wrong."""
    with pytest.raises(BadRequest, match=r"the prompt has 1 token and .* lower max_new_tokens\.$"):
        check_length(1, 10, 10)
    with pytest.raises(BadRequest, match=r"lower --max-new-tokens\.$"):
        check_length(1, 10, 10, "--max-new-tokens")
    with pytest.raises(BadRequest, match=r"^max_new_tokens must be 1 or more, but is 0"):
        GenerationOptions(max_new_tokens=0)
    with pytest.raises(BadRequest, match=r"^in_flight 4 has no effect on a split"):
        LoadOptions(split=(3, 3), in_flight=4)
