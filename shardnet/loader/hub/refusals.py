"""What the hub's refusals and a network's faults mean, in a sentence each that says what to do."""

from __future__ import annotations

import errno
import os
import re
from typing import Any

from shardnet.errors import ModelNotFetched, ModelNotFound
from shardnet.foreign.quoting import quoted, shortened
from shardnet.loader.hub.names import HubName

TOKEN = "set HF_TOKEN to one of that account, or run: hf auth login"
GOES_ON = "What has come is kept: the same command goes on from there."
FULL = (errno.ENOSPC, errno.EDQUOT)
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
_RESET = re.compile(r";\s*t\s*=\s*(\d+)")
"""In the header RateLimit: seconds until the hub answers again."""


def refusal_of(cause: Exception, name: HubName) -> ModelNotFound:
    """What to say of something that huggingface_hub has raised.

    Returns:
        ModelNotFetched for what may be had another time, and ModelNotFound for what is not there, or not for this user.
    """
    from huggingface_hub import errors

    if isinstance(cause, errors.OfflineModeIsEnabled):
        return offline(name)
    if isinstance(cause, errors.GatedRepoError):
        return _gated(name)
    if isinstance(cause, errors.RevisionNotFoundError):
        return _no_revision(name)
    if isinstance(cause, errors.HfHubHTTPError):
        return _by_status(cause, name)
    if isinstance(cause, errors.LocalEntryNotFoundError) and isinstance(cause.__cause__, Exception):
        return refusal_of(cause.__cause__, name)
    return _of_system(cause, name)


def _of_system(cause: Exception, name: HubName) -> ModelNotFetched:
    number = getattr(cause, "errno", None)
    if number in FULL:
        return ModelNotFetched(f"The disk is full: {name} does not fit into {cache_shown()}. Make room. {GOES_ON}")
    if number in NOT_WRITABLE:
        return ModelNotFetched(
            f"{name} cannot be kept in {cache_shown()} ({os.strerror(number)}). Change its owner, or set HF_HOME to a "
            "folder that can be written."
        )
    return _unreached(cause, name)


def status_of(cause: BaseException) -> int | None:
    """The HTTP status of a refusal; None of everything else."""
    status = getattr(getattr(cause, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def wait_asked_s(cause: BaseException) -> int | None:
    """How long the hub asks to wait; None where it does not say."""
    headers: Any = getattr(getattr(cause, "response", None), "headers", {})
    after = str(headers.get("retry-after", "")).strip()
    reset = _RESET.search(str(headers.get("ratelimit", "")))
    return int(after) if after.isdecimal() else int(reset.group(1)) if reset else None


def offline(name: HubName) -> ModelNotFound:
    """The user wants no network."""
    return ModelNotFound(
        f"There is no folder {quoted(str(name))} here, {name.repo} is not whole in {cache_shown()}, and HF_HUB_OFFLINE "
        "is set. Unset it once where there is a network, or copy that folder from another machine."
    )


def cache_shown() -> str:
    """The folder of the hub's cache, as messages name it."""
    from huggingface_hub import constants

    return f"the hub's cache {shortened(str(constants.HF_HUB_CACHE))}"


def _by_status(cause: Exception, name: HubName) -> ModelNotFound:
    from huggingface_hub import get_token

    status, has_token = status_of(cause), get_token() is not None
    if status == 404 or (status == 401 and not has_token):
        return _absent(name, has_token)
    if status == 401:
        return ModelNotFound(
            f"The hub refuses the token that was shown for {name.repo}: it was revoked, or mistyped. Set HF_TOKEN to "
            "another one, or run: hf auth login"
        )
    if status == 403:
        return ModelNotFound(
            f"The hub lets this token not read {name.repo}. Give the token the right to read it (a fine-grained one "
            "must name its repositories), or accept the model's terms on its page."
        )
    if status == 429:
        return _too_many(cause, name, has_token)
    if status is not None and status >= 500:
        return ModelNotFetched(
            f"The hub has a fault of its own (status {status}), so that {name} cannot be fetched now. Try again later. "
            f"{GOES_ON}"
        )
    said = shortened(str(cause).strip().split("\n", 1)[0])
    return ModelNotFetched(f"The hub refuses {name} (status {status}): {said}. Is HF_ENDPOINT a hub?")


def _absent(name: HubName, has_token: bool) -> ModelNotFound:
    mine = "that your token may read" if has_token else "that everybody may read"
    private = "your token's account must be let in" if has_token else f"{TOKEN}"
    return ModelNotFound(
        f"There is no folder {quoted(str(name))} here, and on the hub no model {name.repo} {mine}. Look at its name; "
        f"if it is private, {private}."
    )


def _gated(name: HubName) -> ModelNotFound:
    from huggingface_hub import constants, get_token

    page = f"{constants.ENDPOINT}/{name.repo}"
    if get_token() is None:
        return ModelNotFound(
            f"{name.repo} is gated: its authors give it to those who accept their terms. Accept them at {page}, and "
            f"{TOKEN}."
        )
    return ModelNotFound(
        f"{name.repo} is gated, and the account of your token has not been let in. Accept the terms at {page}, and "
        "wait until its authors have said yes; a fine-grained token must have the right to read gated models."
    )


def _no_revision(name: HubName) -> ModelNotFound:
    return ModelNotFound(
        f"{name.repo} on the hub has no revision {quoted(name.revision or 'main')}. Give a branch, a tag or a whole "
        "commit, or leave @REVISION out."
    )


def _too_many(cause: Exception, name: HubName, has_token: bool) -> ModelNotFetched:
    wait_s = wait_asked_s(cause)
    when = "in some minutes" if wait_s is None else f"in {wait_s} s"
    token = "" if has_token else " With a token (HF_TOKEN) more is allowed."
    return ModelNotFetched(
        f"The hub was asked too often from here, so that {name} cannot be fetched now. Try again {when}.{token} "
        f"{GOES_ON}"
    )


def _unreached(cause: BaseException, name: HubName) -> ModelNotFetched:
    from huggingface_hub import constants

    said = shortened(str(cause).strip().split("\n", 1)[0]) or type(cause).__name__
    return ModelNotFetched(
        f"{name} is not whole in {cache_shown()}, and the hub at {constants.ENDPOINT} cannot be reached "
        f"({said}). Look at the network, or give a folder or a .gguf file of this machine. {GOES_ON}"
    )
