"""Checkpoints of `shardnet quantise` as files: what is written is what is read, and damage is said."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shardnet.errors import DamagedCheckpoint
from shardnet.loader import few_bits
from shardnet.loader.checkpoint import index_file
from shardnet.loader.gguf.blocks import unpack
from shardnet.loader.own_blocks import blocks_of, kind_of
from shardnet.loader.places import TensorPlace
from shardnet.loader.reader import Reader
from shardnet.loader.stored import BLOCKS, OWN_TYPES, Stored
from shardnet.loader.tensor_files import Content, floats, read_floats_of, write_tensors
from shardnet.models.kv import ON_CPU
from shardnet.models.packings import Packing, Source
from shardnet.quantised.grouped import Grouped
from shardnet.quantised.kernels.choosing import suiting
from shardnet.quantised.kernels.kernel import Shape
from shardnet.quantised.kernels.plain import Plain
from shardnet.quantised.linear import Held
from shardnet.quantised.rounding import rounded
from shardnet.quantised.schemes import Form, form_of

FORMS = {kind_of(form): form for form in (Form(4, 32), Form(4, 64), Form(4, 128), Form(4, 32, is_symmetric=True))}
FEW = settings(max_examples=30, deadline=None, derandomize=True, database=None)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def weight_of(kind: str, num_outputs: int, num_groups: int, seed: int = 0) -> Grouped:
    draw = torch.Generator().manual_seed(seed)
    return rounded(torch.randn(num_outputs, num_groups * FORMS[kind].group, generator=draw), FORMS[kind])


def test_there_is_a_kind_for_each_form() -> None:
    assert set(FORMS) == set(OWN_TYPES)


@FEW
@given(st.sampled_from(OWN_TYPES), st.integers(1, 9), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_blocks_are_unpacked_to_what_was_packed(kind: str, num_outputs: int, num_groups: int, seed: int) -> None:
    weight = weight_of(kind, num_outputs, num_groups, seed)
    blocks = blocks_of(weight, is_symmetric=FORMS[kind].is_symmetric)
    assert tuple(blocks.shape) == (num_outputs * num_groups, BLOCKS[kind][1])
    found = unpack(kind, blocks)
    assert torch.equal(found.codes.view(num_outputs, -1), weight.codes)
    assert torch.equal(found.scales.view(num_outputs, -1), weight.scales)
    assert torch.equal(found.all_minima().view(num_outputs, -1), weight.minima)
    assert torch.equal(found.floats().view(num_outputs, -1), weight.floats())


@FEW
@given(st.sampled_from(OWN_TYPES), st.booleans(), st.integers(1, 70), st.integers(1, 40))
def test_a_matrix_is_read_as_codes_and_as_floats(kind: str, is_turned: bool, num_outputs: int, step: int) -> None:
    weight = weight_of(kind, num_outputs, 2)
    shape = tuple(weight.codes.shape[::-1] if is_turned else weight.codes.shape)
    stored = Stored(kind, is_turned=is_turned)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        blocks = blocks_of(weight, is_symmetric=FORMS[kind].is_symmetric).flatten()
        write_tensors(path, {"w": Content(stored.dtype, shape, blocks), "b": floats(torch.arange(3.0))})
        places = rooted(path)
        assert places["w"].dtype == stored.dtype and places["w"].shape == shape
        with Reader(places, torch.float32, ON_CPU) as reader, pytest.MonkeyPatch.context() as patch:
            patch.setattr(few_bits, "STEP_OUTPUTS", step)
            filled = filled_from(reader, shape, FORMS[kind], is_turned=is_turned)
            assert same(filled, filled_by(weight, FORMS[kind]))
            expected = weight.floats().t() if is_turned else weight.floats()
            read = reader.read({"w": torch.Size(shape), "b": torch.Size((3,))})
            assert torch.equal(read["w"], expected) and torch.equal(read["b"], torch.arange(3.0))
            as_floats = filled_from(reader, shape, Form(8, 0), is_turned=is_turned)
            assert same(as_floats, filled_by(rounded(weight.floats(), Form(8, 0)), Form(8, 0)))


def rooted(path: Path) -> dict[str, TensorPlace]:
    """The tensors of a file, each with a root."""
    return {name: place._replace(root=name) for name, place in index_file(path).items()}


def packing_of(shape: tuple[int, ...], form: Form, *, is_turned: bool = False) -> Packing:
    source = Source("w", torch.Size(shape), is_turned)
    return Packing((source,), Held(Plain(), Shape(form, source.num_outputs, source.num_inputs), ON_CPU))


def filled_from(reader: Reader, shape: tuple[int, ...], form: Form, *, is_turned: bool = False) -> dict[str, Tensor]:
    """What a kernel keeps of a matrix in a file."""
    packing = packing_of(shape, form, is_turned=is_turned)
    few_bits.fill(packing, reader, {})
    return packing.held.matrix.tensors


def filled_by(weight: Grouped, form: Form) -> dict[str, Tensor]:
    """The same of numbers."""
    held = packing_of(tuple(weight.codes.shape), form).held
    held.begin()
    held.fill(0, weight)
    return held.matrix.tensors


@pytest.mark.parametrize("heads", [1, 3])
def test_experts_in_turns_are_refused(tmp_path: Path, heads: int) -> None:
    """A file may say so. They were taken for rows in turns within each expert, some of which nothing filled then."""
    experts = torch.randn(6, 64, 32, generator=torch.Generator().manual_seed(1))
    dtype = Stored("F32", heads).dtype
    write_tensors(tmp_path / "f", {"w": Content(dtype, (6, 64, 32), experts.flatten().view(torch.uint8))})
    held = Held(Plain(), Shape(Form(8, 0), 64, 32), ON_CPU)
    packing = Packing((Source("w", torch.Size((64, 32)), False, 64 * 32),), held)
    with Reader(rooted(tmp_path / "f"), torch.float32, ON_CPU) as reader, pytest.raises(DamagedCheckpoint):
        few_bits.fill(packing, reader, {})


def test_symmetric_codes_serve_for_groups_with_a_minimum_and_not_the_other_way(tmp_path: Path) -> None:
    for kind, form in (("S4_32", Form(4, 32)), ("N4_32", FORMS["S4_32"])):
        weight = weight_of(kind, 4, 2)
        blocks = blocks_of(weight, is_symmetric=FORMS[kind].is_symmetric).flatten()
        write_tensors(tmp_path / kind, {"w": Content(kind, (4, 64), blocks)})
        with Reader(rooted(tmp_path / kind), torch.float32, ON_CPU) as reader:
            wanted = weight if kind == "S4_32" else rounded(weight.floats(), form)
            assert same(filled_from(reader, (4, 64), form), filled_by(wanted, form))


@pytest.mark.parametrize("scheme", ["int4", "int4-g64", "int4-g128", "int4-sym"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_kernel_rounds_what_a_file_has_to_the_scheme(tmp_path: Path, scheme: str, dtype: torch.dtype) -> None:
    """Once, products in C laid files out by themselves, which knew no symmetric groups."""
    numbers = torch.randn(64, 256, generator=torch.Generator().manual_seed(3)).to(dtype)
    write_tensors(tmp_path / "f", {"w": floats(numbers)})
    form = form_of(scheme, "", 256, is_table=False)
    assert form is not None
    expected = rounded(numbers, form)
    for kernel in suiting(Shape(form, 64, 256), torch.bfloat16, ON_CPU):
        packing = Packing((Source("w", numbers.shape, False),), Held(kernel, Shape(form, 64, 256), ON_CPU))
        with Reader(rooted(tmp_path / "f"), torch.bfloat16, ON_CPU) as reader:
            few_bits.fill(packing, reader, {})
        rows = kernel.look_up(packing.held.matrix, torch.arange(64), torch.float32)
        assert (rows - expected.floats()).abs().max() < 0.01, kernel.name


def test_every_kernel_knows_columns_that_lie_as_rows(tmp_path: Path) -> None:
    """A file may say so of any matrix. Products in C laid its rows out as they lay there: other numbers, as many."""
    numbers = torch.randn(64, 256, generator=torch.Generator().manual_seed(3))
    lying = numbers.t().contiguous().flatten().view(torch.uint8)
    write_tensors(tmp_path / "f", {"w": Content(Stored("F32", is_turned=True).dtype, (64, 256), lying)})
    form = Form(4, 32)
    expected = rounded(numbers, form).floats()
    for kernel in suiting(Shape(form, 64, 256), torch.bfloat16, ON_CPU):
        packing = Packing((Source("w", numbers.shape, False),), Held(kernel, Shape(form, 64, 256), ON_CPU))
        with Reader(rooted(tmp_path / "f"), torch.bfloat16, ON_CPU) as reader:
            few_bits.fill(packing, reader, {})
        rows = kernel.look_up(packing.held.matrix, torch.arange(64), torch.float32)
        assert (rows - expected).abs().max() < 0.01, kernel.name


def test_floats_come_back(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 5), "b": torch.randn(2, 2).bfloat16()}
    write_tensors(tmp_path / "f", {name: floats(each) for name, each in tensors.items()})
    found = read_floats_of(tmp_path / "f")
    assert all(torch.equal(found[name], each) for name, each in tensors.items())


@pytest.mark.parametrize(
    "note",
    ["[]", '{"w": 5}', '{"w": ["N4_64", [4, 128]]}', '{"w": ["N4_32", [4, "a"]]}', '{"w": ["Z9", [4, 64]]}', "{"],
)
def test_what_a_file_says_wrongly_of_its_tensors_is_damage(tmp_path: Path, note: str) -> None:
    blocks = blocks_of(weight_of("N4_32", 4, 2), is_symmetric=False).flatten()
    write_tensors(tmp_path / "f", {"w": Content("N4_32", (4, 64), blocks)})
    raw = (tmp_path / "f").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    header["__metadata__"]["shardnet"] = note
    text = json.dumps(header).encode()
    (tmp_path / "f").write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + size :])
    with pytest.raises(DamagedCheckpoint):
        index_file(tmp_path / "f")
