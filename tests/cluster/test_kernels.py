"""By what a device holds matrices of few bits: as it was timed there, and the same as long as the model is loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from in_process_ring import PROMPT, RingInProcess, blueprint_of, loaded, rings_of

from shardnet.plan import KernelOrder
from shardnet.quantised.linear import held_in
from shardnet.quantised.schemes import BYTES, BYTES_BY_BYTES

NUM_TOKENS = 12


def kernels_on(ring: RingInProcess, device: str) -> set[str]:
    """Of the matrices of blocks that its stages hold."""
    stages = [host.stage for host in ring.workers[device]._stages.hosts()]
    units = [unit for stage in stages if stage is not None for unit in stage.shard.units]
    held = [each for unit in units for _, each in held_in(unit.modules)]
    return {each.kernel.name for each in held if each.matrix.shape.form == BYTES_BY_BYTES}


def orders(model_hidden: int, *kernels: str) -> tuple[KernelOrder, ...]:
    sizes = [(outputs, inputs) for outputs in range(16, 513, 16) for inputs in (model_hidden, 2 * model_hidden, 128)]
    return tuple(KernelOrder(*form.layout, *size, kernels) for form in (BYTES, BYTES_BY_BYTES) for size in sizes)


@pytest.mark.usefixtures("quick_watch")
def test_who_takes_over_holds_matrices_by_what_was_timed_there(tiny: Path) -> None:
    with loaded(tiny, [2, 2, 2, 0], weights="w8a8") as (ring, model):
        assert kernels_on(ring, "b") and "plain" not in kernels_on(ring, "b"), "nothing was timed"
        before = kernels_on(ring, "b")
        rings, fast, slow = rings_of(model), (0.001,) * 6, (10.0,) * 6
        devices = [
            replace(device, decode_unit_s=fast, prefill_unit_s_per_token=fast, kernels=orders(64, "plain"))
            if device.name == "d"
            else replace(device, decode_unit_s=slow, prefill_unit_s_per_token=slow)
            for device in blueprint_of(model).devices
        ]
        rings.blueprint = replace(blueprint_of(model), devices=tuple(devices))
        stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
        for _ in range(4):
            next(stream)
        ring.network.kill("c")
        "".join(stream)
        assert "d" in model.plan.devices
        assert kernels_on(ring, "d") == {"plain"}
        assert kernels_on(ring, "b") == before
    assert len(stream.result.token_ids) == NUM_TOKENS
