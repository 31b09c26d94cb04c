"""Bits chosen for each unit: by what few bits were measured to cost, and the same as long as the model is loaded."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from in_process_ring import PROMPT, RingInProcess, answer, blueprint_of, ring_in_process
from lasting_in_process import LastingInProcess, lasting_in_process

from shardnet.cluster import survey
from shardnet.cluster.model import Model
from shardnet.cluster.survey import Surveyor, WaitFor
from shardnet.errors import BadRequest
from shardnet.loader import ModelFiles
from shardnet.process.cache_folder import cache_folder
from shardnet.profiling.losses import Loss, LossStore
from shardnet.profiling.measurement import DeviceMeasurement, StepTiming
from shardnet.quantised.linear import held_in

NUM_TOKENS = 12


SECONDS = {"auto": 0.04, "int8": 0.02, "int4": 0.01}
"""Of a step of a unit, as of a device that is bound by reading weights: those of this model are too small for that."""


@pytest.fixture(autouse=True)
def quick_profiles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    profile = Surveyor._profile

    def slow(surveyor: Surveyor, device: str, files: ModelFiles, weights: str, wait_for: WaitFor) -> DeviceMeasurement:
        found = profile(surveyor, device, files, weights, wait_for)
        return replace(found, units=tuple(replace(unit, steps=slowed(unit.steps, weights)) for unit in found.units))

    def slowed(steps: Sequence[StepTiming], weights: str) -> tuple[StepTiming, ...]:
        return tuple(replace(step, seconds=SECONDS[weights]) for step in steps)

    monkeypatch.setattr(Surveyor, "_profile", slow)
    monkeypatch.setattr(survey, "PROFILE_S", 0.3)
    monkeypatch.setattr(survey, "LINK_S", 0.05)
    monkeypatch.setenv("SHARDNET_CACHE", str(tmp_path / "cache"))


def measured(tiny: Path, int8: float, int4: float) -> None:
    """As `shardnet quality` would have it."""
    with ring_in_process(1) as ring, ring.connect() as cluster, cluster.load(tiny, split=[6]) as model:
        checkpoint = model.checkpoint
    losses = {"int8": Loss(int8, 1000, "a text"), "int4": Loss(int4, 1000, "a text")}
    LossStore(cache_folder()).save(checkpoint, losses)


@contextmanager
def chosen(tiny: Path, quality: str, num_devices: int = 3) -> Iterator[tuple[RingInProcess, Model]]:
    with ring_in_process(num_devices) as ring, ring.connect() as cluster:
        with cluster.load(tiny, quality=quality, prefill_chunk_tokens=4) as model:
            yield ring, model


def bits_of(ring: RingInProcess | LastingInProcess) -> dict[int, set[int]]:
    """How many bits the matrices of each unit have, on whichever devices; 16 where all are floats."""
    found: dict[int, set[int]] = {}
    for worker in ring.workers.values():
        for host in worker._stages.hosts():
            units = () if host.stage is None else host.stage.shard.units
            for unit in units:
                bits = {held.matrix.shape.form.bits for _, held in held_in(unit.modules)}
                found.setdefault(unit.index, set()).update(bits or {16})
    return found


def planned(model: Model) -> dict[int, set[int]]:
    """The same as the plan says; embedding and head have 8 where blocks have 4."""
    last = len(model.plan.unit_weights) - 1
    bits = {"bfloat16": 16, "int8": 8, "int4": 4}
    return {
        unit: {max(bits[scheme], 8) if unit in (0, last) else bits[scheme]}
        for unit, scheme in enumerate(model.plan.unit_weights)
    }


def test_what_was_never_measured_is_asked_for_in_one_sentence(tiny: Path) -> None:
    with pytest.raises(BadRequest, match=r"was not measured yet.*shardnet quality --model .* bfloat16,int8,int4$"):
        with chosen(tiny, "1%"):
            pass


def test_the_command_that_measures_it_can_be_pasted(tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "my model")
    with pytest.raises(BadRequest, match=f"--model '{folder}' --weights"):
        with chosen(folder, "1%"):
            pass


@pytest.mark.parametrize("quality", ["lots", "-1%", "101%", "nan", "1", "1.0", "%"])
def test_a_loss_that_is_none_is_refused(tiny: Path, quality: str) -> None:
    with pytest.raises(BadRequest, match="quality is how much more perplexity is allowed, such as 1%"):
        with chosen(tiny, quality):
            pass


def test_bits_that_are_asked_for_leave_nothing_to_choose(tiny: Path) -> None:
    with ring_in_process(1) as ring, ring.connect() as cluster:
        for options in ({"weights": "int4"}, {"dtype": "float32"}):
            with pytest.raises(BadRequest, match="quality chooses the bits of weights"):
                cluster.load(tiny, quality="1%", **options)  # type: ignore[arg-type]
        with pytest.raises(BadRequest, match="not measured for a split"):
            cluster.load(tiny, quality="0.01", split=[6])


@pytest.mark.usefixtures("quick_watch")
def test_units_keep_their_bits_whoever_takes_them_over(tiny: Path) -> None:
    measured(tiny, 0.2, 0.02)
    with chosen(tiny, "1%") as (ring, model):
        plan = model.plan
        assert plan.predicted_loss is not None and 0 <= plan.predicted_loss <= 0.01
        assert set(plan.unit_weights) == {"int4", "bfloat16"}
        assert bits_of(ring) == planned(model)
        sizes = blueprint_of(model).files.profile.units
        stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
        for _ in range(4):
            next(stream)
        ring.network.kill(plan.stages[-1].device)
        "".join(stream)
        assert model.plan.unit_weights == plan.unit_weights
        assert model.plan.stages != plan.stages
        del ring.workers[plan.stages[-1].device]
        assert bits_of(ring) == planned(model)
        assert "predicted loss" in str(model.plan)
        for report in model.report():
            held = sizes[report.first_unit : report.last_unit + 1]
            assert report.weight_bytes <= 1.01 * sum(unit.weight_bytes for unit in held)
    assert len(stream.result.token_ids) == NUM_TOKENS


def test_text_of_mixed_bits_does_not_depend_on_the_split(tiny: Path) -> None:
    measured(tiny, 0.0, 0.02)
    texts = set()
    for num_devices in (1, 3):
        with chosen(tiny, "1%", num_devices) as (_, model):
            weights = model.plan.unit_weights
            texts.add((weights, tuple(answer(model, PROMPT, NUM_TOKENS))))
    assert len({text for _, text in texts}) == len({weights for weights, _ in texts})


def test_the_next_coordinator_has_units_loaded_in_the_bits_that_they_had(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it would choose others now: what is left of the model goes on with what is loaded anew."""
    measured(tiny, 0.2, 0.02)
    options = {"quality": "1%", "prefill_chunk_tokens": 4}
    with lasting_in_process(3, folder=tmp_path / "state") as cluster:
        cluster.coordinator.begin(str(tiny), options).done.result(120)
        model = cluster.connect().model
        before, plan = bits_of(cluster), model.plan
        assert before == planned(model) and len(set(plan.unit_weights)) == 2
        assert plan.unit_weights[-1] == "int4", "what is lost"
        mark = model.profile.few_bits
        assert "int4" in mark and "bfloat16" in mark
        cluster.kill()
        cluster.lose(plan.stages[-1].device)
        measured(tiny, 0.2, 0.5)
        monkeypatch.setattr("shardnet.cluster.loading.with_bits", None)
        cluster.restart()
        cluster.coordinator.begin(str(tiny), options).done.result(120)
        assert cluster.told("resumed")
        again = cluster.connect().model
        assert again.plan.unit_weights == plan.unit_weights
        assert again.profile.few_bits == mark
        assert bits_of(cluster) == before
        [result] = again.generate([PROMPT], max_new_tokens=NUM_TOKENS)
    assert len(result.token_ids) == NUM_TOKENS
