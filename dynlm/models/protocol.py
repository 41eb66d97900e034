"""What the rest of the package needs of a language model, and of the engine that runs it.

Legend: B lanes, T tokens of a segment, V vocabulary, H width of the features.

A ``SequenceModel`` is a pure function of its parameters. An ``Engine`` turns one into score-then-learn steps: it scores
a segment, then gives the gradients by the tensors that move. Nothing outside ``dynlm.models`` knows a tensor's name or
what a state is made of.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from dynlm.errors import UserError
from dynlm.models.softmax import NextTokenDistribution
from dynlm.runtime.tree import replace_lanes
from dynlm.types import Params, State

if TYPE_CHECKING:
    from dynlm.models.lstm.regularisers import Regularisers
    from dynlm.models.native import NativeKernels
    from dynlm.models.options import ModelOptions, Targets
    from dynlm.models.scratch import Scratch


class Output(NamedTuple):
    """Next-token logits, the output layer's inputs, and the state after the last token."""

    logits_BTV: Tensor
    features_BTH: Tensor
    state: State


class TensorKind(NamedTuple):
    """What a tensor is, in every layer and every size of a model; its depth, from -1 (first layer) to 1 (last)."""

    name: str
    depth: float = 0.0


class SequenceModel(Protocol):
    """A causal language model as a function of its parameters. Subclass it to inherit the defaults."""

    options: ModelOptions
    vocab_size: int
    supports_vmap: bool = False
    """Whether ``forward`` runs under ``torch.func.vmap``, to batch lanes that have weights of their own."""
    pads_segments: bool = False
    """Whether segments are padded to one length: for a model whose roundoff depends on the number of tokens."""
    has_small_state: bool = False
    """Whether a state is small, whatever has been read, so that many can be held."""
    label: str = ""
    """Names the folder of what a run keeps for these targets; empty: for tensors of the model itself."""
    factors_seed: int = 0
    """Seed of the factors that these targets add; 0 without factors."""

    @property
    def feature_size(self) -> int:
        """Width of ``Output.features_BTH``, which the cache compares."""

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Return name and shape of every parameter, in a fixed order."""

    def with_targets(self, params: Params, targets: Targets) -> tuple[SequenceModel, Params]:
        """Return the model with the factors of ``targets``, and its parameters. Raises UserError if it has none."""
        if targets.rank:
            raise UserError("this kind of model has no low-rank factors", do="leave out memory.lora_rank")
        return self, params

    def dynamic_tensors(self, patterns: Sequence[str]) -> tuple[str, ...]:
        """Return the names of the tensors that move. Raises UserError for a pattern that fits none."""
        return matching_names(tuple(self.shapes()), patterns)

    def tensor_kinds(self, names: Iterable[str]) -> dict[str, TensorKind]:
        """Return the kind of each tensor of ``names``; the default makes each a kind of its own."""
        return {name: TensorKind(name) for name in names}

    def init_params(self, generator: torch.Generator, dtype: torch.dtype | None = None) -> Params:
        """Return initial parameters on the CPU; ``dtype`` None is torch's default."""

    def init_state(self, lanes: int, like: Tensor) -> State:
        """Return the state before an article's first token, of the device and dtype of ``like``."""

    def reset_state(self, state: State, starts_B: Tensor, like: Tensor) -> State:
        """Return ``state`` with the lanes of ``starts_B`` (bool) at their initial state, whatever they held."""
        return replace_lanes(state, self.init_state(len(starts_B), like), starts_B)

    def without_last(self, state: State, count: int) -> State:
        """Return the state before the last ``count`` tokens, which were padding (``pads_segments``)."""
        if count:
            raise NotImplementedError(f"{type(self).__name__} pads segments, and cannot drop {count} tokens")
        return state

    def forward(self, params: Params, state: State, inputs_BT: Tensor) -> Output:
        """Run T tokens; differentiable by ``params``, which hold one set of weights for all lanes."""

    def loss(
        self,
        params: Params,
        state: State,
        inputs_BT: Tensor,
        targets_BT: Tensor,
        weights_BT: Tensor,
        penalty_tokens: float | None = None,
    ) -> tuple[Tensor, Tensor, State]:
        """Return (sum of weight * nats, nats_BT as a constant, next state): what pretraining minimises.

        ``penalty_tokens``: the tokens that a regularised model's penalties count for.
        """
        output = self.forward(params, state, inputs_BT)
        nats_BT = token_nats(output.logits_BTV, targets_BT)
        return (nats_BT * weights_BT).sum(), nats_BT.detach(), output.state

    def regularised(self, regularisers: Regularisers) -> SequenceModel:
        """Return the model to pretrain with. Raises UserError for regularisers that it does not have."""
        if any(vars(regularisers.config).values()):
            raise UserError("this kind of model has no regularisers", do="leave out the options of regularisation")
        return self

    def twice_differentiable(self) -> SequenceModel:
        """Return the same model by operations that have second derivatives."""
        return self

    @property
    def factored_tensor(self) -> str | None:
        """The matrix that the engine takes with a low-rank displacement; None where there is none."""
        return None

    def output_tensor(self, names: Collection[str]) -> str:
        """Return the one of ``names`` nearest the loss: gate features measure the size of its gradient.

        The default is the last of them in the order of ``shapes``. Raises ValueError for no names.
        """
        return max(names, key=list(self.shapes()).index)


