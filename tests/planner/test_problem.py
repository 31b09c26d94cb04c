"""The problem file: what is read, and what is refused in one sentence."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from shardnet.errors import BadConfiguration
from shardnet.planner import Problem

GOOD: dict[str, Any] = {
    "units": [
        {"name": "embedding", "weight_bytes": 5.6e7, "kv_bytes_per_token": 0, "output_bytes": 1152},
        {"name": "block 0", "weight_bytes": 7e6, "kv_bytes_per_token": 768, "output_bytes": 1152},
    ],
    "devices": [
        {"name": "pixel", "memory_bytes": 2e9, "unit_seconds": [0.0004, 0.002], "active_w": 4.0},
        {"name": "cloud", "memory_bytes": 8e9, "unit_seconds": [0.0001, 0.0002], "active_w": 200.0},
    ],
    "links": [
        {"from": "pixel", "to": "cloud", "latency_s": 0.02, "bytes_per_s": 1.25e6},
        {"from": "cloud", "to": "pixel", "latency_s": 0.02, "bytes_per_s": 1.25e6},
    ],
    "source": "pixel",
    "pin_embedding": True,
    "pin_head": False,
    "return_bytes": 8,
    "context_tokens": 1024,
    "sessions": 1,
    "relays": False,
}


def changed(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """The good problem with one value put in another's place; ... removes it."""
    data = copy.deepcopy(GOOD)
    place: Any = data
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return data


def test_reads_and_writes_the_format(tmp_path: Path) -> None:
    problem = Problem.from_dict(GOOD)
    assert problem.unit_memory_bytes == (5.6e7, 7e6 + 768 * 1024)
    assert Problem.from_dict(json.loads(json.dumps(problem.to_dict()))) == problem
    file = tmp_path / "problem.json"
    file.write_text(json.dumps(GOOD))
    assert Problem.from_file(file) == problem


