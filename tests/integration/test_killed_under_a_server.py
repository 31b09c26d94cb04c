"""A device killed while sixteen clients stream from a server, some of answers that follow a grammar."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from serve_client import MODEL, Served, serving
from tiny_text_model import save_text_model

from shardnet import Cluster
from shardnet.serve.provider import OfOne
from shardnet.serve.settings import Settings

pytest.importorskip("openai")
pytest.importorskip("llguidance")
NUM_CLIENTS, NUM_TOKENS, BEFORE = 16, 160, 6
SCHEMA = {
    "type": "array",
    "items": {"type": "object", "properties": {"at": {"enum": ["sea", "shöre"]}, "n": {"type": "integer"}}},
    "minItems": 30,
}
FORMS: list[dict[str, Any]] = [{}, {"guided_json": SCHEMA}, {"guided_regex": r"([a-z]{3,9} ){60}"}, {}]


def asked(number: int) -> dict[str, Any]:
    """What one client asks: each something else, half of them sampled."""
    sampled = {"temperature": 1.0, "seed": number} if number % 2 else {"temperature": 0}
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": f"{number}: tell me of the sea"}],
        "max_tokens": NUM_TOKENS,
        "extra_body": FORMS[number // 4],
        **sampled,
    }


def stream(running: Served, number: int, begun: threading.Semaphore) -> str:
    text = ""
    with running.openai() as client:
        for index, chunk in enumerate(client.chat.completions.create(stream=True, **asked(number))):
            text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
            if index == BEFORE:
                begun.release()
        if index < BEFORE:
            begun.release()
    return text


def test_every_text_is_as_undisturbed(tmp_path: Path) -> None:
    folder = save_text_model(tmp_path / "model", num_blocks=6)
    with Cluster.local(4, threads_per_device=1) as cluster:
        with cluster.load(folder, dtype="float32", split=[3, 3, 2, 0], rebalance=False, standby="cold") as model:
            pids = {answer["device"]: answer["pid"] for answer in cluster.describe()}
            with serving(OfOne(model), model, Settings(names=(MODEL,))) as running:
                with ThreadPoolExecutor(NUM_CLIENTS) as clients:
                    begun = threading.Semaphore(0)
                    expected = list(clients.map(lambda number: stream(running, number, begun), range(NUM_CLIENTS)))
                    begun = threading.Semaphore(0)
                    streams = [clients.submit(stream, running, number, begun) for number in range(NUM_CLIENTS)]
                    for _ in range(NUM_CLIENTS):
                        assert begun.acquire(timeout=60)
                    lost = model.plan.stages[-1].device
                    os.kill(pids[lost], signal.SIGKILL)
                    assert [each.result(120) for each in streams] == expected
                    assert lost not in model.plan.devices
                assert len(set(expected)) == NUM_CLIENTS and all(expected)
