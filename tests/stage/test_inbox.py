"""Which waiting work goes into a step: all decode work, prompts in chunks, each session in order and once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shardnet.errors import BadRequest
from shardnet.stage.inbox import Inbox, Packet, Standing, StandingOf, StepWork
from shardnet.transport.messages import Part


def carried(*parts: Part) -> torch.Tensor:
    """Rows that say where they belong: session * 100 + position."""
    return torch.cat([100.0 * part.session + part.position + torch.arange(part.num_tokens) for part in parts])[:, None]


def standings(lengths: Mapping[int, int], capacity: int = 1000) -> StandingOf:
    """Sessions that have so many tokens cached; the others are not open."""
    return lambda session: Standing(lengths[session], capacity) if session in lengths else None


def stopping(lengths: Mapping[int, int]) -> StandingOf:
    """The same, where the head is: with even numbers, tokens are sampled behind each third one."""

    def standing_of(session: int) -> Standing | None:
        standing = standings(lengths)(session)
        return standing if standing is None or session % 2 else standing._replace(stop=next_stop(standing.length))

    return standing_of


def next_stop(length: int) -> int:
    return (length // 3 + 1) * 3


def num_waiting(inbox: Inbox) -> int:
    return len(inbox._decode) + len(inbox._bulk)


def take(inbox: Inbox, lengths: Mapping[int, int], *, allow_bulk: bool = True) -> StepWork | None:
    return inbox.take(standings(lengths), allow_bulk=allow_bulk).work


def rows(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None]


def put(inbox: Inbox, *parts: Part, values: torch.Tensor, bulk: bool = False, taken: list[str] | None = None) -> None:
    on_taken = (lambda: taken.append("taken")) if taken is not None else None
    inbox.put(Packet(parts, values, on_taken), is_bulk=bulk)


def test_takes_all_decode_work_of_all_sessions_in_order_of_arrival() -> None:
    inbox = Inbox(chunk_tokens=8)
    put(inbox, Part(1, 5, 1), Part(2, 3, 1), values=rows(1, 2))
    put(inbox, Part(3, 9, 1), values=rows(3))
    work = take(inbox, {1: 5, 2: 3, 3: 9})
    assert work is not None
    assert [part.session for part in work.parts] == [1, 2, 3]
    assert work.rows.flatten().tolist() == [1, 2, 3]
    assert work.num_bulk_parts == 0
    assert num_waiting(inbox) == 0


def test_repeated_step_is_dropped_and_a_session_that_is_not_open_too() -> None:
    inbox = Inbox(chunk_tokens=8)
    put(inbox, Part(1, 4, 1), Part(2, 3, 1), values=rows(1, 2))
    put(inbox, Part(7, 0, 1), values=rows(7))
    work = take(inbox, {1: 5, 2: 3})
    assert work is not None
    assert work.parts == [Part(2, 3, 1)]
    assert work.rows.flatten().tolist() == [2]
    assert take(inbox, {1: 5, 2: 4}) is None
    assert num_waiting(inbox) == 0


def test_step_that_overtook_another_waits_for_it() -> None:
    inbox = Inbox(chunk_tokens=8)
    put(inbox, Part(1, 6, 1), values=rows(6))
    assert take(inbox, {1: 5}) is None
    put(inbox, Part(1, 5, 1), values=rows(5))
    first = take(inbox, {1: 5})
    second = take(inbox, {1: 6})
    assert first is not None and first.rows.flatten().tolist() == [5]
    assert second is not None and second.rows.flatten().tolist() == [6]


def test_prompt_goes_in_chunks_beside_the_decode_work_and_is_taken_when_its_last_chunk_is() -> None:
    inbox = Inbox(chunk_tokens=4)
    taken: list[str] = []
    put(inbox, Part(1, 0, 10), values=rows(*range(10)), bulk=True, taken=taken)
    put(inbox, Part(2, 3, 1), values=rows(99))
    length = {1: 0, 2: 3}
    sizes = []
    while (work := (last := inbox.take(standings(length), allow_bulk=True)).work) is not None:
        sizes.append([(part.session, part.position, part.num_tokens) for part in work.parts])
        for part in work.parts:
            length[part.session] += part.num_tokens
        assert bool(last.on_taken) == (length[1] == 10)
    assert sizes == [[(2, 3, 1), (1, 0, 4)], [(1, 4, 4)], [(1, 8, 2)]]


def test_two_prompts_share_the_token_budget_oldest_first() -> None:
    inbox = Inbox(chunk_tokens=5)
    put(inbox, Part(1, 0, 3), values=rows(1, 2, 3), bulk=True)
    put(inbox, Part(2, 0, 4), values=rows(4, 5, 6, 7), bulk=True)
    work = take(inbox, {1: 0, 2: 0})
    assert work is not None
    assert work.parts == [Part(1, 0, 3), Part(2, 0, 2)]
    assert work.rows.flatten().tolist() == [1, 2, 3, 4, 5]
    work = take(inbox, {1: 3, 2: 2})
    assert work is not None
    assert work.parts == [Part(2, 2, 2)] and work.rows.flatten().tolist() == [6, 7]


def test_without_room_at_the_next_stage_only_decode_work_runs() -> None:
    inbox = Inbox(chunk_tokens=4)
    put(inbox, Part(1, 0, 3), values=rows(1, 2, 3), bulk=True)
    put(inbox, Part(2, 3, 1), values=rows(9))
    work = take(inbox, {1: 0, 2: 3}, allow_bulk=False)
    assert work is not None and work.parts == [Part(2, 3, 1)] and work.num_bulk_parts == 0
    assert take(inbox, {1: 0, 2: 4}, allow_bulk=False) is None
    assert num_waiting(inbox) == 1


def test_chunk_sent_again_with_other_bounds_is_applied_from_where_the_session_stands() -> None:
    inbox = Inbox(chunk_tokens=8)
    put(inbox, Part(1, 0, 6), values=torch.arange(6.0)[:, None], bulk=True)
    work = take(inbox, {1: 4})
    assert work is not None
    assert work.parts == [Part(1, 4, 2)]
    assert work.rows.flatten().tolist() == [4, 5]


def test_prompt_of_a_cancelled_session_is_acknowledged_all_the_same() -> None:
    inbox = Inbox(chunk_tokens=8)
    taken: list[str] = []
    put(inbox, Part(1, 0, 3), values=rows(1, 2, 3), bulk=True, taken=taken)
    [on_taken] = inbox.take(standings({}), allow_bulk=True).on_taken
    on_taken()
    assert taken == ["taken"]


def test_what_is_dropped_in_the_end_is_acknowledged() -> None:
    """Once, who had sent a prompt to a stage that was closed waited ten minutes for an answer."""
    inbox, taken = Inbox(8), []
    inbox.put(Packet((Part(1, 0, 4),), torch.zeros(4, 2), lambda: taken.append(1)), is_bulk=True)
    inbox.put(Packet((Part(2, 3, 1),), torch.zeros(1, 2)), is_bulk=False)
    for on_taken in inbox.clear():
        on_taken()
    assert taken == [1] and num_waiting(inbox) == 0


def test_a_prompt_that_is_cut_keeps_its_own_rows_behind_another_session() -> None:
    """Once, what was left of a packet was sorted by session and its rows were not: two conversations that had begun at
    the same time continued each other's text, and nothing noticed."""
    inbox = Inbox(chunk_tokens=8)
    put(inbox, Part(9, 0, 6), values=carried(Part(9, 0, 6)), bulk=True)
    put(inbox, Part(2, 0, 4), Part(1, 0, 4), values=carried(Part(2, 0, 4), Part(1, 0, 4)), bulk=True)
    length = {9: 0, 2: 0, 1: 0}
    first = take(inbox, length)
    assert first is not None and first.parts == [Part(9, 0, 6), Part(2, 0, 2)]
    second = take(inbox, {9: 6, 2: 2, 1: 0})
    assert second is not None and second.parts == [Part(2, 2, 2), Part(1, 0, 4)]
    assert second.rows.flatten().tolist() == [202, 203, 100, 101, 102, 103]


