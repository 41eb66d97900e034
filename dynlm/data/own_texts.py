"""Texts of a user's own to read: files, folders of them, records, standard input. Each is an article."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from dynlm.data.options import CorpusOptions
from dynlm.data.sources.lines import unpacked_name
from dynlm.data.sources.local import open_local
from dynlm.data.sources.mixed import no_text_in, open_mixed
from dynlm.data.sources.source import Article
from dynlm.runtime.text import read_text

_SEVERAL = (".jsonl", ".ndjson", ".json", ".parquet", ".xml")
"""Suffixes of files that hold several articles."""


class OwnTexts(NamedTuple):
    """The articles, in the order in which they were named, and what of folders was not read, with the reason."""

    articles: list[Article]
    skipped: dict[str, str]


def load_own_texts(names: Sequence[str], like: CorpusOptions | None = None) -> OwnTexts:
    """Load the texts that ``names`` name: files, folders, and - for standard input.

    A text file is one article, whatever its name; of JSON lines and Parquet each record is one, with the fields that
    ``like`` names. A folder is read by ``open_mixed``. Raises UserError for a named file that cannot be read, and for a
    folder without any text.
    """
    corpus = CorpusOptions()
    if like is not None:
        corpus = corpus.replace(text_field=like.text_field, title_field=like.title_field)
    articles: list[Article] = []
    skipped: dict[str, str] = {}
    for name in names:
        path = Path(name).expanduser()
        if name == "-":
            articles.append(Article("standard input", read_text("-"), "standard input"))
        elif path.is_dir():
            source = open_mixed(corpus.replace(path=name, format="mixed"))
            if not (found := [*source.splits["train"]()]):
                raise no_text_in(name, source.skipped)
            # A text that is a whole file is called by its path, as one that is named alone.
            articles += [replace(each, title=each.where) if Path(each.where).is_file() else each for each in found]
            skipped |= source.skipped
        else:
            articles += _of_file(path, corpus)
    return OwnTexts(articles, skipped)


def _of_file(path: Path, corpus: CorpusOptions) -> Iterator[Article]:
    unpacked = Path(unpacked_name(path))
    if unpacked.suffix.lower() in _SEVERAL:
        yield from open_local(corpus.replace(path=str(path))).splits["train"]()
    elif unpacked.name == path.name:
        yield Article(str(path), read_text(path), str(path))
    else:
        yield from open_local(corpus.replace(path=str(path), format="text")).splits["train"]()
