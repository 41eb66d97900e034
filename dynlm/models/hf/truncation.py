"""Low-rank approximation of weights that moved as a whole, by truncated singular value decomposition.

The change D of a matrix is approximated by U U^T D, where the columns of U are its leading left singular vectors: the
best product of its rank (Eckart & Young 1936). Of large matrices the vectors are found by subspace iteration from a
fixed random start (Halko, Martinsson & Tropp 2011, algorithm 4.4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from dynlm.models.hf.adapter import Adapter, LowRank, is_transposed, make_adapter
from dynlm.models.hf.lora import matrices
from dynlm.models.hf.model import HFModel
from dynlm.types import Params

_EXACT = 2048
"""Smaller side of the largest matrix that is decomposed exactly."""
_OVERSAMPLING, _ITERATIONS = 32, 8


@dataclass(frozen=True)
class Truncation:
    """An adapter that approximates weights which moved, and what it lacks.

    ``errors``: |D - scale B A| / |D| of each matrix (Frobenius norms; 0 where it did not move). ``dropped``: |D| of
    each tensor that moved and has no place in an adapter.
    """

    adapter: Adapter
    errors: dict[str, float]
    dropped: dict[str, float]
    error: float
    """|difference| / |D| of all tensors as one vector, those dropped included."""


def truncate(model: HFModel, static: Params, moved: Params, rank: int) -> Truncation:
    """Return the best adapter of ``rank`` for weights ``moved``, which are ``static`` at first.

    Raises ValueError if none of them is the matrix of a linear layer.
    """
    layers, errors, dropped = dict[str, LowRank](), dict[str, float](), dict[str, float]()
    lost = total = 0.0
    linear = {f"{name}.weight": name for name in matrices(model)}
    for name, weight in moved.items():
        change = weight.detach().double() - static[name].double()
        size, missing = float(change.norm()), float(change.norm())
        if name in linear:
            change = change.T if is_transposed(model.module.get_submodule(linear[name])) else change
            layers[linear[name]] = a, b = low_rank(change, rank)
            missing = float((change - b.double() @ a.double()).norm())
            errors[name] = missing / size if size else 0.0
        elif size:
            dropped[name] = size
        lost, total = lost + missing**2, total + size**2
    if not layers:
        raise ValueError("no linear layer is among the weights that moved")
    return Truncation(make_adapter(model, layers, 1.0), errors, dropped, math.sqrt(lost / total) if total else 0.0)


def low_rank(change: Tensor, rank: int, exact: int = _EXACT) -> LowRank:
    """Return float32 factors whose product b a is the best approximation of ``change`` (out, in).

    Where a side of the matrix is smaller than ``rank``, the factors end with zeros. Matrices whose sides both exceed
    ``exact`` are decomposed by iteration.
    """
    if change.shape[0] > change.shape[1]:
        a, b = low_rank(change.T, rank, exact)
        return LowRank(b.T.contiguous(), a.T.contiguous())
    change, side = change.double(), change.shape[0]
    vectors = _leading(change, min(rank, side), side <= exact)
    rest = vectors.T @ change
    # Both factors get the same share of the singular values.
    roots = rest.norm(dim=1).sqrt()
    a, b = rest / roots.clamp(min=1e-150)[:, None], vectors * roots
    missing = rank - len(roots)
    return LowRank(pad(a, (0, 0, 0, missing)).float(), pad(b, (0, missing)).float())


def _leading(change: Tensor, rank: int, exactly: bool) -> Tensor:
    """Return the first ``rank`` left singular vectors (out, rank), largest singular value first."""
    if exactly:
        return torch.linalg.eigh(change @ change.T)[1].flip(1)[:, :rank]
    generator = torch.Generator().manual_seed(0)
    width = min(rank + _OVERSAMPLING, len(change))
    start = torch.randn(change.shape[1], width, generator=generator, dtype=change.dtype)
    basis = torch.linalg.qr(change @ start.to(change.device))[0]
    for _ in range(_ITERATIONS):
        basis = torch.linalg.qr(change @ torch.linalg.qr(change.T @ basis)[0])[0]
    return basis @ _leading(basis.T @ change, rank, True)
