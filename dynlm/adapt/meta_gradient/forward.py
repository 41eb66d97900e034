"""Exact first-order meta-gradients of phi, forward in time, at a cost that does not grow with the horizon.

Legend: B lanes, K dynamic tensors, J gate features.

With u_t and the features taken as constants (first order, as in Andrychowicz et al. 2016) the Jacobian of a step,
d theta_{t+1} / d theta_t, is the diagonal 1 - beta. The sensitivities to the logarithms of a tensor's learning rate and
decay, and to the gates' weights of feature f_j, obey, weight by weight,

    s_lr  <- (1 - beta) s_lr  - alpha * scale * u_t         (u_t: what momentum or Adam's moments make of it)
    s_decay  <- (1 - beta) s_decay  + beta * (anchor - theta_t)          (0 where beta is clamped at 1)
    s_lr,j and s_decay,j: the same with f_j times the last term

and dL_t / d parameter = <u_t, s>, summed over all weights that share the parameter; what is the same at every step
(importance, rows, depth) is a factor of that sum. theta_t - anchor obeys the first recurrence, from the same zero, so
s_lr is the distance from the anchor and need not be stored. When an article begins and weights go to the anchor by the
share f, all of these are multiplied by 1 - f as the distance is, and

    s_reset <- (1 - f) s_reset - (theta - anchor)   with s_reset <- (1 - beta) s_reset at every step.

With slow weights the anchor moves too, at the end of an article. Let x = s - d anchor / d phi: within an article the
anchor is constant, and the recurrences above are those of x. When the next article begins, with c the slow rate, d the
slow decay and theta and anchor as they were,

    d anchor / d phi <- (1 - d) d anchor / d phi + c x   (+ (theta - anchor) * limits for the slow rate c itself,
                                                         - (anchor - theta_0) for the slow decay d itself)
    x <- (1 - f) (s - d anchor / d phi)                  by the new anchor (and - (theta - anchor) for f itself)

so that one more tensor is stored for each, ``slow``. That of the learning rate is anchor - theta_0 and need not be
stored either. Where phi itself moves during the reading, all are derivatives by a constant added to phi at all times.
The shifts of a slow rate and of decays that move while reading (``rules.online_rate``) are constants too.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynlm.adapt.dynamic_model import DynamicModel, Memory
from dynlm.adapt.gates import SegmentStats, at_bound
from dynlm.adapt.meta_gradient.learner import MetaGradient
from dynlm.adapt.rules.base import StepEvent
from dynlm.adapt.rules.elementwise import ElementwiseRule
from dynlm.adapt.rules.learned import SHARES, LearnedRule, clamp_, each_shape
from dynlm.adapt.rules.online_rate import slope_of_shifted
from dynlm.data.stream import Segment
from dynlm.models.scratch import Scratch
from dynlm.runtime.tree import leaves, map_tensors, select_lanes
from dynlm.types import Params

_PREFIX = "lanes/sensitivities"


class Sensitivities(MetaGradient):
    """d theta_t / d phi of every lane and weight, and the gradients of phi summed so far.

    ``update`` keeps log-rates and gates of phi within ``bound`` nats of the start.
    """

    def __init__(
        self, meta: LearnedRule, phi: Params, dynamic_model: DynamicModel, memory: Memory, bound: float = math.inf
    ):
        self.params, self._meta, self._bound = phi, meta, bound
        assert isinstance(dynamic_model.rule, ElementwiseRule)
        self._rule = dynamic_model.rule
        self._importance = {name: meta.importance_of(name) for name in meta.names} if meta.g.importance else {}
        self.summed = {key: torch.zeros_like(tensor) for key, tensor in phi.items()}
        """Sum over segments and lanes of dL / d phi since ``gradients`` were taken."""
        gated = [kind for kind in ("lr", "decay") if f"{kind}.gates" in phi]
        kinds = [f"{kind}.{feature}" for kind in gated for feature in meta.g.features]
        kinds += [kind for kind in ("decay", *SHARES) if kind in phi]
        like = dict.fromkeys(kinds, memory.params)
        self.fast: dict[str, Params] = map_tensors(torch.zeros_like, like)
        """s less d anchor / d phi, of each parameter kind and tensor."""
        self.slow: dict[str, Params] = map_tensors(torch.zeros_like, like if "anchor" in self._rule.slots else {})
        """d anchor / d phi."""
        has_more = set(kinds) != {"decay"} or meta.g.importance or meta.shares_less
        self._native = None if has_more else dynamic_model.engine.native
        self._scratch = Scratch()

    def gradients(self) -> Params:
        found, self.summed = self.summed, {key: torch.zeros_like(tensor) for key, tensor in self.summed.items()}
        return found

    def update(self, dynamic_model: DynamicModel, memory: Memory) -> DynamicModel:
        clamp_(self.params, self._bound)
        self._rule = self._meta.rule(self.params, importance=self._importance)
        return dataclasses.replace(dynamic_model, rule=self._rule)

    def log_fields(self) -> dict[str, Any]:
        return {"phi": {key: tensor.tolist() for key, tensor in self.params.items() if "/" not in key}}

    def state_dict(self) -> Params:
        return dict(leaves({"fast": self.fast, "slow": self.slow}, _PREFIX))

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in self.state_dict().items():
            tensor.copy_(tensors[name])

    def begin_segment(self, dynamic_model: DynamicModel, memory: Memory, segment: Segment) -> None:
        """Carry the sensitivities of lanes in which an article begins over the return to the anchor."""
        starting = segment.starts_B.nonzero()[0].tolist()
        if dynamic_model.reset == "article":
            self._reset(starting)
            return
        for lane in starting:
            stats = select_lanes(memory.rule.lanes, slice(lane, lane + 1))
            for name, weights in memory.params.items():
                theta, anchor = weights[lane], dynamic_model.static[name]
                if self.slow:
                    own = memory.rule.slots["anchor"][name][lane]
                    anchor = self._move_anchor(name, lane, (theta, own, anchor), stats)
                if share := float(self._rule.boundary.reset.get(name, 0.0)):
                    for tensors in self.fast.values():
                        tensors[name][lane].mul_(1 - share)
                if "boundary_reset" in self.fast:
                    self.fast["boundary_reset"][name][lane].sub_(theta - anchor)

    def _move_anchor(
        self, name: str, lane: int, weights: tuple[Tensor, Tensor, Tensor], stats: SegmentStats | None
    ) -> Tensor:
        """Carry d anchor / d phi over the end of an article; returns the next anchor.

        ``weights`` are theta, anchor and theta_0 as they were.
        """
        boundary, (theta, anchor, theta_0) = self._rule.boundary, weights
        decay, slope = float(boundary.slow_decay.get(name, 0.0)), 1.0
        if stats is not None and stats.slow_shift is not None:
            slope = slope_of_shifted(float(boundary.slow_rate.get(name, 0.0)), stats.slow_shift.shift_B[0])
        rate = boundary.slow_share(name, boundary.slow_rate_at(name, stats))
        limits = boundary.slow_share(name, 1.0)
        for kind, tensors in self.fast.items():
            fast, slow = tensors[name][lane], self.slow[kind][name][lane]
            moved = rate * fast - decay * slow
            if kind == "slow_rate":
                moved += (theta - anchor) * limits * slope
            elif kind == "slow_decay":
                moved -= anchor - theta_0
            slow.add_(moved)
            fast.sub_(moved)
        return boundary.next_anchor(name, theta, anchor, theta_0, stats)

    def end_segment(self, nats_BT: Tensor, segment: Segment, restored_B: np.ndarray) -> None:
        self._reset(restored_B.nonzero()[0].tolist())

    def _reset(self, lanes: Iterable[int]) -> None:
        """Zero the sensitivities of lanes whose weights are theta_0 again, whatever phi is."""
        for lane in lanes:
            for _, tensor in leaves((self.fast, self.slow)):
                tensor[lane].zero_()

    @torch.no_grad()
    def __call__(self, event: StepEvent) -> None:
        """Add the gradients of a segment at theta_t, then carry the sensitivities over the coming step."""
        if event.is_replayed:
            self._carry_over_replay(event)
            return
        name, part = event.gradient.name, event.gradient.part
        beta = self._rule.beta[name]
        beta = beta[part] if isinstance(beta, Tensor) else beta
        theta, anchor = event.theta, event.anchor
        shared = event.gradient.rows_BT is None and not event.has_own_anchor
        if self._native is not None and shared and event.scales is None:
            s_decay = self.fast["decay"][name][event.lanes, part]
            by_lr, by_decay = self._native.sense_(s_decay, theta, anchor, event.gradient.tensor, beta)
            self._add_log("lr", name, by_lr)
            self._add_log("decay", name, by_decay)
            return
        away = torch.sub(anchor, theta, out=self._scratch.take("away", tuple(theta.shape), theta))
        # All that the learning rate has moved: the fast weights, and the slow ones that came of them.
        moved = away if not self.slow else self._meta.static[name][part] - theta
        for lane in range(len(theta)):
            self._observe_lane(event, lane, away[lane], moved[lane], beta)

    def _observe_lane(self, event: StepEvent, lane: int, away: Tensor, moved: Tensor, beta: Tensor | float) -> None:
        name, part, u = event.gradient.name, event.gradient.part, event.gradient.tensor[lane]
        at, row, scales = event.lanes.start + lane, self._meta.rows[name], {"lr": 1.0, "decay": 1.0}
        features: Sequence[str] = self._meta.g.features
        if event.scales is not None:
            number = self._meta.names.index(name)
            scales = {k: float(of_B[lane]) for k, of_B in zip(scales, event.scales.of_tensor(number), strict=True)}
            values = event.scales.features_BJ[lane].tolist()
            # Where a scale is at its bound the gates' weights do not change it.
            of_gates = {"lr": event.scales.lr_BK, "decay": event.scales.decay_BK}
            free_gate = {kind: not at_bound(float(scale_BK[lane, number])) for kind, scale_BK in of_gates.items()}
        fast = {kind: tensors[name][at, part] for kind, tensors in self.fast.items()}
        whole = {kind: s + self.slow[kind][name][at, part] for kind, s in fast.items()} if self.slow else fast
        self._add("lr", u, moved, name, part)
        if "decay" in fast:
            self._add("decay", u, whole["decay"], name, part)
        for kind in ("lr", "decay"):
            for j, feature in enumerate(features):
                if f"{kind}.{feature}" in fast:
                    self.summed[f"{kind}.gates"][row, j] += _dot(u, whole[f"{kind}.{feature}"])
        for kind in fast.keys() & set(SHARES):
            self.summed[kind][row] += _dot(u, whole[kind])
        # Over the step every sensitivity keeps 1 - beta of itself, and where beta is clamped no parameter moves it.
        clamps, free = self._rule.clamps[name], None
        if scales["decay"] != 1:
            beta, clamps = torch.as_tensor(beta * scales["decay"]).clamp(max=1), True
        if clamps:
            free = (torch.as_tensor(beta) < 1).to(u.dtype)
        if "decay" in fast:
            fast["decay"].lerp_(away, torch.as_tensor(beta, dtype=u.dtype))
            if free is not None:
                fast["decay"].mul_(free)
        others = [kind for kind in fast if kind != "decay"]
        if not others:
            return
        keep, by_decay = 1 - beta, away * beta if free is None else away * (beta * free)
        update, precondition = event.update[lane], self._rule.precondition
        by_lr = update if precondition is None else update * precondition[name][part]
        by_lr = by_lr * (-float(self._rule.rates[name].lr) * scales["lr"])
        for kind in others:
            fast[kind].mul_(keep)
            if kind not in SHARES:
                what, _, feature = kind.partition(".")
                term = by_lr if what == "lr" else by_decay
                fast[kind].add_(term, alpha=values[features.index(feature)] * free_gate[what])

    def _carry_over_replay(self, event: StepEvent) -> None:
        """Carry the sensitivities over a step without decay, by a segment whose loss is no further objective."""
        fast = {kind: tensors[event.name] for kind, tensors in self.fast.items() if kind.startswith("lr.")}
        if not fast:  # The learning rate's own is the distance from the anchor.
            return
        of_gates: Sequence[str] = self._meta.g.features
        number, part = self._meta.names.index(event.name), event.gradient.part
        lr_B, _ = event.scales.of_tensor(number)
        update, precondition = event.update, self._rule.precondition
        by_lr = update if precondition is None else update * precondition[event.name][part]
        lr = float(self._rule.rates[event.name].lr)
        for lane, features in enumerate(event.scales.features_BJ.tolist()):
            if at_bound(float(event.scales.lr_BK[lane, number])):
                continue
            for kind, s in fast.items():
                feature = features[of_gates.index(kind.removeprefix("lr."))]
                s[event.lanes.start + lane, part].sub_(by_lr[lane], alpha=lr * float(lr_B[lane]) * feature)

    def _add_log(self, kind: str, name: str, by_log: Tensor | float) -> None:
        """Add the gradient by the logarithm of a tensor's rate or decay."""
        row = self._meta.rows[name]
        self.summed[kind][row] += by_log
        if (by_depth := self.summed.get(f"{kind}.depth")) is not None:
            by_depth[row] += by_log * self._meta.kinds[name].depth

    def _add(self, kind: str, u: Tensor, s: Tensor, name: str, part: slice) -> None:
        """Add <u, s> to the constant factors of a rate or decay: by tensor or kind, by importance, by row or weight.

        For the rate s is minus the sensitivity.
        """
        sign = -1 if kind == "lr" else 1
        importance, each = f"{kind}.importance" in self.summed, self.summed.get(f"{kind}.each/{name}")
        if not importance and each is None:
            self._add_log(kind, name, sign * _dot(u, s))
            return
        product = torch.mul(u, s, out=self._scratch.take("product", tuple(u.shape), u)).mul_(sign)
        self._add_log(kind, name, product.sum())
        if importance:
            self.summed[f"{kind}.importance"][self._meta.rows[name]] += _dot(product, self._importance[name][part])
        if each is not None:
            by = product if self._meta.g.sharing == "weight" else product.view(len(product), -1).sum(1)
            each[part] += by.view(each_shape(u, self._meta.g.sharing))


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.dot(a.reshape(-1), b.reshape(-1))
