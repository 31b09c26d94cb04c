"""Measures the way to another device: latency and bandwidth each way, through the transport that the hops will take.

The other device must have called `expose_probe`. Times of one way are halves of round trips: two clocks cannot be
compared more finely than that.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import combinations
from statistics import median, quantiles
from typing import Any

import torch

from shardnet.errors import BadRequest
from shardnet.profiling.hop_probe import TOKEN_BYTES, HopEcho, hop_laps_s
from shardnet.profiling.measurement import LinkMeasurement
from shardnet.progress import Progress, silent
from shardnet.transport.base import Transport

MAX_PROBE_BYTES = 64 * 2**20
_TIMEOUT_S = 60.0
_FIRST_BYTES = 64 * 2**10
_GROWTH = 4

_Carrier = Callable[[int], Callable[[], Future[Any]]]


def expose_probe(transport: Transport) -> None:
    """Let other devices measure the way to this one, and let the coordinator ask this one to measure."""

    def measure(device: str, hidden_bytes: int, chunk_tokens: int, max_seconds: float) -> Future[dict[str, Any]]:
        measured: Future[dict[str, Any]] = Future()

        def work() -> None:
            try:
                link = measure_link(
                    transport, device, hidden_bytes=hidden_bytes, chunk_tokens=chunk_tokens, max_seconds=max_seconds
                )
                measured.set_result(link.as_dict())
            except Exception as error:  # it travels to the caller
                measured.set_exception(error)

        threading.Thread(target=work, name="shardnet-probe", daemon=True).start()
        return measured

    HopEcho(transport)
    transport.expose("probe_sink", _sink)
    transport.expose("probe_source", _source)
    transport.expose("probe_link", measure)


def measure_links(
    transport: Transport,
    devices: Sequence[str],
    *,
    hidden_bytes: int = 1152,
    chunk_tokens: int = 128,
    max_seconds_per_link: float = 2.0,
    progress: Progress = silent,
) -> list[LinkMeasurement]:
    """Measure the way between each two devices, both directions, one pair after the other so that none shares the air.

    All devices, this one included if it is named, must have called `expose_probe`.

    Raises:
        DeviceLost, CallTimeout: as `Transport.call`.
    """
    pairs = list(combinations(devices, 2))
    links = []
    for index, (source, target) in enumerate(pairs):
        progress("measuring links", index, len(pairs))
        asked = transport.call(
            source, "probe_link", target, hidden_bytes, chunk_tokens, max_seconds_per_link, timeout_s=4 * _TIMEOUT_S
        )
        links.append(LinkMeasurement(**asked.result()))
    progress("measuring links", 1, 1)
    return links


def measure_link(
    transport: Transport,
    device: str,
    *,
    hidden_bytes: int = 1152,
    chunk_tokens: int = 128,
    max_seconds: float = 5.0,
    progress: Progress = silent,
) -> LinkMeasurement:
    """Measure the way from this device to `device`, and back.

    Hops of decoding are those of a run (see `hop_probe`); prompt chunks go through `Transport.call`, as in a run. For
    bandwidth, payloads grow as long as the time allows: no more than a slow link can carry, and enough for a fast one.

    Args:
        hidden_bytes: of the hidden state of one token.
        chunk_tokens: tokens in a chunk of a prompt.

    Raises:
        DeviceLost, CallTimeout: as `Transport.call`.
    """
    what = f"link {transport.name} - {device}"
    slot_s = max_seconds / 6
    empty = torch.zeros(0, dtype=torch.uint8)
    progress(what, 0, 6)
    _seconds(lambda: transport.post(device, "probe_sink", empty, timeout_s=_TIMEOUT_S))  # opens the connection
    trips = _repeat(lambda: transport.post(device, "probe_sink", empty, timeout_s=_TIMEOUT_S), slot_s)
    latency_s = median(trips) / 2
    progress(what, 1, 6)
    laps = hop_laps_s(transport, device, hidden_bytes, 2 * slot_s, timeout_s=_TIMEOUT_S)
    progress(what, 3, 6)
    send, fetch = _carriers(transport, device)
    chunk_bytes = hidden_bytes * chunk_tokens
    to_bytes_per_s = _bandwidth(send, slot_s, latency_s)
    prefill_to = _repeat(send(chunk_bytes), slot_s / 2)
    progress(what, 5, 6)
    from_bytes_per_s = _bandwidth(fetch, slot_s, latency_s)
    prefill_from = _repeat(fetch(chunk_bytes), slot_s / 2)
    progress(what, 6, 6)
    payloads_s = hidden_bytes / to_bytes_per_s + TOKEN_BYTES / from_bytes_per_s
    hop_s = max((median(laps) - payloads_s) / 2, latency_s / 2)
    return LinkMeasurement(
        source=transport.name,
        target=device,
        latency_s=latency_s,
        slow_latency_s=quantiles(trips, n=10)[-1] / 2 if len(trips) > 1 else latency_s,
        to_bytes_per_s=to_bytes_per_s,
        from_bytes_per_s=from_bytes_per_s,
        hop_s=hop_s,
        decode_s=hop_s + hidden_bytes / to_bytes_per_s,
        # The answer is empty, so that it took one latency.
        prefill_to_s=max(median(prefill_to) - latency_s, latency_s),
        prefill_from_s=max(median(prefill_from) - latency_s, latency_s),
    )


def _carriers(transport: Transport, device: str) -> tuple[_Carrier, _Carrier]:
    """How a payload of so many bytes is sent there, and how one is fetched."""

    def send(num_bytes: int) -> Callable[[], Future[Any]]:
        payload = torch.zeros(num_bytes, dtype=torch.uint8)
        return lambda: transport.call(device, "probe_sink", payload, timeout_s=_TIMEOUT_S)

    def fetch(num_bytes: int) -> Callable[[], Future[Any]]:
        return lambda: transport.call(device, "probe_source", num_bytes, timeout_s=_TIMEOUT_S)

    return send, fetch


def _bandwidth(carry: _Carrier, slot_s: float, latency_s: float) -> float:
    """Bytes per second of the largest payload that fits in the time."""
    num_bytes, until = _FIRST_BYTES, time.perf_counter() + slot_s
    while True:
        step = carry(num_bytes)
        seconds = min(_repeat(step, slot_s / 4))
        next_s = seconds * _GROWTH
        if num_bytes * _GROWTH > MAX_PROBE_BYTES or time.perf_counter() + next_s > until:
            return num_bytes / max(seconds - 2 * latency_s, seconds / 10, 1e-9)
        num_bytes *= _GROWTH


def _repeat(step: Callable[[], Future[Any]], slot_s: float) -> list[float]:
    """Seconds of some runs, one after the other; at least one, and no more than 200."""
    until = time.perf_counter() + slot_s
    times = [_seconds(step)]
    while len(times) < 200 and time.perf_counter() + times[-1] < until:
        times.append(_seconds(step))
    return times


def _seconds(step: Callable[[], Future[Any]]) -> float:
    start = time.perf_counter()
    step().result()
    return time.perf_counter() - start


def _sink(_: torch.Tensor) -> None:
    """Takes a payload and answers with nothing."""


def _source(num_bytes: int) -> torch.Tensor:
    """Answers with a payload."""
    if not 0 <= num_bytes <= MAX_PROBE_BYTES:
        raise BadRequest(f"a probe may ask for 0 to {MAX_PROBE_BYTES} bytes, but asked for {num_bytes}.")
    return torch.zeros(num_bytes, dtype=torch.uint8)
