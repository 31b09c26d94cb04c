"""Why a device is not taken into a cluster: reasons that travel as a number, and what each means in words.

What is shown on a device is made of these sentences alone: whoever refuses may be a stranger.
"""

from __future__ import annotations

from enum import IntEnum

from shardnet.errors import JoinFailed, NameTaken, OtherVersion
from shardnet.versions import VERSION_BYTES, unpacked, why_not_together


class Reason(IntEnum):
    """The number travels: it never changes its meaning."""

    NOT_UNDERSTOOD = 1
    OTHER_VERSION = 2
    UNKNOWN_CODE = 3
    WRONG_CODE = 4
    BURNT = 5
    ONLY_TOKEN = 6
    USED = 7
    EXPIRED = 8
    UNKNOWN_TOKEN = 9
    NAME_TAKEN = 10
    BAD_NAME = 11
    KEY_REVOKED = 12
    FULL = 13
    NOT_KEPT = 14


_ANEW = "Ask for another invitation: shardnet invite, where the cluster was started."
SENTENCES = {
    Reason.NOT_UNDERSTOOD: "The two sides did not understand each other. Look whether both have the same version of "
    "shardnet, and try again.",
    Reason.OTHER_VERSION: "The cluster has a version of shardnet that does not go with this one. Install the same one "
    "on both.",
    Reason.UNKNOWN_CODE: "The cluster has no code of that number. Type the code that its screen shows now.",
    Reason.WRONG_CODE: "The code is not the one that the cluster's screen shows, or somebody stands between the two. "
    "It counts no more: type the code that the screen shows now.",
    Reason.BURNT: "This code counts no more: each can be tried once, and it was. Type the code that the cluster's "
    "screen shows now.",
    Reason.ONLY_TOKEN: "Three codes in a row were wrong, so that no more are taken. Scan the QR code, or ask for "
    "another invitation: shardnet invite, where the cluster was started.",
    Reason.USED: f"This invitation was used: each is good for one device. {_ANEW}",
    Reason.EXPIRED: f"This invitation has expired. {_ANEW}",
    Reason.UNKNOWN_TOKEN: f"The cluster knows nothing of this invitation; it was started again since, say. {_ANEW}",
    Reason.NAME_TAKEN: "Another device of the cluster has that name. Choose another one with --name, or end that "
    "one's membership first: shardnet trust --revoke NAME.",
    Reason.BAD_NAME: "A device cannot have that name. Choose another one with --name: letters, digits, and - _ . "
    "between them.",
    Reason.KEY_REVOKED: "This device was shut out of the cluster, and its key with it. Remove its state folder to "
    f"begin anew. {_ANEW}",
    Reason.FULL: "The cluster keeps as many certificates as it can, of all devices or of this one, and gives out more "
    "when some have expired. Look who has them, where it was started: shardnet trust.",
    Reason.NOT_KEPT: "The cluster could not write down what it gave out; its disk may be full. Make room there, and "
    "try again.",
}


class Refused(JoinFailed):
    """A device is not taken in, for a reason that it may hear."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(SENTENCES[reason])
        self.reason = reason

    def __reduce__(self) -> tuple[type[Refused], tuple[Reason]]:
        """By what it was made of: it comes from the process in which a device is taken in."""
        return Refused, (self.reason,)


def error_of(reason: Reason, version: bytes) -> JoinFailed:
    """What a device raises that was refused.

    Args:
        version: of the cluster, as it has said.
    """
    if reason is Reason.OTHER_VERSION and len(version) == VERSION_BYTES:
        return OtherVersion(why_not_together(unpacked(version), "The cluster"))
    return NameTaken(SENTENCES[reason]) if reason is Reason.NAME_TAKEN else Refused(reason)
