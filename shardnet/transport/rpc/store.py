"""The store through which the members of a cluster find each other: serving one, and asking one in bounded time."""

from __future__ import annotations

import concurrent.futures
import ipaddress
import queue
import re
import secrets
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

from shardnet.errors import ClusterError, UsageError
from shardnet.foreign.quoting import quoted

MAX_ID = 2**15 - 1
"""torch keeps the id of an agent in 16 bits."""
NEXT_ID = "shardnet/next_id"
"""The store's key for the last id given out."""
ANSWER_S = 5.0
"""How long one question to the store may take. The store is not asked while tokens are made."""

Answer = TypeVar("Answer")


def serve_store(host: str = "127.0.0.1", port: int = 0) -> dist.TCPStore:
    """Start the store of a cluster. It lives as long as what is returned.

    Args:
        host: address to listen on; other devices can reach the store only where it is not a loopback address.
        port: 0 chooses a free one; read it from the result's `port`.

    Raises:
        UsageError: the port is taken, or the address is not one of this device.
    """
    if not 0 <= port < 2**16:
        raise UsageError(f"Cannot listen on {host}:{port}: a port is a number from 0 to 65535, where 0 means any.")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise UsageError(f"Cannot listen on {host}:{port}: {error}. Choose an address of this device.") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise UsageError(f"Cannot listen on {host}:{port}: {error}. Choose another port, or 0 for any.") from error
    try:
        _require_way_to(family, listener.getsockname())
    except UsageError:
        listener.close()
        raise
    # torch would listen on every address of this device, so the socket is ours.
    store = dist.TCPStore(
        host,
        listener.getsockname()[1],
        is_master=True,
        timeout=timedelta(seconds=ANSWER_S),
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )
    # A random start keeps the ids of a cluster apart from those of the one before it, under which a process that
    # changes clusters may have made RRefs.
    store.add(NEXT_ID, secrets.randbelow(MAX_ID // 2))
    return store


def _require_way_to(family: socket.AddressFamily, address: Any) -> None:
    """Raise where not even this machine reaches an address of its own: torch would say so with C++ stacks.

    A UDP socket that is connected sends nothing.
    """
    with socket.socket(family, socket.SOCK_DGRAM) as way:
        try:
            way.connect(address)
        except OSError as error:
            raise UsageError(
                f"This machine cannot reach itself at {address[0]}: {error.strerror}. Bring its network up, for the "
                "loopback by: ip link set lo up."
            ) from error


def split_endpoint(endpoint: str) -> tuple[str, int]:
    """Host and port of "host:port".

    Raises:
        UsageError: it is not of that form.
    """
    host, _, port = endpoint.rpartition(":") if isinstance(endpoint, str) else ("", "", "")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    is_port = re.fullmatch(r"[0-9]{1,5}", port) is not None and 0 < int(port) < 2**16
    if re.fullmatch(r"[^\s\[\]]+", host) is None or not is_port or (":" in host and not _is_ipv6(host)):
        raise UsageError(f'An endpoint is "host:port", such as 127.0.0.1:29500, but this one is {quoted(endpoint)}.')
    return host, int(port)


def _is_ipv6(host: str) -> bool:
    """Of all that can stand before the port, only such an address has colons of its own."""
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False


class StoreThread:
    """Asks the store on a thread of its own, as a TCPStore waits for ever where the store's host is frozen.

    A daemon thread, so that such a wait does not keep the process from ending.
    """

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._questions: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="shardnet-store", daemon=True).start()

    def ask(self, question: Callable[[], Answer], *, timeout_s: float = ANSWER_S) -> Answer:
        """The answer to a question, which is a function that uses the store. One runs after another.

        Raises:
            ClusterError: the store is gone, or gives no answer in time.
        """
        answer: Future[Answer] = Future()
        self._questions.put((answer, question))
        try:
            return answer.result(timeout_s)
        except concurrent.futures.TimeoutError:
            answer.cancel()
            reason = f"no answer within {timeout_s:g} s"
        except dist.DistError as error:
            reason = str(error).strip().split("\n", 1)[0].rstrip(". ")  # a C++ stack follows
        raise ClusterError(f"The store at {self._endpoint} does not answer: {reason}. Is the coordinator running?")

    def _run(self) -> None:
        for answer, question in iter(self._questions.get, None):
            if answer.set_running_or_notify_cancel():
                try:
                    answer.set_result(question())
                except BaseException as error:  # it belongs to whoever asked
                    answer.set_exception(error)

    def close(self) -> None:
        """End the thread when it has answered what was asked."""
        self._questions.put(None)
