"""The search for constants by steps of a factor, in which each new setting races against the best one so far.

Both read the same text in parts, the new one from its beginning, the best one from where it stopped. The mean of their
paired differences, part by part, and its standard error decide after each part: the worse of the two stops, its
memory is dropped, and it is never read again (races: Maron & Moore 1997; with paired tests, F-race: Birattari et al.
2002; the worse half stopped early: Jamieson & Talwalkar 2016). What is not decided is read to the end of the text, and
so is the setting that is found: its loss is that of the whole text.

A prefix of a text is no sample of it: under ``memory.reset stream`` a high learning rate gains at first and loses
later. The standard error is therefore that of long parts, whose differences vary with such trends.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from dynlm.adapt.rules.registry import Search
from dynlm.errors import UserError
from dynlm.runtime.checkpoints import Checkpointer, Checkpoints, State

Method = Literal["race", "full"]
"""race: a setting stops as soon as it is clearly worse; full: each setting reads all of the text."""
_PARTS = 24
"""Parts of a text, at most."""
_SHORTEST_PART = 1000
"""Tokens: with shorter parts, few of them, neither the mean nor the error would mean much."""
_FEWEST_PARTS = 3
"""Before these are read nothing is decided."""
_Z = 1.75
"""Standard errors: 4 % of a normal distribution are beyond. Student's t has as many beyond ``_critical``."""
_INDIFFERENT = 1e-3
"""Nats per token: a new setting that gains less than this is not worth reading on."""
_NOTICEABLE = 2e-4
"""Nats per token: between settings that differ by less the search stays where it is."""
_Key = tuple[float, ...]


class Part(NamedTuple):
    """The summed nats of a part of the text, and its tokens."""

    nats: float
    tokens: int


class Reading(Protocol):
    """A reading of the text with one setting, which goes on part by part; all settings are read in the same parts."""

    def read_part(self) -> Part:
        """Read the next part."""
        ...

    def state_dict(self) -> State: ...

    def load_state_dict(self, state: State) -> None: ...


Opener = Callable[[Mapping[str, float]], Reading]
"""Opens the reading of the text with a setting."""


class Tried(NamedTuple):
    """A setting, the tokens that were read with it, and its nats per token on these, infinite where not finite."""

    constants: dict[str, float]
    tokens: int
    nats_per_token: float

    def to_dict(self) -> dict[str, Any]:
        """Return it ready for JSON, in which nothing is infinite."""
        nats = self.nats_per_token if math.isfinite(self.nats_per_token) else None
        return {**self.constants, "tokens": self.tokens, "nats_per_token": nats}


class Found(NamedTuple):
    """The best setting, its nats per token on the whole text, all that were tried, and the seconds that reading took.

    ``tried`` is in the order in which readings began.
    """

    constants: dict[str, float]
    value: float
    tried: list[Tried]
    seconds: float

    @property
    def tokens(self) -> int:
        """Tokens that were read with all settings together."""
        return sum(each.tokens for each in self.tried)


