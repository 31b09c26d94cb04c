"""How events are told: as sentences with the time of day for a person, as lines of JSON for a program."""

from __future__ import annotations

import json
import time
from typing import Any


def tell(event: dict[str, Any], *, as_json: bool) -> None:
    """Print one event, which has an "event" and its "text"."""
    if as_json:
        print(json.dumps({"event": event["event"], "at_s": round(time.time(), 3), **event}), flush=True)
    else:
        print(f"{time.strftime('%H:%M:%S')}  {event['text']}", flush=True)
