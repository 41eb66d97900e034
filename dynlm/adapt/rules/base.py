"""What an update rule is: the base class of all rules, and the state that a rule keeps.

Legend: B lanes, R rows of a part of a tensor.

A rule is a plug-in. It owns its options, its constants, its state and how each is used; ``adapt.segment`` calls it. A
simple rule names its ``slots`` and defines ``step_``. The state is opaque to everything else: lanes, resets, copies,
memory files and checkpoints map over its tensors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynlm.models.native import NativeKernels
from dynlm.models.protocol import Gradient
from dynlm.models.scratch import Scratch
from dynlm.runtime.tree import expand_lanes, replace_lanes, select_lanes
from dynlm.types import Params


@dataclass(frozen=True)
class Slot:
    """A tensor that a rule keeps beside each dynamic tensor.

    ``fill``: its initial value; None for a copy of the static parameters. ``width``: size of a further last dimension.
    """

    fill: float | None = 0.0
    width: int | None = None

    def initial(self, theta: Tensor) -> Tensor:
        """Return the slot of weights that are the static parameters."""
        if self.fill is None:
            return theta.clone()
        return theta.new_full(theta.shape if self.width is None else (*theta.shape, self.width), self.fill)


class RuleState(NamedTuple):
    """A rule's state: ``lanes``, a pytree of (B, ...) tensors, and ``slots[SLOT][NAME]`` (B, *shape of the tensor)."""

    lanes: Any = None
    slots: Mapping[str, Params] = {}


@dataclass(frozen=True)
class Statistics:
    """R: the root mean square of each weight's gradient over training segments, or over batches of them."""

    rms: Params

    def precondition(self, epsilon: float) -> Params:
        """Return 1 / (R + epsilon)."""
        return {name: 1 / (tensor + epsilon) for name, tensor in self.rms.items()}

    def decay_shape(self) -> Params:
        """Return R over its mean (of the tensors' means): weights that training moved much are pulled back harder."""
        mean = torch.stack([tensor.mean() for tensor in self.rms.values()]).mean()
        return {name: tensor / mean for name, tensor in self.rms.items()}

    def slow_limits(self) -> Params:
        """Return the largest share of each weight's change that slow weights take in.

        The more depends on a weight, the less of it is for good what one article taught.
        """
        return {name: 1 / (1 + tensor) for name, tensor in self.decay_shape().items()}

    def of(self, names: Iterable[str]) -> Statistics:
        """Return those of the tensors ``names``."""
        return Statistics({name: self.rms[name] for name in names})


class SegmentEvent(NamedTuple):
    """A segment between scoring and its first update: what ``Rule.segment_scales`` sees.

    ``nats_B`` is the mean loss, ``gradient`` the first gradient. ``theta`` holds the weights (B, ...) that scored the
    segment, ``theta_0`` the static parameters. Without ``scratch`` all that is made of them is differentiable.
    ``replay_B`` is set for a segment that is learned from again: the share of the learning rates that it gets.
    """

    lane_state: Any
    nats_B: Tensor
    gradient: Gradient
    theta: Params
    theta_0: Params
    scratch: Scratch | None = None
    replay_B: Tensor | None = None


