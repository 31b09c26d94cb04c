"""A device joins while a model runs: what it has and how fast it is goes into the model's blueprint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from shardnet.cluster.blueprint import Blueprint
from shardnet.cluster.copies import require_copies
from shardnet.cluster.survey import EXPECTED_TOKENS, Surveyor
from shardnet.process.cache_folder import cache_folder
from shardnet.progress import silent


def with_newcomer(blueprint: Blueprint, device: str, others: Sequence[str], surveyor: Surveyor) -> Blueprint:
    """The blueprint with one device more, which is measured where the others were.

    Args:
        others: the devices that are there.

    Raises:
        ShardnetError: the device has no copy of the model, or does not answer.
    """
    files, options = blueprint.files, blueprint.options
    cache_dir = cache_folder(options.cache_dir)
    require_copies(files, [device], surveyor.transport, cache_dir, silent)
    if not blueprint.links:  # nothing was measured of the others, either
        [found] = surveyor.memory([device])
        return _with(blueprint, found.name, replace(blueprint, devices=(found,)))
    known = [each.name for each in blueprint.devices if each.name in others and each.name != device]
    survey = surveyor.survey(
        [*known, device],
        files,
        cache_dir / "profiles",
        silent,
        context_tokens=min(EXPECTED_TOKENS, max(1, blueprint.context_tokens // 2)),
    )
    newcomer = next(each for each in survey.devices if each.name == device)
    return _with(blueprint, device, replace(blueprint, devices=(newcomer,), links=survey.links))


def _with(blueprint: Blueprint, device: str, found: Blueprint) -> Blueprint:
    """Both, where what was found of the device counts."""
    devices = [each for each in blueprint.devices if each.name != device]
    links = [link for link in blueprint.links if device not in (link.source, link.target)]
    links += [link for link in found.links if device in (link.source, link.target)] if blueprint.links else []
    return replace(blueprint, devices=(*devices, *found.devices), links=tuple(links))