def test_sessions_multiply_the_kv_cache() -> None:
    assert Problem.from_dict(changed(("sessions",), 3)).unit_memory_bytes[1] == 7e6 + 3 * 768 * 1024


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("unit",), [], "unknown key 'unit'.*did you mean 'units'"),
        (("devices", 0, "memory"), 1, "did you mean 'memory_bytes'"),
        (("links", 0, "latency"), 1, "did you mean 'latency_s'"),
        (("source",), ..., "lacks the key 'source'"),
        (("source",), "pixle", "source 'pixle' is not one of the devices.*did you mean 'pixel'"),
        (("source",), 3, "The source must have a name in words"),
        (("units",), [], "no units"),
        (("devices",), [], "no devices"),
        (("units",), "two", "units must be a list, but is 'two'"),
        (("units",), [None] * 1_000_000, "1000000 units, but at most"),
        (("units", 0), 7, "Unit 0 must be an object"),
        (("units", 1, "name"), "embedding", "named 'embedding'.*never a cycle"),
        (("units", 0, "weight_bytes"), -1, "weight_bytes of unit 'embedding' must be a number, 0 or more, but is -1"),
        (("units", 0, "output_bytes"), ..., "lacks the key 'output_bytes'"),
        (("devices", 1, "name"), "pixel", "Two devices are named 'pixel'"),
        (("devices", 1, "name"), "", "must have a name"),
        (("devices", 0, "memory_bytes"), "2GB", "memory_bytes of device 'pixel' must be a number, .*but is '2GB'"),
        (("devices", 0, "memory_bytes"), True, "must be a number"),
        (("devices", 0, "memory_bytes"), None, "null for 'memory_bytes'"),
        (("devices", 0, "memory_bytes"), 10**400, "must be a number"),
        (("devices", 0, "unit_seconds"), [0.1], "has 1 values, but there are 2 units"),
        (("devices", 0, "unit_seconds"), 0.1, "must be a list"),
        (("devices", 0, "unit_seconds"), [0.1, -0.1], "unit_seconds of device 'pixel'.*-0.1"),
        (("devices", 0, "unit_seconds"), [0.1, float("nan")], "unit_seconds of device 'pixel'.*nan"),
        (("devices", 0, "active_w"), -4, "active_w of device 'pixel'"),
        (("links", 0, "to"), "clod", "Link 0 names 'clod'.*did you mean 'cloud'"),
        (("links", 0, "to"), ["cloud"], "Link 0 names"),
        (("links", 0, "to"), "pixel", "to itself"),
        (("links", 0, "bytes_per_s"), 0, "greater than 0"),
        (("links", 0, "latency_s"), float("inf"), "latency_s of the link"),
        (("links", 1), GOOD["links"][0], "Two links are named 'pixel to cloud'"),
        (("links",), [], "Device 'pixel' has no links"),
        (("pin_head",), "no", "pin_head must be true or false"),
        (("relays",), 0, "relays must be true or false"),
        (("return_bytes",), -8, "return_bytes must be"),
        (("context_tokens",), 1.5, "context_tokens must be a whole number"),
        (("context_tokens",), ..., "context_tokens is missing"),
        (("sessions",), 0, "sessions must be a whole number, 1 or more"),
        # Each of these ended in "a mistake in shardnet" or in warnings of numpy.
        (("sessions",), 10**300, "sessions must be a whole number, at most 1000000, but is .* about 301 digits"),
        (("context_tokens",), 10**300, "context_tokens must be a whole number, at most"),
        (("devices", 0, "radio_j_per_byte"), 2**64, "radio_j_per_byte of device 'pixel' must be a number, at most"),
        (("devices", 0, "unit_seconds"), [1e-320, 0.1], "0 or at least 1e-18, but is 1e-320"),
        (("devices", 0, "unit_seconds"), [0.1, None], "unit_seconds of device 'pixel'.*None"),
        (("links", 0, "latency_s"), 1e308, "at most 1e.09, but is 1e.308"),
        (("links", 0, "bytes_per_s"), 1e-320, "at least 1e-06, but is 1e-320"),
        (("units", 0, "weight_bytes"), None, "weight_bytes of unit 'embedding' must be a number"),
        (("units", 0, "weight_bytes"), 1e308, "weight_bytes of unit 'embedding'"),
        (("devices", 1, "name"), "[/x]\ud800", "Device 1 must have a name without control characters"),
        (("devices", 1, "name"), "\x1b[2Jx", "Device 1 must have a name without control characters"),
        (("devices", 1, "name"), "x" * 200_000, "Device 1 must have a name of at most 200 .*200000 characters"),
        (("units", 0, "name"), "x\ny", "Unit 0 must have a name without control"),
        (("source",), "x" * 200_000, "source.*200000 characters"),
        (("links", 0, "to"), "x" * 200_000, "Link 0 names 'x+'... .200000 characters"),
        (("x" * 200_000,), 1, "unknown key 'x+'... .200000 characters"),
        (("devices", 0, "memory_bytes"), [[1] * 100_000], "memory_bytes of device 'pixel'.*a list of 1"),
    ],
)
def test_refuses_what_cannot_be_meant(path: tuple[Any, ...], value: Any, said: str) -> None:
    with pytest.raises(BadConfiguration, match=said) as caught:
        Problem.from_dict(changed(path, value))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert caught.value.exit_code == 2


def test_a_key_that_is_there_twice(tmp_path: Path) -> None:
    """The second one was taken, without a word."""
    file = tmp_path / "problem.json"
    file.write_text(json.dumps(GOOD).replace('"sessions": 1', '"sessions": 1, "sessions": 2'))
    with pytest.raises(BadConfiguration, match="has the key 'sessions' twice"):
        Problem.from_file(file)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "\xff\xfe"])
def test_refuses_what_is_no_problem_file(text: str, tmp_path: Path) -> None:
    file = tmp_path / "problem.json"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(BadConfiguration):
        Problem.from_file(file)
    with pytest.raises(BadConfiguration, match="Cannot read"):
        Problem.from_file(tmp_path / "absent.json")


def test_one_device_needs_no_links() -> None:
    data = changed(("devices",), GOOD["devices"][:1])
    data["links"] = []
    assert Problem.from_dict(data).num_devices == 1
