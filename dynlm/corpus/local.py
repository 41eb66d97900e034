"""Local files and folders as a source: which files are read, in what format, and as which split."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from dynlm.config import CorpusConfig
from dynlm.corpus.article import Article
from dynlm.corpus.lines import text_lines, unpacked_name
from dynlm.corpus.records import json_records, parquet_records, record_articles
from dynlm.corpus.source import SPLIT_NAMES, Articles, Source, with_held_out
from dynlm.corpus.wikitext import wikitext_articles
from dynlm.errors import UserError
from dynlm.files import refuse_leaving

_KINDS = {
    **dict.fromkeys((".txt", ".md", ".tokens", ".raw"), "text"),
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), "jsonl"),
    ".parquet": "parquet",
}
_SPLIT_FILE = re.compile(rf"(?:wiki\.)?({'|'.join(SPLIT_NAMES)})(?:[._-].*)?")
_LINES_TO_JUDGE = 1000
"""WikiText has a title among its first lines."""

FileReader = Callable[[Path, Path, CorpusConfig], Iterator[Article]]
"""Reads a file, given the folder that titles are relative to."""


def local_source(corpus: CorpusConfig) -> Source:
    """The file or folder ``corpus.path``; without valid and test splits of its own, articles are held out.

    In a folder the splits are files named like them (``train.txt.xz``, ``wiki.valid.tokens``, ``test-00000.parquet``)
    or subfolders; where there are such, other files are not read. Raises UserError where nothing is there to read,
    a file is a link that leads out of the folder, or it is not clear which format or file is meant.
    """
    root = Path(corpus.path or "").expanduser()
    if root.is_dir():
        form, files = _files_to_read(root, corpus.format)
        splits = _by_split(root, form, files)
        top = root
    elif root.exists():
        form, splits, top = _form_of_file(root, corpus.format), {"train": [root]}, root.parent
    else:
        raise UserError("no such file or folder", root, "check --corpus.path")
    read = _READERS[form]

    def opener(files: list[Path]) -> Articles:
        return lambda: (article for file in files for article in read(file, top, corpus))

    return Source(str(root), with_held_out({s: opener(files) for s, files in splits.items()}, corpus.hold_out_every))


def _kind(path: Path) -> str | None:
    return _KINDS.get(Path(unpacked_name(path)).suffix.lower())


def _form_of_file(path: Path, asked: str) -> str:
    if asked != "auto":
        return asked
    kind = _kind(path) or "text"
    return "wikitext" if kind == "text" and _has_titles(path) else kind


def _has_titles(path: Path) -> bool:
    lines = islice(text_lines(path), _LINES_TO_JUDGE)
    return any(article.title for article in wikitext_articles(lines, ""))


def _files_to_read(root: Path, asked: str) -> tuple[str, list[Path]]:
    """The format, and the folder's files in it, sorted: those that are splits, or else all."""
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and _kind(path) and not _hidden(path, root)]
    if asked != "auto":
        files = [path for path in files if _kind(path) == {"wikitext": "text"}.get(asked, asked)]
    if not files:
        wanted = "text, JSON lines or Parquet" if asked == "auto" else asked
        raise UserError(f"no {wanted} files in this folder", root, "check --corpus.path and --corpus.format")
    files = [path for path in files if _split(path, root, asked)] or files
    for path in files:
        refuse_leaving(path, root)
    if asked != "auto":
        return asked, files

    kinds = sorted({_kind(path) or "" for path in files})
    if len(kinds) > 1:
        raise UserError(f"holds {' and '.join(kinds)} files", root, "choose one with --corpus.format")
    if kinds != ["text"]:
        return kinds[0], files
    if _has_titles(files[0]):
        return "wikitext", files
    if named := [path for path in files if _split(path, root, "wikitext") and not _split(path, root, "text")]:
        do = "choose --corpus.format text if each file is an article, or write titles as ' = Title = ' lines"
        raise UserError("named like a split but without WikiText titles", named[0], do)
    return "text", files


def _by_split(root: Path, form: str, files: list[Path]) -> dict[str, list[Path]]:
    """Files by split; all are train where none names one. Raises UserError where two are the same text twice."""
    splits: dict[str, list[Path]] = {}
    seen: dict[Path, Path] = {}
    for path in files:
        name = Path(unpacked_name(path))
        twin = seen.setdefault(path.with_name(name.stem if form == "wikitext" else name.name), path)
        if twin != path:
            raise UserError(f"is beside {path.name}: which is to be read?", twin, "move one of them away")
        splits.setdefault(_split(path, root, form) or "train", []).append(path)
    return splits


def _split(path: Path, root: Path, form: str) -> str | None:
    """The split that the file's topmost folder names, or else its name; a text's name is a title and names none."""
    parts = path.relative_to(root).parts
    if len(parts) > 1 and parts[0].lower() in SPLIT_NAMES:
        return SPLIT_NAMES[parts[0].lower()]
    match = None if form == "text" else _SPLIT_FILE.fullmatch(path.name.lower())
    return SPLIT_NAMES[match[1]] if match else None


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _read_wikitext(path: Path, top: Path, corpus: CorpusConfig) -> Iterator[Article]:
    return wikitext_articles(text_lines(path), str(path))


def _read_text(path: Path, top: Path, corpus: CorpusConfig) -> Iterator[Article]:
    if (text := "".join(text_lines(path))).strip():
        relative = path.relative_to(top)
        yield Article(relative.with_name(Path(unpacked_name(relative)).stem).as_posix(), text, str(path))


def _read_json(path: Path, top: Path, corpus: CorpusConfig) -> Iterator[Article]:
    return record_articles(json_records(path), corpus)


def _read_parquet(path: Path, top: Path, corpus: CorpusConfig) -> Iterator[Article]:
    return record_articles(parquet_records(path, corpus), corpus)


_READERS: dict[str, FileReader] = {
    "wikitext": _read_wikitext,
    "text": _read_text,
    "jsonl": _read_json,
    "parquet": _read_parquet,
}
