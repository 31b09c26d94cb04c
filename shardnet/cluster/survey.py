"""What the devices of a cluster can do with a model: their profiles and their links, measured or reused.

Devices that are processes of one machine are alike and would slow each other down: one of them is measured for all.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from shardnet.errors import UsageError
from shardnet.loader import ModelFiles
from shardnet.models.plain_config import as_text
from shardnet.plan import DeviceProfile, Link
from shardnet.process.compute import CPU, has_own_memory
from shardnet.profiling.link_probe import measure_links
from shardnet.profiling.measurement import DeviceMeasurement, LinkMeasurement
from shardnet.profiling.store import ProfileStore
from shardnet.progress import Progress
from shardnet.quantised.schemes import AUTO, bits_of
from shardnet.transport.base import Transport
from shardnet.transport.device_messages import DeviceDescription, MeasuredDevice

ASK_S = 60.0
PROFILE_S = 20.0
"""For each kind of device and model, once; what `shardnet profile` measured is used instead."""
LINK_S = 1.0
EXPECTED_TOKENS = 512
"""In the context of a session on average; steps of decoding are predicted for so many."""

_log = logging.getLogger(__name__)

WaitFor = Callable[[Future[Any]], Any]


@dataclass(frozen=True)
class Survey:
    """What is known of the devices before a plan is made."""

    devices: tuple[DeviceProfile, ...]
    links: tuple[Link, ...]


@dataclass
class Surveyor:
    """Asks the devices of one cluster; remembers their links as long as it lives."""

    transport: Transport
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _links: dict[tuple[str, str], tuple[Link, Link]] = field(default_factory=dict)
    _has_warned: bool = False

    def memory(self, devices: Sequence[str]) -> list[DeviceProfile]:
        """The devices with what each may use of its memory, and no times.

        Devices of one machine share what is left there beside what they have promised to sessions and models.
        """
        described = self._describe(devices)
        hosts = Counter(map(_pool, described))
        promised: Counter[str] = Counter()
        for answer in described:
            promised[_pool(answer)] += answer.memory_promised_bytes
        return [
            DeviceProfile(
                name=device,
                memory_bytes=_share(answer, promised[_pool(answer)], hosts[_pool(answer)]),
                num_threads=answer.num_threads,
                host=_place(answer),
                host_cores=answer.num_cores if answer.compute == CPU else answer.num_threads,
            )
            for device, answer in zip(devices, described, strict=True)
        ]

    def survey(
        self,
        devices: Sequence[str],
        files: ModelFiles,
        store: Path,
        progress: Progress,
        *,
        wait_for: WaitFor = Future.result,
        context_tokens: int = EXPECTED_TOKENS,
    ) -> Survey:
        """Profiles with times, and the links between all devices.

        Args:
            store: where the coordinator keeps links within a machine; devices keep their profiles themselves.
            wait_for: waits for an answer, or raises when waiting makes no sense any more.
            context_tokens: of a session, when it decodes: the more, the longer a step takes.

        Raises:
            DeviceLost, CallTimeout: a device was lost meanwhile.
        """
        with self._lock:  # two at once would measure each other
            return self._survey(devices, files, store, progress, wait_for, context_tokens)

    def _survey(
        self,
        devices: Sequence[str],
        files: ModelFiles,
        store: Path,
        progress: Progress,
        wait_for: WaitFor,
        context_tokens: int,
    ) -> Survey:
        described = self._describe(devices)
        profiles: dict[tuple[str, str], DeviceProfile] = {}
        found = []
        for device, answer, bare in zip(devices, described, self.memory(devices), strict=True):
            kind = answer.host, answer.kind
            if kind not in profiles:
                by_scheme = {
                    scheme: self._profile(device, files, like, wait_for).to_profile(context_tokens=context_tokens)
                    for scheme, like in _schemes_of(files).items()
                }
                profiles[kind] = mixed_profile(by_scheme, files.profile.unit_weights)
            profile = replace(profiles[kind], name=device, memory_bytes=bare.memory_bytes)
            found.append(replace(profile, host=bare.host, host_cores=bare.host_cores))
        networks = {device: answer.network for device, answer in zip(devices, described, strict=True)}
        return Survey(tuple(found), self._find_links(devices, networks, files, ProfileStore(store), progress))

    def _describe(self, devices: Sequence[str]) -> list[DeviceDescription]:
        asked = [self.transport.call(device, "describe", timeout_s=ASK_S) for device in devices]
        return [answer.result() for answer in asked]

    def _profile(self, device: str, files: ModelFiles, weights: str, wait_for: WaitFor) -> DeviceMeasurement:
        """Asks a device to measure itself with the model's units, held in a scheme."""
        asked = self.transport.call(
            device,
            "profile",
            as_text(files.config),
            files.dtype,
            weights,
            files.profile.kv_dtype,
            PROFILE_S,
            self.transport.name,
            timeout_s=ASK_S + 5 * PROFILE_S,
        )
        answer: MeasuredDevice = wait_for(asked)
        if answer.not_kept and not self._has_warned:
            self._has_warned = True
            _log.warning("%s This run does without, and measures again.", answer.not_kept)
        return DeviceMeasurement.from_dict(json.loads(answer.measurement))

    def _find_links(
        self,
        devices: Sequence[str],
        networks: dict[str, str],
        files: ModelFiles,
        store: ProfileStore,
        progress: Progress,
    ) -> tuple[Link, ...]:
        """Both directions between all pairs; pairs between the same two networks have the same link."""
        links: list[Link] = []
        for source, target in combinations(devices, 2):
            ends = networks[source], networks[target]
            if ends not in self._links:
                hidden_bytes = files.profile.units[0].output_bytes
                self._links[ends] = self._find_link((source, target), ends, hidden_bytes, store, progress).to_profiles()
            there, back = self._links[ends]
            links += [
                replace(there, source=source, target=target),
                replace(back, source=target, target=source),
            ]
        return tuple(links)

    def _find_link(
        self,
        devices: tuple[str, str],
        networks: tuple[str, str],
        hidden_bytes: int,
        store: ProfileStore,
        progress: Progress,
    ) -> LinkMeasurement:
        """A link within one network, that is, one machine, is kept; others are measured by each cluster."""
        is_local = networks[0] == networks[1]
        kept = store.load_link(networks[0], hidden_bytes, time.time()) if is_local else None
        if kept is not None:
            return kept
        [link] = measure_links(
            self.transport, devices, hidden_bytes=hidden_bytes, max_seconds_per_link=LINK_S, progress=progress
        )
        if is_local:
            with suppress(UsageError):  # a folder that can only be read: it takes a second each time
                store.save_link(networks[0], hidden_bytes, time.time(), link)
        return link


