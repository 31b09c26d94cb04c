"""Hidden states as rows and back: what every codec keeps, whatever the numbers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shardnet.codecs.names import CODECS, FP8, GROUP, INT8, row_bytes
from shardnet.codecs.rows import codec_for, codec_named, decoded
from shardnet.errors import BadRequest
from shardnet.plan import DTYPES

SIZES = (1, 2, 31, 32, 33, 63, 64, 65, 96, 576)
DTYPE_OF = {name: getattr(torch, name) for name in DTYPES}
sizes = st.sampled_from(SIZES)
codecs = st.sampled_from(CODECS)
dtypes = st.sampled_from(list(DTYPE_OF.values()))


def states(num_tokens: int, size: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """As hidden states are: most numbers near 1, some a thousand times as large, tokens of different scales."""
    generator = torch.Generator().manual_seed(seed)
    scales = 10 ** torch.empty(num_tokens, 1).uniform_(-4, 1, generator=generator)
    numbers = torch.randn(num_tokens, size, generator=generator) * scales
    outliers = torch.rand(num_tokens, size, generator=generator) < 0.02
    return torch.where(outliers, numbers * 1000, numbers).to(dtype)


def there_and_back(codec: str, hidden: torch.Tensor) -> torch.Tensor:
    return decoded(codec_named(codec).encode(hidden), hidden.shape[1], hidden.dtype)


@given(codec=codecs, size=sizes, dtype=dtypes, num_tokens=st.integers(0, 5), seed=st.integers(0, 99))
def test_rows_have_the_size_that_is_reckoned_with_and_come_back_in_shape(
    codec: str, size: int, dtype: torch.dtype, num_tokens: int, seed: int
) -> None:
    hidden = states(num_tokens, size, seed, dtype)
    rows = codec_named(codec).encode(hidden)
    assert rows.is_contiguous() and rows.nbytes == num_tokens * row_bytes(codec, size)
    assert codec_for(rows, size) is codec_named(codec)
    back = decoded(rows, size, dtype)
    assert back.shape == hidden.shape and back.dtype == dtype


@given(codec=codecs, size=sizes, seed=st.integers(0, 999), data=st.data())
@settings(max_examples=200)
def test_a_row_is_the_same_whatever_rows_share_its_step(codec: str, size: int, seed: int, data: st.DataObject) -> None:
    hidden = states(7, size, seed)
    rows = codec_named(codec).encode(hidden)
    first = data.draw(st.integers(0, 6))
    end = data.draw(st.integers(first + 1, 7))
    assert torch.equal(codec_named(codec).encode(hidden[first:end]), rows[first:end])
    assert torch.equal(decoded(rows[first:end], size, torch.float32), decoded(rows, size, torch.float32)[first:end])


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_models_own_dtype_loses_nothing(dtype: str) -> None:
    hidden = states(3, 65, 1, DTYPE_OF[dtype])
    assert torch.equal(there_and_back(dtype, hidden), hidden)


@given(size=sizes, seed=st.integers(0, 999))
def test_int8_is_off_by_no_more_than_its_groups_step(size: int, seed: int) -> None:
    hidden = states(4, size, seed)
    off = (there_and_back(INT8, hidden) - hidden).abs()
    for first in range(0, size, GROUP):
        group = slice(first, first + GROUP)
        most = hidden[:, group].abs().amax(1, keepdim=True) / 126.5 * 0.505
        assert bool((off[:, group] <= most).all())


@given(size=sizes, seed=st.integers(0, 999))
def test_fp8_is_off_by_no_more_than_its_digits(size: int, seed: int) -> None:
    hidden = states(4, size, seed)
    off = (there_and_back(FP8, hidden) - hidden).abs()
    smallest = hidden.abs().amax(1, keepdim=True) / 448 * 2**-10
    assert bool((off <= hidden.abs() * (2**-4 + 1e-6) + smallest * 1.01).all())


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("size", [1, 33, 64])
def test_what_is_no_finite_number_never_becomes_one(codec: str, bad: float, size: int) -> None:
    for place in {0, size // 2, size - 1}:
        hidden = states(3, size, place)
        hidden[1, place] = bad
        back = there_and_back(codec, hidden)
        assert not torch.isfinite(back[1, place])
        assert torch.isfinite(back[[0, 2]]).all()


@pytest.mark.parametrize("codec", CODECS)
def test_zeros_and_numbers_too_small_for_a_scale_stay_finite(codec: str) -> None:
    zeros = torch.zeros(2, 65)
    assert torch.equal(there_and_back(codec, zeros), zeros)
    back = there_and_back(codec, torch.full((2, 65), 1e-44))
    assert bool((back.abs() < 1e-40).all())


@pytest.mark.parametrize("codec", ["float32", "bfloat16", INT8, FP8])
@pytest.mark.parametrize("most", [1e5, 3e38])
def test_numbers_beyond_float16_pass(codec: str, most: float) -> None:
    hidden = torch.full((1, 64), most)
    assert torch.allclose(there_and_back(codec, hidden), hidden, rtol=0.07)


def test_two_codecs_never_make_rows_of_one_dtype() -> None:
    assert len({codec_named(name).dtype for name in CODECS}) == len(CODECS)


def test_other_tensors_are_no_rows() -> None:
    for rows in (
        torch.zeros(2, 65),
        torch.zeros(2, 64, dtype=torch.int8),
        torch.zeros(64),
        torch.zeros(2, 64).double(),
    ):
        assert codec_for(rows, 64) is None
    with pytest.raises(BadRequest, match="int4"):
        codec_named("int4")
