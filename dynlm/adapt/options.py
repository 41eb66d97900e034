"""Options of the memory (which weights move, by which rule, with which cache) and of the learned rule g."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from dynlm.adapt.rules.registry import RULES
from dynlm.errors import UserError
from dynlm.models.options import Targets
from dynlm.runtime.validation import LARGEST_LANES, LARGEST_SEGMENT, Section, bounded, plain_name

Reset = Literal["stream", "article"]
CacheKind = Literal["none", "fixed", "learned"]
Feature = Literal["doc_age_20", "doc_age_100", "section_age", "loss_delta", "grad_rms", "weight_distance"]
RESETS: tuple[Reset, ...] = get_args(Reset)
POLICIES = (*RESETS, "stream-joined")
"""Values of ``MemoryOptions.policy``."""
CACHES: tuple[CacheKind, ...] = get_args(CacheKind)
FEATURES: tuple[Feature, ...] = get_args(Feature)

LARGEST_WINDOW = 1_000_000
"""Tokens of a cache, whose features are all in memory."""
MIN_INVERSE, MAX_INVERSE = 1e-6, 1e4
CACHE_BOUNDS = {
    "window": (1, LARGEST_WINDOW),
    "inverse_temperature": (MIN_INVERSE, MAX_INVERSE),
    "share": (0, 0.99),
}
"""Least and largest value of each constant of a fixed cache; X is the option ``memory.cache_X``."""


@dataclass
class MemoryOptions(Section):
    """The medium-term memory: which weights move, by which rule, and when they are reset.

    The options of a rule are a subclass: ``StepOptions``, or one with the options of a rule of another package.
    """

    SECTION = "memory"
    COMMON = "rule g reset segment lanes cache no_regret"

    rule: str = "rms"
    """none: level 1, static weights; sgd, sgd+decay, rms (Krause et al. 2018), rms+reset, rms+slow, rms+online,
    rms+replay, rms-batch, adam; meta: the learned g; or one that another package registers (entry points
    dynlm.rules)."""
    g: str = "meta"
    """rule meta: the name that g was learned under (see the options of g)."""
    reset: Reset = "stream"
    """stream: the dynamic weights run through the whole text; article: each article starts from the static weights."""
    article_boundaries: bool = bounded(True, omit_default=True)
    """false: the articles of a command are read as one text, so that nothing tells where one begins (reset stream)."""
    segment: int = bounded(20, 1, LARGEST_SEGMENT)
    """Tokens read between two updates."""
    lanes: int = bounded(1, 1, LARGEST_LANES)
    """Articles read side by side, each with weights of its own; several need reset article, or no rule and no cache."""
    targets: list[str] = field(default_factory=lambda: ["*"])
    """Patterns of the tensors that move, or parts of their dotted names; the run's model.json has the names."""
    lora_rank: int = bounded(0, 0, 4096, omit_default=True)
    """Rank of the low-rank factors that move beside the target matrices of a transformer; 0: the tensors themselves."""
    lora_alpha: float = bounded(32.0, 1e-6, 1e6, omit_default=True)
    """The factors' product is scaled by lora_alpha / lora_rank."""
    lora_scaling: Literal["rank", "sqrt"] = bounded("rank", omit_default=True)
    """sqrt: scale by lora_alpha / sqrt(lora_rank) instead (rsLoRA: Kalajdzievski 2023)."""
    lora_factors: Literal["B", "AB"] = bounded("B", omit_default=True)
    """Factors that move: B, which starts at zero, or A too, which has no gradient until B has moved."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Type of the operands of matrix products; weights, updates and losses stay float32."""

    cache: CacheKind = "none"
    """fixed: constant share (Grave et al. 2017); learned: a gate chooses the cache's share for each token."""
    cache_window: int | None = bounded(None, 1, LARGEST_WINDOW)
    """Tokens that the cache holds; unset: the tuned number of the run."""
    cache_inverse_temperature: list[float] | None = bounded(None, MIN_INVERSE, MAX_INVERSE)
    """Factor of the similarity before the softmax: one number, or with a gate several; unset: tuned."""
    cache_share: float | None = bounded(None, 0, 0.99)
    """A fixed cache's share of the prediction; unset: the tuned one of the run."""
    gate: str | None = bounded(None, omit_default=True)
    """cache learned: the name that the gate was learned under, beside its rule's; for several gates of one rule."""
    no_regret: bool = False
    """Mix the rule with level 1, token by token by fixed share: at most about switch_share / 2 nats a token worse than
    level 1. Level 1 is evaluated beside the rule."""
    switch_share: float = bounded(1e-3, 1e-9, 1)
    """no_regret: the weight redistributed after each token; 0.001 costs up to 0.0005 nats a token, and 7.6 nats for
    each change of the better predictor."""
    track: bool = False
    """Write into the score file how far the dynamic weights are from the static ones, and the relative size of the
    updates."""
    update_filter: bool = True
    """Skip non-finite updates and those over ten times as large as their tensor, and restore the static weights when a
    segment costs 30 nats a token more than chance; the score file counts both."""
    capture: bool = True
    """On a GPU: record a segment's kernels once and replay them (CUDA graphs)."""
    kernels: Literal["torch", "native"] = "torch"
    """native: C++ for the CPU, compiled on first use (needs g++ and pip install dynlm[native])."""
    merge_every: int = bounded(1, 1, 64, omit_default=True)
    """Above 1: update the LSTM's matrices by products, with a precondition of rows times columns, and merge those of
    its softmax layer every so many segments (rules that keep nothing else): faster, with slightly other losses."""
    used_rows: int = bounded(0, 0, 32767, omit_default=True)
    """Above 0: update the LSTM's softmax layer only in the rows of tokens that the text has used, at most so many, and
    hold these beside the matrix, which all lanes share (rules that keep nothing else): faster, with slightly other
    losses. Rows whose tokens occurred longest ago make room."""

    @classmethod
    def select(cls, values: Mapping[str, Any]) -> type[MemoryOptions]:
        """Return the options of the rule that ``values`` name. Raises UserError for one that is not registered."""
        return RULES[str(values.get("rule", "rms"))].options

    @classmethod
    def selected_by(cls, option: str) -> str | None:
        """Return the rules that have ``option``; None where there is none."""
        rules = [name for name in RULES.names() if option in {item.name for item in fields(RULES[name].options)}]
        return f"memory.rule {' or '.join(rules)}" if rules else None

    @classmethod
    def own_values(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``values`` without null, which is unset, for the options of any rule here: files have them all."""
        known = {item.name for kind in (StepOptions, cls) for item in fields(kind)}
        return {name: value for name, value in values.items() if value is not None or name not in known}

    @property
    def policy(self) -> str:
        """The name under which a run keeps what is tuned for this reset policy, with or without article boundaries."""
        return self.reset if self.article_boundaries else f"{self.reset}-joined"

    def cache_constants(self) -> dict[str, Any]:
        """Return the constants of a fixed cache that are given; None for the others."""
        given = {name: getattr(self, f"cache_{name}") for name in CACHE_BOUNDS}
        return {name: value[0] if isinstance(value, list) else value for name, value in given.items()}

    def require_boundaries(self, where: str) -> None:
        """Raise UserError if articles are to be read as one text, which ``where`` does not do."""
        if not self.article_boundaries:
            what = f"memory.article_boundaries is false, and {where} knows where each text begins"
            raise UserError(what, do="choose --memory.article_boundaries true")

    def require_merged(self, where: str) -> None:
        """Raise UserError if updates are held outside the weights, which ``where`` keeps or uses."""
        for option, none in (("merge_every", 1), ("used_rows", 0)):
            if (value := getattr(self, option)) != none:
                what = f"memory.{option} is {value}, and {where} needs all updates in the weights"
                raise UserError(what, do=f"choose --memory.{option} {none}")

    def targets_of(self, seed: int) -> Targets:
        """Return what of the model moves."""
        low_rank = (self.lora_rank, float(self.lora_alpha), self.lora_scaling, self.lora_factors)
        return Targets(tuple(self.targets), *low_rank, seed)

    def __post_init__(self) -> None:
        super().__post_init__()
        kind = RULES[self.rule].options
        if not isinstance(self, kind):
            raise TypeError(f"the options of rule {self.rule!r} are {kind.__name__}: use replace()")
        plain_name("memory.g", self.g)
        if self.gate is not None:
            plain_name("memory.gate", self.gate)
        if not self.article_boundaries and self.reset == "article":
            what = "memory.reset is 'article', but under memory.article_boundaries false nothing tells where one begins"
            raise UserError(what, do="choose --memory.reset stream")
        if not self.article_boundaries and self.lanes > 1:
            what = f"memory.lanes is {self.lanes}, but under memory.article_boundaries false all articles are one text"
            raise UserError(what, do="choose --memory.lanes 1")
        if self.lanes > 1 and (self.rule, self.cache) != ("none", "none") and self.reset == "stream":
            what = f"memory.lanes is {self.lanes}, but under memory.reset 'stream' each article is read after the last"
            raise UserError(what, do="choose --memory.reset article, or --memory.lanes 1")
        if self.kernels == "native" and self.precision != "float32":
            what = f"memory.kernels is 'native', whose products are not in memory.precision {self.precision!r}"
            raise UserError(what, do="choose --memory.precision float32, or --memory.kernels torch")
        if not self.targets:
            raise UserError("memory.targets is empty", do="name at least one tensor, or choose --memory.rule none")
        if self.cache_inverse_temperature is not None and not self.cache_inverse_temperature:
            raise UserError("memory.cache_inverse_temperature is empty", do="name a number, or leave it out")
        if self.cache == "fixed" and len(self.cache_inverse_temperature or [1]) > 1:
            what = "memory.cache_inverse_temperature has several numbers"
            raise UserError(what, do="name one, or choose --memory.cache learned")


@dataclass
class StepOptions(MemoryOptions):
    """The memory, with the constants of the rules of this package; each rule uses some of them."""

    COMMON = "rule g reset segment lanes lr decay cache no_regret"

    lr: float | None = bounded(None)
    """Learning rate eta; unset: the tuned one of the run."""
    decay: float | None = bounded(None)
    """Decay lambda toward the static parameters; unset: the tuned one of the run."""
    epsilon: float | None = bounded(None, 1e-12)
    """rms: what is added to the root mean square of the gradients; unset: the tuned one of the run."""


@dataclass
class LearnedStepOptions(StepOptions):
    """The memory of a learned rule g, with what may take the place of g's own options."""

    COMMON = "rule g reset segment lanes decay_step cache no_regret"

    decay_step: float | None = bounded(None, 0, 1, omit_default=True)
    """Step by which each segment moves the logarithm of all decays, by the hypergradient of its loss; 0.05 is a good
    value for texts of other kinds than g was learned on. Unset: g's own (g.decay_step)."""
    replay_rate: float | None = bounded(None, 0, 1, omit_default=True)
    """After each segment take another step, at this share of the learning rates, by an earlier segment of the article;
    it takes twice the time. Unset: g's own (g.replay_rate)."""


@dataclass
class LearnedRuleOptions(Section):
    """What the learned rule g conditions on and what it updates; it starts at a tuned rule."""

    SECTION = "g"
    COMMON = "kind base level sharing features"

    kind: Literal["rates", "lstm"] = "rates"
    """rates: learning rates and decays, by the options below; lstm: the LSTM meta-learner (Ravi & Larochelle 2017) with
    a gate state for every weight, for comparison; some thirty times slower than rms."""
    base: Literal["rms", "adam"] = bounded("rms", omit_default=True)
    """Tuned rule that g starts at, and whose steps its learning rates and decays scale."""
    hidden: int = bounded(4, 1, 1024)
    """kind lstm: width of its state."""
    level: Literal[2, 3] = 3
    """3: decay toward the static parameters; 2: none (boundary resets then go to the slow weights of slow_rate)."""
    sharing: Literal["kind", "tensor", "row", "weight"] = "tensor"
    """Which weights share a learning rate and a decay: those of a tensor, of a row, or none (weight). kind: those of a
    kind of tensor, such as the query matrices of all layers, up to a learned slope in depth."""
    importance: bool = False
    """Scale learning rates and decays with a power, learned for each tensor, of each weight's Fisher information."""
    features: list[Feature] = field(default_factory=list)
    """What the gates of learning rates and decays depend on."""
    boundary_reset: bool = False
    """Move each tensor by a learned share toward its anchor at an article's start (matters for memory.reset stream)."""
    slow_rate: float = bounded(0.0, 0, 1)
    """Share of an article's weight change that the anchor takes over at its end; with g.slow the initial value."""
    slow: bool = False
    """Two time scales: learn for each tensor the anchor's share and the decay of what earlier articles left in it
    (matters for memory.reset stream)."""
    slow_step: float = bounded(0.0, 0, 1, omit_default=True)
    """Let reading find the anchor's share, which is then one of all weights of a tensor: step by which each segment
    moves its log-odds, by the hypergradient of its loss; 0: the share stays as it is. 0.05 is a good value."""
    decay_step: float = bounded(0.0, 0, 1, omit_default=True)
    """Let reading find the decays: step by which each segment moves the logarithm of all of them, by the hypergradient
    of its loss; 0: they stay as they are. 0.05 is a good value."""
    replay_rate: float = bounded(0.0, 0, 1, omit_default=True)
    """After each segment take another step, at this share of the learning rates, by an earlier segment of the article;
    0: none. 0.4 is a good value, and takes twice the time."""
    momentum: float = bounded(0.0, 0, 0.99)
    """Decay of the running sum of gradients; not learned."""

    @property
    def needs_statistics(self) -> bool:
        """Whether g uses the statistics R of training gradients: the rms rule, or an option, is made of them."""
        by_options = self.importance or self.slow or self.slow_rate > 0 or "grad_rms" in self.features
        return by_options or RULES[self.base].statistics is not None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind == "lstm":
            plain = vars(LearnedRuleOptions())
            for name, value in vars(self).items():
                if name not in ("kind", "hidden") and value != plain[name]:
                    do = f"choose --g.{name} {json.dumps(plain[name]).strip(chr(34))}"
                    raise UserError(f"g.{name} {value!r} does not go with g.kind 'lstm'", do=do)
        if self.slow_step and not self.slow_rate:
            raise UserError("g.slow_step needs slow weights", do="choose --g.slow_rate 0.3, where their rate starts")
        if self.decay_step and self.level == 2:
            raise UserError("g.decay_step needs decays, which g.level 2 has none of", do="choose --g.level 3")
        if self.base == "adam" and self.momentum:
            raise UserError("g.momentum does not go with g.base 'adam', which has its own", do="leave it out")
        if self.replay_rate and (self.base == "adam" or self.momentum):
            what = "g.replay_rate does not go with running means of gradients (g.base 'adam', g.momentum)"
            raise UserError(what, do="leave it out, or choose --g.base rms and --g.momentum 0")
        if self.level == 2 and self.boundary_reset and not self.slow_rate:
            what = "g.level is 2, which has no decay to the static parameters, and g.boundary_reset needs an anchor"
            raise UserError(what, do="choose g.level 3, or give it an anchor of its own with g.slow_rate")
