"""Modules whose matrix is held in few bits: they stand where a model has linear layers and embeddings.

Shapes: T rows, K inputs, N outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from shardnet.process.huge_pages import ask_for_huge_pages
from shardnet.quantised.grouped import Grouped
from shardnet.quantised.kernels.kernel import Kernel, Matrix, Shape


class Held:
    """A matrix of few bits, with what multiplies by it. Its tensors come later, or are those that another one has.

    Args:
        kernel: that suits it.
    """

    def __init__(self, kernel: Kernel, shape: Shape, device: torch.device) -> None:
        self.kernel = kernel
        self.device = device
        self.matrix = Matrix(shape, {})

    @property
    def num_bytes(self) -> int:
        """What it takes of memory, whether its tensors are there yet or not."""
        return sum(each.num_bytes for each in self.kernel.memory(self.matrix.shape).values())

    def begin(self) -> None:
        """Make its tensors, which are then to be filled."""
        wanted = self.kernel.memory(self.matrix.shape)
        made = {name: torch.empty(each.shape, dtype=each.dtype, device=self.device) for name, each in wanted.items()}
        for tensor in made.values():
            if tensor.device.type == "cpu":
                ask_for_huge_pages(tensor.data_ptr(), tensor.nbytes)
        self.matrix.tensors.update(made)

    def fill(self, first_row: int, grouped: Grouped) -> None:
        """Lay out some outputs; `first_row` is a multiple of the kernel's `row_step`.

        Raises:
            ValueError: a scale or a minimum is no finite number.
        """
        if not bool(grouped.scales.isfinite().all() and grouped.minima.isfinite().all()):
            raise ValueError("This weight has a scale or minimum that is not a finite number.")
        self.kernel.fill(self.matrix, first_row, grouped)

    def product(self, rows: Tensor) -> Tensor:
        """Rows [T, K] -> [T, N]."""
        return self.kernel.product(self.matrix, rows)


class HeldLinear(nn.Module):
    """A linear layer: some outputs, one behind the other, of a matrix that several may share."""

    def __init__(self, held: Held, first_output: int, num_outputs: int, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.held = held
        self.first_output = first_output
        self.in_features, self.out_features = held.matrix.shape.num_inputs, num_outputs
        self.bias: nn.Parameter | None
        self.register_parameter("bias", bias)

    @property
    def is_whole(self) -> bool:
        """Whether it has the matrix for itself."""
        return self.out_features == self.held.matrix.shape.num_outputs

    def forward(self, rows: Tensor) -> Tensor:
        """[..., K] -> [..., N]."""
        outputs = self.held.product(rows.reshape(-1, self.in_features))
        if not self.is_whole:
            outputs = outputs[:, self.first_output : self.first_output + self.out_features]
        if self.bias is not None:
            outputs = outputs + self.bias
        return outputs.view(*rows.shape[:-1], self.out_features)


class HeldTable(nn.Module):
    """An embedding: ids -> rows of the matrix, multiplied by `scale`, which is rounded to the dtype."""

    def __init__(self, held: Held, dtype: torch.dtype, scale: Tensor | None) -> None:
        super().__init__()
        self.held = held
        self.dtype = dtype
        self.scale = None if scale is None else scale.to(dtype)

    def forward(self, ids: Tensor) -> Tensor:
        """[...] -> [..., K]."""
        rows = self.held.kernel.look_up(self.held.matrix, ids.reshape(-1), self.dtype)
        rows = rows.view(*ids.shape, self.held.matrix.shape.num_inputs)
        return rows if self.scale is None else rows * self.scale


def held_in(modules: Mapping[str, nn.Module]) -> Iterator[tuple[str, Held]]:
    """All that modules hold in few bits, each once, under the path of the first module that has it."""
    seen: set[int] = set()
    for path, module in modules.items():
        for name, part in module.named_modules(prefix=path):
            if isinstance(part, (HeldLinear, HeldTable)) and id(part.held) not in seen:
                seen.add(id(part.held))
                yield name, part.held


def bias_of(layers: Sequence[nn.Module]) -> Tensor | None:
    """The biases of layers with the same input, one behind the other; None where they have none."""
    biases = [layer.bias.detach() for layer in layers if isinstance(layer.bias, Tensor)]
    assert len(biases) in (0, len(layers)), "some of the layers with the same input have a bias, and others have none"
    return torch.cat(biases) if biases else None


def one_matrix(modules: Sequence[nn.Module]) -> Held | None:
    """The matrix whose outputs these layers have, one behind the other and all of them; None where there is none."""
    layers = [module for module in modules if isinstance(module, HeldLinear)]
    if len(layers) < len(modules):
        return None
    end = 0
    for layer in layers:
        if layer.held is not layers[0].held or layer.first_output != end:
            return None
        end += layer.out_features
    return layers[0].held if end == layers[0].held.matrix.shape.num_outputs else None
