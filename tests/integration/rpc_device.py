"""A device for tests: `python -m integration.rpc_device ENDPOINT NAME` joins, then does what its standard input says.

A request is one line of JSON, [function of `Requests`, arguments...]; so is the answer: [value, null] or [null, error].
`Device` is the other end of that.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch

from shardnet.errors import DeviceLost, DoesNotFit, ShardnetError
from shardnet.transport import Handler, RemoteObject, RpcTransport, Transport

TESTS = Path(__file__).parents[1]


class Counter:
    """What `remote` makes in these tests."""

    num_alive = 0

    def __init__(self, start: int) -> None:
        if start < 0:
            raise DoesNotFit(f"a counter from {start}")
        self._count = start
        Counter.num_alive += 1

    def __del__(self) -> None:
        Counter.num_alive -= 1

    def add(self, n: int) -> int:
        self._count += n
        return self._count

    def add_later(self, n: int) -> Future[int]:
        later: Future[int] = Future()
        later.set_result(self.add(n))
        return later

    def fail(self) -> None:
        raise DoesNotFit("nothing fits")


def expose_endpoints(transport: Transport) -> None:
    """Give a device what the tests call."""
    kept: list[torch.Tensor] = []
    open_futures: list[Future[Any]] = []

    def later(value: Any) -> Future[Any]:
        answer: Future[Any] = Future()
        answer.set_result(value)
        return answer

    def later_fail() -> Future[Any]:
        answer: Future[Any] = Future()
        answer.set_exception(DeviceLost("another one died", "other"))
        return answer

    def never() -> Future[Any]:
        open_futures.append(Future())
        return open_futures[-1]

    def does_not_fit() -> None:
        raise DoesNotFit("needs 7 GiB, has 5")

    def use(counter: RemoteObject) -> Future[Any]:
        return counter.call("add", 1, timeout_s=10)

    held: list[RemoteObject] = []

    def hold(counter: RemoteObject) -> Future[Any]:
        held.append(counter)
        return use(counter)

    endpoints: dict[str, Handler] = {
        "echo": lambda *args: args,
        "later": later,
        "later_fail": later_fail,
        "never": never,
        "does_not_fit": does_not_fit,
        "divide": lambda a, b: a / b,
        "exit": lambda: sys.exit(3),
        "foreign": lambda: TESTS,
        "unpicklable": lambda: lambda: None,
        "storage_bytes": lambda tensor: tensor.untyped_storage().nbytes(),
        "requires_grad": lambda tensor: tensor.requires_grad,
        "first_row": lambda rows, cols: torch.ones(rows, cols)[0],
        "keep": kept.append,
        "kept": kept.pop,
        "counter": Counter,
        "num_counters": lambda: Counter.num_alive,
        "use": use,
        "hold": hold,
        "use_held": lambda: use(held[0]),
        "let_go": lambda: held.pop().release(),
    }
    for endpoint, handler in endpoints.items():
        transport.expose(endpoint, handler)


class Requests:
    """What a test may ask of the process."""

    def __init__(self, transport: RpcTransport) -> None:
        self._transport = transport

    def members(self) -> list[str]:
        return list(self._transport.members())

    def id(self) -> int:
        return self._transport.id

    def post(self, device: str, endpoint: str, *args: Any) -> Any:
        return self._transport.post(device, endpoint, *args, timeout_s=10).result()

    def evict(self, device: str) -> None:
        self._transport.evict(device)

    def leave(self) -> None:
        self._transport.close()


class Device:
    """A process that runs this module. Use as a context manager: it is ended in any case."""

    def __init__(self, endpoint: str, name: str) -> None:
        self.name = name
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "integration.rpc_device", endpoint, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
        )

    def wait_joined(self) -> Device:
        """Wait until it is in the cluster. Raises RuntimeError with its words where it could not join."""
        self._read()
        return self

    def ask(self, request: str, *args: Any) -> Any:
        """Let it do something, and return its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([request, *args]) + "\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with {self.process.wait()}: {self.printed()}")
        value, error = json.loads(line)
        if error is not None:
            raise RuntimeError(error)
        return value

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def proceed(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> int:
        """Let it leave in order, and return its exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(timeout=20)

    def printed(self) -> str:
        """What it wrote to standard error."""
        self._errors.seek(0)
        return self._errors.read()

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self._errors):
            if stream is not None:
                stream.close()


def main(endpoint: str, name: str) -> None:
    def answer(value: Any, error: ShardnetError | None = None) -> None:
        print(json.dumps([value, error and f"{type(error).__name__}: {error}"]), flush=True)

    try:
        transport = RpcTransport.join(endpoint, name, timeout_s=20)
    except ShardnetError as error:
        answer(None, error)
        return
    with transport:
        expose_endpoints(transport)
        requests = Requests(transport)
        answer("joined")
        for line in sys.stdin:
            request, *args = json.loads(line)
            try:
                answer(getattr(requests, request)(*args))
            except ShardnetError as error:
                answer(None, error)


if __name__ == "__main__":
    main(*sys.argv[1:])
