"""What Prometheus is told of a server. Of nobody's text or key."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Of one server; there may be several in a process.

    Args:
        num_waiting: how many requests wait for memory.
    """

    def __init__(self, num_waiting: Callable[[], int]) -> None:
        own = self._registry = CollectorRegistry()
        self._requests = Counter(
            "shardnet_requests", "Answered, by route and status.", ["route", "status"], registry=own
        )
        self._seconds = Histogram(
            "shardnet_request_seconds", "Of an answer as a whole.", ["route"], buckets=SECONDS, registry=own
        )
        self._first = Histogram(
            "shardnet_first_token_seconds", "Until an answer's first token.", buckets=SECONDS, registry=own
        )
        self._prompt = Counter("shardnet_prompt_tokens", "Of all prompts.", registry=own)
        self._cached = Counter("shardnet_cached_prompt_tokens", "Of these, not computed anew.", registry=own)
        self._generated = Counter("shardnet_generated_tokens", "Of all answers.", registry=own)
        self.open_answers = Gauge("shardnet_open_answers", "Under way.", registry=own)
        waiting = Gauge("shardnet_waiting_requests", "That wait for memory.", registry=own)
        waiting.set_function(lambda: float(num_waiting()))

    def note_request(self, route: str, status: int, seconds: float) -> None:
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def note_answer(self, prompt: int, cached: int, generated: int, first_s: float | None) -> None:
        """One has ended."""
        self._prompt.inc(prompt)
        self._cached.inc(cached)
        self._generated.inc(generated)
        if first_s is not None:
            self._first.observe(first_s)

    def text(self) -> bytes:
        """As Prometheus reads it."""
        return generate_latest(self._registry)
