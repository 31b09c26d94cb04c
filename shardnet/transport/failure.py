"""How an error travels: as three strings, and back into the same class on the caller's side."""

from __future__ import annotations

from typing import NamedTuple

from shardnet import errors
from shardnet.errors import CallTimeout, ClusterError, DeviceLost, Evicted, ShardnetError


class Failure(NamedTuple):
    """What an endpoint answers with instead of a value. `kind` names a class of `shardnet.errors`."""

    kind: str
    message: str
    device: str


def encode(error: BaseException, device: str, endpoint: str) -> Failure:
    """Describe what a handler of `device` raised. A class that is not one of ours becomes ClusterError."""
    if isinstance(error, ShardnetError):
        kind = next(base.__name__ for base in type(error).__mro__ if getattr(errors, base.__name__, None) is base)
        return Failure(kind, str(error), getattr(error, "device", ""))
    cause = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return Failure("ClusterError", f"{device} failed in {endpoint!r}: {cause}", device)


def decode(failure: Failure) -> ShardnetError:
    """Make the error that `failure` describes."""
    error_class = getattr(errors, failure.kind, None)
    if not (isinstance(error_class, type) and issubclass(error_class, ShardnetError)):
        error_class = ClusterError
    if issubclass(error_class, (DeviceLost, CallTimeout)):
        return error_class(failure.message, failure.device)
    return error_class(failure.message)


def unknown_endpoint(device: str, endpoint: str) -> ClusterError:
    """The error for a name that nobody exposed."""
    return ClusterError(f"{device} exposes nothing called {endpoint!r}. Is it running another version of shardnet?")


def lost(device: str, endpoint: str) -> DeviceLost:
    """The error for a connection that broke, or a device that was evicted."""
    return DeviceLost(f"The connection to {device} broke during {endpoint!r}: the device died or left.", device)


def timed_out(device: str, endpoint: str, timeout_s: float) -> CallTimeout:
    """The error for an answer that did not come in time."""
    return CallTimeout(f"{device} did not answer {endpoint!r} within {timeout_s:g} s.", device)


def evicted(device: str) -> Evicted:
    """The error for a request of a device that is no longer a member."""
    return Evicted(f"{device} serves no device that was evicted. Join the cluster again.")


def struck_off(device: str) -> Evicted:
    """The error of a device that the others have evicted, for all that it asks for."""
    return Evicted(f"{device} was struck off by the others. Join the cluster again.")


def has_left(device: str) -> ClusterError:
    """The error for using a transport that was closed."""
    return ClusterError(f"{device} has left the cluster.")


def not_a_member(device: str) -> DeviceLost:
    """The error for a request to a device that is not there."""
    return DeviceLost(f"{device} is not in the cluster. It died, left, or never joined.", device)


def answers_later(endpoint: str) -> ClusterError:
    """The error for posting to an endpoint that returns a future."""
    return ClusterError(f"The endpoint {endpoint!r} answers later, so it must be called and not posted to.")


def released(device: str) -> ClusterError:
    """The error for a handle that was let go of."""
    return ClusterError(f"The object on {device} was released already.")


def private_method(method: str) -> ClusterError:
    """The error for a method that is not for other devices."""
    return ClusterError(f"The method {method!r} is private.")