class StepEvent(NamedTuple):
    """One gradient between scoring and the update, with all tensors of its part: what rules and observers see.

    ``update`` (B, R, ...) is what the step subtracts in proportion to: the gradient, or what ``Rule.prepare_`` made of
    it. ``theta`` (B, R, ...) holds the weights that scored the segment. ``anchor`` is what they are pulled toward: the
    static parameters (R, ...) or each lane's slow weights (B, R, ...). ``slots`` are the rule's, of the part.
    ``lanes`` of the memory, ``nats_B`` the mean loss, ``scales`` and ``lane_state`` as the rule made them. All are
    scratch or written over by the update. The rule may use ``scratch`` and ``native`` (compiled kernels, or None).
    """

    gradient: Gradient
    update: Tensor
    theta: Tensor
    anchor: Tensor
    slots: Params
    lanes: slice
    nats_B: Tensor
    scratch: Scratch
    lane_state: Any = None
    scales: Any = None
    native: NativeKernels | None = None

    @property
    def name(self) -> str:
        return self.gradient.name

    @property
    def is_replayed(self) -> bool:
        """Whether the segment was scored before, and is learned from again."""
        return self.scales is not None and getattr(self.scales, "replay_B", None) is not None

    @property
    def rows_BT(self) -> Tensor | None:
        """The only rows in which the update can differ from zero; None for all."""
        return self.gradient.rows_BT if self.update is self.gradient.tensor else None

    @property
    def has_own_anchor(self) -> bool:
        """Whether each lane has an anchor of its own."""
        return self.anchor.dim() == self.theta.dim()

    def select_lane(self, lane: int) -> StepEvent:
        """Return one lane's, as an event of one lane."""
        one, index = slice(lane, lane + 1), self.lanes.start + lane
        of_lanes = ["update", "theta", "slots", "nats_B", "lane_state", "scales", *["anchor"] * self.has_own_anchor]
        selected = {field: select_lanes(getattr(self, field), one) for field in of_lanes}
        return self._replace(gradient=self.gradient.select_lane(lane), lanes=slice(index, index + 1), **selected)


class Rule:
    """An update rule with its constants for a model's dynamic tensors.

    Subclasses set ``name`` and ``tensors``, and define ``step_``. The other methods have defaults for a rule that keeps
    only slots.
    """

    name: str
    tensors: tuple[str, ...]
    """The dynamic tensors that it moves."""
    slots: Mapping[str, Slot] = {}
    boundary_reset: Mapping[str, Tensor | float] = {}
    """The share of the way to the anchor that each tensor's weights go when an article begins."""
    replay_rate: float = 0.0
    """The share of the learning rates with which segments are learned from again, 0 for never. A rule that sets it
    heeds ``SegmentEvent.replay_B``."""
    held: tuple[str, ...] = ()
    """Those of ``tensors`` whose displacement from theta_0 is in the lanes' state, and which have no other copy."""
    measures_gradient = False
    """Whether ``segment_scales`` looks at the segment's first gradient, which then has to come whole."""

    @property
    def learns(self) -> bool:
        """Whether reading changes any weights."""
        return bool(self.tensors)

    @property
    def level(self) -> int:
        """1: no weights move; 2: nothing pulls them back; 3: the static parameters do."""
        return 2 if self.learns else 1

    def init_lanes(self, lanes: int, like: Tensor) -> Any:
        """Return the lanes' initial state; None for a rule without."""
        return None

    def init_state(self, params: Params) -> RuleState:
        """Return the state for weights (B, ...) that are copies of the static parameters."""
        like = next(iter(params.values()))
        slots = {slot: {name: kind.initial(t) for name, t in params.items()} for slot, kind in self.slots.items()}
        return RuleState(self.init_lanes(len(like), like), slots)

    def start_articles(self, lanes: Any, starts_B: Tensor, fresh: bool, like: Tensor) -> Any:
        """Return the lanes' state where articles start in ``starts_B`` (bool), with ``fresh`` weights or not."""
        return replace_lanes(lanes, self.init_lanes(len(starts_B), like), starts_B) if fresh else lanes

    def carry_over_(self, name: str, theta: Tensor, slots: Params, theta_0: Tensor, lanes: Any = None) -> None:
        """Write one lane's weights and slots (views) as they start the next article, where memory runs on.

        ``lanes`` is that lane's state (1, ...) as the last article left it.
        """

    def start_segment(self, lanes: Any, headings_B: Tensor) -> Any:
        """Return the lanes' state before a segment that completes a heading in the lanes of ``headings_B`` (bool)."""
        return lanes

    def end_segment(self, lanes: Any, nats_B: Tensor) -> Any:
        """Return the lanes' state after the update by a segment of mean loss ``nats_B``."""
        return lanes

    def reset_lanes_(self, lanes: Any, lanes_B: Tensor) -> None:
        """Drop in place what the lanes' state holds of updates, where weights go back to the static parameters."""

    def with_pending(self, params: Params, lanes: Any) -> Params:
        """Return weights (B, ...) as the engine takes them, with updates that are not added to them yet."""
        return params

    def held_displacement(self, lanes: Any) -> Tensor:
        """Return |theta_t - theta_0| of the tensors ``held`` (B,)."""
        raise NotImplementedError

    def restore_lanes(self, lanes: Any, restored_B: Tensor, like: Tensor) -> Any:
        """Return the lanes' state after a segment that took the lanes ``restored_B`` (bool) back to fresh weights."""
        return replace_lanes(lanes, self.init_lanes(len(restored_B), like), restored_B)

    def segment_scales(self, event: SegmentEvent) -> Any:
        """Return what each update of the segment depends on besides its gradient."""
        return None

    def prepare_(self, event: StepEvent) -> StepEvent:
        """Return the event with its ``update``, before it is checked and shown to observers; may write to its slots."""
        return event

    def reject_(self, event: StepEvent, allowed_B: Tensor) -> None:
        """Undo what ``prepare_`` wrote in the lanes whose update is rejected."""

    def step_(self, event: StepEvent) -> None:
        """Write the next weights over ``event.theta`` and the next slots over ``event.slots``, in every lane."""
        raise NotImplementedError

    def update_norms(self, event: StepEvent) -> Tensor | None:
        """Return the norm (B,) of each lane's update, NaN for one that is not finite; None to have it measured."""
        return None

    def update_norm_bound(self, event: StepEvent) -> float:
        """Return what no lane's update norm exceeds, at the price of small tensors; infinity where it is not known."""
        return float("inf")

    def without_carry_over(self) -> Rule:
        """Return the same rule for a reading in which every article starts with fresh weights, as under reset article.

        ``carry_over_`` is never called then. The default is the rule itself.
        """
        return self

    def standing_still(self) -> Rule:
        """Return the same rule with learning rates and decays of zero, which reads as the static model does.

        The default sets the fields ``lr`` and ``decay`` of a dataclass.
        """
        names = {item.name for item in dataclasses.fields(self)}  # type: ignore[arg-type]  # a dataclass, or override
        zeros: dict[str, Any] = {name: 0.0 for name in ("lr", "decay") if name in names}
        return dataclasses.replace(self, **zeros)  # type: ignore[type-var]

    def decays(self) -> Mapping[str, Tensor | float]:
        """Return the share of the way to the anchor that each weight goes in a step, before any scales."""
        return {}

    def constants(self) -> Any:
        """Return the constants that decide on its updates, as a pytree of tensors, numbers and strings."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def describe(self) -> dict[str, dict[str, float]]:
        """Return each tensor's learning rate and the like, for score files and tables."""
        return {}


