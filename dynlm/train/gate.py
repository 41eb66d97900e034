"""Training of a cache's gate by gradients, on what it would have been given in one reading.

The rule reads the articles that the LSTM was not trained on once; what the gate would have been given is collected, and
the gate is trained on that. Of the Polyak averages after each pass the one that reads the tuning articles best is kept.

Legend: N tokens, K gate features, F inverse temperatures.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from dynlm.adapt.dynamic_model import DynamicModel
from dynlm.adapt.loop import iter_segments
from dynlm.adapt.options import CACHE_BOUNDS, MAX_INVERSE, MIN_INVERSE, MemoryOptions
from dynlm.adapt.partners.cache import Cache, CacheInput, CacheState, mixture
from dynlm.adapt.partners.cache_gate import Gate, initial_gate, log_shares
from dynlm.data.stream import Stream
from dynlm.errors import UserError
from dynlm.models.scratch import Scratch
from dynlm.run.memory_store import gate_stem
from dynlm.run.opening import command
from dynlm.run.records import records_of
from dynlm.run.run import Run
from dynlm.runtime.checkpoints import Checkpointer, Checkpoints, State
from dynlm.runtime.files import exclusive
from dynlm.runtime.tensors import params_fingerprint
from dynlm.train.cache import mean_loss, open_without_cache, tune_cache
from dynlm.train.meta_texts import meta_texts, single_pass
from dynlm.train.options import MetatrainOptions, TuneOptions
from dynlm.train.outer_loop import AveragedAdam
from dynlm.train.tune import tuning_stream
from dynlm.types import Params

# A gated cache has the tuned inverse temperature, a lower and a higher one.
_FACTORS = (0.5, 1.0, 2.0)
_OF_THE_TUNED = 0.9
_HIDDEN = 16
_BATCH = 512
_LR = 3e-3
_AVERAGE = 0.998
_PATIENCE = 6
_NOTICEABLE = 1e-4
"""Nats that the passes of the patience have to gain; gates of separable features improve by ever smaller steps."""
_MOST_PASSES = 2000


class GateData(NamedTuple):
    """N tokens: gate features, log p by each inverse temperature, pairs in the window, and the model's nats."""

    features_NK: Tensor
    log_p_NF: Tensor
    num_visible_N: Tensor
    nats_N: Tensor


@dataclass(frozen=True)
class _Recorder(Cache):
    """Looks up as a gated cache does, mixes nothing, and records what was found."""

    recorded: list[GateData] = field(default_factory=list)

    def read(self, state: CacheState, segment: CacheInput, scratch: Scratch | None = None) -> tuple[Tensor, CacheState]:
        found, state = self.look(state, segment, scratch)
        assert found.features_BTK is not None
        data = (found.features_BTK, found.log_p_BTF, found.num_visible_BT, segment.nats_BT)
        self.recorded.append(GateData(*(tensor[segment.mask_BT > 0] for tensor in data)))
        return segment.nats_BT, state


