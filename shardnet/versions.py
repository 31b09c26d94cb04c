"""Which versions go together: one table. Pure.

All that travels has one format, and all that lies in a state folder another; each has a number, which rises when one
side could not read any more what the other writes. Releases of one series (0.1: 0.1.0, 0.1.7) keep both. So members of
different releases work together where the wire format of both is the same, and who knows a state format reads a folder
of any release that has it. Where they do not, both sides say so in one sentence, as `Version` is at the beginning of
every greeting, in the same place for ever:

    wire format (2 bytes) | release (16 bytes, ASCII, filled up with zeros)
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

from shardnet.release import __version__


class Formats(NamedTuple):
    """Of the releases of one series."""

    wire: int
    """Messages, links between gates, how devices are taken in, invitations, certificates."""
    state: int
    """Rosters, registers, pages, keys and certificates as files."""


TABLE = {
    "0.1": Formats(wire=1, state=1),
}
"""By series. A new one gets a row, with numbers of its own where a format is another one."""
TORCH_LEAST, TORCH_MOST = (2, 8), (2, 13)
"""Of torch: `make test-versions` runs with both, and with one between. Members may have different ones."""
TORCH_WANTED = f"torch>={TORCH_LEAST[0]}.{TORCH_LEAST[1]},<{TORCH_MOST[0]}.{TORCH_MOST[1] + 1}"
"""As pip has it."""
_PACKED = struct.Struct(">H16s")
VERSION_BYTES = _PACKED.size
_RELEASE = re.compile(r"[0-9][0-9A-Za-z.+-]{0,15}")


class Version(NamedTuple):
    """What one side says that it is. Nobody has proven it."""

    wire: int
    release: str
    """Empty where it is none that can be shown."""

    @property
    def name(self) -> str:
        return f"shardnet {self.release}" if self.release else "an unknown version of shardnet"


def series_of(release: str) -> str:
    """Of "0.1.7" it is "0.1"."""
    return ".".join(release.split(".")[:2])


OURS = TABLE[series_of(__version__)]
OWN = Version(OURS.wire, __version__)


def packed(version: Version) -> bytes:
    """As it stands in a greeting."""
    return _PACKED.pack(version.wire, version.release.encode("ascii")[:16])


def unpacked(content: bytes) -> Version:
    """What VERSION_BYTES bytes from anybody say."""
    wire, release = _PACKED.unpack(content)
    text = release.rstrip(b"\0").decode("ascii", errors="replace")
    return Version(wire, text if _RELEASE.fullmatch(text) else "")


def why_not_together(theirs: Version, who: str) -> str:
    """The sentence for who cannot talk with this release.

    Args:
        theirs: it has another wire format, or the same one in another state of it, as between two releases.
        who: as the sentence begins, "The cluster at ...".
    """
    if theirs.wire == OURS.wire:
        return (
            f"{who} runs another state of wire format {OURS.wire} than this one ({theirs.name}; this is {OWN.name}). "
            "Install the same wheel on both."
        )
    with_theirs = [series for series, formats in TABLE.items() if formats.wire == theirs.wire]
    theirs_go = f", which goes with {_listed(with_theirs)}" if with_theirs else ""
    with_ours = [series for series, formats in TABLE.items() if formats.wire == OURS.wire]
    return (
        f"{who} runs {theirs.name} (wire format {theirs.wire}{theirs_go}); this is {OWN.name} (wire format "
        f"{OURS.wire}), which goes with {_listed(with_ours)}. Install the same version on both."
    )


def why_not_read(state: int, release: str, where: str) -> str | None:
    """The sentence for a state folder that this release does not read; None where it does.

    Args:
        state: the format that it says it has.
        release: that has written it.
        where: the folder.
    """
    if state == OURS.state:
        return None
    read_by = [series for series, formats in TABLE.items() if formats.state == state]
    readers = _listed(read_by) if read_by else Version(0, release).name
    return (
        f"{where} was written by {Version(0, release).name} in state format {state}, and this is {OWN.name}, which "
        f"reads {OURS.state}. Use it with {readers}, or name another folder. To begin anew, remove it: devices join "
        "again."
    )


def is_release(text: object) -> bool:
    """Whether it can be shown as one."""
    return isinstance(text, str) and _RELEASE.fullmatch(text) is not None


def torch_untried(torch: str) -> str | None:
    """The sentence for a torch that nothing was tried with; None for one of the table."""
    found = re.match(r"(\d+)\.(\d+)", torch)
    if found and TORCH_LEAST <= (int(found[1]), int(found[2])) <= TORCH_MOST:
        return None
    least, most = (".".join(map(str, each)) for each in (TORCH_LEAST, TORCH_MOST))
    return (
        f"{OWN.name} was tried with torch {least} to {most}, and here is {torch}: it may fail, also in the midst of an "
        f"answer. Install one of those: pip install '{TORCH_WANTED}'"
    )


def _listed(series: list[str]) -> str:
    return " and ".join(f"{each}.*" for each in series)