def test_a_repeated_decode_part_of_several_tokens_loses_the_rows_of_what_was_applied() -> None:
    """Once, the number of parts was compared and not their tokens: a part that was trimmed kept all its rows."""
    inbox = Inbox(chunk_tokens=8)
    put(inbox, Part(1, 4, 3), Part(2, 0, 1), values=carried(Part(1, 4, 3), Part(2, 0, 1)))
    work = take(inbox, {1: 6, 2: 0})
    assert work is not None and work.parts == [Part(1, 6, 1), Part(2, 0, 1)]
    assert work.rows.flatten().tolist() == [106, 200]


def test_a_packet_that_is_sent_again_while_it_waits_is_answered_with_the_first() -> None:
    """A sender that gets no answer sends again; the second must neither wait for ever nor be applied."""
    inbox, taken = Inbox(chunk_tokens=4), []
    for _ in range(3):
        put(inbox, Part(1, 0, 6), values=carried(Part(1, 0, 6)), bulk=True, taken=taken)
    assert num_waiting(inbox) == 1
    assert take(inbox, {1: 0}) is not None and taken == []
    last = inbox.take(standings({1: 4}), allow_bulk=True)
    assert last.work is not None and last.work.rows.flatten().tolist() == [104, 105]
    assert len(last.on_taken) == 3 and num_waiting(inbox) == 0