def reset_lanes_(rule: Rule, params: Params, state: RuleState, static: Params, lanes_B: Tensor) -> None:
    """Take the weights and slots of the lanes ``lanes_B`` (bool) back to where a fresh memory has them, in place."""
    for name, tensor, fill in _with_fill(rule, params, state):
        mask = expand_lanes(lanes_B, tensor)
        if fill is None:
            tensor.copy_(torch.where(mask, static[name], tensor))
        else:
            tensor.masked_fill_(mask, fill)
    rule.reset_lanes_(state.lanes, lanes_B)


def reset_lane_(rule: Rule, params: Params, state: RuleState, static: Params, lane: int) -> None:
    """Take one lane back, without touching the others' tensors."""
    for name, tensor, fill in _with_fill(rule, params, state):
        tensor[lane].copy_(static[name]) if fill is None else tensor[lane].fill_(fill)
    like = next(iter(params.values()))
    rule.reset_lanes_(state.lanes, torch.arange(len(like), device=like.device) == lane)


def _with_fill(rule: Rule, params: Params, state: RuleState) -> Iterator[tuple[str, Tensor, float | None]]:
    """Iterate over weights and slots, with what a fresh memory fills each with; None for the static parameters."""
    for name, tensor in params.items():
        yield name, tensor, None
    for slot, tensors in state.slots.items():
        for name, tensor in tensors.items():
            yield name, tensor, rule.slots[slot].fill
