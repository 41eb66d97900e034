"""What a run keeps for rules and caches, in ``runs/NAME/memory``.

statistics.safetensors                          gradient statistics R of single segments
statistics-LANESxSEGMENT.safetensors            those of batches
tuned.json                                      the tuned constants of each rule, policy and set of tensors that move
G-RESET.safetensors and .json                   phi of a learned rule, as tensors and readable
cache-RULE-POLICY[-TENSORS].json                the tuned constants of a fixed cache; TENSORS is a fingerprint
                                                of those that move, where these are not all
gated-cache-RULE[-GATE]-POLICY.safetensors and .json    a cache's learned gate, as tensors and readable

RESET is stream or article; POLICY too, or stream-joined for what was found on articles read as one text. A learned rule
is the same file for both: it may be read either way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dynlm.adapt.options import CACHE_BOUNDS, LARGEST_WINDOW, MAX_INVERSE, MIN_INVERSE, MemoryOptions
from dynlm.adapt.partners.cache import Cache
from dynlm.adapt.partners.cache_gate import Gate, gate_feature_names, gate_shapes
from dynlm.adapt.rules.base import Statistics
from dynlm.adapt.rules.learned import LearnedRule
from dynlm.adapt.rules.per_weight_lstm import LearnedLSTMRule
from dynlm.adapt.rules.registry import RULES, SEGMENTS, StatisticsKind
from dynlm.errors import UserError
from dynlm.run.folder import TrainedModel, refuse_leaving_run
from dynlm.run.records import Card, borrowed, card_of, records_of
from dynlm.runtime.files import exclusive
from dynlm.runtime.hashing import fingerprint
from dynlm.runtime.parsing import read_json, write_json
from dynlm.runtime.renamed import current_keys
from dynlm.runtime.tensors import check_shapes, load_tensors, save_tensors
from dynlm.runtime.validation import number_in
from dynlm.types import Params

AnyLearnedRule = LearnedRule | LearnedLSTMRule
ALL = ("*",)
"""The ``memory.targets`` by which all tensors move."""
_MOST_INVERSE_TEMPERATURES = 64
_SECONDS_TO_WAIT = 60.0


def rule_stem(memory: MemoryOptions) -> str:
    """Return the rule's part of file names: for a learned rule the name that it was learned under."""
    return memory.g if memory.rule == "meta" else memory.rule.replace("+", "-")


def gate_stem(memory: MemoryOptions) -> str:
    """Return the part of file names that tells a learned gate: its rule, its own name if it has one, policy."""
    return "-".join([rule_stem(memory), *([memory.gate] if memory.gate else []), memory.policy])


