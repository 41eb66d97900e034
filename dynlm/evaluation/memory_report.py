"""Describe memory files and the differences of two, as dictionaries and as text, without a model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynlm.adapt.memory_file import load_about
from dynlm.adapt.reading_record import ReadingRecord, Words, WordSum
from dynlm.errors import UserError
from dynlm.evaluation.tables import text_rows
from dynlm.evaluation.word_gains import changes_text
from dynlm.runtime.text import counted, printable

_SHOWN = ("model", "options", "rule", "tokens", "articles", "unfinished", "content")
_TEXTS, _WORDS = 5, 8
"""Names of texts, and words, that are shown."""


def show(path: Path) -> dict[str, Any]:
    """Return a memory's protocol, what it has read, and the distance of each tensor from theta_0 (root mean square).

    Raises UserError where the file is missing, damaged or no memory.
    """
    about, tensors = load_about(path)
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        **{name: getattr(about, name) for name in _SHOWN},
        "distance": about.distance,
        "record": ReadingRecord.from_dict(about.record, path).to_dict(),
        "moved": {name: _rms(tensor) for name, tensor in _weights(tensors).items()},
        "restored_exactly": sum(len(t) for name, t in tensors.items() if name.endswith("/at")),
        "parts": sorted({name.partition("/")[0] for name in tensors}),
    }


def diff(one: Path, other: Path) -> dict[str, Any]:
    """Return how two memories of one model differ: whether they are ``equal`` bit for bit, and their weights' distance.

    The distance ``apart`` is the root mean square of each tensor. Raises UserError for memories of two models.
    """
    (about_1, tensors_1), (about_2, tensors_2) = load_about(one), load_about(other)
    if about_1.model != about_2.model:
        raise UserError("these memories are of two models", f"{one}, {other}", "name two of one model")
    weights_1, weights_2 = _weights(tensors_1), _weights(tensors_2)
    if any(weights_1[name].shape != weights_2[name].shape for name in weights_1.keys() & weights_2.keys()):
        raise UserError("these memories are of one model, but not of its shapes", f"{one}, {other}")
    equal = tensors_1.keys() == tensors_2.keys() and all(torch.equal(t, tensors_2[n]) for n, t in tensors_1.items())
    options_1, options_2 = about_1.options, about_2.options
    names = sorted(options_1.keys() | options_2.keys())
    zero = torch.zeros(())  # a memory without the tensor is at theta_0
    return {
        "files": [str(one), str(other)],
        "equal": equal and about_1.unfinished == about_2.unfinished,
        "tokens": [about_1.tokens, about_2.tokens],
        "articles": [about_1.articles, about_2.articles],
        "options": {n: [options_1.get(n), options_2.get(n)] for n in names if options_1.get(n) != options_2.get(n)},
        "distance": [about_1.distance, about_2.distance],
        "records": [
            ReadingRecord.from_dict(about.record, path).to_dict() for about, path in ((about_1, one), (about_2, other))
        ],
        "apart": {n: _rms(weights_1.get(n, zero) - weights_2.get(n, zero)) for n in {**weights_1, **weights_2}},
    }


def as_text(shown: dict[str, Any]) -> str:
    """Return the result of ``show`` for a terminal: what was read and learned in words, then tensors."""
    record, options = ReadingRecord.from_dict(shown["record"]), shown["options"]
    unfinished = "" if shown["unfinished"] is None else "; the last is unfinished, and its end is kept as text"
    read = f"has read {counted(shown['tokens'], 'token')} of {counted(shown['articles'], 'article')}{unfinished}"
    words = [
        f"{printable(shown['file'])}: {read}",
        f"read last: {', '.join(map(printable, record.texts[-_TEXTS:]))}" if record.texts else "",
        _moved(shown["distance"], bool(options.get("lora_rank"))),
        _helped(record),
        *changes_text(record.words),
    ]
    used = {name: options.get(name) for name in ("rule", "reset", "segment")}
    reading = ", ".join(printable(f"{name} {value}") for name, value in used.items() if value is not None)
    about = f"{reading}, of model {printable(shown['model'])}, {shown['bytes']:,} bytes"
    tensors = _table("moved from the static parameters (root mean square)", shown["moved"])
    return "\n".join([*filter(None, words), about, *tensors])


def diff_as_text(found: dict[str, Any]) -> str:
    """Return the result of ``diff`` for a terminal: what was read and learned in words, then tensors."""
    files = [printable(file) for file in found["files"]]
    read = zip(files, found["tokens"], found["articles"], found["distance"], strict=True)
    rows = []
    for file, tokens, articles, moved in read:
        far = "" if moved is None else f", {moved:.3g} |theta_0| from the static parameters"
        rows.append(f"{file}: {counted(tokens, 'token')} of {counted(articles, 'article')}{far}")
    if found["equal"]:
        return "\n".join([*rows, "equal to the bit"])
    one, other = (ReadingRecord.from_dict(record).words for record in found["records"])
    rows += _gain_differences(one, other, files[1])
    rows += [printable(f"memory.{name}: {was!r}, {now!r}") for name, (was, now) in found["options"].items()]
    return "\n".join([*rows, *_table("apart (root mean square)", found["apart"])])


def _moved(distance: float | None, factors: bool) -> str:
    if distance is None:
        return ""
    if not distance:
        return "its weights are the static ones"
    if factors:
        return f"its low-rank factors are {distance:.3g} from where they began"
    return f"its weights have moved by {100 * distance:.3g} % of the static ones' size"


def _helped(record: ReadingRecord) -> str:
    if not record.tokens:
        return ""
    static, own = record.static / record.tokens, record.nats / record.tokens
    by = f"it helped by {static - own:.3f}" if own <= static else f"it cost {own - static:.3f} more"
    return f"{own:.3f} nats per token before each was learned from, {static:.3f} by the static model: {by}"


def _gain_differences(one: Words, other: Words, file: str) -> list[str]:
    """Return the lines that say on which words the second memory saved more nats in all than the first, and fewer."""
    none = WordSum(0, 0.0, 0.0)
    gains = {word: other.get(word, none).gain - one.get(word, none).gain for word in {**one, **other}}
    order = sorted(gains, key=lambda word: (-gains[word], word))
    chosen = {
        "more": [w for w in order[:_WORDS] if gains[w] > 0],
        "less": [w for w in order[::-1][:_WORDS] if gains[w] < 0],
    }
    return [
        f"{file} expects {what} (nats saved in all): {', '.join(f'{printable(w)} ({gains[w]:+.2f})' for w in words)}"
        for what, words in chosen.items()
        if words
    ]


def _table(heading: str, values: dict[str, float]) -> list[str]:
    rows = [(f"  {printable(name)}", f"{value:.3g}") for name, value in values.items()]
    return [f"{heading}:", *text_rows(rows, left=2)] if rows else ["no weights have moved"]


def _weights(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return each dynamic tensor's difference from theta_0."""
    names = [name for name in tensors if name.startswith("params/") and not name.endswith(("/at", "/is"))]
    return {name.removeprefix("params/"): tensors[name] for name in names}


def _rms(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor.double())) / math.sqrt(max(1, tensor.numel()))
