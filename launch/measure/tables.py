"""What `shardnet profile` found: tables for a person, one object for a program, an entry for a cluster file."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from shardnet.described.clusters import GIB
from shardnet.foreign.quoting import counted
from shardnet.launch.console import plain_console, size
from shardnet.launch.measure.run import ProfileResult
from shardnet.plan import DTYPE_BYTES, DeviceProfile
from shardnet.profiling.kernel_timing import lines_of, rows_of
from shardnet.profiling.measurement import DeviceMeasurement, StepTiming, UnitMeasurement
from shardnet.quantised.kv_names import AUTO
from shardnet.quantised.schemes import bits_of


def as_object(result: ProfileResult) -> dict[str, Any]:
    """Plain values for JSON. `measurement` is what was measured, `profile` what it says of the model asked about."""
    measurement = result.profiled.measurement
    return {
        "device": measurement.device,
        "model": result.model,
        "dtype": measurement.dtype,
        "weights": measurement.weights,
        "kv_dtype": measurement.kv_dtype,
        "is_estimated": result.profile.is_estimated,
        "is_reused": not result.profiled.made_because,
        "made_because": result.profiled.made_because,
        "profile": asdict(result.profile),
        "roofline": asdict(measurement.roofline()),
        "kernels": rows_of(measurement.kernels),
        "left_to_torch": result.left_to_torch,
        "cluster_entry": cluster_entry(result.model, measurement, result.profile),
        "measurement": measurement.as_dict(),
    }


def cluster_entry(model: str, measurement: DeviceMeasurement, profile: DeviceProfile) -> dict[str, Any]:
    """The device as an entry of a cluster file, for `shardnet plan --cluster`."""
    roofline = measurement.roofline()
    entry: dict[str, Any] = {
        "name": measurement.device,
        "memory_gib": round(profile.memory_bytes / GIB, 3),
        "read_gb_per_s": round(roofline.read_bytes_per_s / 1e9, 3),
        "gflops": round(roofline.flops_per_s / 1e9, 2),
        "unit_overhead_ms": round(roofline.overhead_s * 1e3, 4),
        "about": f"Measured with {measurement.model} in {_numbers(measurement)} on {_date(measurement)}.",
    }
    if profile.active_w:
        entry["active_w"] = round(profile.active_w, 2)
    if not profile.is_estimated:
        bits = bits_of(measurement.weights) or 8 * DTYPE_BYTES[measurement.dtype]
        times = [round(s * 1e3, 5) for s in profile.decode_unit_s]
        entry["measured"] = [{"model": model, "bits": bits, "unit_ms": times, "source": "shardnet profile"}]
    return entry


def as_tables(result: ProfileResult, out: Path | None) -> None:
    """Print what was found."""
    console = plain_console(soft_wrap=True)
    measurement, profile = result.profiled.measurement, result.profile
    how = "estimated" if profile.is_estimated else "measured"
    console.print(_times_table(measurement))
    if len(measurement.trials) > 1:
        console.print(_threads_table(measurement))
    for line in lines_of(measurement.kernels):
        console.print(line)
    if result.left_to_torch is not None:
        console.print(_in_c_line(result.left_to_torch))
    tokens_per_s, prefill_per_s = 1 / sum(profile.decode_unit_s), 1 / sum(profile.prefill_unit_s_per_token)
    console.print(
        f"All of {result.model} ({_numbers(measurement)}) on this device, {how}: {tokens_per_s:.3g} tokens/s decoding "
        f"at 512 tokens of context, {prefill_per_s:.3g} tokens/s prefill."
    )
    roofline = measurement.roofline()
    gigabytes, gigaflops = roofline.read_bytes_per_s / 1e9, roofline.flops_per_s / 1e9
    console.print(
        f"Roofline: reads {gigabytes:.1f} GB/s, computes {gigaflops:.0f} GFLOP/s, {roofline.overhead_s * 1e3:.2f} ms a "
        f"unit besides (typically off by {roofline.error:.0%})."
    )
    console.print(f"Memory that may be used: {size(profile.memory_bytes)}. {_power_line(measurement, profile)}")
    if result.profiled.made_because:
        why = result.profiled.made_because
        console.print(f"Measured in {measurement.took_s:.0f} s. An earlier profile was not used: {why}.")
    else:
        console.print(f"Measured on {_date(measurement)}; --refresh measures again.")
    if out is not None:
        console.print(f"Written to {out}.")


def _in_c_line(left_to_torch: Mapping[str, int]) -> str:
    why = [f"{counted(num, 'blocks')}, as {reason}" for reason, num in left_to_torch.items()]
    return f"Not run in C as a whole: {'; '.join(why)}." if why else "All blocks are run in C as a whole."


def _times_table(measurement: DeviceMeasurement) -> Table:
    """A row for each kind of step, a column for each kind of unit."""
    threads = f"{measurement.num_threads} thread" + ("s" if measurement.num_threads > 1 else "")
    table = Table(
        title=f"{measurement.device}: ms a unit with {measurement.model} ({_numbers(measurement)}, {threads})",
        title_justify="left",
    )
    table.add_column("step")
    for unit in measurement.units:
        table.add_column(_name(unit), justify="right")
    rows = list(dict.fromkeys(map(_heading, sorted((s for unit in measurement.units for s in unit.steps), key=_order))))
    times = [{_heading(step): f"{step.seconds * 1e3:.3g}" for step in unit.steps} for unit in measurement.units]
    for heading in rows:
        table.add_row(heading, *(column.get(heading, "") for column in times))
    return table


def _threads_table(measurement: DeviceMeasurement) -> Table:
    table = Table(title="Threads: ms a block", title_justify="left")
    for heading in ("threads", "decode", "decode, another program running", "prefill of 64"):
        table.add_column(heading, justify="right")
    for trial in measurement.trials:
        mark = " <-" if trial.num_threads == measurement.num_threads else ""
        times = (trial.decode_s, trial.decode_under_load_s, trial.prefill_s)
        table.add_row(f"{trial.num_threads}{mark}", *(f"{seconds * 1e3:.3g}" for seconds in times))
    return table


def _order(step: StepTiming) -> tuple[bool, int, int, int]:
    """Decode before prefill, few sessions before many, short before long."""
    return not step.is_decode, step.num_sessions, step.context_tokens, step.num_tokens


def _heading(step: StepTiming) -> str:
    if step.is_decode:
        sessions = counted(step.num_sessions, "sessions")
        return f"decode {sessions} at {counted(step.context_tokens, 'tokens')}"
    return f"prefill {counted(step.num_tokens, 'tokens')}" + (
        f" behind {step.context_tokens}" if step.context_tokens else ""
    )


def _name(unit: UnitMeasurement) -> str:
    name = unit.work.name.split()[0]
    return f"{name} x {len(unit.units)}" if len(unit.units) > 1 else name


def _power_line(measurement: DeviceMeasurement, profile: DeviceProfile) -> str:
    power, parts = measurement.power_after, []
    if measurement.active_w is not None:
        joules = measurement.active_w * sum(profile.decode_unit_s)
        parts.append(f"{measurement.active_w:.1f} W while computing, {joules:.2f} J a token of the whole model")
    if power.battery_percent is not None:
        charging = {True: ", charging", False: ", discharging", None: ""}[power.is_charging]
        parts.append(f"battery {power.battery_percent:.0f}%{charging}")
    if power.battery_c is not None:
        parts.append(f"battery at {power.battery_c:.0f} degrees")
    if power.hottest_c is not None:
        before = measurement.power_before.hottest_c
        parts.append(f"hottest sensor {power.hottest_c:.0f} degrees" + (f" (before: {before:.0f})" if before else ""))
    return "Power: " + ", ".join(parts) + "." if parts else "Power and temperature cannot be read here."


def _numbers(measurement: DeviceMeasurement) -> str:
    """What the model was held and computed in."""
    held = "" if bits_of(measurement.weights) is None else f"weights {measurement.weights}, "
    kept = "" if measurement.kv_dtype == AUTO else f", keys and values {measurement.kv_dtype}"
    return f"{held}{measurement.dtype}{kept}"


def _date(measurement: DeviceMeasurement) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(measurement.measured_at_s))
