"""Which file a scoring belongs to: a readable name, and a key of everything that decides on its losses.

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
from dynlm.run.cache_store import rule_stem
from dynlm.runtime.hashing import fingerprint

_DECISIVE = ("model", "tokenizer", "text", "split", "order", "reset", "segment", "reader", "memory")
_KEY_LENGTH, _LONGEST_STEM = 8, 120


@dataclass(frozen=True)
class Into:
    """Where a score file goes.

    ``path`` (unset: a file in the run's ``scores/``, called ``name`` or by what was scored). ``told`` stands in the
    protocol in place of its own words. With ``force`` a scoring that is there already is made anew.
    """

    path: Path | None = None
    name: str | None = None
    told: Mapping[str, Any] = field(default_factory=dict)
    force: bool = False

    def __post_init__(self) -> None:
        name = self.name
        if name is not None and (not name or name.startswith(".") or not name.isprintable() or set(name) & set("/\\:")):
            raise UserError(f"--name is {name!r}", do="choose a file's name without a folder or a leading dot")

    def place(self, folder: Path, stem: str, key: str) -> Path:
        """The file of a scoring of the run in ``folder``. Raises UserError where ``name`` is another scoring's."""
        if self.path is not None:
            return self.path
        if self.name is not None:
            path = folder / FOLDER / f"{self.name.removesuffix('.parquet')}.parquet"
            if not self.force and (there := scores_at(path)) is not None and scoring_key(there.protocol) != key:
                raise UserError("this file holds another scoring", path, "choose another --name, or --force")
            return path
        short = key[:_KEY_LENGTH]
        plain = folder / FOLDER / f"{stem}.parquet"
        for path in (*sorted((folder / FOLDER).glob(f"*-{short}.parquet")), plain):
            if (there := scores_at(path)) is not None and scoring_key(there.protocol) == key:
                return path
        return folder / FOLDER / f"{stem[:_LONGEST_STEM]}-{short}.parquet"

    def there(self, path: Path, key: str) -> Scores | None:
        """The scoring with this key, where ``path`` holds it and it is not to be made anew."""
        found = None if self.force else scores_at(path)
        return found if found is not None and scoring_key(found.protocol) == key else None


def scores_at(path: Path) -> Scores | None:
    """What is in a score file; None where there is none, or none that is whole."""
    if not path.exists():
        return None
    try:
        return read_scores(path)
    except UserError:
        return None


def scoring_key(protocol: Mapping[str, Any]) -> str:
    """What tells a scoring from any whose losses may differ by more than rounding; versions and the date do not count.

    The model, the text, the order, the rule with all its constants, and the memory's options decide.
    """
    options = protocol.get("options")
    memory = options.get("memory") if isinstance(options, dict) else None
    return _fingerprint([{name: protocol.get(name) for name in _DECISIVE}, memory])


def resume_key(protocol: Mapping[str, Any]) -> str:
    """What a stopped scoring has to share with one that goes on with it: everything but the date."""
    return _fingerprint({name: value for name, value in protocol.items() if name != "date"})


def _fingerprint(content: Any) -> str:
    return fingerprint(json.dumps(content, sort_keys=True))


def file_stem(memory: MemoryOptions, split: str, articles: str | None, order: str = "in order") -> str:
    """The readable part: split, articles, rule and, where they matter, reset policy, cache, mixture and order."""
    parts = [split, *([articles] if articles else []), rule_stem(memory)]
    if (memory.rule, memory.cache) != ("none", "none"):
        parts.append(memory.reset)
    parts += {"fixed": ["cache"], "learned": ["gated-cache"]}.get(memory.cache, [])
    if memory.no_regret and (memory.rule, memory.cache) != ("none", "none"):
        parts.append("no-regret")
    return "-".join(parts if order == "in order" else [*parts, order.replace(", seed ", "-")])
