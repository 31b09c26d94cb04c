"""A server that is told to end says so to who is being answered, and waits for nobody."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import urlopen

import pytest
from processes import wait_until
from serve_client import MODEL, chat, served
from tiny_text_model import save_text_model

from shardnet.serve.settings import Settings


def test_what_is_under_way_ends_with_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Once who watched the cluster held it up for 5 s, and it printed a traceback."""
    folder = save_text_model(tmp_path / "endless", ends=False)
    caplog.set_level(logging.ERROR)
    with served(folder, Settings(names=(MODEL,))) as running, ThreadPoolExecutor(3) as threads:
        streamed = threads.submit(running.chat, max_tokens=4000, stream=True)
        whole = threads.submit(running.chat, max_tokens=4000)
        watched = threads.submit(lambda: urlopen(f"{running.url}/cluster/events", timeout=60).read())
        wait_until(lambda: running.num_sessions() == 2)
        time.sleep(0.2)
        began_s = time.monotonic()
        running.server.close()
        assert time.monotonic() - began_s < 4.0
        _, text, _ = streamed.result(10)
        assert '"code":"server_ended"' in text.strip().split("\n\n")[-1] and "[DONE]" not in text
        status, told, _ = whole.result(10)
        assert status == 503 and told["error"]["code"] == "server_ended"
        assert b"server_ended" in watched.result(10)
        wait_until(lambda: running.num_sessions() == 0)
    assert not caplog.records


def test_who_waits_in_the_queue_hears_it_too(tmp_path: Path) -> None:
    folder = save_text_model(tmp_path / "endless", ends=False)
    with served(folder, Settings(names=(MODEL,)), kv_memory_bytes=400_000) as running, ThreadPoolExecutor(9) as threads:
        asked = [threads.submit(running.ask, "/v1/chat/completions", chat(max_tokens=500)) for _ in range(8)]
        wait_until(lambda: running.service.line.num_waiting > 0 or all(each.done() for each in asked))
        assert running.service.line.num_waiting > 0
        running.server.close()
        assert {each.result(10)[0] for each in asked} <= {200, 503}
