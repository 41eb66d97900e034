"""Score files as users name them: one by one, or all those of a run, in the order that tables have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dynlm.config import CACHES, RULES
from dynlm.errors import UserError
from dynlm.evaluation.scores_file import read_scores, scores_of_run


def score_files_named(words: Sequence[str], one_text: bool = True) -> list[Path]:
    """Score files named one by one, or all those of a run; with ``one_text`` they have to be of the same text.

    Raises UserError where a run has none, or has them of several texts.
    """
    paths: list[Path] = []
    for word in words:
        path = Path(word)
        if not path.is_dir():
            paths.append(path)
            continue
        found = scores_of_run(path)
        if not found:
            raise UserError("no score files in this run", path, f"run `dynlm score {path}` first")
        texts = {each: read_scores(each).protocol["text"] for each in found}
        if one_text and len(set(texts.values())) > 1:
            raise UserError(
                "this run's score files are of several texts", path, f"name files: {' '.join(map(str, found))}"
            )
        paths += found
    return sorted(paths, key=lambda path: _place_of(read_scores(path).protocol))


def _place_of(protocol: dict[str, Any]) -> tuple[int, int, int, bool]:
    """From the plain LSTM up: by level, then in the rules' own order, each before its caches, then mixtures."""
    name = protocol.get("rule", {}).get("name")
    cache = (protocol.get("cache") or {}).get("kind", "none")
    return (
        int(protocol.get("level", 9)),
        RULES.index(name) if name in RULES else len(RULES),
        CACHES.index(cache) if cache in CACHES else len(CACHES),
        "no_regret" in protocol,
    )
