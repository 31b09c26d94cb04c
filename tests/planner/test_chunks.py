"""How a prompt is cut: never too large, never unlike, and about as fast as the best of all even cuts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardnet.planner.chunks import LEAST_TOKENS, MULTIPLE, STEP_S, Host, StageTimes, chunks_of, stage_times

TIMES = st.builds(StageTimes, st.floats(0, 0.2), st.floats(1e-5, 0.02))


def prompt_s(chunks: list[int], stages: list[StageTimes]) -> float:
    """Until the last stage is through, each taking one chunk at a time, in order."""
    free_s = [0.0] * len(stages)
    for chunk in chunks:
        came_s = 0.0
        for index, stage in enumerate(stages):
            came_s = free_s[index] = max(came_s, free_s[index]) + STEP_S + stage.seconds(chunk)
    return free_s[-1]


def prompt_on_hosts_s(chunks: list[int], stages: list[StageTimes], hosts: list[Host]) -> float:
    """The same where each host takes one chunk through one stage at a time, as soon as it is there."""
    free_s = dict.fromkeys((host.name for host in hosts), 0.0)
    came_s, done = [0.0] * len(chunks), [0] * len(chunks)
    while min(done) < len(stages):
        ready = [
            (max(came_s[at], free_s[hosts[done[at]].name]), at) for at in range(len(chunks)) if done[at] < len(stages)
        ]
        at_s, at = min(each for each in ready if each[1] == 0 or done[each[1]] < done[each[1] - 1])
        came_s[at] = free_s[hosts[done[at]].name] = at_s + STEP_S + stages[done[at]].seconds(chunks[at])
        done[at] += 1
    return came_s[-1]


def apart(stages: list[StageTimes]) -> list[Host]:
    """Each stage on a host of its own."""
    return [Host(str(index)) for index in range(len(stages))]


def even(num_tokens: int, num_chunks: int) -> list[int]:
    size = -(-num_tokens // num_chunks)
    whole, rest = divmod(num_tokens, size)
    return [size] * whole + [rest] * (rest > 0)


@given(st.integers(1, 3000), st.lists(TIMES, min_size=1, max_size=6), st.integers(1, 300), st.data())
def test_chunks_are_a_whole_prompt_of_one_size(
    num_tokens: int, stages: list[StageTimes], most: int, data: st.DataObject
) -> None:
    num_hosts = data.draw(st.integers(1, len(stages)))
    hosts = [Host(str(index % num_hosts)) for index in range(len(stages))]
    chunks = chunks_of(num_tokens, stages, most, hosts)
    assert sum(chunks) == num_tokens and max(chunks) <= most and min(chunks) > 0
    assert len(set(chunks[:-1])) <= 1 and chunks[-1] <= chunks[0]
    assert len(chunks) == 1 or chunks[0] >= min(most, MULTIPLE)
    if num_hosts == 1:
        assert chunks[0] == min(most, num_tokens) or len(chunks) == -(-num_tokens // most)


@given(st.integers(33, 1500), TIMES, st.lists(st.floats(0.5, 1.0), min_size=1, max_size=5))
def test_it_is_about_as_fast_as_the_best_even_cut(num_tokens: int, slowest: StageTimes, shares: list[float]) -> None:
    """Of stages of one kind, which differ in how many units they have."""
    stages = [StageTimes(share * slowest.fixed_s, share * slowest.token_s) for share in (1.0, *shares)]
    most = 128
    cuts = [even(num_tokens, number) for number in range(-(-num_tokens // most), -(-num_tokens // LEAST_TOKENS) + 1)]
    best_s = min(prompt_s(cut, stages) for cut in cuts if cut[0] >= LEAST_TOKENS)
    rounding_s = MULTIPLE * sum(stage.token_s for stage in stages)
    assert prompt_s(chunks_of(num_tokens, stages, most, apart(stages)), stages) <= 1.05 * best_s + rounding_s


@given(st.integers(1, 1500), st.lists(TIMES, min_size=1, max_size=6), st.sampled_from([16, 50, 64, 128, 300]))
def test_it_is_never_slower_than_full_chunks(num_tokens: int, stages: list[StageTimes], most: int) -> None:
    """Whatever the stages are: the slowest one for full chunks may not be the slowest one for smaller ones."""
    whole, rest = divmod(num_tokens, most)
    full_s = prompt_s([most] * whole + [rest] * (rest > 0), stages)
    assert prompt_s(chunks_of(num_tokens, stages, most, apart(stages)), stages) <= full_s * (1 + 1e-9)


def test_a_stage_that_takes_long_for_each_chunk_gets_few_though_another_one_is_slower_for_full_ones() -> None:
    """They came in six, and took 1.7 times as long as in one."""
    stages = [StageTimes(0.0009, 0.0011), StageTimes(0.0595, 0.0005)]
    assert chunks_of(128, stages, 128, apart(stages)) == [64, 64]


def test_stages_of_one_host_wait_for_each_other() -> None:
    """As where the text is to stay on one device, which has the first layers and the last ones."""
    stages = [StageTimes(16e-3, 1e-3), StageTimes(3e-3, 2e-4), StageTimes(16e-3, 1e-3)]
    ends = [Host("own"), Host("other"), Host("own")]
    chunks = chunks_of(128, stages, 128, ends)
    assert chunks == [128] and chunks_of(128, stages, 128, apart(stages)) == [32] * 4
    assert prompt_on_hosts_s(chunks, stages, ends) < 0.85 * prompt_on_hosts_s([32] * 4, stages, ends)


def test_three_alike_that_take_for_a_token_alone_what_sixteen_more_take() -> None:
    stages = [StageTimes(16e-3, 1e-3)] * 3
    hosts = apart(stages)
    assert chunks_of(128, stages, 128, hosts) == [32] * 4
    assert chunks_of(512, stages, 128, hosts) == [64] * 8
    assert chunks_of(40, stages, 128, hosts) == [24, 16]
    assert chunks_of(16, stages, 128, hosts) == [16]
    assert chunks_of(0, stages, 128, hosts) == []


def test_stages_that_share_a_core_gain_nothing_by_smaller_chunks() -> None:
    assert chunks_of(128, [StageTimes(0.016, 0.001)] * 3, 128, [Host("one")] * 3) == [128]


@pytest.mark.parametrize(("one_s", "per_token_s"), [(0.01, 0.001), (0.01, 0.01), (0.01, 0.02), (0.0, 0.0), (1.0, 1e-4)])
def test_times_of_a_stage_are_those_that_were_measured(one_s: float, per_token_s: float) -> None:
    times = stage_times(one_s, per_token_s, 128)
    assert times.fixed_s >= 0 and times.token_s >= 0
    assert times.seconds(128) == pytest.approx(128 * per_token_s)
    if per_token_s <= one_s <= 128 * per_token_s:
        assert times.seconds(1) == pytest.approx(one_s)


def test_where_no_prompt_was_timed_sixteen_tokens_take_what_one_takes_alone() -> None:
    times = stage_times(0.017, None, 128)
    assert times.seconds(1) == pytest.approx(0.017) and times.fixed_s == pytest.approx(15 * times.token_s)
