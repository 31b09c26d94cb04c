"""Measurements on disk: saved with the hardware, the versions and the date, used again until they are stale.

One JSON file for each device, model and dtype, and one for the links within a machine. Whether a device's is stale is
decided by `why_stale`, which is pure.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from shardnet.errors import BadConfiguration, UsageError
from shardnet.foreign.plain_files import read_json
from shardnet.models.plain_config import values_of
from shardnet.profiling.hardware import Hardware
from shardnet.profiling.measurement import DeviceMeasurement, LinkMeasurement
from shardnet.quantised.kv_names import AUTO as KV_AUTO
from shardnet.quantised.schemes import AUTO

MAX_AGE_S = 30 * 86_400.0
"""Kernels, governors and other programs change what a machine gives, slowly."""
MAX_LINK_AGE_S = 86_400.0
"""For links within one machine. Those between machines change by the minute and are not kept."""
MAX_FILE_BYTES = 16 * 1024**2
FORMAT = 2
"""Of the files. Others are measured anew."""
_PACKAGES = ("torch", "transformers")


def current_versions() -> dict[str, str]:
    """What may change a machine's speed besides its hardware: Python, torch, transformers, the system's kernel."""
    found = {"python": platform.python_version(), "system": f"{platform.system()} {platform.release()}"}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "none"
    return found


def configuration_key(config: Any) -> str:
    """The same for all models of one configuration, a `transformers` one or a plain one, whatever they are called."""
    settings = json.dumps(values_of(config), sort_keys=True)
    return f"{config.model_type}-{hashlib.sha256(settings.encode()).hexdigest()[:12]}"


def why_stale(
    measurement: DeviceMeasurement,
    hardware: Hardware,
    versions: Mapping[str, str],
    now_s: float,
    max_age_s: float = MAX_AGE_S,
) -> str | None:
    """Why a measurement must be made again, in words; None where it may be used. Pure.

    Args:
        hardware: that of the device now.
        versions: those of the device now.
        now_s: seconds since 1970.
    """
    if measurement.hardware.fingerprint != hardware.fingerprint:
        return f"the hardware changed ({measurement.hardware.cpu} to {hardware.cpu})"
    for name in sorted({*measurement.versions, *versions}):
        was, now = measurement.versions.get(name, "none"), versions.get(name, "none")
        if was != now:
            return f"{name} was {was} and is {now}"
    age_s = now_s - measurement.measured_at_s
    if age_s < -86_400:
        return "it was made in the future: the clock was wrong then, or is now"
    if age_s > max_age_s:
        return f"it is {age_s / 86_400:.0f} days old"
    return None


class ProfileStore:
    """A folder of measurements."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()

    def path(self, device: str, model: str, dtype: str, weights: str = AUTO, kv_dtype: str = KV_AUTO) -> Path:
        """Where a measurement lies. Names that differ never share a file."""
        names = (device, model, dtype) if weights == AUTO else (device, model, dtype, weights)
        if kv_dtype != KV_AUTO:
            names = (*names, f"kv {kv_dtype}")
        exact = hashlib.sha256("\0".join(names).encode()).hexdigest()[:8]
        readable = re.sub(r"[^A-Za-z0-9.]+", "-", "-".join((device, Path(model).name, *names[2:]))).strip("-")[:80]
        return self.folder / f"{readable}-{exact}.json"

    def load(
        self, device: str, model: str, dtype: str, weights: str = AUTO, kv_dtype: str = KV_AUTO
    ) -> DeviceMeasurement | None:
        """What is stored; None where nothing is, or where the file cannot be understood (it is measured anew then)."""
        try:
            values = read_json(self.path(device, model, dtype, weights, kv_dtype), MAX_FILE_BYTES, "the profile")
            if values["format"] != FORMAT:
                return None
            return DeviceMeasurement.from_dict(values["measurement"])
        except (BadConfiguration, KeyError, TypeError, IndexError):
            return None

    def load_link(self, network: str, hidden_bytes: int, now_s: float) -> LinkMeasurement | None:
        """The link between two devices of one network, as it was measured; None where nothing fresh is stored.

        Args:
            network: its name, which changes when the machine starts anew.
            hidden_bytes: of the hidden state of one token.
            now_s: seconds since 1970.
        """
        try:
            values = read_json(self._link_path(network, hidden_bytes), MAX_FILE_BYTES, "the link")
            alike = values["format"] == FORMAT and values["versions"] == current_versions()
            fresh = 0 <= now_s - values["measured_at_s"] <= MAX_LINK_AGE_S
            return LinkMeasurement.from_dict(values["link"]) if alike and fresh else None
        except (BadConfiguration, KeyError, TypeError, IndexError):
            return None

    def save_link(self, network: str, hidden_bytes: int, now_s: float, link: LinkMeasurement) -> None:
        """Store a link for `load_link`.

        Raises:
            UsageError: the folder cannot be written to.
        """
        dated = {"format": FORMAT, "versions": current_versions(), "measured_at_s": now_s, "link": link.as_dict()}
        self._write(self._link_path(network, hidden_bytes), dated)

    def require_writable(self) -> None:
        """Make the folder; better before a long measurement than after it.

        Raises:
            UsageError: the folder cannot be written to.
        """
        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass

    def save(self, measurement: DeviceMeasurement) -> Path:
        """Store a measurement; a reader sees the old file or the new one, never half of one.

        Raises:
            UsageError: the folder cannot be written to.
        """
        held = measurement.weights, measurement.kv_dtype
        path = self.path(measurement.device, measurement.model, measurement.dtype, *held)
        self._write(path, {"format": FORMAT, "measurement": measurement.as_dict()})
        return path

    def _link_path(self, network: str, hidden_bytes: int) -> Path:
        return self.folder / f"link-{hashlib.sha256(f'{network} {hidden_bytes}'.encode()).hexdigest()[:16]}.json"

    def _write(self, path: Path, values: dict[str, Any]) -> None:
        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self.folder, suffix=".part", delete=False) as file:
                try:
                    file.write(json.dumps(values, indent=1))
                    file.flush()
                    os.replace(file.name, path)
                except BaseException:  # a full disk, Ctrl-C: nobody would ever remove the half
                    os.unlink(file.name)
                    raise

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as cause:
            raise UsageError(
                f"Cannot keep profiles in {self.folder}: {cause.strerror or cause}. Make that folder writable."
            ) from cause