def test_a_session_that_begins_anew_gets_again_what_was_taken_before() -> None:
    """Once, what came for it was dropped, as the rest of the same packet was still waiting: it waited for ever."""
    inbox, taken = Inbox(chunk_tokens=4), []
    for length in (0, 0):
        put(inbox, Part(1, 0, 6), values=carried(Part(1, 0, 6)), bulk=True, taken=taken)
        work = take(inbox, {1: length})
        assert work is not None and work.rows.flatten().tolist() == [100, 101, 102, 103]
    last = inbox.take(standings({1: 4}), allow_bulk=True)
    assert last.work is not None and last.work.rows.flatten().tolist() == [104, 105]
    assert take(inbox, {1: 6}) is None and num_waiting(inbox) == 0


def test_work_for_which_a_session_has_no_room_is_that_sessions_fault_alone() -> None:
    """Once, the stage failed as a whole when it wrote what had come before the session was opened."""
    inbox, taken = Inbox(chunk_tokens=8), []
    put(inbox, Part(1, 0, 6), Part(2, 0, 2), values=carried(Part(1, 0, 6), Part(2, 0, 2)), bulk=True, taken=taken)
    step = inbox.take(standings({1: 0, 2: 0}, capacity=5), allow_bulk=True)
    assert step.work is not None and step.work.parts == [Part(2, 0, 2)]
    assert step.work.rows.flatten().tolist() == [200, 201]
    [(session, error)] = step.refused
    assert session == 1 and "has room for 5" in str(error)
    assert len(step.on_taken) == 1 and num_waiting(inbox) == 0


def test_no_step_goes_beyond_a_token_behind_which_one_is_sampled() -> None:
    """Once, it did where a stage sent again more than is known, and the token between was never sampled."""
    inbox = Inbox(chunk_tokens=8)
    put(inbox, Part(2, 1, 5), values=rows(1, 2, 3, 4, 5), bulk=True)
    put(inbox, Part(4, 5, 3), values=rows(5, 6, 7))
    length, taken = {2: 1, 4: 5}, []
    while (work := inbox.take(stopping(length), allow_bulk=True).work) is not None:
        taken.append(work.parts)
        for part in work.parts:
            length[part.session] = part.end
    assert taken == [[Part(4, 5, 1), Part(2, 1, 2)], [Part(4, 6, 2), Part(2, 3, 3)]]


@pytest.mark.parametrize("part", [Part(1, 0, 3), Part(1, 0, 0), Part(1, -1, 2), Part(1, 0, -2)])
def test_rows_that_do_not_belong_to_the_parts_are_refused(part: Part) -> None:
    with pytest.raises(BadRequest):
        Packet((part,), torch.zeros(2, 1))


PIECES = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 11), st.integers(1, 6)), min_size=1, max_size=4)
PACKETS = st.lists(st.tuples(PIECES, st.booleans()), min_size=1, max_size=10)


