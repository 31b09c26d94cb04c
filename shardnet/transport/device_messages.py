"""What a device says of itself: what it is and has, and how fast it is. Endpoints: see `messages`."""

from __future__ import annotations

from typing import NamedTuple


class DeviceDescription(NamedTuple):
    """What a device is and has now.

    Devices of one `host` that compute at one place share its memory, those of one `network` the way to others, those of
    one `kind` are equally fast.
    """

    device: str
    pid: int
    host: str
    network: str
    kind: str
    machine: str
    compute: str
    """Where it computes: "cpu", "cuda:0"."""
    num_threads: int
    num_cores: int
    """Of the host, for all its devices."""
    memory_total_bytes: int
    memory_usable_bytes: int
    """What shardnet may use of that memory now: see `shardnet.profiling.compute`."""
    memory_promised_bytes: int
    """What this device has reserved of it and not written to yet."""
    memory_allowed_bytes: int | None
    """What its owner lets it reserve besides what it has reserved; None where only the machine sets limits."""
    rss_bytes: int
    peak_rss_bytes: int
    num_os_threads: int
    battery_percent: float | None = None
    """What is left in the host's battery; None where there is none, or it cannot be read. So for the next two."""
    is_charging: bool | None = None
    """Whether power comes in."""
    temperature_c: float | None = None
    """Of the battery, where that is known; or else of the hottest part."""


class MeasuredDevice(NamedTuple):
    """What a device measured of itself."""

    measurement: str
    """A `DeviceMeasurement` as the store of profiles keeps it: JSON. Whoever reads it checks it as it does a file."""
    not_kept: str
    """Why the next run will have to measure again, in one sentence; empty where it will not."""


DEVICE_MESSAGES: tuple[type, ...] = (DeviceDescription, MeasuredDevice)
"""As `messages.MESSAGE_TYPES`, numbered behind those of `shipping_messages`."""
