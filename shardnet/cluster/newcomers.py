"""A device joins while a model runs: what it has and how fast it is goes into the model's blueprint."""

from __future__ import annotations

import threading
from collections.abc import Container, Sequence
from concurrent.futures import Future, wait
from dataclasses import replace
from functools import partial

from shardnet.cluster.blueprint import Blueprint
from shardnet.cluster.copies import require_copies
from shardnet.cluster.deployment import Deployment
from shardnet.cluster.survey import EXPECTED_TOKENS, Surveyor
from shardnet.errors import ShardnetError
from shardnet.plan import DeviceProfile, Link
from shardnet.process.cache_folder import cache_folder
from shardnet.process.threads import on_thread
from shardnet.progress import silent
from shardnet.shipping.dispatch import Dispatch


class Newcomers:
    """Lets the models of one cluster use devices that join, as soon as these are measured.

    Args:
        lost: the devices that are lost now, as far as that is known.
    """

    def __init__(self, surveyor: Surveyor, lost: Container[str]) -> None:
        self._surveyor = surveyor
        self._lost = lost
        self._measured: list[Future[None]] = []
        self._lock = threading.Lock()

    def take_into(self, deployment: Deployment, device: str, present: Sequence[str]) -> None:
        """Does not wait. Args: `present`, the devices that are there."""
        with self._lock:
            self._measured = [each for each in self._measured if not each.done()]
            self._measured.append(on_thread("shardnet-newcomer", partial(self._take_into, deployment, device, present)))

    def take_late_into(self, deployment: Deployment, present: Sequence[str]) -> None:
        """The same for all that came while the model was loaded, or while no coordinator was there."""
        for device in present:
            if device not in self._lost and not deployment.reckons_with(device):
                self.take_into(deployment, device, present)

    def settle(self, timeout_s: float) -> None:
        """Wait for those that came before, but no longer than that."""
        with self._lock:
            measured = list(self._measured)
        wait(measured, timeout=timeout_s)

    def _take_into(self, deployment: Deployment, device: str, present: Sequence[str]) -> None:
        others = [each for each in present if each not in self._lost]

        def change(blueprint: Blueprint) -> Blueprint:
            return with_newcomer(blueprint, device, others, self._surveyor, deployment.dispatch)

        try:
            deployment.take_in(device, change, lambda: device not in self._lost)
        except ShardnetError as error:  # its disk is full, or it left again: the model does without
            deployment.note("newcomer", f"{device} is not used: {error}", device)


def with_newcomer(
    blueprint: Blueprint, device: str, others: Sequence[str], surveyor: Surveyor, dispatch: Dispatch
) -> Blueprint:
    """The blueprint with one device more, which is measured where the others were.

    Args:
        others: the devices that are there.

    Raises:
        ShardnetError: the device does not answer.
    """
    cache_dir = cache_folder(blueprint.options.cache_dir)
    files = require_copies(blueprint.files, [device], dispatch, cache_dir, silent)
    blueprint = replace(blueprint, files=files)
    if not any(each.decode_unit_s for each in blueprint.devices):  # of a placement by hand nothing was measured
        [newcomer] = surveyor.memory([device])
        return _with(blueprint, newcomer, ())
    known = [each.name for each in blueprint.devices if each.name in others and each.name != device]
    survey = surveyor.survey(
        [*known, device],
        files,
        cache_dir / "profiles",
        silent,
        context_tokens=min(EXPECTED_TOKENS, max(1, blueprint.context_tokens // 2)),
    )
    dispatch.learn(survey.links)
    newcomer = next(each for each in survey.devices if each.name == device)
    return _with(blueprint, newcomer, survey.links)


def _with(blueprint: Blueprint, newcomer: DeviceProfile, links: Sequence[Link]) -> Blueprint:
    """With what was found of a device, in the place of what was known of one of that name."""
    devices = [each for each in blueprint.devices if each.name != newcomer.name]
    kept = [link for link in blueprint.links if newcomer.name not in (link.source, link.target)]
    found = [link for link in links if newcomer.name in (link.source, link.target)]
    return replace(blueprint, devices=(*devices, newcomer), links=(*kept, *found))
