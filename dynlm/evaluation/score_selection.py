"""Score files as users name them: one by one, or all those of a run, in the order that tables have.

A run may hold scores of several texts: other splits, other articles, another corpus. Tables are made for each text; a
picture is of one, the newest unless another is chosen.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dynlm.adapt.options import CACHES
from dynlm.adapt.rules.registry import tuned_rules
from dynlm.errors import UserError
from dynlm.evaluation.score_file import read_protocol, scores_of_run
from dynlm.runtime.text import printable

_KEY_LENGTH = 8
"""Characters of a text's fingerprint that are shown."""
_Protocols = dict[Path, dict[str, Any]]


def texts_named(names: Sequence[str], text: str | None = None) -> list[list[Path]]:
    """Return score files named one by one, or all those of a run, grouped by text, the newest text first.

    ``text`` selects one by the beginning of its fingerprint. Raises UserError where a run has no files, for a file that
    cannot be read, and where no text, or several, begin with ``text``.
    """
    return [[*protocols] for protocols in _texts(names, text)]


def one_text_named(names: Sequence[str], text: str | None = None) -> list[Path]:
    """Return the files of the newest text, or of ``text``; a run's other texts are listed on standard error.

    Raises UserError as ``texts_named`` does, and for files of several texts that are named one by one.
    """
    own, *others = _texts(names, text)
    if others and not any(Path(name).is_dir() for name in names):
        what = "the score files are of several texts"
        raise UserError(what, next(iter(own)), "name files of one text, or choose --text")
    if others:
        what = f"scores of several texts: these are of {_describe(own)}; --text chooses another"
        print(f"dynlm: {what}: {'; '.join(map(_describe, others))}", file=sys.stderr)
    return [*own]


def _texts(names: Sequence[str], text: str | None) -> list[_Protocols]:
    """Return the files with their protocols, in the order of tables, of each text."""
    paths: list[Path] = []
    for path in map(Path, names):
        found = scores_of_run(path) if path.is_dir() else [path]
        if not found:
            raise UserError("no score files in this run", path, f"run `dynlm score {path}` first")
        paths += found
    texts: dict[str, _Protocols] = {}
    for path, protocol in sorted(((path, read_protocol(path)) for path in paths), key=lambda each: _rank(each[1])):
        texts.setdefault(protocol["text"], {})[path] = protocol
    if text is not None:
        fitting = [each for each in texts if each.startswith(text)]
        if len(fitting) != 1:
            what = f"{len(fitting)} texts begin with {text!r}" if fitting else f"no text begins with {text!r}"
            raise UserError(what, "--text", f"choose among {'; '.join(map(_describe, texts.values()))}")
        return [texts[fitting[0]]]
    newest = {key: max(str(each.get("date", "")) for each in protocols.values()) for key, protocols in texts.items()}
    return [texts[key] for key in reversed(sorted(texts, key=newest.__getitem__))]


def _describe(protocols: _Protocols) -> str:
    """Return the beginning of a text's fingerprint, its split and how many articles it has."""
    protocol = next(iter(protocols.values()))
    split, count = printable(str(protocol.get("split", "a text"))), len(protocol["articles"])
    return f"{printable(protocol['text'][:_KEY_LENGTH])} ({split}, {count} article{'s' * (count != 1)})"


def _rank(protocol: Mapping[str, Any]) -> tuple[int, int, int, bool]:
    """Order by level, then by rule, each before its caches, then mixtures."""
    rule, cache, level = protocol.get("rule"), protocol.get("cache"), protocol.get("level")
    name = rule.get("name") if isinstance(rule, dict) else None
    kind = cache.get("kind") if isinstance(cache, dict) else "none"
    rules = ["none", *tuned_rules()]
    return (
        level if isinstance(level, int) else 9,
        rules.index(name) if name in rules else len(rules),
        CACHES.index(kind) if kind in CACHES else len(CACHES),
        "no_regret" in protocol,
    )
