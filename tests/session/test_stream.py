"""One stream and those who read it: loops one after the other, threads at once, and its ends."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from answers import Answer

from shardnet.errors import DeviceLost

pytestmark = pytest.mark.timeout(30)
TEXT = "once upon a time there was a stream"


def test_a_second_iterator_goes_on_where_the_first_is() -> None:
    """Once, it waited for ever for the first token, which the other had taken."""
    stream = Answer(TEXT).stream
    first, second = iter(stream), iter(stream)
    assert [next(first), next(second), next(first)] == list(TEXT[:3])
    assert "".join(second) == TEXT[3:]
    assert list(first) == [] == list(stream)
    assert stream.result.text == TEXT and stream.result.finish_reason == "length"


def test_after_a_break_the_next_loop_goes_on() -> None:
    answer = Answer(TEXT)
    for piece in answer.stream:
        if piece == "u":
            break
    assert not answer.closed
    assert "".join(answer.stream) == TEXT[TEXT.index("u") + 1 :]
    assert answer.closed and len(answer.results) == 1


def test_threads_share_the_pieces_of_one_stream() -> None:
    answer = Answer(is_whole=False)
    with ThreadPoolExecutor(4) as threads:
        readers = [threads.submit(list, answer.stream) for _ in range(4)]
        for letter in TEXT * 20:
            answer.tell(letter)
        answer.tell(".", is_last=True)
        taken = [reader.result(20) for reader in readers]
    assert sorted(piece for pieces in taken for piece in pieces) == sorted(TEXT * 20 + ".")
    assert answer.stream.result.text == TEXT * 20 + "." and len(answer.results) == 1


def test_an_error_comes_to_everyone_who_reads_on() -> None:
    answer = Answer("ab", is_whole=False)
    with ThreadPoolExecutor(3) as threads:
        readers = [threads.submit(list, answer.stream) for _ in range(3)]
        answer.fail(DeviceLost("device-1 is lost", "device-1"))
        errors = [reader.exception(20) for reader in readers]
    assert all(isinstance(error, DeviceLost) and error.device == "device-1" for error in errors)
    assert len({id(error) for error in errors}) == 3
    with pytest.raises(DeviceLost):
        next(answer.stream)
    assert answer.stream.result.text == "ab" and answer.stream.result.finish_reason == "cancelled"


def test_closing_ends_the_wait_of_all() -> None:
    answer = Answer("ab", is_whole=False)
    with ThreadPoolExecutor(3) as threads:
        readers = [threads.submit(list, answer.stream) for _ in range(3)]
        threading.Timer(0.05, answer.stream.close).start()
        assert sorted(piece for reader in readers for piece in reader.result(20)) == ["a", "b"]
    assert answer.stream.result.finish_reason == "cancelled" and len(answer.results) == 1


def test_a_block_closes_its_stream() -> None:
    answer = Answer(TEXT)
    with answer.stream as stream:
        assert next(stream) == "o"
    assert answer.closed and stream.is_finished and stream.result.text == "o"


def test_a_stop_string_ends_it_before_what_follows() -> None:
    answer = Answer(TEXT, stop=(" time", "never"))
    assert "".join(answer.stream) == "once upon a"
    assert answer.closed and answer.results[0].finish_reason == "stop"


def test_what_is_held_back_for_a_stop_string_is_told_at_the_end() -> None:
    answer = Answer("one STO", stop=("STOP",))
    assert list(answer.stream) == [*"one ", "STO"]
    assert answer.results[0].text == "one STO"


def test_a_stream_that_is_dropped_in_the_middle_frees_its_memory() -> None:
    answer = Answer(TEXT)
    next(answer.stream)
    del answer.stream
    gc.collect()
    assert answer.closed


def test_ids_come_instead_of_pieces_and_each_once() -> None:
    answer = Answer(TEXT)
    ids = answer.stream.ids()
    first = [next(ids), next(ids)]
    assert next(answer.stream) == TEXT[2]
    assert [*first, *ids] == [*answer.stream.result.token_ids[:2], *answer.stream.result.token_ids[3:]]
    assert answer.stream.result.text == TEXT and answer.closed
    assert list(answer.stream.ids()) == []


def test_an_error_comes_to_who_reads_ids() -> None:
    answer = Answer("ab", is_whole=False)
    answer.fail(DeviceLost("device-1 is lost", "device-1"))
    with pytest.raises(DeviceLost):
        list(answer.stream.ids())
    with pytest.raises(DeviceLost):
        next(answer.stream.ids())
