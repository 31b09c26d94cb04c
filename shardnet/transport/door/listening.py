"""Where a door listens: a Unix socket that only this user can open, or a TCP port whose visitors must know a key."""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from shardnet.errors import UsageError
from shardnet.process.lasting import DOOR, UNIX
from shardnet.process.ownership import require_own
from shardnet.process.state_folder import StateFolder
from shardnet.transport.door.endpoint import join_endpoint
from shardnet.transport.door.key import own_key

_MAPPED = "::ffff:"
"""An address of IPv4 as one of IPv6, as the system writes it."""
BACKLOG = 128
MOST_PATH_BYTES = 100
"""Of a Unix socket's path, by Linux 107."""
_PREFIX = "shardnet-door-"
_DEAD_AFTER = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 60_000}
"""A host that is gone without a word is noticed after a minute. For a frozen process, its kernel answers.

In s, but the last one in ms: it counts while something is not acknowledged, when no sign of life is asked for.
"""


class Listener(NamedTuple):
    """A socket that listens, and what belongs to it."""

    socket: socket.socket
    endpoint: str
    key: bytes
    """Empty where nobody else can connect."""
    remove: Callable[[], object]
    """Removes what else there is of it, when the socket is closed."""


def listen_for_user() -> Listener:
    """Listen where only this user can connect.

    Raises:
        UsageError: there is no room for a socket.
    """
    import tempfile

    from shardnet.process.scratch import ScratchFolder  # a gate listens in folders that are there

    parent = Path(tempfile.gettempdir())
    try:
        with ExitStack() as ends:
            listener = ends.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            folder = ScratchFolder(_PREFIX, parent)
            ends.callback(folder.remove)
            path = folder.path / DOOR
            with short_path(path) as name:
                listener.bind(name)
            listener.listen(BACKLOG)
            ends.pop_all()
    except OSError as cause:
        raise UsageError(
            f"Devices cannot meet in {parent}: {cause.strerror or cause}. Set TMPDIR to a folder that can be written."
        ) from cause
    return Listener(listener, f"{UNIX}{path}", b"", folder.remove)


def listen_in(folder: StateFolder, name: str = DOOR) -> Listener:
    """Listen in a folder that this process holds, where only this user can connect.

    Args:
        name: of the socket there.

    Raises:
        UsageError: there is no room for a socket, or something else has its name.
    """
    path = folder.path / name
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket():  # of a process that was killed: this one holds the folder
            path.unlink()
        with short_path(path) as short:
            listener.bind(short)
        listener.listen(BACKLOG)
    except OSError as cause:
        listener.close()
        raise UsageError(
            f"Devices cannot meet at {path}: {cause.strerror or cause}. Look at what is there, or name another folder."
        ) from cause
    except UsageError:
        listener.close()
        raise
    return Listener(listener, f"{UNIX}{path}", b"", partial(path.unlink, missing_ok=True))


def listen_at(host: str, port: int, *, beyond_loopback: bool) -> Listener:
    """Listen at an address, and nowhere else; port 0 chooses a free one.

    Raises:
        UsageError: the port is taken, the address is not one of this device or, without `beyond_loopback`, not one of
            its loopback; or there is no key.
    """
    if not 0 <= port < 2**16:
        raise UsageError(f"Cannot listen on {host}:{port}: a port is a number from 0 to 65535, where 0 means any.")
    key = own_key()
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        if not beyond_loopback:
            _require_loopback(host, port, str(address[0]))
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise UsageError(f"Cannot listen on {host}:{port}: {error}. Choose an address of this device.") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        require_way_to(family, listener.getsockname())
    except OSError as error:
        listener.close()
        raise UsageError(f"Cannot listen on {host}:{port}: {error}. Choose another port, or 0 for any.") from error
    except UsageError:
        listener.close()
        raise
    return Listener(listener, join_endpoint(host, listener.getsockname()[1]), key, _nothing)


def _nothing() -> None:
    """A port leaves nothing behind."""


def _require_loopback(host: str, port: int, address: str) -> None:
    """Raise where others can come from outside: what follows the proofs of the key is not encrypted.

    `address` is what the host stands for, and what is bound: a name may stand for another one the next time.
    """
    if not ipaddress.ip_address(address.removeprefix(_MAPPED)).is_loopback:
        named = "" if host == address else f" ({address})"
        raise UsageError(
            f"{join_endpoint(host, port)}{named} is not on this machine's loopback, and what devices tell the door is "
            f"not encrypted. Choose 127.0.0.1:{port}. For devices on several hosts there is shardnet up."
        )


def require_way_to(family: socket.AddressFamily, address: Any) -> None:
    """See to it that this machine reaches an address of its own. A UDP socket that is connected sends nothing.

    Raises:
        UsageError: it does not.
    """
    with socket.socket(family, socket.SOCK_DGRAM) as way:
        try:
            way.connect(address)
        except OSError as error:
            raise UsageError(
                f"This machine cannot reach itself at {address[0]}: {error.strerror}. Bring its network up, for the "
                "loopback by: ip link set lo up."
            ) from error


@contextmanager
def short_path(path: Path) -> Iterator[str]:
    """A name for a socket in a folder, however long the folder's own name is.

    Raises:
        UsageError: the folder is not this user's alone.
        OSError: there is no such folder.
    """
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        require_own(path.parent, os.fstat(folder), stat.S_ISDIR)
        is_short = len(os.fsencode(path)) <= MOST_PATH_BYTES
        yield str(path) if is_short else f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def where(address: Any) -> str:
    """The address of the door's end of a connection, in words that both ends find alike.

    A door on all addresses of IPv6 sees those of IPv4 as parts of it; and who is at the other end of a link calls the
    link by another name.
    """
    if not isinstance(address, tuple):
        return UNIX
    host, port = address[:2]
    host = host.partition("%")[0].removeprefix(_MAPPED)
    return join_endpoint(host, port)


def tend(connection: socket.socket) -> None:
    """Have small messages leave at once, and the end of the other host noticed."""
    if connection.family != socket.AF_UNIX:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, seconds in _DEAD_AFTER.items():
            if hasattr(socket, option):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), seconds)
