"""Rules made of rms, tuned as it is: with boundary resets, slow weights, replay, statistics of batches.

rms+reset    one boundary_reset: the share of the way to theta_0 that all weights go when an article begins
rms+slow     slow weights besides: what the learned rule is at level 3 with ``g.slow_rate`` and one rate for all tensors
rms+online   the same, but that reading itself finds the slow rate and the decay (``rules.online_rate``)
rms+replay   a second step after each segment, by an earlier segment of the article (``partners.replay``)
rms-batch    R is the root mean square of gradients of batches, as in the published dynamic evaluation
             (Krause et al. 2018, arXiv 1709.07432; their settings: --memory.segment 5, batches of 100)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dynlm.adapt.options import StepOptions
from dynlm.adapt.rules.kinds.built_in import RMS
from dynlm.adapt.rules.registry import Search, register_rule
from dynlm.errors import UserError
from dynlm.runtime.validation import LARGEST_LANES, bounded

if TYPE_CHECKING:
    from dynlm.adapt.rules.base import Statistics
    from dynlm.adapt.rules.elementwise import ElementwiseRule

_RESET = {**RMS, "boundary_reset": Search(0.5, 1.5)}
_SLOW = {**_RESET, "slow_rate": Search(0.25, 2.0)}
_ONLINE = {**_RESET, "slow_step": Search(0.05, 2.0), "decay_step": Search(0.05, 2.0)}
_REPLAY = {**RMS, "replay_rate": Search(0.4, 2.0)}
_START = 0.5
"""The slow rate that rms+online starts at."""
# Learning rate, decay and epsilon of the published code: in a batch's gradient most of the noise is averaged out, so
# that R is several times smaller than over single segments.
_BATCH = {"lr": Search(5e-5, 1.6), "decay": Search(2e-3, 3.0), "epsilon": Search(2e-5, 4.0)}


@dataclass
class BoundaryResetOptions(StepOptions):
    """The memory, with the constants of rms and its boundary reset."""

    COMMON = "rule reset segment lr decay boundary_reset cache no_regret"

    boundary_reset: float | None = bounded(None, 0, 1)
    """Share of the way to the static parameters (or the slow weights) that the weights go when an article begins;
    unset: the tuned one of the run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reset == "article":
            what = f"memory.rule {self.rule!r} is rms under memory.reset 'article', where nothing outlives an article"
            raise UserError(what, do="choose --memory.reset stream, or --memory.rule rms")


@dataclass
class SlowWeightsOptions(BoundaryResetOptions):
    """The memory, with the constants of rms, its boundary reset and its slow weights."""

    COMMON = f"{BoundaryResetOptions.COMMON} slow_rate"

    slow_rate: float | None = bounded(None, 0, 1)
    """Share of an article's weight change that the slow weights, which the others are pulled toward, take in at its
    end, less of a more important weight; unset: the tuned one of the run."""


@dataclass
class OnlineRateOptions(BoundaryResetOptions):
    """The memory, with the constants of rms, its boundary reset and the steps by which slow rate and decay move."""

    COMMON = f"{BoundaryResetOptions.COMMON} slow_step decay_step"

    slow_step: float | None = bounded(None, 0, 1)
    """Step by which each segment moves the log-odds of the slow rate, by the hypergradient of its loss; unset: the
    tuned one of the run."""
    decay_step: float | None = bounded(None, 0, 1)
    """Step by which each segment moves the logarithm of the decay, by the hypergradient of its loss; unset: the tuned
    one of the run."""


@dataclass
class ReplayOptions(StepOptions):
    """The memory, with the constants of rms and its replay."""

    COMMON = "rule reset segment lanes lr decay replay_rate cache no_regret"

    replay_rate: float | None = bounded(None, 0, 1, omit_default=True)
    """Learning rate of the second step after each segment, by an earlier segment of the article, as a share of lr; it
    takes twice the time. Unset: the tuned one of the run."""


@dataclass
class BatchStatisticsOptions(StepOptions):
    """The memory, with the constants of rms, whose statistics are those of batches."""

    COMMON = "rule reset segment lanes lr decay statistics_lanes cache no_regret"

    statistics_lanes: int = bounded(100, 1, LARGEST_LANES)
    """Sequences of memory.segment tokens in a batch; R is the root mean square of the batches' gradients."""


def _rms(name: str, tensors: tuple[str, ...], constants: Mapping[str, Any], statistics: Statistics) -> ElementwiseRule:
    from dynlm.adapt.rules.uniform import uniform_rule  # Options are read without torch.

    return uniform_rule(name, tensors, constants["lr"], constants["decay"], (statistics, constants["epsilon"]))


@register_rule("rms+reset", BoundaryResetOptions, _RESET, statistics="segments")
def build_reset(
    tensors: tuple[str, ...], constants: Mapping[str, Any], statistics: Statistics | None
) -> ElementwiseRule:
    """Return rms with a boundary reset."""
    from dynlm.adapt.rules.boundary import Boundary  # Options are read without torch.

    assert statistics is not None
    rule = _rms("rms+reset", tensors, constants, statistics)
    return replace(rule, boundary=Boundary(dict.fromkeys(tensors, constants["boundary_reset"])))


@register_rule("rms+slow", SlowWeightsOptions, _SLOW, statistics="segments")
def build_slow(
    tensors: tuple[str, ...], constants: Mapping[str, Any], statistics: Statistics | None
) -> ElementwiseRule:
    """Return rms with a boundary reset and slow weights; without these where their rate is 0."""
    assert statistics is not None
    rule = replace(build_reset(tensors, constants, statistics), name="rms+slow")
    if not constants["slow_rate"]:
        return rule
    slow_rate, limits = dict.fromkeys(tensors, constants["slow_rate"]), statistics.slow_limits()
    return replace(rule, boundary=replace(rule.boundary, slow_rate=slow_rate, slow_limits=limits))


@register_rule("rms+online", OnlineRateOptions, _ONLINE, statistics="segments")
def build_online(
    tensors: tuple[str, ...], constants: Mapping[str, Any], statistics: Statistics | None
) -> ElementwiseRule:
    """Return rms with a boundary reset, slow weights, whose rate starts at one half, and a decay that moves."""
    assert statistics is not None
    rule = replace(build_reset(tensors, constants, statistics), name="rms+online")
    slow_rate, step = dict.fromkeys(tensors, _START), constants["slow_step"]
    boundary = replace(rule.boundary, slow_rate=slow_rate, slow_step=step)
    return replace(rule, boundary=boundary, decay_step=constants["decay_step"])


@register_rule("rms+replay", ReplayOptions, _REPLAY, statistics="segments")
def build_replay(
    tensors: tuple[str, ...], constants: Mapping[str, Any], statistics: Statistics | None
) -> ElementwiseRule:
    """Return rms that learns again from earlier segments."""
    assert statistics is not None
    return replace(_rms("rms+replay", tensors, constants, statistics), replay_rate=constants["replay_rate"])


@register_rule("rms-batch", BatchStatisticsOptions, _BATCH, statistics="batches")
def build_batch(
    tensors: tuple[str, ...], constants: Mapping[str, Any], statistics: Statistics | None
) -> ElementwiseRule:
    """Return rms by statistics of batches."""
    assert statistics is not None
    return _rms("rms-batch", tensors, constants, statistics)
