"""Hidden states that travel in another codec than the model's own dtype, over a whole ring in this process."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process_ring import PROMPT, SPLIT, RingInProcess, blueprint_of, loaded, ring_in_process, rings_of
from processes import wait_until

from shardnet.cluster import standby
from shardnet.cluster.blueprint import Blueprint
from shardnet.cluster.model import Model
from shardnet.codecs.names import CODECS, row_bytes, sent_as
from shardnet.codecs.rows import codec_named, decoded
from shardnet.described.model_sizes import unit_works
from shardnet.errors import BadRequest
from shardnet.launch.files.config_files import load_model_config
from shardnet.models.sizes import profile_model
from shardnet.plan import Link, Plan, stages_from_counts
from shardnet.transport.messages import RingId
from shardnet.transport.session_messages import SamplingOptions, SessionSpec

NUM_TOKENS = 16


def rounded(folder: Path, wire: str) -> list[int]:
    """What `transformers` answers where the states behind the last block of each stage are rounded."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def round_it(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        [rows] = output
        return decoded(codec_named(wire).encode(rows), rows.shape[1], torch.float32).unsqueeze(0)

    for block in (SPLIT[0] - 2, SPLIT[0] + SPLIT[1] - 2):
        model.model.layers[block].register_forward_hook(round_it)
    ids = torch.tensor([PROMPT])
    with torch.inference_mode():
        output = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=NUM_TOKENS, do_sample=False, pad_token_id=0
        )
    return output[0, len(PROMPT) :].tolist()


@pytest.mark.parametrize("wire", CODECS)
def test_what_travels_is_rounded_and_nothing_else(tiny: Path, wire: str) -> None:
    options: dict[str, Any] = {"dtype": "float32", "split": SPLIT, "prefill_chunk_tokens": 4}
    with ring_in_process() as ring, ring.connect() as cluster:
        with cluster.load(tiny, **options, wire=wire) as model:
            [result] = model.generate([PROMPT], max_new_tokens=NUM_TOKENS)
            [host] = ring.workers["b"]._stages.hosts()
            assert host.stage is not None and host.stage.shard.dtype == torch.float32
            num_bytes = host.stage.recorder.totals().bytes_in
    num_rows = len(PROMPT) + NUM_TOKENS - 1
    assert num_bytes == num_rows * row_bytes(wire, 64)
    assert result.token_ids == rounded(tiny, wire)


@pytest.mark.usefixtures("quick_watch")
@pytest.mark.parametrize("wire", ["bfloat16", "int8", "fp8"])
@pytest.mark.parametrize("lost", ["a", "b", "c"])
def test_who_takes_over_at_the_same_cuts_changes_no_token(tiny: Path, wire: str, lost: str) -> None:
    with loaded(tiny, [*SPLIT, 0], wire=wire) as (ring, model):
        rings, slow, fast = rings_of(model), (10.0,) * 6, (0.001,) * 6
        devices = [
            replace(device, decode_unit_s=fast if device.name == "d" else slow, prefill_unit_s_per_token=slow)
            for device in blueprint_of(model).devices
        ]
        rings.blueprint = replace(blueprint_of(model), devices=tuple(devices))
        stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
        for _ in range(5):
            next(stream)
        ring.network.kill(lost)
        "".join(stream)
        assert [stage.units for stage in model.plan.stages] == ["0-1", "2-3", "4-5"]
        assert "d" in model.plan.devices
    assert stream.result.token_ids == rounded(tiny, wire)


@pytest.mark.usefixtures("quick_watch")
@pytest.mark.parametrize("wire", ["int8", "fp8"])
@pytest.mark.parametrize("lost", ["a", "b", "c"])
def test_what_is_kept_hot_goes_on_with_the_rows_that_were_sent(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, wire: str, lost: str
) -> None:
    monkeypatch.setattr(standby, "QUIET_S", 0.05)
    with loaded(tiny, SPLIT, wire=wire, standby="hot") as (ring, model):
        for one in ring.names:
            for other in ring.names:
                ring.network.delay(one, other, 0.003)
        wait_until(lambda: sum(event.event == "standby" for event in model.events) >= 3)
        monkeypatch.setattr(standby, "QUIET_S", 60.0)
        stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
        for _ in range(8):
            next(stream)
        ring.network.kill(lost)
        "".join(stream)
        assert lost not in model.plan.devices
        hosts = [host for worker in ring.workers.values() for host in worker._stages.hosts()]
        assert {host.stage.sent_as.name for host in hosts if host.stage is not None} == {wire}
    assert len(stream.result.token_ids) == NUM_TOKENS
    assert stream.result.token_ids[:9] == rounded(tiny, wire)[:9]