def matching_names(names: Sequence[str], patterns: Sequence[str]) -> tuple[str, ...]:
    """Return the names that fit a pattern: of file names, or a part of a dotted name such as ``mlp.down_proj``.

    Raises UserError for a pattern that fits none.
    """

    def fits(name: str, pattern: str) -> bool:
        return fnmatch.fnmatchcase(name, pattern) or f".{pattern}." in f".{name}."

    for pattern in patterns:
        if not any(fits(name, pattern) for name in names):
            shown = ", ".join(names[:40]) + (f" and {len(names) - 40} more" if len(names) > 40 else "")
            raise UserError(f"memory.targets has {pattern!r}, which fits no tensor", do=f"the tensors are {shown}")
    return tuple(name for name in names if any(fits(name, pattern) for pattern in patterns))


def token_nats(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """Return each target's negative log probability in nats (B, T)."""
    return F.cross_entropy(logits_BTV.transpose(1, 2), targets_BT, reduction="none")


class Scored(NamedTuple):
    """A segment's losses, the state after it, and what ``Engine.gradients`` needs (``tape``).

    All but ``nats_BT`` and ``state`` may be scratch, valid until the engine scores again.
    """

    nats_BT: Tensor
    state: State
    features_BTH: Tensor
    next_tokens: NextTokenDistribution
    tape: Any


class Factors(NamedTuple):
    """A matrix's gradient as factors: left^T right and, where there are any, ``at_rows_BTH`` in its rows ``rows_BT``.

    One left row and one right row of each token (V, H: the matrix's rows and columns); all are scratch. ``targets_BT``:
    of the softmax layer, the rows of the tokens that were predicted.
    """

    left_BTV: Tensor
    right_BTH: Tensor
    targets_BT: Tensor | None = None
    rows_BT: Tensor | None = None
    at_rows_BTH: Tensor | None = None


class Gradient(NamedTuple):
    """dL_b / d tensor of each lane b, for one tensor or some of its rows.

    ``tensor``: (B, rows of ``part``, ...), valid until the next gradient is asked for. ``rows_BT``: where it is set,
    only these of the tensor's rows can differ from zero. ``norm_factors``: no lane's norm exceeds the sum of these
    products of a number and of tensors' norms; empty where ``tensor`` itself is small or no bound is known.
    ``factors``: set for the matrices of a model that was given a displacement; ``tensor`` is then empty (B, 0).
    """

    name: str
    tensor: Tensor
    part: slice = slice(None)
    rows_BT: Tensor | None = None
    norm_factors: tuple[tuple[Any, ...], ...] = ()
    factors: Factors | None = None

    def select_lane(self, lane: int) -> Gradient:
        """Return one lane's gradient, as a gradient of one lane."""
        one = slice(lane, lane + 1)
        rows_BT = None if self.rows_BT is None else self.rows_BT[one]
        return self._replace(tensor=self.tensor[one], rows_BT=rows_BT, norm_factors=())


class Engine(Protocol):
    """Score segments with a model and differentiate the losses, in lanes that may have weights of their own.

    ``lane_params`` and the gradients have a leading dimension of B; tensors that are not in ``lane_params`` are shared.
    Beside the model's ``factored_tensor`` they may hold a displacement of it (``displacement.with_displacement``).
    """

    @property
    def model(self) -> SequenceModel:
        """The model."""

    @property
    def scratch(self) -> Scratch:
        """Reused buffers, which update rules may use between segments' scores."""

    @property
    def native(self) -> NativeKernels | None:
        """Compiled kernels that update rules may use; None without them."""

    def score(
        self,
        params: Params,
        lane_params: Params,
        inputs_BT: Tensor,
        targets_BT: Tensor,
        state: State,
        names: Collection[str] | None = None,
    ) -> Scored:
        """Return the losses of a segment, in nats, and what ``gradients`` needs for the tensors ``names`` (None: all).

        Without names nothing can be differentiated, which saves time and memory.
        """

    def gradients(
        self, scored: Scored, share_BT: Tensor, names: Collection[str], whole_first: bool = False
    ) -> Iterator[Gradient]:
        """Iterate over the gradients of each lane's sum of share * nats by its tensors ``names``.

        The gradient of ``model.output_tensor(names)`` comes first, with ``whole_first`` in one piece; large ones may
        come in parts. A tensor may be written over once its gradient was given, and before in lanes whose share is 0.
        ``scored`` is used up.
        """

    def lanes_at_once(self, length: int, own: Collection[str], like: Tensor) -> int:
        """Return how many lanes' segments of ``length`` tokens to score together.

        ``own``: the tensors of which each lane has a copy of its own.
        """

    def tokens_at_once(self, params: Params, segment: int) -> int:
        """Return how many tokens of one lane to score at once with weights that do not move.

        ``segment``, or a multiple of it with which every loss and the state are the same bits as segment by segment.
        """

    def capture(self, step: Callable[[Any], Any], inputs: Any, modified: Any) -> Callable[[Any], Any] | None:
        """Return ``step`` recorded for inputs of this structure and these shapes, or None where nothing is gained.

        ``step`` maps a pytree of tensors to another and writes over the tensors ``modified``, which the recording
        leaves as they were.
        """
