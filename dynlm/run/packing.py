"""Packing: the model, the tokenizer and the memory of a run as a small folder of safetensors, JSON and YAML.

Everything is loaded from the run and written anew, so that nothing else of the run gets into the folder: no text but
the tokenizer's pieces, no scores, no memory files, no paths of this machine. On disk weights are float16 and R is
bfloat16, whose exponents reach from its smallest to its largest numbers; both are read as float32. The fingerprint of
the model is that of the rounded weights.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import torch

from dynlm.adapt.options import POLICIES, RESETS, MemoryOptions, StepOptions
from dynlm.adapt.rules.base import Statistics
from dynlm.adapt.rules.registry import RULES, tuned_rules
from dynlm.data.options import CorpusOptions
from dynlm.errors import UserError
from dynlm.run.folder import MAKERS, load_model, read_options, save_config, save_model
from dynlm.run.memory_store import MemoryStore, rule_stem
from dynlm.run.opening import open_meta
from dynlm.run.provenance import FILE, made_with, read_provenance
from dynlm.run.records import records_of
from dynlm.run.run import Run
from dynlm.runtime.parsing import write_json
from dynlm.runtime.validation import section_of

_POLICIES = (*((reset, True) for reset in RESETS), ("stream", False))
_GATED = re.compile(f"gated-cache-(.+?)-({'|'.join(POLICIES)})")
_OF_THE_FILE = ("model", "vocabulary", "tensors", "parameters", "tokenizer", "fingerprint", "kinds")
"""Entries of cards that are written anew."""


def kept_memories(store: MemoryStore, segment: int) -> list[MemoryOptions]:
    """Return the options of level 1 and of every rule and cache that ``store`` keeps, level 1 first.

    Each has the segment that it was found with, by default ``segment``. Rules of statistics of batches are left out.
    """
    found: list[MemoryOptions] = [StepOptions(rule="none", segment=segment)]
    for reset, boundaries in _POLICIES:
        base = StepOptions(rule="none", reset=reset, segment=segment, article_boundaries=boundaries)
        found += _caches(store, base)
        for rule in (name for name in tuned_rules() if RULES[name].statistics != "batches"):
            if (tuned := store.load_tuned(rule, base.policy)) is not None:
                memory = base.replace(rule=rule, segment=tuned.get("segment", segment))
                found += [memory, *_caches(store, memory)]
        for name in store.learned_names(reset):
            learned = store.load_learned(name, reset)
            assert learned is not None
            memory = base.replace(rule="meta", g=name, segment=learned[1].get("segment", segment))
            found += [*([memory] if boundaries else []), *_caches(store, memory)]
    return found


def _caches(store: MemoryStore, memory: MemoryOptions) -> Iterator[MemoryOptions]:
    """Yield the options of the caches that are kept for the rule and the policy of ``memory``."""
    if store.load_fixed_cache(memory) is not None:
        yield memory.replace(cache="fixed")
    stem, others = rule_stem(memory), store.learned_names(memory.reset)
    for path in sorted(store.path("").glob("gated-cache-*.safetensors")):
        if (match := _GATED.fullmatch(path.stem)) is None or match[2] != memory.policy:
            continue
        # A gate of the rule g-b is no gate b of the rule g.
        own = max((name for name in {stem, *others} if f"{match[1]}-".startswith(f"{name}-")), key=len, default=None)
        if own == stem:
            yield memory.replace(cache="learned", gate=match[1].removeprefix(stem).removeprefix("-") or None)


def write_packed(run: Run, folder: Path, name: str, learned: Collection[str] | None = None) -> list[MemoryOptions]:
    """Write ``run`` to the empty ``folder``, as a model called ``name``; return the options of what it keeps.

    ``learned`` are the names of the learned rules to keep; None: all. Raises UserError for a name that is none, and for
    a model that was adopted.
    """
    trained = run.trained
    if "adopted_from" in trained.card:
        what = "a pretrained model, which has a home of its own"
        raise UserError(what, run.path, "share the run by `save_pretrained` (docs/kept-memories.md)")
    kept = kept_memories(run.store, run.memory.segment)
    names = sorted({memory.g for memory in kept if memory.rule == "meta"})
    if unknown := [each for each in learned or () if each not in names]:
        raise UserError(f"no learned rule {unknown[0]!r}", run.path, f"choose among {', '.join(names) or 'none'}")
    kept = [memory for memory in kept if learned is None or memory.rule != "meta" or memory.g in learned]
    public = _public(run)
    largest = max(float(tensor.abs().max()) for tensor in trained.params.values())
    stored = torch.float16 if largest <= torch.finfo(torch.float16).max else torch.bfloat16
    params = {each: tensor.to(stored).to(tensor.dtype) for each, tensor in trained.params.items()}
    about = {each: value for each, value in trained.card.items() if each not in _OF_THE_FILE}
    about |= {"stored": str(stored).removeprefix("torch."), "rounded_from": trained.fingerprint}
    trained.tokenizer.save(folder / "tokenizer")
    save_model(folder, trained.model, params, trained.tokenizer, public(about))
    save_config(folder, _config(run, name, public))
    store = MemoryStore(folder, load_model(folder, trained.device))
    if (statistics := run.store.load_statistics()) is not None:
        rounded = Statistics({each: tensor.bfloat16() for each, tensor in statistics[0].rms.items()})
        store.save_statistics(rounded, statistics[1]["tokens"], seconds=statistics[1].get("seconds", 0.0))
    records: list[dict[str, Any]] = []
    for memory in kept:
        card = public(_copy(run.store, store, memory, public))
        records += [one for one in records_of(card, memory.rule, "tuned") if card and one not in records]
    provenance = read_provenance(run.path)
    write_json(folder / FILE, {**public(provenance), "packed": made_with(), "tuned_on": records})
    described = {"model_type": "dynlm", "model": dataclasses.asdict(trained.model.options)}
    write_json(folder / "config.json", {**described, "vocabulary": trained.model.vocab_size})
    return kept


def _copy(store: MemoryStore, target: MemoryStore, memory: MemoryOptions, public: Callable[[Any], Any]) -> Any:
    """Copy what ``store`` keeps for ``memory``'s cache, else its rule; return its card, None for level 1."""

    def own(card: Any) -> Any:
        return public({name: value for name, value in card.items() if name not in _OF_THE_FILE})

    if memory.cache == "learned" and (gated := store.load_gated_cache(memory)) is not None:
        target.save_gated_cache(memory, gated[0], own(gated[1]))
        return gated[1]
    if memory.cache == "fixed" and (fixed := store.load_fixed_cache(memory)) is not None:
        target.save_fixed_cache(memory, own(fixed))
        return fixed
    if memory.rule == "meta":
        (meta, phi), learned = open_meta(store, memory), store.load_learned(memory.g, memory.reset)
        assert learned is not None
        target.save_learned(memory, meta, phi, own({**learned[1], "g": dataclasses.asdict(meta.g)}))
        return learned[1]
    if (tuned := store.load_tuned(memory.rule, memory.policy)) is not None:
        target.save_tuned(memory.rule, memory.policy, public(tuned))
    return tuned


