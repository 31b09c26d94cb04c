"""Which codec a link takes: by the rule of `planner.codecs`, worked out anew here."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardnet.plan import Link
from shardnet.planner.codecs import MIN_GAIN, PROMPT_CHUNKS, Offer, codec_for, offers_for

OFFERS = (Offer("float32", 8192, 0.0), Offer("bfloat16", 4096, 1e-5), Offer("int8", 2176, 2e-5))
CHUNK = 128


def link(bytes_per_s: float, latency_s: float = 0.005) -> Link:
    return Link("a", "b", latency_s, bytes_per_s)


def test_offers_begin_with_the_models_own_dtype_and_the_smallest_comes_last() -> None:
    assert [offer.codec for offer in offers_for("float32", 576)] == ["float32", "bfloat16", "int8"]
    own, int8 = offers_for("bfloat16", 576)
    assert (own.codec, own.row_bytes, own.row_s) == ("bfloat16", 1152, 0.0)
    assert (int8.codec, int8.row_bytes) == ("int8", 612) and int8.row_s > 0


@pytest.mark.parametrize(("mbit", "expected"), [(10_000, "float32"), (500, "float32"), (100, "bfloat16"), (10, "int8")])
def test_the_slower_a_link_the_smaller_the_codec(mbit: float, expected: str) -> None:
    """Stages compute 50 ms on a chunk: of 8 kB a token at 500 Mbit/s it takes 17 ms, at 100 Mbit/s 84."""
    assert codec_for(link(mbit * 1e6 / 8), [0.05, 0.05, 0.05], OFFERS, CHUNK) == expected


def test_a_link_that_is_no_slower_than_the_stages_keeps_the_models_own_dtype() -> None:
    assert codec_for(link(100e6 / 8), [1.0, 1.0, 1.0], OFFERS, CHUNK) == "float32"


def test_a_link_whose_delay_is_all_of_its_time_keeps_the_models_own_dtype() -> None:
    assert codec_for(link(1e9, latency_s=2.0), [0.01], OFFERS, CHUNK) == "float32"


def test_where_encoding_takes_longer_than_sending_nothing_is_encoded() -> None:
    slow_device = (OFFERS[0], Offer("int8", 2176, 0.01))
    assert codec_for(link(10e6 / 8), [0.001], slow_device, CHUNK) == "float32"


@given(
    bytes_per_s=st.floats(1e4, 1e10),
    latency_s=st.floats(0, 1),
    stages=st.lists(st.floats(1e-4, 10), min_size=1, max_size=6),
)
def test_what_is_taken_pays(bytes_per_s: float, latency_s: float, stages: list[float]) -> None:
    def prompt_s(offer: Offer) -> float:
        sending_s = CHUNK * (offer.row_bytes / bytes_per_s + offer.row_s)
        beat_s = max([sending_s, *stages])
        return sum(stages) + latency_s + sending_s + (PROMPT_CHUNKS - 1) * beat_s

    taken = codec_for(link(bytes_per_s, latency_s), stages, OFFERS, CHUNK)
    seconds = {offer.codec: prompt_s(offer) for offer in OFFERS}
    if taken == "float32":
        assert all(then_s > seconds["float32"] * (1 - MIN_GAIN) * (1 - 1e-9) for then_s in seconds.values())
    else:
        assert seconds[taken] <= seconds["float32"] * (1 - MIN_GAIN)


@given(stages=st.lists(st.floats(1e-3, 1), min_size=1, max_size=4), slow=st.floats(1e4, 1e9), factor=st.floats(1, 1e4))
def test_a_faster_link_never_takes_a_smaller_codec(stages: list[float], slow: float, factor: float) -> None:
    names = [offer.codec for offer in OFFERS]
    taken = [codec_for(link(each, 0.0), stages, OFFERS, CHUNK) for each in (slow, slow * factor)]
    assert names.index(taken[0]) >= names.index(taken[1])
