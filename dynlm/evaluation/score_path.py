"""The file of a scoring: a readable name, and a key of everything that decides on its losses.

``SPLIT-ARTICLES-RULE-RESET-KEY.parquet``: two scorings that may differ never share a file, and the same scoring again
is found by its key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dynlm.adapt.options import MemoryOptions
from dynlm.errors import UserError
from dynlm.evaluation.score_file import FOLDER, Scores, read_scores
from dynlm.run.memory_store import rule_stem
from dynlm.runtime.hashing import fingerprint
from dynlm.runtime.renamed import original_options
from dynlm.runtime.validation import plain_name

_DECISIVE = ("model", "tokenizer", "text", "split", "order", "reset", "segment", "reader", "memory")
_KEY_LENGTH, _LONGEST_STEM = 8, 120


@dataclass(frozen=True)
class Output:
    """Where a score file goes: ``path``, else ``name`` in the run's ``scores/``, else a name made from what is scored.

    ``overrides`` replace entries of the protocol. With ``force`` an existing scoring is computed again. Raises
    UserError for a name that is no plain file name.
    """

    path: Path | None = None
    name: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    force: bool = False

    def __post_init__(self) -> None:
        if self.name is not None:
            plain_name("--name", self.name)

    def path_for(self, folder: Path, stem: str, key: str) -> Path:
        """Return the file of the scoring ``key`` of the run in ``folder``; UserError where it holds another scoring."""
        if self.path is not None:
            return self.path
        if self.name is not None:
            path = folder / FOLDER / f"{self.name.removesuffix('.parquet')}.parquet"
            if not self.force and (found := load_if_whole(path)) is not None and scoring_key(found.protocol) != key:
                raise UserError("this file holds another scoring", path, "choose another --name, or --force")
            return path
        short = key[:_KEY_LENGTH]
        for path in (*sorted((folder / FOLDER).glob(f"*-{short}.parquet")), folder / FOLDER / f"{stem}.parquet"):
            if (found := load_if_whole(path)) is not None and scoring_key(found.protocol) == key:
                return path
        return folder / FOLDER / f"{stem[:_LONGEST_STEM]}-{short}.parquet"

    def existing(self, path: Path, key: str) -> Scores | None:
        """Return the scores in ``path`` if they are of the scoring ``key`` and need not be computed again."""
        found = None if self.force else load_if_whole(path)
        return found if found is not None and scoring_key(found.protocol) == key else None


def load_if_whole(path: Path) -> Scores | None:
    """Load a score file; None where there is none, or a damaged one."""
    try:
        return read_scores(path) if path.exists() else None
    except UserError:
        return None


def scoring_key(protocol: Mapping[str, Any]) -> str:
    """Return the fingerprint of what decides on the losses, up to rounding.

    That is the model, the text, the order, the rule and the memory options, not versions and the date.
    """
    options = protocol.get("options")
    memory = options.get("memory") if isinstance(options, dict) else None
    memory = original_options("memory", memory) if isinstance(memory, dict) else memory
    return fingerprint(json.dumps([{name: protocol.get(name) for name in _DECISIVE}, memory], sort_keys=True))


def resume_key(protocol: Mapping[str, Any]) -> str:
    """Return the fingerprint of everything but the date: what an interrupted scoring must share with its checkpoint."""
    return fingerprint(json.dumps({k: value for k, value in protocol.items() if k != "date"}, sort_keys=True))


def file_stem(memory: MemoryOptions, split: str, articles: str | None, order: str = "in order") -> str:
    """Return the readable part: split, articles, rule and, where it matters, reset policy, cache, mixture, order."""
    parts = [split, *([articles] if articles else []), rule_stem(memory)]
    if (memory.rule, memory.cache) != ("none", "none"):
        parts += [memory.reset, *{"fixed": ["cache"], "learned": ["gated-cache"]}.get(memory.cache, [])]
        parts += ["no-regret"] if memory.no_regret else []
    return "-".join(parts if order == "in order" else [*parts, order.replace(", seed ", "-")])
