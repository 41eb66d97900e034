"""Learning from a user's own texts: what there is, and the options of the run that is trained on it."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynlm.data.cut import size_in_words
from dynlm.data.options import CorpusOptions, TokenizerOptions
from dynlm.data.sources.lines import unpacked_name
from dynlm.data.sources.mixed import no_text_in, open_mixed
from dynlm.errors import UserError
from dynlm.run.options import ELSEWHERE
from dynlm.runtime.hashing import Hasher
from dynlm.runtime.parsing import read_json, write_json
from dynlm.study.fit import TextSize, fit
from dynlm.study.learn_options import LearnOptions
from dynlm.train.config import Config, load_config

FILE = "learn.json"
"""In the run's folder: what it was begun with."""
_MOST_TYPES = 200_000
"""More change no option."""
_ROW = re.compile(r":\d+$")


@dataclass(frozen=True)
class Survey:
    """What a folder of texts holds."""

    path: str
    texts: int
    size: TextSize
    """With the characters that make up all but a small share of the text (``tokenizer.character_coverage``)."""
    files: dict[str, int]
    """Files that were read, by suffix."""
    skipped: dict[str, str]
    """Files that were not, and why."""
    fingerprint: str
    """Of all titles and texts."""


def corpus_of(options: LearnOptions, path: str) -> CorpusOptions:
    """Return the options of the corpus in a folder or file, not cut yet."""
    return CorpusOptions(path=path, format="mixed", **vars(options.corpus))


def survey(corpus: CorpusOptions, coverage: float = TokenizerOptions.character_coverage) -> Survey:
    """Read all texts once and return what there is.

    Raises UserError for a path that is not there, a file that cannot be read, and a folder without any text.
    """
    source, hasher = open_mixed(corpus), Hasher()
    characters: Counter[str] = Counter()
    types: set[str] = set()
    files: dict[str, None] = {}
    texts, words = 0, 0.0
    for article in source.splits["train"]():
        texts += 1
        words += size_in_words(article.text)
        characters.update(article.text)
        if len(types) < _MOST_TYPES:
            types.update(article.text.split())
        files[_ROW.sub("", article.where)] = None
        hasher.add(article.title)
        hasher.add(article.text)
    if not texts:
        raise no_text_in(str(corpus.path), source.skipped)
    suffixes = Counter(Path(unpacked_name(Path(file))).suffix.lower() or "without suffix" for file in files)
    covered = itertools.accumulate(times for _, times in characters.most_common())
    needed = 1 + sum(1 for total in covered if total < coverage * characters.total())
    by_suffix = dict(sorted(suffixes.items(), key=lambda item: (-item[1], item[0])))
    size = TextSize(math.floor(words), len(types), needed)
    return Survey(str(corpus.path), texts, size, by_suffix, source.skipped, hasher.hexdigest())


def begin(options: LearnOptions, found: Survey) -> Config:
    """Return the options of the run that learns from the texts ``found``: fitted to them, or those it was begun with.

    What it is begun with is kept in its folder. Raises UserError for a run that was begun with other texts or options,
    or by another command.
    """
    folder = options.run.path
    record, made = folder / FILE, (folder / "config.yaml").exists()
    begun: dict[str, Any] = {
        "texts": found.fingerprint,
        "learn.budget": options.learn.budget,
        "run.seed": options.run.seed,
    }
    if record.exists():
        earlier = read_json(record)
        for name, value in begun.items():
            if not isinstance(earlier, dict) or earlier.get(name) != value:
                what = "these texts are not" if name == "texts" else f"{name} {value} is not"
                raise UserError(f"{what} what this run was begun with", folder, ELSEWHERE)
    elif made:
        raise UserError("this run was made by another command", folder, ELSEWHERE)
    if made:
        config = load_config(folder)
        config.run = options.run
        return config
    plain = Config(run=options.run, corpus=corpus_of(options, found.path))
    config = fit(plain, found.size, options.learn.budget)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(record, {**begun, "path": found.path, "size": found.size._asdict(), "skipped": found.skipped})
    return config
