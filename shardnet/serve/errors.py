"""What goes wrong, in the shape that OpenAI's API gives it, and with the status that its clients go by. Pure."""

from __future__ import annotations

from typing import Any

from shardnet.errors import BadRequest, ClusterError, KVMemorySpent, ModelNotFound, ShardnetError, UsageError

INVALID, SERVER, BUSY = "invalid_request_error", "server_error", "rate_limit_error"
UNREAD = (408, 413)
"""What is left of the body is not read."""
AGAIN_S = 2
"""When somebody may ask again who found no ring."""


class ApiError(Exception):
    """An answer that says what is wrong.

    Args:
        status: of HTTP. Clients ask again by themselves after 408, 409, 429, and from 500 on.
        param: the field of the body that is at fault.
        code: by which programs know what it is.
        retry_after_s: when it may be asked again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s

    @property
    def kind(self) -> str:
        if self.status == 429:
            return BUSY
        return INVALID if self.status < 500 else SERVER

    def as_object(self) -> dict[str, Any]:
        """As its body is."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error}

    @property
    def headers(self) -> dict[str, str]:
        headers = {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
        if self.status in UNREAD:
            headers["Connection"] = "close"
        return headers


def refused(param: str, why: str, code: str | None = None) -> ApiError:
    """A field of a body is at fault; the sentence begins with its name."""
    return ApiError(400, f"{param} {why}", param=param, code=code)


def as_api_error(error: BaseException) -> ApiError:
    """What an error of ours is to a client. What is none of ours is told to the log alone."""
    if isinstance(error, ApiError):
        return error
    message = sentence(str(error))
    if isinstance(error, KVMemorySpent):
        return ApiError(429, message, code="kv_memory_spent", retry_after_s=AGAIN_S)
    if isinstance(error, BadRequest):
        code = "context_length_exceeded" if "but the context holds" in message else None
        return ApiError(400, message, param=error.option or None, code=code)
    if isinstance(error, (ModelNotFound, UsageError)):
        return ApiError(400, message)
    if isinstance(error, ClusterError):
        return ApiError(503, message, code="no_ring", retry_after_s=AGAIN_S)
    if isinstance(error, ShardnetError):
        return ApiError(503, message)
    return ApiError(500, "The server failed at this request; its log says why.", code="internal_error")


def sentence(text: str) -> str:
    """With a capital letter, unless it begins with a name."""
    return text[:1].upper() + text[1:] if text.partition(" ")[0].isalpha() else text