def train_gate(run: Run, quiet: bool = False) -> dict[str, Any]:
    """Learn the gate of a cache beside ``memory.rule``; tunes the fixed cache first where that was not done.

    Its training resumes from the newest checkpoint, once the articles were read again. Returns how it was learned, how
    many parameters in how many ``seconds`` (of reading, training and picking), and the nats per token of the tuning
    articles without a cache, at the start (shares much as the fixed cache's) and as learned. Raises UserError as
    ``tune_cache`` does, and where another process learns it.
    """
    memory, options, tune = run.section(MemoryOptions), run.section(MetatrainOptions), run.section(TuneOptions)
    if memory.cache != "learned" or memory.cache_share is not None:
        what = "memory.cache_share is set" if memory.cache == "learned" else "a fixed cache has nothing to meta-train"
        raise UserError(what, do=f"run `{command('tune', run.path, memory.replace(cache='fixed'))}`")
    run = run.writable()
    dynamic_model, name = open_without_cache(run), gate_stem(memory)
    with exclusive(run.store.path(f"gated-cache-{name}"), "this gated cache"):
        fixed = run.store.load_fixed_cache(memory)
        if fixed is None:
            # The search has one inverse temperature; the given ones are the gate's.
            fixed = tune_cache(run.with_sections(memory.replace(cache="fixed", cache_inverse_temperature=None)), quiet)
        around = (fixed["inverse_temperature"] * factor for factor in _FACTORS)
        inverses = tuple(
            memory.cache_inverse_temperature or (min(max(value, MIN_INVERSE), MAX_INVERSE) for value in around)
        )
        cache = Cache(memory.cache_window or fixed["window"], inverses, 0.0)
        texts, seed = meta_texts(run), options.seed_or(run.options.seed)
        # Not read a second time: in a cache that is not emptied, an article would find itself.
        begun = time.monotonic()
        learning = collect(dynamic_model, cache, single_pass(run, texts, seed), options.tokens, quiet)
        picked = tuning_stream(run, options.pick_tokens, lanes=1)
        picking = collect(dynamic_model, cache, picked, 0, quiet)
        reading = time.monotonic() - begun
        generator = torch.Generator().manual_seed(seed)
        shares = _first_shares(inverses, fixed["inverse_temperature"], fixed["share"])
        start = initial_gate(shares, learning.features_NK, _HIDDEN, generator)
        prints = [*(text.fingerprint for text in texts), picked.split.fingerprint]
        fingerprints = {"the text": prints, "the start": params_fingerprint(start)}
        checkpoints = run.checkpoints(f"gate-{name}", memory, options, tune, **fingerprints)
        training = GateTraining(start, learning, picking, generator)
        training.run(checkpoints, run.options.checkpoint_seconds)
        nats, passes = training.nats, training.passes
        run.log(event="train gate", rule=memory.rule, reset=memory.reset, nats_of_passes=nats)
        about = {
            "segment": memory.segment,
            **run.trained.reading_entry,
            "tokens": len(learning.nats_N),
            "seconds": round(reading + training.seconds, 1),
            "parameters": training.parameters,
            "passes": passes,
            "passes_made": len(nats) - 1,
            "still_improving": not stopped_improving(nats),
            "tuning_nats_per_token": {
                "none": mean_loss(picking.nats_N),
                "start": nats[0],
                "learned": nats[passes],
            },
            "kept": "learned" if passes else "start",
            "started_at": {name: fixed[name] for name in CACHE_BOUNDS},
            "tuned_on": [
                *records_of(fixed, "cache", "tuned"),
                *(record for text in texts for record in text.records("gate")),
                run.record("gate", "picked", tune.split, picked.articles),
            ],
        }
        run.store.save_gated_cache(memory, dataclasses.replace(cache, gate=Gate(training.best)), about)
        checkpoints.drop()
    named = {"rule": memory.rule, "reset": memory.policy, "cache": "learned"}
    return {**named, "window": cache.window, "inverse_temperature": list(inverses), **about}


def collect(dynamic_model: DynamicModel, cache: Cache, stream: Stream, tokens: int, quiet: bool = True) -> GateData:
    """Read ``tokens`` tokens (0: all) and return what a gate of ``cache`` would be given.

    Raises UserError where there are none.
    """
    recorder = _Recorder(cache.window, cache.inverse_temperatures, 0.0)
    bar = tqdm(desc="gate features", unit="tok", unit_scale=True, disable=quiet)
    for read in iter_segments(dataclasses.replace(dynamic_model, cache=recorder), stream):
        bar.update(read.position.tokens - bar.n)
        if tokens and read.position.tokens >= tokens:
            break
    bar.close()
    if not recorder.recorded:
        raise UserError("no tokens to learn from", do="name a corpus with articles for meta-training")
    return GateData(*(torch.cat(parts) for parts in zip(*recorder.recorded, strict=True)))