def _config(run: Run, name: str, public: Callable[[Any], Any]) -> dict[str, Any]:
    """Return the options of the packed model: those of the run, without what belongs to this machine."""
    content = read_options(run.path, *MAKERS)
    corpus = section_of(CorpusOptions, content.get("corpus", {}))
    # A data set that has a name is found by that.
    path = None if corpus.source != CorpusOptions().source else public(corpus.path)
    content["corpus"] = dataclasses.asdict(dataclasses.replace(corpus, path=path))
    content["run"] = dataclasses.asdict(run.options.replace(name=name, folder="runs", tracker=None, cpu=False))
    content["memory"] = dataclasses.asdict(run.memory)
    return content


def _public(run: Run) -> Callable[[Any], Any]:
    """Return a function that replaces paths in JSON values: the corpus's by its name, others by their last part."""
    made = section_of(CorpusOptions, read_options(run.path, *MAKERS).get("corpus", {}))
    named = made.source != CorpusOptions().source
    paths = {corpus.path for corpus in (made, run.section(CorpusOptions))} - {None}

    def public(value: Any) -> Any:
        if isinstance(value, dict):
            return {each: public(item) for each, item in value.items()}
        if isinstance(value, list):
            return [public(item) for item in value]
        if not isinstance(value, str):
            return value
        if value in paths:
            return made.source if named else Path(os.path.abspath(value)).name
        return Path(value).name if value.startswith("~") or os.path.isabs(value) else value

    return public