def part_tokens(tokens: int) -> int:
    """Return how many tokens a part of a text of so many has, or a few more."""
    return max(_SHORTEST_PART, -(-tokens // _PARTS))


def per_token(parts: list[Part]) -> float:
    """Return the nats per token, infinite where not finite."""
    mean = sum(part.nats for part in parts) / sum(part.tokens for part in parts)
    return mean if math.isfinite(mean) else math.inf


def is_better(new: list[Part], best: list[Part], whole: bool, method: Method) -> bool | None:
    """Return whether a new setting has less nats than the best one on the parts that both have read; None: undecided.

    ``whole``: these are the whole text. A setting whose losses are not finite is worse than any other.
    """
    value, lowest = per_token(new), per_token(best)
    if whole:
        return value < lowest - _NOTICEABLE
    if method == "full" or len(new) < _FEWEST_PARTS:
        return None
    if math.inf in (value, lowest):
        return value < lowest
    differences = np.array([(ours.nats - theirs.nats) / ours.tokens for ours, theirs in zip(new, best, strict=True)])
    margin = _critical(len(new) - 1) * float(differences.std(ddof=1)) / math.sqrt(len(new))
    difference = float(differences.mean())
    if difference - margin > -_INDIFFERENT:
        return False
    return True if difference + margin < -_NOTICEABLE else None


def _critical(freedom: int) -> float:
    """Return the quantile of Student's t that belongs to ``_Z``, to first order (Cornish & Fisher 1938)."""
    return _Z * (1 + (_Z**2 + 1) / (4 * freedom))


class Race:
    """The settings that were tried, the parts they have read, and the readings that may go on: at most two.

    ``read_with`` opens a reading of the text of ``tokens``; ``ended`` is called with each setting whose reading ends. A
    search that resumes makes all its comparisons again, whose results are saved.
    """

    def __init__(
        self,
        read_with: Opener,
        tokens: int,
        method: Method = "race",
        ended: Callable[[Tried], None] = lambda tried: None,
    ):
        self._read_with, self._tokens, self._method, self._ended = read_with, tokens, method, ended
        self._parts: dict[_Key, list[Part]] = {}
        self._readings: dict[_Key, Reading] = {}
        self._verdicts: list[bool] = []
        self._asked = 0
        self._names: tuple[str, ...] = ()
        self.seconds = 0.0

    def compare(self, new: Mapping[str, float], best: Mapping[str, float], checkpointer: Checkpointer) -> bool:
        """Return whether ``new`` is better; read both as far as that takes, and end the reading of the worse one."""
        if new == best:
            return False
        self._asked += 1
        if self._asked <= len(self._verdicts):
            return self._verdicts[self._asked - 1]
        ours, theirs = self._key(new), self._key(best)
        if ours in self._parts and ours not in self._readings:
            verdict = False  # It has lost, to this one or to a worse one.
        else:
            verdict = self._race(ours, theirs, checkpointer)
            self._end(theirs if verdict else ours)
        self._verdicts.append(verdict)
        checkpointer.after_step(self._parts_read, last=True)
        return verdict

    def finish(self, best: Mapping[str, float], checkpointer: Checkpointer) -> Found:
        """Read the rest of the text with the setting that was found."""
        key = self._key(best)
        while not self._has_read_all(self._parts_of(key)):
            self._read(key, checkpointer)
        self._end(key)
        tried = [self._tried(each) for each in self._parts]
        return Found(dict(best), per_token(self._parts[key]), tried, self.seconds)

    def state_dict(self) -> State:
        tensors, readings = dict[str, Tensor](), []
        for index, (key, reading) in enumerate(self._readings.items()):
            state = reading.state_dict()
            tensors |= {f"{index}/{name}": tensor for name, tensor in state.tensors.items()}
            readings.append([key, state.values])
        values = {"parts": list(self._parts.items()), "verdicts": self._verdicts, "readings": readings}
        return State(tensors, {**values, "names": self._names, "seconds": self.seconds})

    def load_state_dict(self, state: State) -> None:
        values, self._names = state.values, tuple(state.values["names"])
        self._verdicts, self.seconds = list(values["verdicts"]), float(values["seconds"])
        self._parts = {tuple(key): [Part(*part) for part in parts] for key, parts in values["parts"]}
        self._readings = {}
        for index, (key, own) in enumerate(values["readings"]):
            start = f"{index}/"
            tensors = {name[len(start) :]: tensor for name, tensor in state.tensors.items() if name.startswith(start)}
            reading = self._read_with(dict(zip(self._names, key, strict=True)))
            reading.load_state_dict(State(tensors, own))
            self._readings[tuple(key)] = reading

    def _race(self, ours: _Key, theirs: _Key, checkpointer: Checkpointer) -> bool:
        while True:
            best, new = self._parts_of(theirs), self._parts_of(ours)
            if both := min(len(new), len(best)):
                verdict = is_better(new[:both], best[:both], self._has_read_all(new[:both]), self._method)
                if verdict is not None:
                    return verdict
            self._read(theirs if len(best) == len(new) else ours, checkpointer)

    def _key(self, setting: Mapping[str, float]) -> _Key:
        self._names = tuple(setting)
        return tuple(setting.values())

    def _parts_of(self, key: _Key) -> list[Part]:
        """Return what was read with a setting, whose reading is opened if it was not tried yet."""
        if key not in self._parts:
            self._parts[key], self._readings[key] = [], self._read_with(dict(zip(self._names, key, strict=True)))
        return self._parts[key]

    def _has_read_all(self, parts: list[Part]) -> bool:
        return sum(part.tokens for part in parts) == self._tokens

    @property
    def _parts_read(self) -> int:
        return sum(map(len, self._parts.values()))

    def _read(self, key: _Key, checkpointer: Checkpointer) -> None:
        begun = time.monotonic()
        self._parts[key].append(self._readings[key].read_part())
        self.seconds += time.monotonic() - begun
        checkpointer.after_step(self._parts_read)

    def _end(self, key: _Key) -> None:
        del self._readings[key]
        self._ended(self._tried(key))

    def _tried(self, key: _Key) -> Tried:
        parts = self._parts[key]
        return Tried(dict(zip(self._names, key, strict=True)), sum(part.tokens for part in parts), per_token(parts))


def coordinate_search(
    race: Race,
    searched: Mapping[str, Search],
    rounds: int,
    checkpoints: Checkpoints | None = None,
    seconds: float = 0.0,
) -> Found:
    """Return the setting that steps by factors find, within the bounds of the searches.

    Non-finite losses are treated as infinite. What was read is saved in ``checkpoints`` after each comparison and every
    so many ``seconds`` (0: after each part), and not read again by the same search. Raises UserError where the setting
    that is found gives no finite loss.
    """
    with Checkpointer(checkpoints, race, every=0, seconds=seconds) as checkpointer:
        checkpointer.resume()
        best = {name: each.start for name, each in searched.items()}
        for _, (name, each) in itertools.product(range(rounds), searched.items()):
            for factor in (each.factor, 1 / each.factor):
                before = best
                while race.compare(trial := {**best, name: _step(best[name], factor, each)}, best, checkpointer):
                    best = trial
                if best != before:
                    break
        found = race.finish(best, checkpointer)
    if not math.isfinite(found.value):
        tried = ", ".join(f"{name} {value:g}" for name, value in best.items())
        raise UserError(f"no setting near {tried} gives finite losses", do="start from a lower rate")
    return found


def _step(value: float, factor: float, within: Search) -> float:
    """Return the next value of a search; rounding keeps a step up and one down on the same grid."""
    return min(max(float(f"{value * factor:.4g}"), within.low), within.high)
