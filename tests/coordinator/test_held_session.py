from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardnet.coordinator.held_session import HeldSession
from shardnet.errors import ClusterError
from shardnet.transport.messages import SampledToken
from shardnet.transport.source_messages import digest

ids = st.lists(st.integers(0, 2**17), max_size=8)


def token(index: int, token_id: int) -> SampledToken:
    return SampledToken(1, index, token_id, "")


@given(told=ids, more=ids.filter(bool), num_known=st.integers(0, 16), is_other=st.booleans())
def test_a_source_is_told_what_goes_on_behind_what_it_has_and_nothing_else(
    told: list[int], more: list[int], num_known: int, is_other: bool
) -> None:
    """Once, an answer that was computed anew in half precision could go on behind other tokens, and nobody knew."""
    held, whole = HeldSession(None, 0.0, 60.0), told + more
    known = whole[:num_known]
    if known and is_other:
        known[-1] += 1
    for index, token_id in enumerate(told):
        held.tell(token(index, token_id))
    answer = held.follow(len(known), digest(known), 0.0, 10.0)
    for index, token_id in enumerate(more, start=len(told)):
        held.tell(token(index, token_id))
    if known == whole or (len(known) == len(whole) and is_other):
        assert not answer.done()
    elif known != whole[: len(known)]:
        with pytest.raises(ClusterError, match="goes on otherwise than it began"):
            answer.result()
    else:
        news = [each.token_id for each in answer.result().tokens]
        assert news and news == whole[len(known) :][: len(news)]
