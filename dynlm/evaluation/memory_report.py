"""Describe memory files and the differences of two, as dictionaries and as text, without a model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynlm.adapt.memory_file import load_about
from dynlm.errors import UserError
from dynlm.evaluation.tables import text_rows
from dynlm.runtime.text import printable

_SHOWN = ("model", "options", "rule", "tokens", "articles", "unfinished", "content")


def show(path: Path) -> dict[str, Any]:
    """Return a memory's protocol, what it has read, and the distance of each tensor from theta_0 (root mean square).

    Raises UserError where the file is missing, damaged or no memory.
    """
    about, tensors = load_about(path)
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        **{name: getattr(about, name) for name in _SHOWN},
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
        "apart": {n: _rms(weights_1.get(n, zero) - weights_2.get(n, zero)) for n in {**weights_1, **weights_2}},
    }


def as_text(shown: dict[str, Any]) -> str:
    """Return the result of ``show`` for a terminal."""
    options = {name: shown["options"].get(name) for name in ("rule", "reset", "segment")}
    reading = ", ".join(printable(f"{name} {value}") for name, value in options.items() if value is not None)
    unfinished = "" if shown["unfinished"] is None else "; the last is unfinished, and its end is kept as text"
    about = f"{printable(shown['file'])}: {reading}, of model {printable(shown['model'])}, {shown['bytes']:,} bytes"
    read = f"has read {shown['tokens']:,} tokens of {shown['articles']:,} articles{unfinished}"
    return "\n".join([about, read, *_table("moved from the static parameters (root mean square)", shown["moved"])])


def diff_as_text(found: dict[str, Any]) -> str:
    """Return the result of ``diff`` for a terminal."""
    read = zip(found["files"], found["tokens"], found["articles"], strict=True)
    rows = [f"{printable(file)}: {tokens:,} tokens of {articles:,} articles" for file, tokens, articles in read]
    rows += [printable(f"memory.{name}: {one!r}, {other!r}") for name, (one, other) in found["options"].items()]
    rows += ["equal to the bit"] if found["equal"] else _table("apart (root mean square)", found["apart"])
    return "\n".join(rows)


def _table(heading: str, values: dict[str, float]) -> list[str]:
    rows = [(f"  {printable(name)}", f"{value:.3g}") for name, value in values.items()]
    return [f"{heading}:", *text_rows(rows, left=2)] if rows else ["no weights have moved"]


def _weights(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return each dynamic tensor's difference from theta_0."""
    names = [name for name in tensors if name.startswith("params/") and not name.endswith(("/at", "/is"))]
    return {name.removeprefix("params/"): tensors[name] for name in names}


def _rms(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor.double())) / math.sqrt(max(1, tensor.numel()))