class GateTraining:
    """Adam on the mean nats of ``learning``; after each pass the Polyak average is measured on ``picking``.

    ``nats`` has those of ``picking`` at the start and after each pass, ``best`` the parameters with the lowest;
    ``seconds`` are those of all passes, in all sittings.
    """

    def __init__(self, start: Params, learning: GateData, picking: GateData, generator: torch.Generator):
        self._learning, self._picking, self._generator = learning, picking, generator
        self._scaling = {name: start[name] for name in ("center", "spread")}
        self._moving = {n: tensor.clone().requires_grad_() for n, tensor in start.items() if n not in self._scaling}
        self._optimizer = AveragedAdam([(self._moving, _LR)], _AVERAGE)
        self.best, self.nats, self.seconds = start, [_nats_of(start, picking)], 0.0

    @property
    def parameters(self) -> int:
        """How many numbers are learned."""
        return sum(tensor.numel() for tensor in self._moving.values())

    @property
    def passes(self) -> int:
        """The passes that the best parameters had."""
        return self.nats.index(min(self.nats))

    def run(self, checkpoints: Checkpoints | None = None, seconds: float = 0.0) -> None:
        """Train until ``_PATIENCE`` passes in a row gained nothing noticeable, or for ``_MOST_PASSES`` passes.

        It resumes from ``checkpoints``, which are so many ``seconds`` apart.
        """
        with Checkpointer(checkpoints, self, every=0, seconds=seconds) as checkpointer:
            checkpointer.resume()
            while len(self.nats) <= _MOST_PASSES and not stopped_improving(self.nats):
                begun = time.monotonic()
                self._pass_over_tokens()
                self.seconds += time.monotonic() - begun
                checkpointer.after_step(len(self.nats) - 1)

    def _pass_over_tokens(self) -> None:
        order = torch.randperm(len(self._learning.nats_N), generator=self._generator)
        for rows in order.to(self._learning.nats_N.device).split(_BATCH):
            batch = GateData(*(tensor[rows] for tensor in self._learning))
            shares = log_shares({**self._scaling, **self._moving}, batch.features_NK)
            loss = mixture(shares, *batch[1:]).mean()
            gradients = torch.autograd.grad(loss, list(self._moving.values()))
            self._optimizer.step([dict(zip(self._moving, gradients, strict=True))])
            self._optimizer.update_average()
        average = {**self._scaling, **self._optimizer.average[0]}
        self.nats.append(_nats_of(average, self._picking))
        # A non-finite loss is never the lowest.
        if self.nats[-1] < min(self.nats[:-1]):
            self.best = {name: tensor.clone() for name, tensor in average.items()}

    def state_dict(self) -> State:
        tensors, values = self._optimizer.state_dict()
        tensors |= {f"best/{name}": tensor for name, tensor in self.best.items()}
        values |= {"nats": self.nats, "seconds": self.seconds}
        return State(tensors | {"generator": self._generator.get_state()}, values)

    def load_state_dict(self, state: State) -> None:
        self._optimizer.load_state_dict(state)
        self.best = {name: state.tensors[f"best/{name}"].to(tensor) for name, tensor in self.best.items()}
        self._generator.set_state(state.tensors["generator"])
        self.nats = list(state.values["nats"])
        self.seconds = float(state.values.get("seconds", 0.0))  # Earlier versions did not keep them.


def stopped_improving(nats: Sequence[float]) -> bool:
    """Whether the last ``_PATIENCE`` passes gained nothing noticeable; ``nats``: at the start and after each pass."""
    earlier = nats[:-_PATIENCE]
    return bool(earlier) and not min(earlier) - min(nats) >= _NOTICEABLE


@torch.no_grad()
def _nats_of(params: Params, data: GateData) -> float:
    return mean_loss(mixture(log_shares(params, data.features_NK), *data[1:]))


def _first_shares(inverses: Sequence[float], tuned: float, share: float) -> list[float]:
    """Return the model's share and the cache's: most of it for the inverse temperature nearest the tuned one."""
    nearest = min(range(len(inverses)), key=lambda index: abs(math.log(inverses[index] / tuned)))
    if len(inverses) == 1:
        return [1 - share, share]
    rest = (1 - _OF_THE_TUNED) / (len(inverses) - 1)
    return [1 - share, *(share * (_OF_THE_TUNED if index == nearest else rest) for index in range(len(inverses)))]
