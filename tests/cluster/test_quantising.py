"""Checkpoints of 4 bits that a cluster makes: the same bytes whatever the devices, the split, and what is lost."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from damaged_models import change_json
from in_process_ring import RingInProcess, ring_in_process

from shardnet.calibration import folder as folders
from shardnet.calibration.unit import calibrate, outputs_of
from shardnet.cluster.cluster import Cluster
from shardnet.cluster.quantises import calibration_text
from shardnet.device import quantising
from shardnet.errors import BadRequest, ClusterError, DamagedCheckpoint, DoesNotFit, ShardnetError, UsageError
from shardnet.loader import load_shard, open_model
from shardnet.transport.calibration_messages import QuantisedMatrix

pytestmark = pytest.mark.usefixtures("quick_watch")
TEXT = calibration_text()[:700]
SCHEME = "int4-g64"
PROMPT = list(range(40, 70))
_HEADER = b'{"00000":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}'
NO_NUMBERS = len(_HEADER).to_bytes(8, "little") + _HEADER + bytes(8)


@pytest.fixture
def ring() -> Iterator[RingInProcess]:
    with ring_in_process() as ring:
        yield ring


@pytest.fixture
def cluster(ring: RingInProcess) -> Iterator[Cluster]:
    with ring.connect() as cluster:
        yield cluster


def quantised(cluster: Cluster, model: Path, out: Path, **options: Any) -> dict[str, bytes]:
    asked = {"weights": SCHEME, "text": TEXT, **options}
    return content(cluster.quantise(model, out, progress=lambda *_: None, **asked))


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def expected(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    with ring_in_process(1) as ring, ring.connect() as cluster:
        return quantised(cluster, tiny, tmp_path_factory.mktemp("expected") / "out")


@pytest.mark.parametrize("split", [None, [1, 4, 1], [2, 0, 4], [6, 0, 0]])
def test_the_same_bytes_over_every_split(
    cluster: Cluster, tiny: Path, tmp_path: Path, expected: dict[str, bytes], split: list[int] | None
) -> None:
    assert quantised(cluster, tiny, tmp_path / "out", split=split) == expected


def test_it_is_what_one_process_makes_unit_by_unit(tiny: Path, tmp_path: Path, expected: dict[str, bytes]) -> None:
    (tmp_path / "out").mkdir()
    for name, raw in expected.items():
        (tmp_path / "out" / name).write_bytes(raw)
    files, made = open_model(str(tiny), "bfloat16"), open_model(str(tmp_path / "out"), "bfloat16")
    assert made.weights == made.made_as == SCHEME and made.profile.few_bits == SCHEME
    windows = torch.tensor(files.tokenizer()(TEXT)["input_ids"]).split(512)
    for unit in range(5):
        shard = load_shard(
            files.config, files.tensors_of(unit, unit), unit, unit, "float32", scheme="float32" if unit else SCHEME
        )
        for name, matrix in (calibrate(shard, windows, SCHEME, tuple(files.tensors)) if unit else {}).items():
            place = made.tensors[name]
            assert place.dtype == matrix.stored
            with open(place.file, "rb") as file:
                file.seek(place.offset)
                assert file.read(place.num_bytes) == matrix.blocks.numpy().tobytes()
        windows = outputs_of(shard, windows)


@pytest.mark.parametrize("scheme", ["int4", "int4-g128", "int4-sym"])
def test_what_says_another_scheme_than_it_has_is_refused(
    tmp_path: Path, expected: dict[str, bytes], scheme: str
) -> None:
    """Its codes were taken for numbers, and rounded again to what it said."""
    for name, raw in expected.items():
        (tmp_path / name).write_bytes(raw)
    change_json(tmp_path / "config.json", lambda content: content["quantization_config"].update(weights=scheme))
    with pytest.raises(DamagedCheckpoint, match=f"made these weights {scheme}, and .* is stored as N4_64"):
        open_model(str(tmp_path), "bfloat16")


def test_it_loads_over_splits_with_equal_answers(cluster: Cluster, tiny: Path, tmp_path: Path) -> None:
    quantised(cluster, tiny, tmp_path / "out")
    answers, sizes = [], []
    for split in ([6, 0, 0], [2, 2, 2], [1, 4, 1]):
        with cluster.load(tmp_path / "out", split=split) as model:
            answers.append(model.generate([list(range(40, 70))], max_new_tokens=8)[0].token_ids)
            sizes.append(sum(report.weight_bytes for report in model.report()))
    assert answers[0] == answers[1] == answers[2]
    with cluster.load(tiny, split=[6, 0, 0], weights=SCHEME) as model:
        assert sizes[0] == model.report()[0].weight_bytes


def dying(ring: RingInProcess, monkeypatch: pytest.MonkeyPatch, device: str, after: int) -> None:
    """A device is gone while it has its unit number `after` in hand."""
    real, count = quantising.calibrate, [0]

    def calibrated(shard: Any, *arguments: Any) -> Any:
        if shard.first_unit == after and not count[0]:
            count[0] = 1
            ring.network.kill(device)
        return real(shard, *arguments)

    monkeypatch.setattr(quantising, "calibrate", calibrated)


def test_a_device_that_dies_in_the_midst_changes_nothing(
    ring: RingInProcess,
    cluster: Cluster,
    tiny: Path,
    tmp_path: Path,
    expected: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dying(ring, monkeypatch, "b", 3)
    assert quantised(cluster, tiny, tmp_path / "out") == expected
    assert "b" in cluster.lost


def test_the_last_device_that_dies_ends_it_and_others_go_on(
    tiny: Path, tmp_path: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with ring_in_process(1) as ring, ring.connect() as cluster:
        dying(ring, monkeypatch, "a", 3)
        with pytest.raises(ClusterError, match="every device is lost"):
            quantised(cluster, tiny, tmp_path / "out")
    assert not (tmp_path / "out" / "config.json").exists()
    begun = (tmp_path / "out" / "unit-00002.safetensors").stat().st_mtime_ns
    with ring_in_process(2) as ring, ring.connect() as cluster:
        assert quantised(cluster, tiny, tmp_path / "out") == expected
    assert (tmp_path / "out" / "unit-00002.safetensors").stat().st_mtime_ns == begun


@pytest.mark.parametrize("unit", range(6))
def test_a_disk_that_is_full_is_said_and_the_run_goes_on_later(
    cluster: Cluster,
    tiny: Path,
    tmp_path: Path,
    expected: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    unit: int,
) -> None:
    with monkeypatch.context() as patch:
        full_at(patch, unit)
        with pytest.raises(UsageError, match="No space left on device"):
            quantised(cluster, tiny, tmp_path / "out")
    assert not (tmp_path / "out" / "config.json").exists()
    assert quantised(cluster, tiny, tmp_path / "out") == expected


def test_a_run_that_was_cut_off_at_its_end_computes_nothing_again(
    cluster: Cluster, tiny: Path, tmp_path: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(folders, "write_whole", full)
        assert "it goes on behind unit 5" in fails(cluster, tiny, tmp_path / "out")
    monkeypatch.setattr(quantising, "calibrate", None)
    assert quantised(cluster, tiny, tmp_path / "out") == expected


def test_a_unit_that_is_gone_is_made_again(
    cluster: Cluster, tiny: Path, tmp_path: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        full_at(patch, 3)
        fails(cluster, tiny, tmp_path / "out")
    (tmp_path / "out" / "unit-00001.safetensors").unlink()
    assert quantised(cluster, tiny, tmp_path / "out") == expected


def full_at(patch: pytest.MonkeyPatch, unit: int) -> None:
    """There is no room for that unit."""
    real: Callable[..., None] = folders.write_tensors

    def full(path: Path, tensors: Any) -> None:
        if path.name == f"unit-{unit:05}.safetensors":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, tensors)

    patch.setattr(folders, "write_tensors", full)


def copied(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model, tmp_path / "copy"))


def touched(model: Path, tmp_path: Path) -> Path:
    for path in model.iterdir():
        path.write_bytes(path.read_bytes())
    return model


def moved(model: Path, tmp_path: Path) -> Path:
    (tmp_path / "elsewhere").mkdir()
    return model.rename(tmp_path / "elsewhere" / "other")


@pytest.mark.parametrize("change", [copied, touched, moved])
def test_the_same_model_goes_on_wherever_it_lies(
    cluster: Cluster,
    tiny: Path,
    tmp_path: Path,
    expected: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path, Path], Path],
) -> None:
    """A run went by the disk and the number of the model's file there: half done, and for ever another model's."""
    model = Path(shutil.copytree(tiny, tmp_path / "model"))
    with monkeypatch.context() as patch:
        full_at(patch, 3)
        fails(cluster, model, tmp_path / "out")
    begun = (tmp_path / "out" / "unit-00002.safetensors").stat().st_mtime_ns
    assert quantised(cluster, change(model, tmp_path), tmp_path / "out") == expected
    assert (tmp_path / "out" / "unit-00002.safetensors").stat().st_mtime_ns == begun


def test_a_model_with_another_number_in_it_does_not_go_on(
    cluster: Cluster, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Path(shutil.copytree(tiny, tmp_path / "model"))
    with monkeypatch.context() as patch:
        full_at(patch, 3)
        fails(cluster, model, tmp_path / "out")
    weights = model / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-2] ^= 1
    weights.write_bytes(raw)
    assert "another model, scheme or text is half done" in fails(cluster, model, tmp_path / "out")


def too_short(matrix: QuantisedMatrix) -> QuantisedMatrix:
    return matrix._replace(blocks=matrix.blocks[:-36])


def no_numbers(matrix: QuantisedMatrix) -> QuantisedMatrix:
    blocks = matrix.blocks.clone()
    blocks[:2] = 255
    return matrix._replace(blocks=blocks)


def other_kind(matrix: QuantisedMatrix) -> QuantisedMatrix:
    return matrix._replace(stored="N4_32")


@pytest.mark.parametrize(
    ("change", "words"),
    [(too_short, r"numbers of torch\.uint8 instead of"), (no_numbers, "not finite"), (other_kind, "the kind 'N4_32'")],
)
def test_what_a_device_gives_back_wrongly_is_said_and_not_written(
    cluster: Cluster,
    tiny: Path,
    tmp_path: Path,
    expected: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[QuantisedMatrix], QuantisedMatrix],
    words: str,
) -> None:
    real = quantising.calibrate

    def calibrated(shard: Any, *arguments: Any) -> dict[str, QuantisedMatrix]:
        matrices = real(shard, *arguments)
        name = next(iter(matrices))
        return {**matrices, name: change(matrices[name])} if shard.first_unit == 3 else matrices

    with monkeypatch.context() as patch:
        patch.setattr(quantising, "calibrate", calibrated)
        with pytest.raises(ClusterError, match=rf"b gave back .*{words}.* for unit 3 of .* Leave it out"):
            quantised(cluster, tiny, tmp_path / "out")
    assert not (tmp_path / "out" / "unit-00003.safetensors").exists()
    assert quantised(cluster, tiny, tmp_path / "out") == expected


def test_a_text_of_another_size_that_a_device_gives_back_is_said(
    cluster: Cluster, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = quantising.outputs_of
    monkeypatch.setattr(quantising, "outputs_of", lambda *arguments: real(*arguments)[:-1])
    with pytest.raises(ClusterError, match=r"a gave back hidden states of other sizes than those of .* for unit 0"):
        quantised(cluster, tiny, tmp_path / "out")


def test_a_device_that_is_lost_later_changes_no_token(
    ring: RingInProcess, cluster: Cluster, tiny: Path, tmp_path: Path
) -> None:
    """Who takes over its units reads the very same bits."""
    quantised(cluster, tiny, tmp_path / "out")
    with cluster.load(tmp_path / "out", dtype="float32", weights=SCHEME, split=[2, 2, 2]) as model:
        [before] = model.generate([PROMPT], max_new_tokens=32)
        for one in ring.names:
            for other in ring.names:
                ring.network.delay(one, other, 0.002)
        stream = model.stream(PROMPT, max_new_tokens=32)
        next(stream)
        ring.network.kill("b")
        "".join(stream)
        assert stream.result.token_ids == before.token_ids
        assert "b" not in model.plan.devices


def test_devices_keep_nothing_and_say_where_there_is_no_room(
    ring: RingInProcess, cluster: Cluster, tiny: Path, tmp_path: Path
) -> None:
    quantised(cluster, tiny, tmp_path / "out")
    assert [worker.premises.memory.budget.needed_bytes for worker in ring.workers.values()] == [0, 0, 0]
    with ring_in_process(1, memory_bytes=300_000) as small, small.connect() as other:
        with pytest.raises(DoesNotFit, match="GiB are free there beside what is promised to others"):
            quantised(other, tiny, tmp_path / "small")
        assert small.workers["a"].premises.memory.budget.needed_bytes == 0
    with ring_in_process(1, memory_bytes=8_000_000) as small, small.connect() as other:
        quantised(other, tiny, tmp_path / "short")
        with pytest.raises(DoesNotFit, match="GiB are free there"):
            quantised(other, tiny, tmp_path / "long", text="a" * 60_000)


def test_two_runs_do_not_write_in_one_folder(
    cluster: Cluster, tiny: Path, tmp_path: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., None] = folders.write_tensors
    said: list[str] = []

    def written(path: Path, tensors: Any) -> None:
        real(path, tensors)
        if path.name == "unit-00002.safetensors":
            said.append(fails(cluster, tiny, tmp_path / "out"))

    monkeypatch.setattr(folders, "write_tensors", written)
    assert quantised(cluster, tiny, tmp_path / "out") == expected
    assert len(said) == 1 and "Another run is writing in" in said[0]


@pytest.mark.parametrize("name", ["unfinished.json", "hidden-00001.safetensors"])
@pytest.mark.parametrize("raw", [b"", b"\xff\xfe", bytes(5000), NO_NUMBERS], ids=["empty", "no text", "zeros", "none"])
def test_what_a_run_has_left_and_cannot_be_read_is_said(
    cluster: Cluster, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, raw: bytes
) -> None:
    full_at(monkeypatch, 2)
    fails(cluster, tiny, tmp_path / "out")
    (tmp_path / "out" / name).write_bytes(raw)
    assert f"{name} in {tmp_path}/out cannot be read. Remove {tmp_path}/out, and begin anew." in fails(
        cluster, tiny, tmp_path / "out"
    )


def fails(cluster: Cluster, model: Path, out: Path, **options: Any) -> str:
    with pytest.raises(ShardnetError) as error:
        quantised(cluster, model, out, **options)
    assert isinstance(error.value, UsageError)
    return str(error.value)


def test_what_is_asked_wrongly_is_said_in_a_sentence(cluster: Cluster, tiny: Path, tmp_path: Path) -> None:
    assert "must be one of int4, int4-g64" in fails(cluster, tiny, tmp_path / "a", weights="int8")
    assert "text is empty" in fails(cluster, tiny, tmp_path / "a", text=" \n")
    assert "has 5 tokens, and" in fails(cluster, tiny, tmp_path / "a", text="Short")
    assert "Give 65536 at most" in fails(cluster, tiny, tmp_path / "a", text="a" * 65_537)
    assert "a string, but this is 5" in fails(cluster, tiny, tmp_path / "a", text=5)
    assert "the split must be a list" in fails(cluster, tiny, tmp_path / "a", split="2,2,2")
    assert "name of a new folder, but this is 5" in fails(cluster, tiny, 5)  # type: ignore[arg-type]
    assert "must give all 6 units" in fails(cluster, tiny, tmp_path / "a", split=[1, 1, 1])
    assert "There is no" in fails(cluster, tmp_path / "none", tmp_path / "a")
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").write_text("")
    assert "Cannot write" in fails(cluster, tiny, tmp_path / "file" / "a")
    assert "There is something in" in fails(cluster, tiny, tmp_path / "file")
    quantised(cluster, tiny, tmp_path / "b")
    assert "There is something in" in fails(cluster, tiny, tmp_path / "b")
    assert f"was quantised to {SCHEME} already" in fails(cluster, tmp_path / "b", tmp_path / "c")


def test_another_run_in_a_folder_that_is_half_done_is_refused(cluster: Cluster, tiny: Path, tmp_path: Path) -> None:
    state = tmp_path / "out" / "unfinished.json"
    state.parent.mkdir()
    for text in ('{"made_of": {}, "units_done": 3}', "[]", '{"units_done": "3"}'):
        state.write_text(text)
        with pytest.raises(BadRequest, match="another model, scheme or text is half done"):
            quantised(cluster, tiny, tmp_path / "out")
