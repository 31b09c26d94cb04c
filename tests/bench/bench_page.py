"""How soon the page of the server is seen, how much of it travels, and how soon it shows that a device was killed.

    python tests/bench/bench_page.py [--turns 5]

Needs Debian's chromium and chromium-driver. Each turn has a new browser, which has nothing of the page yet, and opens
it from a server on loopback over a small model. Of a kill is measured what passes between SIGKILL of a device, in the
midst of an answer, and the sentences in the page that it is lost, and that the loss is repaired; real processes. Exit
code 1 where the first paint takes a second, 300 kB travel, or the sentence that it is repaired takes a second.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from chromium import Browser, browser, why_not
from page.test_kill import cluster
from serve_client import served
from tiny_text_model import save_text_model

MOST_PAINT_MS, MOST_BYTES, MOST_SHOWN_S = 1000.0, 300_000, 1.0
PAINT = "return performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0"
LOSS = "return document.getElementById('loss-text').textContent"


def paints(turns: int, folder: Path) -> tuple[list[float], float]:
    """Milliseconds to the first paint, and bytes that travelled."""
    found, num_bytes = [], 0.0
    with served(save_text_model(folder / "tiny")) as running:
        for _ in range(turns):
            with browser() as page:
                page.open(running.url)
                found.append(float(page.wait_for(PAINT)))
                num_bytes = sum(each["transferSize"] for each in page.requested())
    return found, num_bytes


def kill(folder: Path) -> tuple[float, float]:
    """Seconds until the page says that a device is lost, and that it is repaired."""
    with ExitStack() as stack:
        url, devices = stack.enter_context(contextmanager(cluster.__wrapped__)(folder))  # type: ignore[attr-defined]
        page = stack.enter_context(browser())
        page.open(f"{url}/#chat")
        page.wait_for("return document.getElementById('pill').dataset.state === 'ready'")
        page.run("document.getElementById('message').focus()")
        page.press("Tell me all", "\n")
        page.wait_for("return document.querySelectorAll('#messages > li').length === 2")
        page.run("document.getElementById('to-cluster').click()")
        devices["phone-2"].kill()
        began_s = time.monotonic()
        return _after(page, "lost", began_s), _after(page, "repaired", began_s)


def _after(page: Browser, word: str, began_s: float) -> float:
    while word not in page.run(LOSS):
        time.sleep(0.01)
    return time.monotonic() - began_s


def main() -> int:
    parser = argparse.ArgumentParser(description="How soon the page is seen.")
    parser.add_argument("--turns", type=int, default=5)
    turns = parser.parse_args().turns
    if why_not():
        print(why_not())
        return 1
    with tempfile.TemporaryDirectory() as folder:
        found, num_bytes = paints(turns, Path(folder))
        print(f"first paint {statistics.median(found):.0f} ms (at most {max(found):.0f}), {num_bytes / 1000:.0f} kB")
        kills = []
        for turn in range(turns):
            (Path(folder) / str(turn)).mkdir()
            kills.append(kill(Path(folder) / str(turn)))
    lost, repaired = (statistics.median(each[which] for each in kills) for which in (0, 1))
    print(f"a kill is shown after {lost:.2f} s, its repair after {repaired:.2f} s")
    return int(statistics.median(found) >= MOST_PAINT_MS or num_bytes >= MOST_BYTES or repaired >= MOST_SHOWN_S)


if __name__ == "__main__":
    sys.exit(main())
