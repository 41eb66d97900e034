"""Check a packed model: its files are those that were packed, all it keeps opens and reads, figures are as they were.

``figures.json`` beside the model has the nats per token of the first tokens of a split by the main variants. No later
change of the program may lose more than TOLERANCE of that unseen.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dynlm.adapt.options import MemoryOptions
from dynlm.data.options import CorpusOptions
from dynlm.data.stream import Stream, read_as_one, read_side_by_side
from dynlm.data.tokenised_split import TokenisedSplit
from dynlm.errors import UserError
from dynlm.evaluation.checks.verify import read_again
from dynlm.evaluation.protocol import variant_name
from dynlm.run.packing import kept_memories
from dynlm.run.run import Run
from dynlm.runtime.checksums import check_checksums, listed_files
from dynlm.runtime.parsing import read_json
from dynlm.runtime.text import printable
from dynlm.runtime.validation import number_in, section_of
from dynlm.runtime.verdict import Verdict

FILE = "figures.json"
TOLERANCE = 1e-3
"""Nats per token by which a figure may differ."""
TEXT = (
    "A model whose weights change while it reads is first asked what each token will cost, and learns from it then. "
    "What it has learned from one page makes the next page cheaper: names, terms and the turns of a style come back.\n"
)
"""Read by everything that a packed model keeps, where there is no other text."""


@dataclass(frozen=True)
class PackedCheck(Verdict):
    """What checking a packed model found: ``broken`` is what does not hold.

    ``variants`` of its rules and caches were opened and read. ``figures`` were compared on ``tokens`` tokens; the
    ``largest`` difference is in nats per token. 0 figures: no text was given.
    """

    path: Path
    files: int
    variants: int = 0
    figures: int = 0
    tokens: int = 0
    largest: float = 0.0
    broken: list[str] = field(default_factory=list)

    def to_text(self) -> str:
        """Return a line with the verdict, and one for each entry of ``broken``."""
        parts = [f"{self.files} files", f"{self.variants} variants open and read"]
        if self.figures:
            parts.append(f"{self.figures} figures of {self.tokens:,} tokens within {self.largest:.1g} nats per token")
        else:
            parts.append("figures were not read again (--path names the corpus)")
        return "\n".join(self.lines(printable(str(self.path)), ", ".join(parts)))


def check_packed(folder: Path, corpus_path: str | None = None) -> PackedCheck:
    """Check the packed model in ``folder``, and its figures where ``corpus_path`` is the corpus that they are of.

    Nothing is opened if a file is not the one that was packed. Raises UserError where the text cannot be read.
    """
    result = PackedCheck(folder, len(listed_files(folder)), broken=check_checksums(folder))
    if not result.holds:
        return result
    try:
        run = Run.open(folder)
        memories = kept_memories(run.store, run.memory.segment)
        text = TokenisedSplit.from_texts([TEXT], run.trained.tokenizer)
        losses = {_label(run, memory): _read(run, memory, text)[0] for memory in [run.memory, *memories]}
    except UserError as error:
        return dataclasses.replace(result, broken=[str(error)])
    broken = [f"{label} costs {loss} nats per token" for label, loss in losses.items() if not math.isfinite(loss)]
    result = dataclasses.replace(result, variants=len(memories), broken=broken)
    if corpus_path is None or not (folder / FILE).exists():
        return result
    corpus = dataclasses.replace(run.section(CorpusOptions), path=corpus_path)
    return _compare(result, run.with_sections(corpus), read_json(folder / FILE))


def measure(run: Run, memories: list[MemoryOptions], split: str, tokens: int) -> dict[str, Any]:
    """Read the first ``tokens`` tokens (or a few more) of a split by ``memories``; return the content of FILE."""
    text, figures = run.split(split), []
    for memory in memories:
        nats, count = _read(run, memory, text, tokens)
        options = {name: getattr(memory, name) for name in ("rule", "g", "reset", "cache", "gate", "segment")}
        figures.append({"variant": _label(run, memory), "memory": options, "tokens": count, "nats_per_token": nats})
    return {"split": split, "split_text": text.fingerprint, "tokens": tokens, "figures": figures}


def main_memories(memories: list[MemoryOptions], policy: str) -> list[MemoryOptions]:
    """Return those whose figures are kept: level 1 and, under a policy, rms, learned rules, and their gated caches."""
    return memories[:1] + [
        memory
        for memory in memories[1:]
        if memory.policy == policy and memory.rule in ("rms", "meta") and memory.cache in ("none", "learned")
    ]


def _compare(result: PackedCheck, run: Run, then: Any) -> PackedCheck:
    """Add what reading the figures' text again gives."""
    path = result.path / FILE
    try:
        memories = [section_of(MemoryOptions, figure["memory"]) for figure in then["figures"]]
        tokens = int(number_in(then, "tokens", path, 1))
        known = [number_in(figure, "nats_per_token", path, 0) for figure in then["figures"]]
        split, text = str(then["split"]), then["split_text"]
    except (TypeError, KeyError) as error:
        raise UserError(f"not a file of figures ({error!r})", path, "pack the model again") from error
    if run.split(split).fingerprint != text:
        what = f"the {split} split is {run.split(split).fingerprint}, figures are of {text}"
        return dataclasses.replace(result, broken=[*result.broken, what])
    now = measure(run, memories, split, tokens)["figures"]
    off = [abs(figure["nats_per_token"] - value) for figure, value in zip(now, known, strict=True)]
    broken = [
        f"{figure['variant']}: {value:.4f} nats per token then, {figure['nats_per_token']:.4f} now"
        for figure, value, by in zip(now, known, off, strict=True)
        if not by <= TOLERANCE
    ]
    return dataclasses.replace(
        result,
        figures=len(now),
        tokens=max(figure["tokens"] for figure in now),
        largest=max(off),
        broken=[*result.broken, *broken],
    )


def _read(run: Run, memory: MemoryOptions, text: TokenisedSplit, tokens: int | None = None) -> tuple[float, int]:
    """Return nats per token of the first ``tokens`` tokens, and how many were read."""
    read = range(text.articles)
    stream: Stream
    if memory.article_boundaries:
        stream = read_side_by_side(text, memory.segment, read, 1)
    else:
        stream = read_as_one(text, memory.segment, read)
    _, nats_N = read_again(run.dynamic_model(memory), stream, tokens)
    return float(nats_N.sum(dtype="float64")) / len(nats_N), len(nats_N)


def _label(run: Run, memory: MemoryOptions) -> str:
    """Return what a memory is called, such as "level-3 + gated cache, stream"."""
    name = variant_name(run.dynamic_model(memory))
    if memory.rule == "meta":
        name = name.replace("meta", memory.g, 1)
    parts = [name, *([f"gate {memory.gate}"] if memory.gate else []), *([] if name == "level 1" else [memory.policy])]
    return ", ".join(parts)
