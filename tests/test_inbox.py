"""Which waiting work goes into a step: all decode work, prompts in chunks, each session in order and once."""

from __future__ import annotations

import torch

from shardnet.inbox import Inbox, Packet
from shardnet.transport.messages import Part


def rows(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None]


def put(inbox: Inbox, *parts: Part, values: torch.Tensor, bulk: bool = False, taken: list[str] | None = None) -> None:
    on_taken = (lambda: taken.append("taken")) if taken is not None else None
    inbox.put(Packet(parts, values, on_taken), is_bulk=bulk)


def test_takes_all_decode_work_of_all_sessions_in_order_of_arrival() -> None:
    inbox = Inbox(chunk_tokens=8)
    put(inbox, Part(1, 5, 1), Part(2, 3, 1), values=rows(1, 2))
    put(inbox, Part(3, 9, 1), values=rows(3))
    work = inbox.take({1: 5, 2: 3, 3: 9}.get, allow_bulk=True)
    assert work is not None
    assert [part.session for part in work.parts] == [1, 2, 3]
    assert work.rows.flatten().tolist() == [1, 2, 3]
    assert work.num_bulk_parts == 0
    assert len(inbox) == 0


def test_repeated_step_is_dropped_and_a_session_that_is_not_open_too() -> None:
    inbox = Inbox(chunk_tokens=8)
    put(inbox, Part(1, 4, 1), Part(2, 3, 1), values=rows(1, 2))
    put(inbox, Part(7, 0, 1), values=rows(7))
    work = inbox.take({1: 5, 2: 3}.get, allow_bulk=True)
    assert work is not None
    assert work.parts == [Part(2, 3, 1)]
    assert work.rows.flatten().tolist() == [2]
    assert inbox.take({1: 5, 2: 4}.get, allow_bulk=True) is None
    assert len(inbox) == 0


def test_step_that_overtook_another_waits_for_it() -> None:
    inbox = Inbox(chunk_tokens=8)
    put(inbox, Part(1, 6, 1), values=rows(6))
    assert inbox.take({1: 5}.get, allow_bulk=True) is None
    put(inbox, Part(1, 5, 1), values=rows(5))
    first = inbox.take({1: 5}.get, allow_bulk=True)
    second = inbox.take({1: 6}.get, allow_bulk=True)
    assert first is not None and first.rows.flatten().tolist() == [5]
    assert second is not None and second.rows.flatten().tolist() == [6]


def test_prompt_goes_in_chunks_beside_the_decode_work_and_is_taken_when_its_last_chunk_is() -> None:
    inbox = Inbox(chunk_tokens=4)
    taken: list[str] = []
    put(inbox, Part(1, 0, 10), values=torch.arange(10.0)[:, None], bulk=True, taken=taken)
    put(inbox, Part(2, 3, 1), values=rows(99))
    length = {1: 0, 2: 3}
    sizes = []
    while (work := inbox.take(length.get, allow_bulk=True)) is not None:
        sizes.append([(part.session, part.position, part.num_tokens) for part in work.parts])
        for part in work.parts:
            length[part.session] += part.num_tokens
        assert bool(work.taken) == (length[1] == 10)
    assert sizes == [[(2, 3, 1), (1, 0, 4)], [(1, 4, 4)], [(1, 8, 2)]]


def test_two_prompts_share_the_token_budget_oldest_first() -> None:
    inbox = Inbox(chunk_tokens=5)
    put(inbox, Part(1, 0, 3), values=rows(1, 2, 3), bulk=True)
    put(inbox, Part(2, 0, 4), values=rows(4, 5, 6, 7), bulk=True)
    work = inbox.take({1: 0, 2: 0}.get, allow_bulk=True)
    assert work is not None
    assert work.parts == [Part(1, 0, 3), Part(2, 0, 2)]
    assert work.rows.flatten().tolist() == [1, 2, 3, 4, 5]
    work = inbox.take({1: 3, 2: 2}.get, allow_bulk=True)
    assert work is not None
    assert work.parts == [Part(2, 2, 2)] and work.rows.flatten().tolist() == [6, 7]


def test_without_room_at_the_next_stage_only_decode_work_runs() -> None:
    inbox = Inbox(chunk_tokens=4)
    put(inbox, Part(1, 0, 3), values=rows(1, 2, 3), bulk=True)
    put(inbox, Part(2, 3, 1), values=rows(9))
    work = inbox.take({1: 0, 2: 3}.get, allow_bulk=False)
    assert work is not None and work.parts == [Part(2, 3, 1)] and work.num_bulk_parts == 0
    assert inbox.take({1: 0, 2: 4}.get, allow_bulk=False) is None
    assert len(inbox) == 1


def test_chunk_sent_again_with_other_bounds_is_applied_from_where_the_session_stands() -> None:
    inbox = Inbox(chunk_tokens=8)
    put(inbox, Part(1, 0, 6), values=torch.arange(6.0)[:, None], bulk=True)
    work = inbox.take({1: 4}.get, allow_bulk=True)
    assert work is not None
    assert work.parts == [Part(1, 4, 2)]
    assert work.rows.flatten().tolist() == [4, 5]


def test_prompt_of_a_cancelled_session_is_acknowledged_all_the_same() -> None:
    inbox = Inbox(chunk_tokens=8)
    taken: list[str] = []
    put(inbox, Part(1, 0, 3), values=rows(1, 2, 3), bulk=True, taken=taken)
    assert inbox.take({}.get, allow_bulk=True) is None
    assert taken == ["taken"]


def test_what_is_dropped_in_the_end_is_acknowledged() -> None:
    """Once, who had sent a prompt to a stage that was closed waited ten minutes for an answer."""
    inbox, taken = Inbox(8), []
    inbox.put(Packet((Part(1, 0, 4),), torch.zeros(4, 2), lambda: taken.append(1)), is_bulk=True)
    inbox.put(Packet((Part(2, 3, 1),), torch.zeros(1, 2)), is_bulk=False)
    for on_taken in inbox.clear():
        on_taken()
    assert taken == [1] and len(inbox) == 0
