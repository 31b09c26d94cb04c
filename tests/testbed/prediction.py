"""What the simulator says of a script, by what one core of this machine was measured to take for the model's units."""

from __future__ import annotations

from dataclasses import replace

from shardnet.launch.plan.options import PlannerOptions
from shardnet.launch.plan.run import ConfiguredPlanner
from shardnet.launch.plan.scripts import script_problem, script_run
from shardnet.loader import open_model, read_config
from shardnet.plan import DeviceProfile
from shardnet.planner.problem import Device
from shardnet.process.cache_folder import cache_folder
from shardnet.profiling.reuse import measure_or_reuse
from shardnet.profiling.store import ProfileStore
from shardnet.simulator import Script, simulate
from testbed.outcome import Outcome, predicted_outcome

PROFILE_S = 8.0
"""For a model that was never measured here."""


def predict(script: Script) -> Outcome:
    """The outcome of the script on paper. A placement by hand stays as it is, as in the runtime.

    Raises:
        ShardnetError: the model is not to be had, or nothing fits.
    """
    asked = script_problem(script)
    core = measured_core(script, asked.problem.context_tokens)
    slowdowns = {device.name: device.slowdown for device in script.devices}
    devices = tuple(_timed(device, core, slowdowns[device.name]) for device in asked.problem.devices)
    asked = replace(asked, problem=replace(asked.problem, devices=devices))
    run = script_run(script, asked, ConfiguredPlanner(PlannerOptions()), rebalance=script.split is None)
    return predicted_outcome(simulate(asked.problem, run.start, run.load, run.events, run.recovery), run.events)


def measured_core(script: Script, context_tokens: int) -> DeviceProfile:
    """What one core of this machine takes; measured once, and then reused."""
    opened = open_model(script.model, script.dtype)
    profiled = measure_or_reuse(
        read_config(opened.folder),
        script.dtype,
        ProfileStore(cache_folder(None) / "profiles"),
        max_seconds=PROFILE_S,
        num_threads=1,
        must_keep=False,
    )
    return profiled.measurement.to_profile(context_tokens=context_tokens)


def _timed(device: Device, core: DeviceProfile, slowdown: float) -> Device:
    return replace(
        device,
        unit_seconds=tuple(seconds * slowdown for seconds in core.decode_unit_s),
        prefill_unit_seconds=tuple(seconds * slowdown for seconds in core.prefill_unit_s_per_token),
    )
