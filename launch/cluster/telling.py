"""How events are told: as sentences with the time of day for a person, as lines of JSON for a program."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

_log = logging.getLogger(__name__)


def tell(event: dict[str, Any], *, as_json: bool) -> None:
    """Print one event, which has an "event" and its "text". Where it cannot be written, as the disk of a log is full,
    the cluster goes on without.

    Raises:
        BrokenPipeError: nobody reads it any more, which ends who tells.
    """
    as_object = {"event": event["event"], "at_s": round(time.time(), 3), **event}
    line = json.dumps(as_object) if as_json else f"{time.strftime('%H:%M:%S')}  {event['text']}"
    try:
        print(line, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        _log.info("An event is not told: %s", error)
