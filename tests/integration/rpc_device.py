"""A device for tests: a process that joins, and then does what comes through its pipe.

A request is a list, [function of `Requests`, arguments...]; the answer is [value, error]. `Device` is the other end.
The processes are forked from a server that has imported torch once, which saves two seconds for each of them.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import torch
from processes import is_frozen, wait_until

from shardnet.errors import DeviceLost, DoesNotFit, ShardnetError
from shardnet.process.allocator import return_freed
from shardnet.transport import Handler, RemoteObject, RpcTransport, Transport
from shardnet.transport.messages import Part

TESTS = Path(__file__).parents[1]
FORKED = multiprocessing.get_context("forkserver")
"""There is one such server in a process: what any test of the suite needs is said once, here."""
FORKED.set_forkserver_preload(
    ["shardnet.transport.rpc.transport", "shardnet.cluster.cluster", "transformers.modeling_layers"]
)


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
        "no_value": lambda: lambda: None,
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
        self._seen: list[str] = []

    def members(self) -> list[str]:
        return list(self._transport.members())

    def id(self) -> int:
        return self._transport.id

    def number_of(self, device: str) -> int | None:
        return self._transport.number_of(device)

    def post(self, device: str, endpoint: str, *args: Any) -> Any:
        return self._transport.post(device, endpoint, *args, timeout_s=10).result()

    def do(self, work: Callable[[RpcTransport], Any]) -> Any:
        """What only the test knows: a function of its module."""
        return work(self._transport)

    def evict(self, device: str) -> None:
        self._transport.evict(device)

    def fork(self) -> int:
        """Fork a child that does nothing, and return its process id."""
        child = os.fork()
        if not child:
            signal.pause()
        return child

    def wait_struck_off(self) -> None:
        assert self._transport.struck_off.wait(20)

    def join_again(self) -> None:
        """Under the same name, as another member."""
        self._transport.close()
        self._transport = RpcTransport.join(self._transport.group.door.endpoint, self._transport.name, timeout_s=20)
        expose_endpoints(self._transport)

    def leave(self) -> None:
        self._transport.close()

    def watch(self) -> None:
        """From now on, note what other threads do that only code from outside would."""
        main = threading.get_ident()
        suspicious = (
            "exec",
            "compile",
            "import",
            "pickle.find_class",
            "marshal.loads",
            "os.system",
            "subprocess.Popen",
        )

        def note(event: str, args: Any) -> None:
            if event in suspicious and threading.get_ident() != main:
                self._seen.append(f"{event} {args!r}"[:200])

        sys.addaudithook(note)

    def python_that_ran(self) -> list[str]:
        """What was noted."""
        return self._seen

    def num_tensors(self) -> int:
        """Tensors that Python holds in this process."""
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    def memory(self) -> int:
        """Resident bytes, without what was freed and is kept for the next time: how much that is varies widely."""
        gc.collect()
        return_freed()
        return psutil.Process().memory_info().rss

    def is_part_touched(self) -> bool:
        """Whether somebody has set an attribute of a class that travels."""
        return hasattr(Part, "touched")


class Device:
    """A process that is a device. Use as a context manager: it is ended in any case."""

    def __init__(self, endpoint: str, name: str, *, has_stages: bool = False, look_again_s: float = 0.0) -> None:
        """`has_stages`: it is a device as users have them, too, and serves what a cluster asks of one."""
        self.name = name
        self._errors = tempfile.NamedTemporaryFile("r")  # noqa: SIM115
        self._pipe, end = FORKED.Pipe()
        args = (endpoint, name, end, self._errors.name, has_stages, look_again_s)
        self.process = FORKED.Process(target=run_device, args=args, daemon=True)
        self.process.start()
        end.close()

    def wait_joined(self) -> Device:
        """Wait until it is in the cluster. Raises RuntimeError with its words where it could not join."""
        self._read()
        return self

    def ask(self, request: str, *args: Any) -> Any:
        """Let it do something, and return its answer."""
        self._pipe.send([request, *args])
        return self._read()

    def _read(self) -> Any:
        try:
            value, error = self._pipe.recv()
        except EOFError:
            self.process.join()
            raise RuntimeError(f"{self.name} ended with {self.process.exitcode}: {self.printed()}") from None
        if error is not None:
            raise RuntimeError(error)
        return value

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def stop(self) -> None:
        """Freeze it, and wait until it is."""
        os.kill(self.pid, signal.SIGSTOP)
        wait_until(lambda: is_frozen(self.pid), timeout_s=20)

    def proceed(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def end(self) -> int | None:
        """Let it leave in order, and return its exit code."""
        self._pipe.close()
        self.process.join(20)
        return self.process.exitcode

    def printed(self) -> str:
        """What it wrote to standard error."""
        return Path(self._errors.name).read_text()

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._pipe.close()
        self._errors.close()


def run_device(endpoint: str, name: str, pipe: Connection, errors: str, has_stages: bool, look_again_s: float) -> None:
    """Be the device, until the pipe is closed."""
    with open(errors, "w") as file:
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    with contextlib.ExitStack() as ends:
        worker = None
        if has_stages:
            from shardnet.device.worker import Worker

            worker = ends.enter_context(Worker(num_threads=1))
        try:
            prepare = {} if worker is None else {"prepare": worker.attach}
            joined = RpcTransport.join(endpoint, name, timeout_s=20, look_again_s=look_again_s, **prepare)
            transport = ends.enter_context(joined)
        except ShardnetError as error:
            pipe.send([None, f"{type(error).__name__}: {error}"])
            return
        expose_endpoints(transport)
        requests = Requests(transport)
        pipe.send(["joined", None])
        with contextlib.suppress(EOFError):
            while True:
                request, *args = pipe.recv()
                try:
                    pipe.send([getattr(requests, request)(*args), None])
                except ShardnetError as error:
                    pipe.send([None, f"{type(error).__name__}: {error}"])
                except Exception:  # what the test's own function says
                    pipe.send([None, traceback.format_exc()])
