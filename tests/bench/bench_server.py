"""A load test of a server: clients that stream all the time, that come at random, that go away.

    python tests/bench/bench_server.py --clients 32 --seconds 300
    python tests/bench/bench_server.py --rate 0.6       requests come at random, at this share of what it can do
    python tests/bench/bench_server.py --kill 8         of the clients, so many go away in the midst
    python tests/bench/bench_server.py --hostile        an answer's speed while others hold 10,000 connections, send
                                                        half a request, read nothing, send bodies of 1 GB; in turns

Prints tokens a second, the time to the first token (median, 95th percentile), errors, the server's own processor time a
token and how its memory grew. The server is one of its own (--serve: its options), or any one of OpenAI's API (--url,
--pid).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

import httpx
import psutil
from hostile_clients import Hostile

WARM_S = 5.0
TURN_S, NUM_TURNS = 10.0, 3


@dataclass
class Seen:
    """What came of requests."""

    first_s: list[float] = field(default_factory=list)
    num_tokens: int = 0
    num_answers: int = 0
    errors: list[str] = field(default_factory=list)


async def ask(client: httpx.AsyncClient, options: argparse.Namespace, seen: Seen, most_events: int = 10**9) -> None:
    """One streamed chat. Args: `most_events`, then its client goes away."""
    body = {
        "model": options.model,
        "messages": [{"role": "user", "content": f"{random.random()} Tell me of the sea."}],
        "max_tokens": options.tokens,
        "min_tokens": options.tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    begun_s, events, told = time.monotonic(), 0, 0
    try:
        async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            if answer.status_code != 200:
                seen.errors.append(f"{answer.status_code}: {(await answer.aread())[:200]!r}")
                return
            async for line in answer.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                event: dict[str, Any] = json.loads(line[6:])
                if "error" in event:
                    seen.errors.append(str(event["error"]["message"]))
                    return
                if event["choices"] and event["choices"][0]["delta"].get("content"):
                    events += 1
                    if events == 1:
                        seen.first_s.append(time.monotonic() - begun_s)
                if event.get("usage"):
                    told = event["usage"]["completion_tokens"]
                if events >= most_events:
                    return
    except httpx.HTTPError as error:
        seen.errors.append(f"{type(error).__name__}: {error}")
    seen.num_tokens += told
    seen.num_answers += 1


async def all_the_time(client: httpx.AsyncClient, options: argparse.Namespace, seconds: float, seen: Seen) -> None:
    """So many clients, each of which asks again when it was answered."""
    until_s = time.monotonic() + seconds

    async def one() -> None:
        while time.monotonic() < until_s:
            await ask(client, options, seen)

    await asyncio.gather(*(one() for _ in range(options.clients)))


async def at_random(client: httpx.AsyncClient, options: argparse.Namespace, per_s: float, seen: Seen) -> None:
    """Requests that come as they like, so many a second on average."""
    until_s, asked = time.monotonic() + options.seconds, []
    while time.monotonic() < until_s:
        await asyncio.sleep(random.expovariate(per_s))
        asked.append(asyncio.ensure_future(ask(client, options, seen)))
    await asyncio.gather(*asked)


async def going_away(client: httpx.AsyncClient, options: argparse.Namespace, seen: Seen) -> float:
    """Of the clients some go away; seconds until the server has no open answers but the others'."""
    most = [random.randint(1, 10) if index < options.kill else 10**9 for index in range(options.clients)]
    asked = [asyncio.ensure_future(ask(client, options, seen, each)) for each in most]
    await asyncio.gather(*asked[: options.kill])
    begun_s = time.monotonic()
    while await open_answers(client) > sum(not each.done() for each in asked):
        await asyncio.sleep(0.02)
    took_s = time.monotonic() - begun_s
    await asyncio.gather(*asked)
    return took_s


