"""The sampler makes the choices of `transformers` `generate`, and each session has a random stream of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from shardnet.errors import BadRequest
from shardnet.stage.sampling import Sampler, Scores
from shardnet.transport.session_messages import SamplingOptions, SessionSpec

PROMPT = (3, 17, 42, 5, 17)


def sample_step(samplers: Sequence[Sampler], logits: torch.Tensor) -> list[int | BadRequest]:
    """The next token of each."""
    scores = Scores(samplers, logits)
    return [scores.draw(row) for row in range(len(samplers))]


def sampler_of(dtype: torch.dtype = torch.float32, **options: Any) -> Sampler:
    sampling = SamplingOptions(**options)
    return Sampler(SessionSpec(1, 64, len(PROMPT), len(PROMPT), 24, (), sampling, PROMPT), dtype)


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.6,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},
        {"temperature": 0.0, "repetition_penalty": 1.3},
        {"temperature": 1.0, "seed": 1},
        {"temperature": 0.7, "top_k": 12, "seed": 2},
        {"temperature": 1.2, "top_p": 0.8, "seed": 3},
        {"temperature": 0.9, "min_p": 0.1, "seed": 4},
        {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 1.2, "seed": 5},
    ],
)
def test_chooses_what_transformers_chooses(model: LlamaForCausalLM, options: dict[str, Any]) -> None:
    generation = {name: value for name, value in options.items() if name not in ("seed", "temperature")}
    if options["temperature"]:
        generation = {"top_k": 0, "do_sample": True, "temperature": options["temperature"], **generation}
    else:
        generation["do_sample"] = False
    torch.manual_seed(options.get("seed", 0))
    ids = torch.tensor([PROMPT])
    expected = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, pad_token_id=0, use_cache=False, **generation
    )[0, len(PROMPT) :].tolist()

    sampler = sampler_of(**options)
    chosen: list[int] = []
    with torch.inference_mode():
        for _ in range(24):
            logits = model(torch.tensor([[*PROMPT, *chosen]]), use_cache=False).logits[0, -1].float()
            chosen.append(sampler.sample(logits))
    assert chosen == expected


@pytest.mark.parametrize("ends", [(), (5, 9)])
@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0, "repetition_penalty": 1.3, "logit_bias": ((11, 4.0), (42, -100.0)), "min_tokens": 8},
        {"temperature": 1.1, "seed": 6, "top_p": 0.9, "logit_bias": ((5, 6.0), (9, 5.0)), "min_tokens": 12},
        {"temperature": 0.0, "logit_bias": ((5, 30.0),), "min_tokens": 24},
    ],
)
def test_biases_and_a_least_length_are_those_of_transformers(
    model: LlamaForCausalLM, options: dict[str, Any], ends: tuple[int, ...]
) -> None:
    torch.manual_seed(options.get("seed", 0))
    ids, sampled = torch.tensor([PROMPT]), options["temperature"] > 0.0
    asked = {name: options[name] for name in ("repetition_penalty", "top_p") if name in options}
    if sampled:
        asked |= {"temperature": options["temperature"], "top_k": 0}
    expected = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=24,
        min_new_tokens=options["min_tokens"],
        sequence_bias=[[[token_id], bias] for token_id, bias in options["logit_bias"]],
        do_sample=sampled,
        pad_token_id=0,
        eos_token_id=list(ends) or None,
        use_cache=False,
        **asked,
    )[0, len(PROMPT) :].tolist()

    sampling = SamplingOptions(**options)
    spec = SessionSpec(1, 64, len(PROMPT), len(PROMPT), 24, ends, sampling, PROMPT)
    sampler, chosen = Sampler(spec, torch.float32), list[int]()
    with torch.inference_mode():
        while not chosen or not spec.finish_reason(len(chosen) - 1, chosen[-1]):
            logits = model(torch.tensor([[*PROMPT, *chosen]]), use_cache=False).logits[0, -1].float()
            chosen.append(sampler.sample(logits))
    assert chosen == expected
    assert len(chosen) > options["min_tokens"] or len(chosen) == 24


def test_a_token_that_was_forbidden_may_come_in_the_same_step_where_it_may() -> None:
    """Guesses: several tokens of one session are drawn in a step, and all scores of it are there before the first."""
    logits = torch.zeros(3, 50)
    logits[:, 7] = 5.0
    sampling = SamplingOptions(min_tokens=2)
    sampler = Sampler(SessionSpec(1, 64, len(PROMPT), len(PROMPT), 24, (7,), sampling), torch.float32)
    first, second, third = sample_step([sampler] * 3, logits)
    assert first != 7 and second != 7 and third == 7


def test_a_token_that_ends_an_answer_ends_it_where_it_may() -> None:
    def reason(index: int, token_id: int, **options: Any) -> str:
        spec = SessionSpec(1, 64, 3, 3, 8, (7, 8), SamplingOptions(**options))
        return spec.finish_reason(index, token_id)

    assert reason(0, 7) == "eos" and reason(0, 9) == "" and reason(7, 9) == "length" and reason(7, 8) == "eos"
    assert reason(0, 9, stop_token_ids=(9, 7)) == "stop" and reason(0, 7, stop_token_ids=(9, 7)) == "eos"
    assert reason(0, 7, ignore_eos=True) == "" and reason(7, 7, ignore_eos=True) == "length"
    assert reason(0, 7, ignore_eos=True, stop_token_ids=(7,)) == "stop"
    assert reason(1, 7, min_tokens=2) == "" and reason(2, 7, min_tokens=2) == "eos"


def test_a_sessions_choices_do_not_depend_on_the_others_in_its_step() -> None:
    generator = torch.Generator().manual_seed(9)
    logits = torch.randn(40, 50, generator=generator)
    alone = sampler_of(temperature=1.0, seed=7)
    chosen_alone = [sample_step([alone], row[None])[0] for row in logits]
    shared = sampler_of(temperature=1.0, seed=7)
    other, greedy = sampler_of(temperature=1.0, seed=8), sampler_of(temperature=0.0)
    chosen_shared = [sample_step([other, shared, greedy], row.repeat(3, 1))[1] for row in logits]
    assert chosen_shared == chosen_alone
    assert len(set(chosen_alone)) > 5


def test_a_session_whose_scores_overflow_fails_alone() -> None:
    """Once, a temperature of 1e-40 stopped the stage, and with it the sessions of everybody."""
    logits = torch.randn(50, generator=torch.Generator().manual_seed(3)).repeat(3, 1)
    hot, fine, greedy = (sampler_of(temperature=each, seed=1) for each in (1e-40, 1.0, 0.0))
    failed, token, best = sample_step([hot, fine, greedy], logits)
    assert isinstance(failed, BadRequest) and "temperature 1e-40" in str(failed)
    assert token == sampler_of(temperature=1.0, seed=1).sample(logits[0]) and best == int(logits[0].argmax())


GREEDY = {"temperature": 0.0}
PENALISED = {"temperature": 0.0, "repetition_penalty": 1.3}
SAMPLED = {"temperature": 0.8, "top_k": 10, "top_p": 0.9, "min_p": 0.01, "seed": 1}


@pytest.mark.parametrize("options", [GREEDY, PENALISED, SAMPLED])
@pytest.mark.parametrize(
    ("dtype", "advice"),
    [
        (torch.float16, "bfloat16 or float32"),
        (torch.bfloat16, "weights hold values that are no finite numbers"),
        (torch.float32, "weights hold values that are no finite numbers"),
    ],
)
@pytest.mark.parametrize("at", [[7], [0], slice(None)])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_of_the_model_that_are_no_finite_numbers(
    options: dict[str, Any], dtype: torch.dtype, advice: str, at: Any, value: float
) -> None:
    """Once, greedy decoding on them told token 0 again and again, and sampling advised float32 where it was float32."""
    fine = torch.randn(50, generator=torch.Generator().manual_seed(3))
    broken = fine.clone()
    broken[at] = value
    samplers = [sampler_of(dtype, **options), sampler_of(dtype, **options)]
    failed, token = sample_step(samplers, torch.stack([broken, fine]))
    assert isinstance(failed, BadRequest) and advice in str(failed) and "temperature" not in str(failed)
    assert token == sampler_of(dtype, **options).sample(fine)


@pytest.mark.parametrize("options", [GREEDY, PENALISED, SAMPLED])
def test_some_tokens_may_be_impossible_and_all_may_not(options: dict[str, Any]) -> None:
    logits = torch.full((1, 50), float("-inf"))
    [failed] = sample_step([sampler_of(**options)], logits)
    assert isinstance(failed, BadRequest)
    logits[0, 5] = -3.0
    assert sample_step([sampler_of(**options)], logits) == [5]


def test_a_penalty_that_makes_a_score_infinite_is_named_in_greedy_decoding_too() -> None:
    logits = torch.zeros(50)
    logits[PROMPT[0]] = 5.0
    [failed] = sample_step([sampler_of(temperature=0.0, repetition_penalty=1e-45)], logits[None])
    assert isinstance(failed, BadRequest) and "repetition-penalty 1" in str(failed) and "nearer to 1" in str(failed)


def test_more_top_k_than_tokens_keeps_all() -> None:
    logits = torch.randn(50, generator=torch.Generator().manual_seed(3))
    all_tokens, too_many = (sampler_of(temperature=1.0, top_k=each, seed=5) for each in (0, 10**6))
    assert [all_tokens.sample(logits) for _ in range(20)] == [too_many.sample(logits) for _ in range(20)]


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1.3, "seed": 7},
        {"temperature": 0.7, "top_k": 12, "top_p": 0.9, "seed": 2},
        {"temperature": 1.2, "min_p": 0.1, "repetition_penalty": 1.4, "seed": 3},
        {"temperature": 0.8, "presence_penalty": 1.5, "frequency_penalty": 0.7, "seed": 4, "min_tokens": 5},
        {"presence_penalty": -1.0, "frequency_penalty": 1.1, "logit_bias": ((4, 3.0), (8, -100.0))},
    ],
)
@pytest.mark.parametrize("num_drawn", [0, 1, 9])
def test_an_answer_that_another_began_goes_on_with_its_random_numbers(options: dict[str, Any], num_drawn: int) -> None:
    scores = 3 * torch.randn(20, 301, generator=torch.Generator().manual_seed(0))
    began = sampler_of(**options)
    answer = [began.sample(each) for each in scores]
    spec = SessionSpec(1, 64, len(PROMPT), len(PROMPT) + num_drawn, 24, (), SamplingOptions(**options))
    goes_on = Sampler(spec._replace(prompt_ids=(*PROMPT, *answer[:num_drawn])), torch.float32)
    for known in (0, num_drawn // 2, num_drawn, num_drawn - 1, num_drawn):  # as its tokens are replayed, some again
        goes_on.wind(known, 301)
    assert [goes_on.sample(each) for each in scores[num_drawn:]] == answer[num_drawn:]
    began.wind(len(answer), 301)
    goes_on.wind(len(answer), 301)
    assert began.sample(scores[0]) == goes_on.sample(scores[0])
