"""The wheel of the shardnet that runs here, made of what is installed: another machine needs no other source for it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import zipfile
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from shardnet.errors import UsageError

PACKAGE = "shardnet"
MOVED = {"shardnet/launch": "shardnet.launch", "shardnet/configs_data": "shardnet.configs_data"}
"""Packages that lie elsewhere in a folder of the sources than in a wheel."""
PASSED_OVER = ("__pycache__", ".pyc", ".pyo", ".so")
TAGS = "Wheel-Version: 1.0\nGenerator: shardnet\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


class Wheel(NamedTuple):
    """A file to install."""

    name: str
    content: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


def make_wheel() -> Wheel:
    """The same bytes each time, as long as what is installed is the same.

    Raises:
        UsageError: shardnet is not installed here, only its folder is there.
    """
    try:
        distribution = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise UsageError("shardnet is not installed here, so there is no wheel of it. Run: pip install .") from None
    entry_points = distribution.read_text("entry_points.txt")
    metadata = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO")  # of a folder of the sources
    if entry_points is None or metadata is None:
        raise UsageError("The installation of shardnet is incomplete. Install it again: pip install .")
    info = f"{PACKAGE}-{distribution.version}.dist-info"
    contents = dict(_below(Path(str(files(PACKAGE))), PACKAGE))
    for path, package in MOVED.items():
        contents |= dict(_below(Path(str(files(package))), path))
    contents |= {
        f"{info}/METADATA": metadata.encode(),
        f"{info}/WHEEL": TAGS.encode(),
        f"{info}/entry_points.txt": entry_points.encode(),
    }
    record = "".join(f"{path},{_hash(content)},{len(content)}\n" for path, content in sorted(contents.items()))
    contents[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    return Wheel(f"{PACKAGE}-{distribution.version}-py3-none-any.whl", _zipped(contents))


def _below(folder: Path, path: str) -> Iterator[tuple[str, bytes]]:
    for each in folder.iterdir():
        if each.name.startswith(".") or each.name.endswith(PASSED_OVER):
            continue
        if each.is_dir():
            yield from _below(each, f"{path}/{each.name}")
        else:
            yield f"{path}/{each.name}", each.read_bytes()


def _hash(content: bytes) -> str:
    return "sha256=" + urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def _zipped(contents: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as wheel:
        for path, content in sorted(contents.items()):
            entry = zipfile.ZipInfo(path)  # of 1980
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            wheel.writestr(entry, content)
    return buffer.getvalue()