async def among_hostile(client: httpx.AsyncClient, options: argparse.Namespace, seen: Seen) -> float:
    """One answer after the other, in turns alone and among others; so many tokens a second come of those that came."""
    speeds: dict[bool, list[float]] = {False: [], True: []}
    options.clients = 1
    for turn in range(2 * NUM_TURNS):
        others = Hostile(options.url) if turn % 2 else None
        if others is not None:
            print(f"{await others.begin()} connections")
        before, began_s = seen.num_tokens, time.monotonic()
        await all_the_time(client, options, TURN_S, seen)
        speeds[others is not None].append((seen.num_tokens - before) / (time.monotonic() - began_s))
        if others is not None:
            await others.end()
    return median(speeds[True]) / median(speeds[False])


async def open_answers(client: httpx.AsyncClient) -> float:
    text = (await client.get("/metrics")).text
    [line] = [line for line in text.splitlines() if line.startswith("shardnet_open_answers ")]
    return float(line.split()[1])


def told_of(seen: Seen, seconds: float) -> str:
    first = sorted(seen.first_s)
    late = quantiles(first, n=20)[-1] if len(first) > 1 else float("nan")
    speed = f"{seen.num_answers} answers, {seen.num_tokens / seconds:.1f} tokens/s"
    return f"{speed}; first token {median(first) if first else 0:.3f} s, p95 {late:.3f} s; {len(seen.errors)} errors"


async def run(options: argparse.Namespace) -> None:
    headers = {"Authorization": f"Bearer {options.key}"} if options.key else {}
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=options.url, headers=headers, timeout=600, limits=limits) as client:
        options.model = options.model or (await client.get("/v1/models")).json()["data"][0]["id"]
        warm = Seen()
        await all_the_time(client, options, WARM_S, warm)
        server = psutil.Process(options.pid) if options.pid else None
        before = (server.cpu_times(), server.memory_info().rss) if server is not None else None
        seen, begun_s = Seen(), time.monotonic()
        if options.kill:
            print(f"open answers were freed {await going_away(client, options, seen):.2f} s after their clients left")
        elif options.hostile:
            print(f"answers had {await among_hostile(client, options, seen):.2f} of their speed among hostile clients")
        elif options.rate:
            began_s = time.monotonic()
            await all_the_time(client, options, options.seconds / 4, probe := Seen())
            per_s = options.rate * probe.num_answers / (time.monotonic() - began_s)
            begun_s = time.monotonic()
            await at_random(client, options, per_s, seen)
        else:
            await all_the_time(client, options, options.seconds, seen)
        print(told_of(seen, time.monotonic() - begun_s))
        for error in sorted(set(seen.errors))[:5]:
            print(f"  {error}")
        if server is not None and before is not None:
            times, rss = server.cpu_times(), server.memory_info().rss
            used_s = times.user + times.system - before[0].user - before[0].system
            print(f"the server's processor time: {1e3 * used_s / max(1, seen.num_tokens):.3f} ms a token")
            print(f"its memory: {before[1] / 2**20:.0f} MiB, {100 * (rss / before[1] - 1):+.1f} %")


def own_server(options: argparse.Namespace) -> subprocess.Popen[str]:
    """Started with devices of its own; its processor time is without theirs."""
    command = [sys.executable, "-m", "shardnet", "serve", "--port", "0", "--json", "--no-log", *options.serve.split()]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    for line in server.stdout:
        event = json.loads(line)
        if event["event"] == "serving":
            options.url, options.pid = event["url"], server.pid
            return server
    sys.exit("the server has ended; see above")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="", help="of a server that runs")
    parser.add_argument("--serve", default="--model smollm2-135m-instruct --devices 3")
    parser.add_argument("--key", default="")
    parser.add_argument("--model", default="", help="the first that it lists")
    parser.add_argument("--pid", type=int, default=0, help="of the server")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rate", type=float, default=0.0, help="requests at random, at this share of what it can do")
    parser.add_argument("--kill", type=int, default=0, help="so many of the clients go away")
    parser.add_argument("--hostile", action="store_true", help="others disturb, who cost a processor something, too")
    options = parser.parse_args()
    server = None if options.url else own_server(options)
    try:
        asyncio.run(run(options))
    finally:
        if server is not None:
            server.send_signal(signal.SIGINT)
            server.wait(60)


if __name__ == "__main__":
    main()