def test_scores_that_overflow_on_the_way_are_explained() -> None:
    from shardnet.stage.sampling import Sampler

    spec = SessionSpec(1, 8, 2, 2, 4, (), SamplingOptions())
    error = Sampler(spec, torch.float32, "float16").not_finite(torch.tensor([float("nan")]))
    assert isinstance(error, BadRequest) and "(wire)" in str(error)


def test_plans_reckon_with_what_travels() -> None:
    from transformers import LlamaConfig

    config = LlamaConfig(num_hidden_layers=2, hidden_size=64, intermediate_size=64, num_attention_heads=4)
    profile = profile_model(config, "float32", "tiny")
    assert [unit.output_bytes for unit in sent_as(profile, "bfloat16").units] == [128, 128, 128, 8]
    assert [unit.output_bytes for unit in sent_as(profile, "int8").units] == [68, 68, 68, 8]
    works = unit_works(load_model_config("llama-2-7b"), "float16", bits=4, wire="float32")
    assert works[0].output_bytes == 4096 * 4 and works[-1].output_bytes == 8


def with_links(model: Model, slow: tuple[str, str]) -> Blueprint:
    """As if the model had been placed with --wire auto, and this were the only slow link."""
    blueprint = blueprint_of(model)
    names = [device.name for device in blueprint.devices]
    links = [Link(*ends, 0.001, 1e4 if ends == slow else 1e9) for ends in permutations(names, 2)]
    options = replace(blueprint.options, split=None, wire="auto")
    return replace(blueprint, options=options, links=tuple(links)).with_codecs_of(model.plan)


def sent_by(ring: RingInProcess) -> dict[int, str]:
    """By the last unit of each stage on the devices."""
    stages = [host.stage for worker in ring.workers.values() for host in worker._stages.hosts()]
    return {stage.shard.last_unit: stage.sent_as.name for stage in stages if stage is not None}


@pytest.mark.usefixtures("quick_watch")
def test_each_link_has_its_own_codec_and_a_cut_keeps_it_whoever_holds_the_units(tiny: Path) -> None:
    """Rings change in the midst of an answer: to one in which a link has a codec, then to one without its sender."""
    with loaded(tiny, [*SPLIT, 0], standby="cold") as (ring, model):
        rings_of(model).blueprint = blueprint = with_links(model, ("b", "c"))
        assert blueprint.codecs == ((1, "float32"), (3, "int8"), (5, "float32"))
        stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
        for _ in range(3):
            next(stream)
        model._deployment.renew()
        assert [report.sent_as for report in model.report()] == ["", "int8", ""]
        assert sent_by(ring) == {1: "float32", 3: "int8", 5: "float32"}
        ring.network.kill("b")
        "".join(stream)
        assert "b" not in model.plan.devices and len(stream.result.token_ids) == NUM_TOKENS
        for stage in model.plan.stages[:-1]:
            assert sent_by(ring)[stage.last_unit] == dict(blueprint.codecs)[stage.last_unit]


def test_a_new_cut_goes_by_the_link_between_its_devices(tiny: Path) -> None:
    with loaded(tiny, [*SPLIT, 0]) as (_, model):
        blueprint = with_links(model, ("a", "d"))
        assert set(dict(blueprint.codecs).values()) == {"float32"}
        plan = Plan(stages_from_counts(["a", "d"], [3, 3]))
        [first, last] = blueprint.specs(RingId(b"e", 9), plan.stages, plan)
        assert [stop.sent_as for stop in first.ring] == [stop.sent_as for stop in last.ring] == ["int8", "float32"]
        same = Plan(stages_from_counts(["a", "d"], [2, 4]))
        assert blueprint.codec_of(same.stages[0], same) == "float32", "the cut of the first plan"


def test_without_links_that_are_measured_none_is_chosen(tiny: Path) -> None:
    with pytest.raises(BadRequest, match="placement by hand"), loaded(tiny, SPLIT, wire="auto"):
        pass
