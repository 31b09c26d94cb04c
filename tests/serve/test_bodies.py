"""What requests may say, without a server."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from shardnet.serve.bodies import MOST_FAULTS, ChatBody, CompletionBody, read
from shardnet.serve.errors import ApiError

HI = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (ChatBody, {"messages": [{}] * 5000}),
        (ChatBody, {"messages": [{"role": "user", "content": [0] * 5000}]}),
        (ChatBody, {"messages": HI, "stop": [0] * 5000}),
        (ChatBody, {"messages": HI, "tools": [0] * 5000}),
        (CompletionBody, {"prompt": [[""]] * 5000}),
    ],
)
def test_a_list_that_is_wrong_throughout_is_told_by_its_first_fault(kind: Any, fields: dict[str, Any]) -> None:
    """Once 8 MiB of {} took gigabytes, and held all others up for half a minute."""
    raw = json.dumps({"model": "m", **fields}).encode()
    with pytest.raises(ValidationError) as found:
        kind.model_validate_json(raw)
    assert found.value.error_count() < 20
    with pytest.raises(ApiError, match=r"messages\[0\]|stop|tools|prompt"):
        read(kind, raw)


def test_very_many_fields_that_nobody_knows_are_counted() -> None:
    many = {f"a{number}": 0 for number in range(MOST_FAULTS + 1)}
    with pytest.raises(ApiError, match=f"has {MOST_FAULTS + 1} values"):
        read(ChatBody, json.dumps({"model": "m", "messages": HI, **many}).encode())
