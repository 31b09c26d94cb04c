"""What members may be called."""

from __future__ import annotations

import re

from shardnet.errors import UsageError

SOURCE_MARK = "@"
"""With which the names of members begin that are no devices."""
_NAME = re.compile(r"@?[A-Za-z0-9][A-Za-z0-9._:@-]{0,62}")


def require_name(name: str) -> None:
    """
    Raises:
        UsageError: no member can be called that.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"A device is called by 1 to 64 letters, digits and .:@_-, but this one is {name!r}.")