def mixed_profile(by_scheme: Mapping[str, DeviceProfile], unit_weights: Sequence[str]) -> DeviceProfile:
    """A device with the times of each unit in its own scheme.

    Args:
        unit_weights: of each unit; none where there is only one scheme.
    """
    first = next(iter(by_scheme.values()))
    if not unit_weights:
        return first
    units = list(enumerate(unit_weights))
    return replace(
        first,
        decode_unit_s=tuple(by_scheme[scheme].decode_unit_s[unit] for unit, scheme in units),
        prefill_unit_s_per_token=tuple(by_scheme[scheme].prefill_unit_s_per_token[unit] for unit, scheme in units),
        kernels=tuple({order[:-1]: order for each in by_scheme.values() for order in each.kernels}.values()),
    )


def _schemes_of(files: ModelFiles) -> dict[str, str]:
    """The schemes that units are in, and what each is measured as: one that needs no checkpoint."""
    mixed = files.profile.unit_weights
    return {scheme: scheme if bits_of(scheme) else AUTO for scheme in mixed} or {files.weights: files.like_weights}


def _pool(device: DeviceDescription) -> str:
    """Devices of one pool share memory."""
    return f"{device.host}/{device.compute}" if has_own_memory(device.compute) else device.host


def _place(device: DeviceDescription) -> str:
    """Devices of one place share what computes."""
    return device.host if device.compute == CPU else f"{device.host}/{device.compute}"


def _share(device: DeviceDescription, promised_bytes: int, num_devices: int) -> int:
    """What a device may use: an equal part of what the devices of its machine share, or what its owner allows."""
    share_bytes = max(device.memory_usable_bytes - promised_bytes, 0) // num_devices
    allowed_bytes = device.memory_allowed_bytes
    return share_bytes if allowed_bytes is None else min(share_bytes, allowed_bytes)
