"""What memory files hold, and how two of them differ, as numbers and as a table. No model is needed for it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynlm.adapt.memory_file import About, load_about
from dynlm.errors import UserError
from dynlm.runtime.text import printable

_WEIGHTS = "weights/"


def show(path: Path) -> dict[str, Any]:
    """A memory's protocol, how much it has read, and how far each tensor has moved from theta_0 (root mean squares).

    Raises UserError where the file is missing, damaged or no memory.
    """
    about, tensors = load_about(path)
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        **_told(about),
        "moved": {name: _rms(tensor) for name, tensor in _weights(tensors).items()},
        "restored_exactly": sum(len(t) for name, t in tensors.items() if name.endswith("/at")),
        "parts": sorted({name.partition("/")[0] for name in tensors}),
    }


def diff(one: Path, other: Path) -> dict[str, Any]:
    """How two memories of one model differ: ``equal`` to the bit or not, and how far apart the weights are (root mean
    squares, to the rounding of differences). Raises UserError where they are of two models."""
    (about_1, tensors_1), (about_2, tensors_2) = load_about(one), load_about(other)
    if about_1.model != about_2.model:
        raise UserError("these memories are of two models", f"{one}, {other}", "name two of one model")
    weights_1, weights_2 = _weights(tensors_1), _weights(tensors_2)
    if any(weights_1[name].shape != weights_2[name].shape for name in weights_1.keys() & weights_2.keys()):
        raise UserError("these memories are of one model, but not of its shapes", f"{one}, {other}")
    apart = {}
    for name in [*weights_1, *(name for name in weights_2 if name not in weights_1)]:
        # A memory that has read nothing is at theta_0.
        first, second = (weights.get(name, torch.zeros(())) for weights in (weights_1, weights_2))
        apart[name] = _rms(first - second)
    equal = tensors_1.keys() == tensors_2.keys() and all(
        torch.equal(tensors_1[name], tensors_2[name]) for name in tensors_1
    )
    changed = sorted(
        k for k in about_1.options.keys() | about_2.options.keys() if _option(about_1, k) != _option(about_2, k)
    )
    return {
        "files": [str(one), str(other)],
        "equal": equal and about_1.unfinished == about_2.unfinished,
        "tokens": [about_1.tokens, about_2.tokens],
        "articles": [about_1.articles, about_2.articles],
        "options": {name: [_option(about_1, name), _option(about_2, name)] for name in changed},
        "apart": apart,
    }


def as_text(shown: dict[str, Any]) -> str:
    """What ``show`` tells, for a terminal."""
    file, model = printable(shown["file"]), printable(shown["model"])
    unfinished = "" if shown["unfinished"] is None else "; the last is unfinished, and its end is kept as text"
    return "\n".join(
        [
            f"{file}: {_reading(shown)}, of model {model}, {shown['bytes']:,} bytes",
            f"has read {shown['tokens']:,} tokens of {shown['articles']:,} articles{unfinished}",
            *_table("moved from the static parameters (root mean square)", shown["moved"]),
        ]
    )


def diff_as_text(told: dict[str, Any]) -> str:
    """What ``diff`` tells, for a terminal."""
    read = zip(told["files"], told["tokens"], told["articles"], strict=True)
    rows = [f"{printable(file)}: {tokens:,} tokens of {articles:,} articles" for file, tokens, articles in read]
    rows += [printable(f"memory.{name}: {one!r}, {other!r}") for name, (one, other) in told["options"].items()]
    if told["equal"]:
        return "\n".join([*rows, "equal to the bit"])
    return "\n".join([*rows, *_table("apart (root mean square)", told["apart"])])


def _told(about: About) -> dict[str, Any]:
    return {
        "model": about.model,
        "options": about.options,
        "rule": about.rule,
        "tokens": about.tokens,
        "articles": about.articles,
        "unfinished": about.unfinished,
        "content": about.content,
    }


def _reading(shown: dict[str, Any]) -> str:
    options = shown["options"]
    told = [printable(f"{name} {options[name]}") for name in ("rule", "reset", "segment") if name in options]
    return ", ".join(told)


def _table(heading: str, values: dict[str, float]) -> list[str]:
    if not values:
        return ["no weights have moved"]
    names = [printable(name) for name in values]
    width = max(map(len, names))
    rows = zip(names, values.values(), strict=True)
    return [f"{heading}:", *(f"  {name:{width}}  {value:.3g}" for name, value in rows)]


def _option(about: About, name: str) -> Any:
    return about.options.get(name)


def _weights(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each dynamic tensor's difference from theta_0."""
    ends = ("/at", "/is")
    return {n[len(_WEIGHTS) :]: t for n, t in tensors.items() if n.startswith(_WEIGHTS) and not n.endswith(ends)}


def _rms(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor.double())) / math.sqrt(max(1, tensor.numel()))
