"""Each parameter that OpenAI's client knows, and those of other servers: it has an effect, or is refused by its name,
or means nothing for an answer. None is dropped in silence.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from serve_client import MODEL, Served, chat, served
from tiny_text_model import save_text_model

pytest.importorskip("openai")
CHAT, COMPLETION, EMBEDDING = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
MOST_IDS = list(range(250))
FREE = {"temperature": 1.9, "seed": 1}
EFFECTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "frequency_penalty": ({}, {"frequency_penalty": 2}),
    "presence_penalty": ({}, {"presence_penalty": 2}),
    "repetition_penalty": ({}, {"repetition_penalty": 3}),
    "logit_bias": ({}, {"logit_bias": {"65": 100}}),
    "max_tokens": ({"max_tokens": 5}, {"max_tokens": 3}),
    "max_completion_tokens": ({"max_tokens": None}, {"max_tokens": None, "max_completion_tokens": 3}),
    "n": (FREE, {**FREE, "n": 2}),
    "seed": (FREE, {**FREE, "seed": 2}),
    "temperature": ({"seed": 1}, FREE),
    "top_p": (FREE, {**FREE, "top_p": 0.01}),
    "top_k": (FREE, {**FREE, "top_k": 1}),
    "min_p": (FREE, {**FREE, "min_p": 1}),
    "stop_token_ids": ({}, {"stop_token_ids": MOST_IDS}),
    "min_tokens": ({"stop_token_ids": MOST_IDS}, {"stop_token_ids": MOST_IDS, "min_tokens": 3}),
}
"""Two requests of which the second has the parameter: their answers are not the same. `max_tokens` is 8 otherwise."""
OF_OTHER_TESTS = {
    *("messages", "model", "prompt", "input", "stop", "stream", "stream_options", "encoding_format", "response_format"),
    *("logprobs", "top_logprobs", "tools", "tool_choice", "parallel_tool_calls"),
}
"""What these do is promised in test_chat, test_constrained, test_embeddings, or by a refusal."""
NO_EFFECT: dict[str, Any] = {
    "user": "me",
    "metadata": {"who": "me"},
    "safety_identifier": "me",
    "prompt_cache_key": "mine",
}
"""They say something of who asks, or for the service's own books; docs/serve.md says so."""
REFUSED: dict[str, Any] = {
    "audio": {"voice": "alloy", "format": "wav"},
    "function_call": {"name": "x"},
    "functions": [{"name": "x"}],
    "modalities": ["text", "audio"],
    "moderation": {"model": "x"},
    "prediction": {"type": "content", "content": "x"},
    "prompt_cache_options": {"ttl": "1h"},
    "prompt_cache_retention": "24h",
    "reasoning_effort": "high",
    "service_tier": "flex",
    "store": True,
    "verbosity": "low",
    "web_search_options": {},
    "best_of": 2,
    "echo": True,
    "suffix": "end",
    "dimensions": 3,
    # vLLM's and Ollama's:
    "add_generation_prompt": False,
    "continue_final_message": True,
    "include_stop_str_in_output": True,
    "skip_special_tokens": False,
    "spaces_between_special_tokens": False,
    "prompt_logprobs": 1,
    "keep_alive": "5m",
    "options": {"num_ctx": 512},
    "num_ctx": 512,
    "use_beam_search": True,
    "length_penalty": 2.0,
    "truncate_prompt_tokens": 5,
    "priority": 1,
    "mirostat": 2,
    "repeat_penalty": 1.1,
    "typical_p": 0.5,
}
NEUTRAL: dict[str, Any] = {
    "modalities": ["text"],
    "reasoning_effort": "none",
    "service_tier": "auto",
    "store": False,
    "verbosity": "medium",
    "add_generation_prompt": True,
    "continue_final_message": False,
    "include_stop_str_in_output": False,
    "skip_special_tokens": True,
    "stream_options": None,
    "stop": None,
}
"""Values that clients send by habit, and that ask for nothing."""


def names_of(path: str) -> set[str]:
    from openai.types import completion_create_params, embedding_create_params
    from openai.types.chat import completion_create_params as chat_create_params

    kinds: dict[str, Any] = {
        CHAT: chat_create_params.CompletionCreateParamsBase,
        COMPLETION: completion_create_params.CompletionCreateParamsBase,
        EMBEDDING: embedding_create_params.EmbeddingCreateParams,
    }
    return set(kinds[path].__annotations__)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(save_text_model(tmp_path_factory.mktemp("endless"), ends=False)) as one:
        yield one


def body_of(path: str) -> dict[str, Any]:
    return {
        CHAT: chat(),
        COMPLETION: {"model": MODEL, "prompt": "ab", "max_tokens": 8, "temperature": 0},
        EMBEDDING: {"model": MODEL, "input": "ab"},
    }[path]


@pytest.mark.parametrize("path", [CHAT, COMPLETION, EMBEDDING])
def test_each_parameter_of_openais_client_is_accounted_for(path: str) -> None:
    """A new one of a later client is to be decided on, not dropped."""
    assert names_of(path) - {*EFFECTS, *OF_OTHER_TESTS, *NO_EFFECT, *REFUSED} == set()


@pytest.mark.parametrize("name", sorted(EFFECTS))
def test_what_is_taken_has_an_effect(running: Served, name: str) -> None:
    without, with_it = EFFECTS[name]
    for path in (CHAT, COMPLETION):
        if name == "max_completion_tokens" and path == COMPLETION:
            continue
        told = [running.ask(path, {**body_of(path), **fields}) for fields in (without, with_it)]
        assert [status for status, _, _ in told] == [200, 200], (path, told)
        first, second = ((answer["choices"], answer["usage"]) for _, answer, _ in told)
        assert first != second, path


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_not_here_is_refused_by_its_name(running: Served, name: str) -> None:
    for path in (CHAT, COMPLETION, EMBEDDING):
        status, told, _ = running.ask(path, {**body_of(path), name: REFUSED[name]})
        assert status == 400 and told["error"]["param"] == name and name in told["error"]["message"], (path, told)


@pytest.mark.parametrize("name", sorted({*NO_EFFECT, *NEUTRAL}))
def test_what_asks_for_nothing_changes_nothing(running: Served, name: str) -> None:
    plain = running.ask(CHAT, chat())[1]["choices"]
    for value in {**NEUTRAL, **NO_EFFECT}[name], None:
        status, told, _ = running.ask(CHAT, {**chat(), name: value})
        assert status == 200 and told["choices"] == plain, told
