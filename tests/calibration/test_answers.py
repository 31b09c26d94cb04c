"""What devices give back of a unit is not believed: nothing is written that is no matrix, or no text."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from shardnet.calibration.answers import fault_of
from shardnet.loader.own_blocks import blocks_of
from shardnet.loader.places import TensorPlace
from shardnet.quantised.rounding import rounded
from shardnet.quantised.schemes import Form
from shardnet.transport.calibration_messages import QuantisedMatrix, QuantisedUnit

TENSORS = {name: TensorPlace("f", 0, 0, "F32", shape) for name, shape in {"w": (8, 128), "norm": (128,)}.items()}
SENT = (torch.zeros(5, 16), torch.zeros(3, 16))


def blocks(group: int = 64, *, is_symmetric: bool = False) -> Tensor:
    weight = torch.randn(8, 128, generator=torch.Generator().manual_seed(1))
    form = Form(4, group, is_symmetric=is_symmetric)
    return blocks_of(rounded(weight, form), is_symmetric=is_symmetric).flatten()


def said(stored: str, given: Tensor, name: str = "w", scheme: str = "int4-g64", windows: Any = SENT) -> str:
    matrices = {name: QuantisedMatrix(stored, given)}
    return fault_of(QuantisedUnit(matrices, windows), scheme, TENSORS, SENT, 16)


@pytest.mark.parametrize(
    ("scheme", "stored", "given"),
    [
        ("int4-g64", "N4_64", blocks()),
        ("int4", "N4_32", blocks(32)),
        ("int4-g128", "N4_128", blocks(128)),
        ("int4-sym", "S4_32", blocks(32, is_symmetric=True)),
    ],
)
def test_what_was_asked_for_is_taken(scheme: str, stored: str, given: Tensor) -> None:
    assert not said(stored, given, scheme=scheme)


def test_a_unit_without_matrices_is_taken() -> None:
    ids = torch.zeros(5, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)
    assert not fault_of(QuantisedUnit({}, SENT), "int4", TENSORS, ids, 16)


def test_columns_in_the_place_of_rows() -> None:
    turned = {"w": TensorPlace("f", 0, 0, "F32", (128, 8))}
    answer = QuantisedUnit({"w": QuantisedMatrix("N4_64/turned", blocks())}, SENT)
    assert not fault_of(answer, "int4-g64", turned, SENT, 16)
    assert fault_of(answer, "int4-g64", TENSORS, SENT, 16)


def infinite(group: int, value: float, at: int) -> Tensor:
    given = blocks(group).view(-1, 36).clone()
    given[3, at : at + 2] = torch.tensor([value]).bfloat16().view(torch.uint8)
    return given.flatten()


@pytest.mark.parametrize(
    ("stored", "given", "words"),
    [
        ("N4_64", blocks()[:-1], "[575] numbers of torch.uint8 instead of 576 bytes for the tensor w"),
        ("N4_64", torch.cat((blocks(), blocks())), "instead of 576 bytes"),
        ("N4_64", blocks()[:0], "[0] numbers of torch.uint8 instead of 576 bytes"),
        ("N4_64", blocks().view(16, 36), "instead of 576 bytes"),
        ("N4_64", blocks().float(), "instead of 576 bytes"),
        ("N4_64", blocks().view(torch.int8), "instead of 576 bytes"),
        ("N4_32", blocks(32), "'N4_32', which is not that of int4-g64"),
        ("Q4_1", blocks(32), "'Q4_1', which is not"),
        ("N4_64/heads=2", blocks(), "which is not"),
        ("N4_64/minus=1", blocks(), "which is not"),
        ("evil", blocks(), "'evil', which is not"),
        ("", blocks(), "which is not"),
        ("N4_64", infinite(64, float("nan"), 0), "scales that are not finite for the tensor w"),
        ("N4_64", infinite(64, float("-inf"), 2), "scales that are not finite"),
    ],
)
def test_what_is_no_such_matrix_is_said(stored: str, given: Tensor, words: str) -> None:
    assert words in said(stored, given)


def test_what_is_no_tensor_of_the_unit_is_said() -> None:
    assert "a matrix 'lm_head', which is none of its tensors" in said("N4_64", blocks(), "lm_head")
    assert "which is not that of" in said("N4_64", blocks(), "norm")


@pytest.mark.parametrize(
    ("windows", "words"),
    [
        ((), "other sizes than those of 8 tokens"),
        ((*SENT, SENT[0]), "other sizes"),
        (SENT[::-1], "other sizes"),
        ((SENT[0], SENT[1][:, :15]), "other sizes"),
        ((SENT[0], SENT[1][:, 0]), "other sizes"),
        ((SENT[0], SENT[1].double()), "no float32"),
        ((SENT[0], SENT[1].bfloat16()), "no float32"),
    ],
)
def test_what_is_no_text_behind_the_unit_is_said(windows: Any, words: str) -> None:
    assert words in said("N4_64", blocks(), windows=windows)