RANDOM_TRAFFIC = given(packets=PACKETS, seed=st.integers(0, 2**32), chunk_tokens=st.integers(1, 9))
Traffic = list[tuple[list[tuple[int, int, int]], bool]]


@settings(max_examples=600, deadline=None, derandomize=True)
@RANDOM_TRAFFIC
def test_every_row_that_is_taken_belongs_to_its_part(packets: Traffic, seed: int, chunk_tokens: int) -> None:
    check_rows(packets, seed, chunk_tokens)


@pytest.mark.long
@pytest.mark.timeout(900)
@settings(max_examples=6000, deadline=None)
@RANDOM_TRAFFIC
def test_every_row_of_more_than_20000_random_packets_belongs_to_its_part(
    packets: Traffic, seed: int, chunk_tokens: int
) -> None:
    check_rows(packets, seed, chunk_tokens)


def check_rows(packets: Traffic, seed: int, chunk_tokens: int) -> None:
    """Whatever is put, cut, repeated and overtaken, and whoever closes meanwhile: each session's rows come once, in
    order, and are its own; prompts stay within the budget; every prompt packet is answered in the end, and once."""
    random = Random(seed)
    inbox, answers = Inbox(chunk_tokens), [0] * len(packets)
    length = dict.fromkeys(range(1, 5), 0)
    applied: dict[int, list[float]] = {session: [] for session in length}

    def step() -> None:
        taken = inbox.take(stopping(length), allow_bulk=random.random() < 0.8)
        call_all(taken.on_taken)
        if taken.work is not None:
            check_work(taken.work, chunk_tokens)
            apply(taken.work, length, applied)

    for index, (pieces, is_bulk) in enumerate(packets):
        parts = tuple(Part(*piece) for piece in pieces)
        on_taken = partial(_count, answers, index) if is_bulk else None
        inbox.put(Packet(parts, carried(*parts), on_taken), is_bulk=is_bulk)
        if random.random() < 0.5:
            step()
        if random.random() < 0.1:
            length.pop(random.choice(list(length)), None)
        if not length:
            break
    for _ in range(40):  # what the missing ones hold up waits for ever
        step()
    for session, rows in applied.items():
        assert rows == [100.0 * session + position for position in range(len(rows))]
    call_all(inbox.clear())
    num_put = index + 1
    assert answers[:num_put] == [int(is_bulk) for _, is_bulk in packets[:num_put]]


def call_all(callbacks: Iterable[Callable[[], object]]) -> None:
    for each in callbacks:
        each()


def check_work(work: StepWork, chunk_tokens: int) -> None:
    assert len({part.session for part in work.parts}) == len(work.parts)
    assert work.rows.shape[0] == sum(part.num_tokens for part in work.parts)
    bulk = work.parts[len(work.parts) - work.num_bulk_parts :]
    assert sum(part.num_tokens for part in bulk) <= chunk_tokens
    assert torch.equal(work.rows, carried(*work.parts))


def apply(work: StepWork, length: dict[int, int], applied: dict[int, list[float]]) -> None:
    rows = iter(work.rows.flatten().tolist())
    for part in work.parts:
        assert part.position == length[part.session]
        assert part.session % 2 or part.end <= next_stop(part.position)
        applied[part.session] += [next(rows) for _ in range(part.num_tokens)]
        length[part.session] += part.num_tokens


def _count(counts: list[int], index: int) -> None:
    counts[index] += 1


def test_rows_in_another_codec_wait_for_a_step_of_their_own() -> None:
    """Put side by side, they would become numbers of a third dtype."""
    inbox = Inbox(chunk_tokens=8)
    put(inbox, Part(1, 0, 1), values=torch.ones(1, 4, dtype=torch.int8))
    put(inbox, Part(2, 0, 1), values=torch.ones(1, 4, dtype=torch.uint8))
    put(inbox, Part(3, 0, 1), values=torch.ones(1, 4, dtype=torch.int8))
    works = [take(inbox, {1: 0, 2: 0, 3: 0}), take(inbox, {1: 1, 2: 0, 3: 1})]
    assert [work and [part.session for part in work.parts] for work in works] == [[1, 3], [2]]
    assert [work and work.rows.dtype for work in works] == [torch.int8, torch.uint8]
