"""Bits chosen for each unit: by what few bits were measured to cost, and the same as long as the model is loaded."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from chosen_bits import bits_of, make_up_times, measured, planned
from in_process_ring import PROMPT, RingInProcess, answer, blueprint_of, ring_in_process
from lasting_in_process import lasting_in_process

from shardnet.cluster import copies
from shardnet.cluster.model import Model
from shardnet.errors import BadRequest
from shardnet.loader import fingerprint, open_model
from shardnet.process.cache_folder import cache_folder

NUM_TOKENS = 12


@pytest.fixture(autouse=True)
def quick_profiles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make_up_times(monkeypatch)
    monkeypatch.setenv("SHARDNET_CACHE", str(tmp_path / "cache"))


@contextmanager
def chosen(tiny: Path, quality: str, num_devices: int = 3) -> Iterator[tuple[RingInProcess, Model]]:
    with ring_in_process(num_devices) as ring, ring.connect() as cluster:
        with cluster.load(tiny, quality=quality, prefill_chunk_tokens=4) as model:
            yield ring, model


def test_what_was_never_measured_is_asked_for_in_one_sentence(tiny: Path) -> None:
    with pytest.raises(BadRequest, match=r"was not measured yet.*shardnet quality --model .* bfloat16,int8,int4$"):
        with chosen(tiny, "1%"):
            pass


def test_what_was_measured_before_the_weights_were_hashed_counts_still(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large model has another name since: as a device without a copy fetches it, say. Once, it had to be measured
    again."""
    with monkeypatch.context() as patch:
        patch.setattr(copies, "AT_ONCE_BYTES", 0)
        measured(tiny, 0.2, 0.02)
    fingerprint(open_model(str(tiny), "bfloat16").copy, cache_folder())
    with chosen(tiny, "1%") as (_, model):
        assert not model.checkpoint.startswith("local-") and "int4" in model.plan.unit_weights


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
            # A kernel may lay out whole tiles of rows: which one holds a matrix was timed.
            assert report.weight_bytes <= 1.1 * sum(unit.weight_bytes for unit in held)
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
        assert again.profile.predicted_loss == again.plan.predicted_loss == plan.predicted_loss is not None
        assert bits_of(cluster) == before
        [result] = again.generate([PROMPT], max_new_tokens=NUM_TOKENS)
    assert len(result.token_ids) == NUM_TOKENS
