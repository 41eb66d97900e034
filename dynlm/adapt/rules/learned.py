"""The learned rule: phi, what it has learned, and the element-wise rule that phi makes.

Legend: K dynamic tensors, P rows of phi's tables (one for each tensor, or kind of tensors), J features of the gates.

With z = log(R + epsilon) of each weight, centred in its tensor (R^2 is the diagonal of the Fisher information, the
importance of elastic weight consolidation: Kirkpatrick et al. 2017), tensor k's weights have

    lr    = lr_0 * exp(lr_k + lr.importance_k * z + lr.each),    precondition = 1 / (R + epsilon)
    beta  = min(decay_0 * exp(decay_k + decay.importance_k * z + decay.each) * decay_shape, 1)

where lr_0, decay_0 and epsilon are the tuned rms rule's: phi of zero *is* that rule. With ``g.base adam`` it is the
tuned Adam: its update takes the place of precondition * u, decay_shape is 1, and epsilon is Adam's. ``lr.each`` exists
where rates are shared by rows or by nothing. ``adapt.gates`` has the gates; each tensor's shares ``boundary_reset``,
``slow_rate`` and ``slow_decay`` are in ``rules.boundary``. phi holds as many numbers as
there are tensors, whatever their sizes, unless rates are shared less than by tensors.

With ``g.sharing kind`` all of these are one number for the tensors of a kind (``SequenceModel.tensor_kinds``), and lr_k
is lr_kind + lr.depth_kind * depth_k, depth_k from -1 to 1 (decay_k alike): phi then fits other sizes of the model too.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dynlm.adapt.gates import Gates, norm
from dynlm.adapt.options import LearnedRuleOptions
from dynlm.adapt.rules.base import Statistics
from dynlm.adapt.rules.boundary import Boundary
from dynlm.adapt.rules.elementwise import ElementwiseRule, Rates
from dynlm.adapt.rules.moments import Moments
from dynlm.models.protocol import TensorKind
from dynlm.types import Params

SHARES = ("boundary_reset", "slow_rate", "slow_decay")
"""Parts of phi that act where an article begins; from 0 to 1."""


@dataclass(frozen=True)
class TunedStart:
    """Options of what is learned, and the tuned rule that it starts from; ``static``: theta_0's dynamic tensors.

    ``statistics`` are empty where g needs none (``LearnedRuleOptions.needs_statistics``).
    """

    statistics: Statistics
    static: Params
    lr: float
    decay: float
    epsilon: float
    g: LearnedRuleOptions = field(default_factory=LearnedRuleOptions)

    @property
    def names(self) -> list[str]:
        """The dynamic tensors."""
        return list(self.static)


@dataclass(frozen=True)
class LearnedRule(TunedStart):
    """The learned rule g; ``measured`` names the tensor whose gradient its gates measure.

    ``moments``: those of Adam, where g starts there. At level 2 it has no decay: theta_0 is the start, and a boundary
    reset goes to the slow weights.
    """

    measured: str = ""
    kinds: Mapping[str, TensorKind] = field(default_factory=dict)
    """The kind of each tensor, for ``g.sharing kind``."""
    moments: Moments | None = None

    @functools.cached_property
    def row_names(self) -> list[str]:
        """What each row of phi's tables is of: the kinds of tensors, or the tensors."""
        if self.g.sharing != "kind":
            return self.names
        return list(dict.fromkeys(self.kinds[name].name for name in self.names))

    @functools.cached_property
    def rows(self) -> dict[str, int]:
        """The row of phi's tables that each tensor uses."""
        of = {row: number for number, row in enumerate(self.row_names)}
        return {name: of[self.kinds[name].name if self.g.sharing == "kind" else name] for name in self.names}

    @property
    def learns_decay(self) -> bool:
        """Whether phi has decays: Adam mostly has none, which no factor changes."""
        return self.g.level == 3 and (self.decay > 0 or self.moments is None)

    @property
    def shares_less(self) -> bool:
        """Whether the weights of a tensor do not all share their rates."""
        return self.g.sharing in ("row", "weight")

    def initial(self) -> Params:
        """Return a phi of zero: the tuned rule (at level 2 without its decay)."""
        some = next(iter(self.static.values()))
        zeros_P = some.new_zeros(len(self.row_names), dtype=torch.float64)
        kinds = ["lr", *["decay"] * self.learns_decay]
        phi = dict.fromkeys(kinds, zeros_P)
        for kind in kinds:
            if self.g.sharing == "kind":
                phi[f"{kind}.depth"] = zeros_P
            if self.g.importance:
                phi[f"{kind}.importance"] = zeros_P
            if self.g.features:
                phi[f"{kind}.gates"] = zeros_P.new_zeros(len(zeros_P), len(self.g.features))
            if self.shares_less:
                for name, tensor in self.static.items():
                    phi[f"{kind}.each/{name}"] = zeros_P.new_zeros(each_shape(tensor, self.g.sharing))
        if self.g.boundary_reset:
            phi["boundary_reset"] = zeros_P
        if self.g.slow:
            phi["slow_rate"] = zeros_P + self.g.slow_rate
            if self.g.level == 3:
                phi["slow_decay"] = zeros_P
        return {key: tensor.clone() for key, tensor in phi.items()}

    def importance_of(self, name: str) -> Tensor:
        """Return z: log(R + epsilon) of each weight of a tensor, minus its mean."""
        logs = (self.statistics.rms[name] + self.epsilon).log()
        return logs - logs.mean()

    def rule(self, phi: Params, label: str = "meta", importance: Params | None = None) -> ElementwiseRule:
        """Return g with these parameters, as a rule; differentiable where phi requires gradients.

        ``importance``: z of each tensor, where it is at hand.
        """
        learned = any(tensor.requires_grad for tensor in phi.values())
        rms, limits = self.statistics.rms, None
        scale, shape = Params(), Params()
        if self.moments is None:
            scale, shape = self.statistics.precondition(self.epsilon), self.statistics.decay_shape()
        if (self.g.slow or self.g.slow_rate) and not self.g.slow_step:
            limits = self.statistics.slow_limits()
        rates: dict[str, Rates] = {}
        shares: dict[str, dict[str, float | Tensor]] = {kind: {} for kind in SHARES}
        none = torch.zeros((), dtype=torch.float64)
        if self.g.slow_rate and not self.g.slow:
            shares["slow_rate"] = dict.fromkeys(self.names, self.g.slow_rate)
        for name, row in self.rows.items():
            # A tuned decay of 0 stays 0 whatever phi is.
            decay = self.decay * self._log(phi, "decay", name).exp() if "decay" in phi else none
            made = self.lr * self._log(phi, "lr", name).exp(), decay
            rates[name] = Rates(*(made if learned else map(float, made)))
            for kind, table in (("lr", scale), ("decay", shape)):
                logs: Tensor | float = 0.0
                if f"{kind}.importance" in phi:
                    z = self.importance_of(name) if importance is None else importance[name]
                    logs = logs + phi[f"{kind}.importance"][row].to(z.dtype) * z
                if (each := phi.get(f"{kind}.each/{name}")) is not None:
                    logs = logs + each.to(self._dtype_of(name))
                if isinstance(logs, Tensor):
                    table[name] = table[name] * logs.exp() if name in table else logs.exp()
            for kind in shares.keys() & phi.keys():
                # As tensors of the weights' own type, which is float32 where phi is float64.
                share = phi[kind][row]
                shares[kind][name] = share.to(self._dtype_of(name)) if learned else float(share)
        gates = None
        if self.g.features:
            rows, dtype = list(self.rows.values()), self._dtype_of(self.names[0])
            lr_KJ = phi["lr.gates"].to(dtype)[rows]
            decay_KJ = phi["decay.gates"].to(dtype)[rows] if self.learns_decay else torch.zeros_like(lr_KJ)
            gradient_scale = 1 / (rms[self.measured or self.names[0]] + self.epsilon) if rms else None
            size = float(norm(self.static[name] for name in self.names))
            gates = Gates(tuple(self.g.features), lr_KJ, decay_KJ, gradient_scale, size, self.learns_decay)
        return ElementwiseRule(
            label,
            rates,
            scale or None,
            shape or None,
            gates,
            Boundary(shares["boundary_reset"], shares["slow_rate"], limits, self.g.slow_step, shares["slow_decay"]),
            decay_step=self.g.decay_step,
            replay_rate=self.g.replay_rate,
            momentum=self.g.momentum,
            moments=self.moments,
            source=(phi, rms, self.lr, self.decay, self.epsilon, self.g.sharing, self.g.level, *self.g.features),
        )

    def _dtype_of(self, name: str) -> torch.dtype:
        """Return the type of a tensor's dynamic weights, which is never half precision."""
        return torch.promote_types(self.static[name].dtype, torch.float32)

    def _log(self, phi: Params, kind: str, name: str) -> Tensor:
        """Return the logarithm of a tensor's rate over the tuned one."""
        row, slopes = self.rows[name], phi.get(f"{kind}.depth")
        return phi[kind][row] if slopes is None else phi[kind][row] + slopes[row] * self.kinds[name].depth

    def readable(self, phi: Params) -> Mapping[str, object]:
        """Return phi's small parts by tensor or kind of tensors, for JSON and tables.

        ``alpha`` and ``lambda`` are learning rate and decay, of a kind in the middle layer.
        """
        by_row: dict[str, dict[str, object]] = {name: {} for name in self.row_names}
        for key, tensor in phi.items():
            if "/" in key:
                continue
            for name, row in zip(self.row_names, tensor.tolist(), strict=True):
                by_row[name][key] = dict(zip(self.g.features, row, strict=True)) if key.endswith("gates") else row
        for number, entries in enumerate(by_row.values()):
            entries["alpha"] = self.lr * math.exp(float(phi["lr"][number]))
            entries["lambda"] = float(self.decay * phi["decay"][number].exp()) if "decay" in phi else 0.0
        return by_row

    def select_rows(self, phi: Params, rows: Sequence[str]) -> Params:
        """Return the rows for this model's tensors of a phi whose tables have the rows ``rows``.

        Raises KeyError, with its name, for a row that is not there.
        """
        of = {row: number for number, row in enumerate(rows)}
        numbers = [of[row] for row in self.row_names]
        return {key: tensor if "/" in key else tensor[numbers] for key, tensor in phi.items()}


def each_shape(tensor: Tensor, sharing: str) -> tuple[int, ...]:
    """Return the shape of the rates of a tensor's rows, or of its weights; a vector's rows are its weights."""
    return tuple(tensor.shape) if sharing == "weight" else (len(tensor), *(1,) * (tensor.dim() - 1))


def clamp_(phi: Params, bound: float) -> None:
    """Keep log-rates and gates within ``bound`` nats of the start, and shares from 0 to 1, in place."""
    for key, tensor in phi.items():
        tensor.clamp_(0 if key in SHARES else -bound, 1 if key in SHARES else bound)
