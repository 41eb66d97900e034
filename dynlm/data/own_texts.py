"""Texts of a user's own to read: files, folders of them, records, standard input. Each is an article."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from dynlm.data.options import CorpusOptions
from dynlm.data.sources.lines import unpacked_name
from dynlm.data.sources.local import open_local
from dynlm.data.sources.source import Article
from dynlm.errors import UserError
from dynlm.runtime.files import check_inside
from dynlm.runtime.text import read_text

_SEVERAL = (".jsonl", ".ndjson", ".json", ".parquet", ".xml")
"""Suffixes of files that hold several articles."""


class OwnTexts(NamedTuple):
    """The articles, in the order in which they were named, and files of folders that were left out, with the reason."""

    articles: list[Article]
    skipped: dict[str, str]


def load_own_texts(names: Sequence[str]) -> OwnTexts:
    """Load the texts that ``names`` name: files, folders, and - for standard input.

    A text file is one article, whatever its name; of JSON lines and Parquet each record is one, by its field ``text``.
    A folder gives all its files below it, sorted, but hidden ones; what cannot be read there is left out. Raises
    UserError for a named file that cannot be read, and for a folder without any text.
    """
    articles: list[Article] = []
    skipped: dict[str, str] = {}
    for name in names:
        path = Path(name).expanduser()
        if name == "-":
            articles.append(Article("standard input", read_text("-"), "standard input"))
        elif path.is_dir():
            articles += _of_folder(path, skipped)
        else:
            articles += _of_file(path)
    return OwnTexts(articles, skipped)


def _of_folder(folder: Path, skipped: dict[str, str]) -> list[Article]:
    found: list[Article] = []
    for path in sorted(folder.rglob("*")):
        if path.is_dir() or any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        try:
            check_inside(path, folder)
            articles = [article for article in _of_file(path) if article.text.strip()]
        except UserError as error:
            skipped[str(path)] = str(error)
            continue
        found += articles
        if not articles:
            skipped[str(path)] = "it holds no text"
    if not found:
        reason = f" ({next(iter(skipped.values()))})" if skipped else ""
        raise UserError(f"no text in this folder{reason}", folder, "name a folder with text files or JSON lines")
    return found


def _of_file(path: Path) -> Iterator[Article]:
    unpacked = Path(unpacked_name(path))
    if unpacked.suffix.lower() in _SEVERAL:
        yield from open_local(CorpusOptions(path=str(path))).splits["train"]()
    elif unpacked.name == path.name:
        yield Article(str(path), read_text(path), str(path))
    else:
        yield from open_local(CorpusOptions(path=str(path), format="text")).splits["train"]()