@dataclass(frozen=True)
class MemoryStore:
    """The files in ``memory/`` of the run in ``folder``, all of which belong to the model ``trained``.

    ``load_*`` return None for what is not there. They raise UserError for a file that is damaged, made for another
    model, or reached through a link that leads out of the run.
    """

    folder: Path
    trained: TrainedModel

    def path(self, name: str) -> Path:
        """Return the path of a file. Raises UserError if a link leads out of the run."""
        path = self.folder / "memory" / self.trained.model.label / name
        refuse_leaving_run(path, self.folder)
        return path

    def save_statistics(
        self, statistics: Statistics, tokens: int, kind: StatisticsKind = SEGMENTS, seconds: float = 0.0
    ) -> None:
        """Write R, computed on ``tokens`` tokens in so many ``seconds``."""
        batches = {} if kind.segment is None else {"lanes": kind.lanes, "segment": kind.segment}
        card = {"tokens": tokens, "seconds": seconds, **batches, **self.trained.reading_entry}
        self._save(kind.name, statistics.rms, card)

    def load_statistics(self, kind: StatisticsKind = SEGMENTS) -> tuple[Statistics, Card] | None:
        """Load R."""
        if (stored := self._load(kind.name)) is None:
            return None
        # Those of a packed model are bfloat16.
        rms = {name: R.float() if R.dtype == torch.bfloat16 else R for name, R in stored[0].items()}
        for name, tensor in rms.items():
            own = self.trained.params.get(name)
            fits = own is not None and (tensor.shape, tensor.dtype) == (own.shape, torch.get_default_dtype())
            if not fits or not bool(((tensor >= 0) & (tensor < torch.inf)).all()):
                path = self.path(f"{kind.name}.safetensors")
                raise UserError(f"tensor {name} is no statistics of the model's", path, "remove it and run tune again")
        return Statistics(rms), stored[1]

    def statistics_kinds(self) -> list[StatisticsKind]:
        """Return the kinds of statistics that are stored."""
        paths = sorted(self.path("").glob("statistics*.safetensors"))
        return [kind for path in paths if (kind := StatisticsKind.named(path.stem)) is not None]

    def drop_statistics(self, kind: StatisticsKind = SEGMENTS) -> None:
        """Remove R, so that it is computed again."""
        self.path(f"{kind.name}.safetensors").unlink(missing_ok=True)

    def save_tuned(self, rule: str, policy: str, tuned: Mapping[str, Any], targets: Sequence[str] = ALL) -> None:
        """Write a rule's constants tuned for a policy (``MemoryOptions.policy``) where the tensors ``targets`` move.

        Other processes may write those of other rules at the same time.
        """
        path = self.path("tuned.json")
        with exclusive(path, "the file of tuned rates", _SECONDS_TO_WAIT):
            content = read_json(path) if path.exists() else {}
            if not isinstance(content, dict) or content.get("model") != self.trained.fingerprint:
                content = {"model": self.trained.fingerprint}
            before = content.get(rule)
            own = {self._slot(policy, targets): dict(tuned)}
            content[rule] = {**(before if isinstance(before, dict) else {}), **own}
            write_json(path, content)

    def tuned_for(self, rule: str, memory: MemoryOptions) -> Card | None:
        """Load a rule's constants tuned for the tensors that ``memory`` moves, else those for all tensors."""
        if (own := self.load_tuned(rule, memory.policy, memory.targets)) is not None:
            return own
        of_all = self.load_tuned(rule, memory.policy)
        return None if of_all is None else borrowed(of_all, "rates", "tuned")

    def load_tuned(self, rule: str, policy: str, targets: Sequence[str] = ALL) -> Card | None:
        """Load a rule's constants tuned for a policy (``MemoryOptions.policy``) where the tensors ``targets`` move, and
        how they were tuned."""
        tuned = (self._read("tuned.json") or {}).get(rule, {})
        tuned = tuned.get(self._slot(policy, targets)) if isinstance(tuned, dict) else tuned
        if tuned is None:
            return None
        path = self.path("tuned.json")
        if not isinstance(tuned, dict):
            raise UserError(f"what was tuned for {rule} cannot be read", path, "remove it and run tune again")
        for name, search in RULES[rule].searches().items():
            if name in tuned:
                number_in(tuned, name, path, search.low, search.high)
        return tuned

    def save_learned(self, memory: MemoryOptions, meta: AnyLearnedRule, phi: Params, card: Mapping[str, Any]) -> None:
        """Write phi under the name ``memory.g``."""
        rows = {"kinds": meta.row_names} if isinstance(meta, LearnedRule) and meta.g.sharing == "kind" else {}
        named = {"tensors": meta.names, **rows, **card}
        self._save(f"{memory.g}-{memory.reset}", phi, named, {"phi": meta.readable(phi)})

    def load_learned(self, name: str, reset: str) -> tuple[Params, Card] | None:
        """Load the phi that was learned under ``name``."""
        stored = self._load(f"{name}-{reset}")
        return None if stored is None else (current_keys(stored[0]), stored[1])

    def load_learned_by(self, run: Path, name: str, reset: str) -> tuple[Params, Card, Path]:
        """Load the phi that the run in the folder ``run`` learned under ``name``, for its own model, and its path.

        Raises UserError if there is none.
        """
        path = dataclasses.replace(self, folder=run).path(f"{name}-{reset}.safetensors")
        if not path.exists():
            do = "name a run in which `dynlm metatrain` learned one, with the same memory.targets and factors"
            raise UserError(f"no learned memory {name!r} for reset {reset!r}", path, do)
        phi, card = load_tensors(path, self.trained.device)
        return current_keys(phi), dict(current_keys(card)), path

    def learned_names(self, reset: str) -> list[str]:
        """Return the names of the rules that were learned under a reset policy."""
        ending = f"-{reset}.safetensors"
        names = sorted(
            path.name.removesuffix(ending)
            for path in (self.folder / "memory" / self.trained.model.label).glob(f"*{ending}")
        )
        found = {name: self.load_learned(name, reset) for name in names}
        return [name for name, learned in found.items() if learned is not None and "g" in learned[1]]

    def copy_to(self, other: MemoryStore) -> None:
        """Copy R, of all kinds, and the tuned constants to the run of a fine-tuned model."""
        for kind in self.statistics_kinds():
            if (stored := self.load_statistics(kind)) is not None:
                other.save_statistics(stored[0], stored[1]["tokens"], kind, stored[1].get("seconds", 0.0))
        if (tuned := self._read("tuned.json")) is not None:
            write_json(other.path("tuned.json"), {**tuned, "model": other.trained.fingerprint})

    def save_fixed_cache(self, memory: MemoryOptions, tuned: Mapping[str, Any]) -> None:
        """Write the constants of a fixed cache, and how they were tuned."""
        write_json(self.path(self._cache_names(memory)[0]), {"model": self.trained.fingerprint, **tuned})

    def load_fixed_cache(self, memory: MemoryOptions) -> Card | None:
        """Load the constants of a fixed cache tuned beside what ``memory`` moves, else all tensors, and how they were
        tuned."""
        names = self._cache_names(memory)
        found = ((name, content) for name in names if (content := self._read(name)) is not None)
        name, content = next(found, ("", None))
        if content is None:
            return None
        if name != names[0]:
            content = borrowed(content, "cache", "tuned")
        for constant, bounds in CACHE_BOUNDS.items():
            number_in(content, constant, self.path(name), *bounds)
        return {**content, "window": int(content["window"])}

    def save_gated_cache(self, memory: MemoryOptions, cache: Cache, card: Mapping[str, Any]) -> None:
        """Write a cache with a learned gate."""
        assert isinstance(cache.gate, Gate)
        inverses = list(cache.inverse_temperatures)
        card = {"window": cache.window, "inverse_temperature": inverses, **card}
        name = f"gated-cache-{gate_stem(memory)}"
        self._save(name, cache.gate.params, card, {"features": gate_feature_names(inverses)})

    def load_gated_cache(self, memory: MemoryOptions) -> tuple[Cache, Card] | None:
        """Load a cache with a learned gate."""
        name = f"gated-cache-{gate_stem(memory)}"
        if (stored := self._load(name)) is None:
            return None
        tensors, card = stored
        path, inverses = self.path(f"{name}.safetensors"), card.get("inverse_temperature")
        window = int(number_in(card, "window", path, 1, LARGEST_WINDOW))
        if not isinstance(inverses, list) or not 1 <= len(inverses) <= _MOST_INVERSE_TEMPERATURES:
            raise UserError("it does not say its inverse temperatures", path, "run metatrain again")
        for value in inverses:
            number_in({"inverse_temperature": value}, "inverse_temperature", path, MIN_INVERSE, MAX_INVERSE)
        hidden = tensors["hidden.bias"].numel() if "hidden.bias" in tensors else 0
        wanted = gate_shapes(len(gate_feature_names(inverses)), hidden, 1 + len(inverses))
        check_shapes({name: tuple(tensor.shape) for name, tensor in tensors.items()}, wanted, path)
        if not all(tensor.dtype == torch.float32 and bool(tensor.isfinite().all()) for tensor in tensors.values()):
            raise UserError("the gate is not of finite float32 numbers", path, "run metatrain again")
        return Cache(window, tuple(inverses), Gate(tensors)), card

    def tuned_on(self, memory: MemoryOptions) -> list[Card] | None:
        """Return the records (``Run.record``) of ``memory``'s rule and cache; None for level 1.

        Constants given as options have the record {what, how: "given"}.
        """
        if (memory.rule, memory.cache) == ("none", "none"):
            return None
        records: list[Card] = []
        kind = RULES[memory.rule]
        if kind.learned:
            card = card_of(self.load_learned(memory.g, memory.reset)) or {}
            others = card.get("tensors", []) != [*self.trained.model.dynamic_tensors(memory.targets)]
            records += records_of(borrowed(card, "g", "learned") if others else card, "g", "learned")
        elif kind.searched and all(getattr(memory, name) is not None for name in kind.searched):
            records.append({"what": "rates", "how": "given"})
        elif kind.searched:
            records += records_of(self.tuned_for(memory.rule, memory), "rates", "tuned")
        if memory.cache == "learned":
            records += records_of(card_of(self.load_gated_cache(memory)), "gate", "learned")
        elif memory.cache == "fixed" and None not in memory.cache_constants().values():
            records.append({"what": "cache", "how": "given"})
        elif memory.cache == "fixed":
            records += records_of(self.load_fixed_cache(memory), "cache", "tuned")
        return records

    def _cache_names(self, memory: MemoryOptions) -> list[str]:
        """Return the names of the files of a fixed cache, the one for what ``memory`` moves first."""
        stem, moving = f"cache-{rule_stem(memory)}-{memory.policy}", self._moving(memory.targets)
        return [
            *([f"{stem}-{fingerprint(*moving)[:8]}.json"] if moving and memory.rule != "none" else []),
            f"{stem}.json",
        ]

    def _slot(self, policy: str, targets: Sequence[str]) -> str:
        """Return the key of what was tuned: the policy, with the tensors that move where these are not all."""
        moving = self._moving(targets)
        return f"{policy} of {', '.join(moving)}" if moving else policy

    def _moving(self, targets: Sequence[str]) -> tuple[str, ...]:
        """Return the names of the tensors that move; none where these are all."""
        names, every = (self.trained.model.dynamic_tensors(chosen) for chosen in (targets, ALL))
        return () if names == every else names

    def _save(
        self, name: str, tensors: Params, card: Mapping[str, Any], shown: Mapping[str, Any] | None = None
    ) -> None:
        """Write tensors and their card; with ``shown`` also a JSON file of the card and that."""
        card = {"model": self.trained.fingerprint, **card}
        save_tensors(self.path(f"{name}.safetensors"), tensors, card)
        if shown is not None:
            write_json(self.path(f"{name}.json"), {**card, **shown})

    def _load(self, name: str) -> tuple[Params, Card] | None:
        path = self.path(f"{name}.safetensors")
        if not path.exists():
            return None
        tensors, card = load_tensors(path, self.trained.device)
        return tensors, self._own(path, card)

    def _read(self, name: str) -> Card | None:
        path = self.path(name)
        return self._own(path, read_json(path)) if path.exists() else None

    def _own(self, path: Path, card: Any) -> Card:
        """Return a card by its current keys. Raises UserError unless it is of this model."""
        if not isinstance(card, dict) or card.get("model") != self.trained.fingerprint:
            raise UserError("this belongs to another model", path, "remove it and run tune and metatrain again")
        return dict(current_keys(card))
