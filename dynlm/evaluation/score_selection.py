"""Score files as users name them: one by one, or all those of a run, in the order that tables have.

A run may hold scores of several texts: other splits, other articles, another corpus. Tables are made for each text; a
picture is of one, the newest unless another is asked for.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dynlm.adapt.options import CACHES, RULES
from dynlm.errors import UserError
from dynlm.evaluation.score_file import read_protocol, scores_of_run
from dynlm.runtime.text import printable

_KEY_LENGTH = 8
"""Of a text's fingerprint, as it is shown."""


def score_files_named(words: Sequence[str]) -> list[Path]:
    """Score files named one by one, or all those of a run, of whatever texts, in the order of tables.

    Raises UserError where a run has none, and for a file that cannot be read.
    """
    return _in_order({path: read_protocol(path) for path in _paths(words)})


def texts_named(words: Sequence[str], text: str | None = None) -> list[list[Path]]:
    """The files of ``score_files_named``, those of each text together, the newest text first.

    ``text`` chooses one by the beginning of its fingerprint. Raises UserError as ``score_files_named`` does, and where
    no text, or several, begin with ``text``.
    """
    protocols = {path: read_protocol(path) for path in _paths(words)}
    texts: dict[str, dict[Path, Mapping[str, Any]]] = {}
    for path, protocol in protocols.items():
        texts.setdefault(protocol["text"], {})[path] = protocol
    if text is not None:
        fitting = [each for each in texts if each.startswith(text)]
        if len(fitting) != 1:
            what = f"{len(fitting)} texts begin with {text!r}" if fitting else f"no text begins with {text!r}"
            known = "; ".join(_about(each, files) for each, files in texts.items())
            raise UserError(what, "--text", f"choose among {known}")
        texts = {fitting[0]: texts[fitting[0]]}
    newest = sorted(texts.values(), key=lambda files: max(str(each.get("date", "")) for each in files.values()))
    return [_in_order(files) for files in reversed(newest)]


def one_text_named(words: Sequence[str], text: str | None = None) -> list[Path]:
    """The files of the newest text, or of ``text``; the other texts of a run are named on standard error.

    Raises UserError as ``texts_named`` does, and where files that are named one by one are of several texts.
    """
    chosen, *others = texts_named(words, text)
    if others and not any(Path(word).is_dir() for word in words):
        raise UserError("the score files are of several texts", chosen[0], "name files of one text, or choose --text")
    if others:
        own, *rest = ({path: read_protocol(path) for path in files} for files in (chosen, *others))
        told = "; ".join(_about(next(iter(files.values()))["text"], files) for files in rest)
        now = _about(next(iter(own.values()))["text"], own)
        print(f"dynlm: scores of several texts: these are of {now}; --text chooses another: {told}", file=sys.stderr)
    return chosen


def _paths(words: Sequence[str]) -> list[Path]:
    paths: list[Path] = []
    for word in words:
        path = Path(word)
        found = scores_of_run(path) if path.is_dir() else [path]
        if not found:
            raise UserError("no score files in this run", path, f"run `dynlm score {path}` first")
        paths += found
    return paths


def _about(text: str, files: Mapping[Path, Mapping[str, Any]]) -> str:
    """A text as a user knows it, with the beginning of its fingerprint."""
    protocol = next(iter(files.values()))
    count = len(protocol["articles"])
    split = printable(str(protocol.get("split", "a text")))
    return f"{printable(text[:_KEY_LENGTH])} ({split}, {count} article{'s' * (count != 1)})"


def _in_order(protocols: Mapping[Path, Mapping[str, Any]]) -> list[Path]:
    return sorted(protocols, key=lambda path: _place_of(protocols[path]))


def _place_of(protocol: Mapping[str, Any]) -> tuple[int, int, int, bool]:
    """From the plain LSTM up: by level, then in the rules' own order, each before its caches, then mixtures."""
    rule, cache = protocol.get("rule"), protocol.get("cache")
    name = rule.get("name") if isinstance(rule, dict) else None
    kind = cache.get("kind") if isinstance(cache, dict) else "none"
    level = protocol.get("level")
    return (
        level if isinstance(level, int) else 9,
        RULES.index(name) if name in RULES else len(RULES),
        CACHES.index(kind) if kind in CACHES else len(CACHES),
        "no_regret" in protocol,
    )
