"""`shardnet serve` as a process: what it prints, and what it answers."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

SERVE = [sys.executable, "-m", "shardnet", "serve"]
LONG_S = 120.0


def events(process: subprocess.Popen[str], wanted: str) -> dict[str, Any]:
    """The next event of that name among the lines that it prints."""
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event.get("event") == wanted:
            return dict(event)
    raise AssertionError(f"it ended without {wanted}")


def ask(url: str, body: Any = None, **how: Any) -> tuple[int, Any]:
    raw = None if body is None else json.dumps(body).encode()
    try:
        with urlopen(
            Request(url, raw, {"Content-Type": "application/json", **how.pop("headers", {})}), **how
        ) as answer:
            return answer.status, json.loads(answer.read())
    except HTTPError as error:
        return error.code, json.loads(error.read())


def start(*command: str, **how: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **how)
