"""The page shows what befalls a cluster of real processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import browser, why_not
from processes import wait_until
from telling_command import TellingCommand
from tiny_text_model import save_text_model

pytestmark = [pytest.mark.browser, pytest.mark.skipif(bool(why_not()), reason=why_not())]
SHARDNET = [sys.executable, "-m", "shardnet"]
LONG_S = 180.0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[str, dict[str, TellingCommand]]]:
    """The address of its server, and the commands of its three devices; the last of them can be killed."""
    model, state = save_text_model(tmp_path / "tiny", ends=False), tmp_path / "state"
    where = ("--state", state, "--listen", "none", "--serve", "--serve-port", 0, "--name", "laptop", "--json")
    devices = {"laptop": TellingCommand([*SHARDNET, "up", "--model", model, *where])}
    try:
        url: dict[str, Any] = {}
        wait_until(lambda: url.update(devices["laptop"].told("serving") or {}) or url, LONG_S)
        for name in ("phone-1", "phone-2"):
            devices[name] = TellingCommand([*SHARDNET, "join", "--cluster", state, "--name", name, "--json"])
        wait_until(lambda: sum(each.get("event") == "joined" for each in devices["laptop"].events) >= 3, LONG_S)
        load = [*SHARDNET, "load", str(model), "--cluster", str(state), "--placement", "spread"]
        subprocess.run(load, check=True, timeout=120, capture_output=True)
        yield url["url"], devices
    finally:
        for each in reversed(devices.values()):
            each.end()


def test_a_kill_and_its_repair_are_shown(cluster: tuple[str, dict[str, TellingCommand]]) -> None:
    url, devices = cluster
    with browser() as page:
        page.open(f"{url}/#cluster")
        page.wait_for("return document.querySelectorAll('#ring .node').length === 3")
        page.run("document.getElementById('to-chat').click()")
        page.run("document.getElementById('message').focus()")
        page.press("Tell me all", "\n")
        page.wait_for("return document.querySelectorAll('#messages > li').length === 2")
        page.run("document.getElementById('to-cluster').click()")
        devices["phone-2"].kill()
        page.wait_for("return document.getElementById('loss-text').textContent.includes('phone-2 lost')")
        page.wait_for("return document.getElementById('loss-text').textContent.includes('repaired')")
        page.wait_for("return document.querySelectorAll('#ring .node').length === 2")
        page.wait_for("return !document.getElementById('devices').textContent.includes('phone-2present')")
        assert page.errors() == []


def test_a_device_is_invited_where_others_can_come_in(tmp_path: Path) -> None:
    model, state = save_text_model(tmp_path / "tiny"), tmp_path / "state"
    where = ("--state", state, "--listen", "127.0.0.1:0", "--serve", "--serve-port", 0, "--json")
    up = TellingCommand([*SHARDNET, "up", "--model", model, *where])
    try:
        wait_until(lambda: up.told("serving"), LONG_S)
        invited = next(each for each in up.events if "code" in each)
        url = (up.told("serving") or {})["url"]
        with browser() as page:
            page.open(f"{url}/#cluster")
            page.run("document.getElementById('invite').click()")
            page.wait_for("return document.querySelector('#invite-qr svg')")
            assert invited["code"] in page.text("#invite-command")
    finally:
        up.end()
