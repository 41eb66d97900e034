"""Exact first-order meta-gradients of phi, forward in time, at a cost that does not grow with the horizon.

Legend: B lanes, K dynamic tensors, J features of the gates.

With u_t and the features taken as constants (first order, as in Andrychowicz et al. 2016) a step's Jacobian
d theta_{t+1} / d theta_t is the diagonal 1 - beta. The sensitivities to the logarithms of a tensor's rate and pull, and
to the gates' weights of feature f_j, obey, weight by weight,

    s_rate  <- (1 - beta) s_rate  - alpha * scale * u_t
    s_pull  <- (1 - beta) s_pull  + beta * (home - theta_t)            (0 where beta is clamped at 1)
    s_rate,j and s_pull,j: the same with f_j times the last term

and dL_t / d parameter = <u_t, s>, summed over whatever shares it; what is the same at every step (importance, rows)
is a factor of that sum. The first recurrence is the one that theta_t - home itself obeys, from the same zero: s_rate is
the distance from home and need not be kept. When an article begins and weights go home by the share f, all of these are
multiplied by 1 - f as the distance is, and

    s_flush <- (1 - f) s_flush - (theta - home)     with s_flush <- (1 - beta) s_flush at every step.

With slow weights home moves too, at article ends. Let x be s less d home / d phi: within an article home stays, and the
recurrences above are those of x. When the next one begins, with c the share of a weight that home takes in, d its
fading and theta and home as they were,

    d home / d phi <- (1 - d) d home / d phi + c x      (+ (theta - home) * limits for the share c itself,
                                                         - (home - theta_0) for d itself)
    x <- (1 - f) (s - d home / d phi)                   by the home that results (and - (theta - home) for f itself)

so that one tensor more is kept for each, ``slow``. The rate's is home - theta_0 and need not be kept either. Where phi
itself moves while the text is read, all are derivatives by a constant added to phi at all times.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from dynlm.adapt.gates import at_bound
from dynlm.adapt.reader import Reader, StepEvent
from dynlm.adapt.rules.elementwise import Rule
from dynlm.adapt.rules.learned import SHARES, Meta, each_shape
from dynlm.adapt.state import Memory
from dynlm.models.lstm.model import Params
from dynlm.models.lstm.native import NativeKernels
from dynlm.models.scratch import Scratch


class Sensitivities:
    """d theta_t / d phi of every lane and weight, and the meta-gradients gathered so far.

    An ``StepObserver`` of the reading that ``rule`` does from ``memory``; ``rule`` is set anew when phi changes, and
    ``begin_articles`` is called before a segment is read in which articles begin.
    """

    def __init__(self, meta: Meta, rule: Rule, memory: Memory, native: NativeKernels | None = None):
        self.rule, self.meta = rule, meta
        self.importance = {name: meta.importance_of(name) for name in meta.names} if meta.importance else {}
        phi = meta.initial()
        self.gathered = {key: torch.zeros_like(tensor) for key, tensor in phi.items()}
        """Sum over segments and lanes of dL / d phi; zero it after taking it."""
        kept = [f"{kind}.{feature}" for kind in ("rate", "pull") if f"{kind}.gates" in phi for feature in meta.features]
        kept += [kind for kind in ("pull", *SHARES) if kind in phi]

        def zeros() -> dict[str, Params]:
            return {kind: {name: torch.zeros_like(t) for name, t in memory.weights.items()} for kind in kept}

        self.kept = zeros()
        self.slow = zeros() if memory.home else {}
        """d home / d phi; ``kept`` is s less this."""
        self._native = None if set(kept) - {"pull"} or meta.importance or meta.sharing != "tensor" else native
        self._scratch = Scratch()

    def carried(self) -> dict[str, dict[str, Params]]:
        """What passes from segment to segment, of each lane: with ``gathered``, all that a checkpoint has to hold."""
        return {"kept": self.kept, "slow": self.slow}

    def begin_articles(self, reader: Reader, memory: Memory, lanes: Iterable[int]) -> None:
        """These lanes' weights are about to go home, altogether or by the share that phi has."""
        for lane in lanes:
            for name, weights in memory.weights.items():
                if reader.reset == "article":
                    for tensors in (*self.kept.values(), *self.slow.values()):
                        tensors[name][lane].zero_()
                    continue
                theta, theta_0 = weights[lane], reader.static[name]
                home = theta_0
                if memory.home:
                    home = self._home_moves(name, lane, theta, memory.home[name][lane], theta_0)
                if share := float(self.rule.flush.get(name, 0.0)):
                    for tensors in self.kept.values():
                        tensors[name][lane].mul_(1 - share)
                if "flush" in self.kept:
                    self.kept["flush"][name][lane].sub_(theta - home)

    def _home_moves(self, name: str, lane: int, theta: Tensor, home: Tensor, theta_0: Tensor) -> Tensor:
        """Carry d home / d phi over an article's end; returns the home that it leaves."""
        fading, taken = float(self.rule.fading.get(name, 0.0)), self.rule.taken_in(name)
        for kind, tensors in self.kept.items():
            s, slow = tensors[name][lane], self.slow[kind][name][lane]
            moves = taken * s - fading * slow
            if kind == "consolidation":
                moves += (theta - home) * (1.0 if self.rule.limits is None else self.rule.limits[name])
            elif kind == "fading":
                moves -= home - theta_0
            slow.add_(moves)
            s.sub_(moves)
        return self.rule.next_home(name, theta, home, theta_0)

    def forget(self, lanes: Iterable[int]) -> None:
        """These lanes' weights went back to theta_0, whatever phi is."""
        for lane in lanes:
            for tensors in (*self.kept.values(), *self.slow.values()):
                for tensor in tensors.values():
                    tensor[lane].zero_()

    @torch.no_grad()
    def __call__(self, shown: StepEvent) -> None:
        """Gather the meta-gradients of a segment at theta_t, then carry the sensitivities over the coming step."""
        name, part = shown.gradient.name, shown.gradient.part
        beta = self.rule.beta[name]
        beta = beta[part] if isinstance(beta, Tensor) else beta
        theta = shown.theta[:, part]
        own_home = shown.home.dim() == shown.theta.dim()
        home = shown.home[:, part] if own_home else shown.home[part]
        if self._native is not None and shown.gradient.rows_BT is None and not own_home and shown.factors is None:
            self._native_call(shown, theta, home, beta)
            return
        away = torch.sub(home, theta, out=self._scratch.take("away", tuple(theta.shape), theta))
        number = self.meta.names.index(name)
        # What the rate has moved altogether: the fast weights, and the slow ones that came of them.
        moved = away if not self.slow else self.meta.static[name][part] - theta
        for lane in range(len(theta)):
            self._of_lane(shown, lane, number, away[lane], moved[lane], beta)

    def _of_lane(
        self, shown: StepEvent, lane: int, number: int, away: Tensor, moved: Tensor, beta: Tensor | float
    ) -> None:
        name, part = shown.gradient.name, shown.gradient.part
        u, push, features = shown.gradient.tensor[lane], shown.push[lane], self.meta.features
        at = shown.lanes.start + lane
        rate_factor = pull_factor = 1.0
        if shown.factors is not None:
            rate_factor = float(shown.factors.rate_BK[lane, number])
            pull_factor = float(shown.factors.pull_BK[lane, number])
            told = shown.factors.features_BJ[lane].tolist()
            # Where a factor is at its bound its gates' weights change nothing.
            moves = {"rate": not at_bound(rate_factor), "pull": not at_bound(pull_factor)}
        kept = {kind: tensors[name][at, part] for kind, tensors in self.kept.items()}
        whole = {kind: s + self.slow[kind][name][at, part] for kind, s in kept.items()} if self.slow else kept
        self._gather("rate", u, moved, number, name, part, sign=-1)
        if "pull" in kept:
            self._gather("pull", u, whole["pull"], number, name, part)
        for kind in ("rate", "pull"):
            for j, feature in enumerate(features):
                if f"{kind}.{feature}" in kept:
                    self.gathered[f"{kind}.gates"][number, j] += _dot(u, whole[f"{kind}.{feature}"])
        for kind in kept.keys() & set(SHARES):
            self.gathered[kind][number] += _dot(u, whole[kind])
        # Over the step every sensitivity keeps 1 - beta of itself, and where beta is clamped no parameter moves it.
        clamps, free = self.rule.clamps[name], None
        if pull_factor != 1:
            passed = torch.as_tensor(beta * pull_factor)
            beta, clamps = passed.clamp(max=1), True
        if clamps:
            free = (torch.as_tensor(beta) < 1).to(u.dtype)
        if "pull" in kept:
            kept["pull"].lerp_(away, torch.as_tensor(beta, dtype=u.dtype))
            if free is not None:
                kept["pull"].mul_(free)
        others = [kind for kind in kept if kind != "pull"]
        if not others:
            return
        keep = 1 - beta
        by_pull = away * beta if free is None else away * (beta * free)
        by_rate = push if self.rule.scale is None else push * self.rule.scale[name][part]
        by_rate = by_rate * (-float(self.rule.rates[name].alpha) * rate_factor)
        for kind in others:
            kept[kind].mul_(keep)
            if kind not in SHARES:
                what, _, feature = kind.partition(".")
                term = by_rate if what == "rate" else by_pull
                kept[kind].add_(term, alpha=told[features.index(feature)] * moves[what])

    def _gather(self, kind: str, u: Tensor, s: Tensor, number: int, name: str, part: slice, sign: int = 1) -> None:
        """Of what is a constant factor of a rate or pull: of the tensor, by importance, of each row or weight.

        dL / d that is <u, s> times ``sign``.
        """
        importance, each = f"{kind}.importance" in self.gathered, self.gathered.get(f"{kind}.each/{name}")
        if not importance and each is None:
            self.gathered[kind][number] += sign * _dot(u, s)
            return
        product = torch.mul(u, s, out=self._scratch.take("product", tuple(u.shape), u)).mul_(sign)
        self.gathered[kind][number] += product.sum()
        if importance:
            self.gathered[f"{kind}.importance"][number] += _dot(product, self.importance[name][part])
        if each is not None:
            by = product if self.meta.sharing == "weight" else product.view(len(product), -1).sum(1)
            each[part] += by.view(each_shape(u, self.meta.sharing))

    def _native_call(self, shown: StepEvent, theta: Tensor, home: Tensor, beta: Tensor | float) -> None:
        assert self._native is not None
        name, number = shown.gradient.name, self.meta.names.index(shown.gradient.name)
        s_pull = self.kept["pull"][name][shown.lanes, shown.gradient.part]
        by_rate, by_pull = self._native.sense_(s_pull, theta, home, shown.gradient.tensor, beta)
        self.gathered["rate"][number] += by_rate
        self.gathered["pull"][number] += by_pull


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.dot(a.reshape(-1), b.reshape(-1))
