"""Local files and folders: which files are read, in what format, and as which split."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from itertools import chain, islice
from pathlib import Path

from dynlm.data.options import CorpusOptions
from dynlm.data.sources.dump import dump_articles
from dynlm.data.sources.lines import text_lines, unpacked_name
from dynlm.data.sources.markup import require_parser
from dynlm.data.sources.records import json_records, parquet_records, record_articles
from dynlm.data.sources.source import SPLIT_NAMES, Article, ArticleText, Skipped, Source
from dynlm.data.sources.wikitext import wikitext_articles
from dynlm.errors import UserError
from dynlm.runtime.files import check_inside, check_regular

_FORMATS = {
    **dict.fromkeys((".txt", ".md", ".tokens", ".raw"), "text"),
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), "jsonl"),
    ".parquet": "parquet",
    ".xml": "mediawiki",
}
_ANY_FORMAT = "text, JSON lines, Parquet or MediaWiki XML"
_DUMP_PART = re.compile(r"\.xml-p\d+p\d+")
"""Suffix of a part of a dump: pages 1 to 41242 are in ``enwiki-20260901-pages-articles1.xml-p1p41242.bz2``."""
_SPLIT_FILE = re.compile(rf"(?:wiki\.)?({'|'.join(SPLIT_NAMES)})(?:[._-].*)?")
_NOTES = re.compile(
    r"(readme|licen[cs]e|copying)([._-].*)?|dataset_infos?\.json|state\.json"
    r"|.*-(multistream-index\d*|md5sums|sha1sums)[.-].*"
)
"""Files that describe the data beside them."""
_LINES_TO_JUDGE = 1000
"""WikiText has a title among its first lines."""


@dataclass(frozen=True)
class _File:
    path: Path
    format: str
    """wikitext, text, jsonl, parquet or mediawiki."""
    split: str
    """The split named by the file or its folder, else train."""


def open_local(corpus: CorpusOptions) -> Source:
    """Open the file or folder ``corpus.path``, or the files that it matches as a pattern.

    The splits of a folder are files named like them (``train.txt.xz``, ``wiki.valid.tokens``, ``test-00000.parquet``)
    or subfolders. If there are such, other files are skipped; notes such as README.md always are. Raises UserError if
    there is nothing to read, if a file is not regular or links out of the folder, or if formats or files are ambiguous.
    """
    root = Path(corpus.path or "").expanduser()
    skipped: Skipped = {}
    if root.is_dir():
        files, top = _find_files(walk(root, root, skipped), root, corpus.format, skipped), root
    elif root.exists():
        check_regular(root)
        files, top = [_File(root, _format_of(root, corpus.format), "train")], root.parent
    elif matching := _matching(root):
        files, top = _find_files(matching, root.parent, corpus.format, skipped), root.parent
    else:
        raise UserError("no such file or folder", root, "check --corpus.path")
    _check_unique(files)
    for file in files:
        if file.format == "mediawiki":
            require_parser(file.path)
    by_split: dict[str, list[_File]] = {}
    for file in files:
        by_split.setdefault(file.split, []).append(file)
    splits = {split: partial(_articles, by_split[split], top, corpus, skipped) for split in by_split}
    return Source(str(root), splits, skipped)


def _articles(files: list[_File], top: Path, corpus: CorpusOptions, skipped: Skipped) -> Iterator[Article]:
    """Yield the articles of files of one kind; the name below ``top`` is a text file's title."""
    if files[0].format in ("jsonl", "parquet"):
        # All files as one sequence: WikiText may continue in the next shard.
        records = (json_records(f.path) if f.format == "jsonl" else parquet_records(f.path, corpus) for f in files)
        yield from record_articles(chain.from_iterable(records), corpus)
        return
    for file in files:
        if file.format == "mediawiki":
            yield from dump_articles(file.path, skipped)
            continue
        if file.format == "wikitext":
            yield from wikitext_articles(text_lines(file.path))
            continue
        text = ArticleText()
        for _, line in text_lines(file.path):
            text.append(line, str(file.path))
        if not text.blank:
            relative = file.path.relative_to(top)
            title = relative.with_name(Path(unpacked_name(relative)).stem).as_posix()
            yield Article(title, str(text), str(file.path))


def _format_by_name(path: Path) -> str | None:
    suffix = Path(unpacked_name(path)).suffix.lower()
    return _FORMATS.get(".xml" if _DUMP_PART.fullmatch(suffix) else suffix)


def _format_of(path: Path, requested: str) -> str:
    """Return the requested format, or with "auto" the format by name and, for text, by content."""
    if requested != "auto":
        return requested
    by_name = _format_by_name(path) or "text"
    if by_name != "text":
        return by_name
    if next(text_lines(path), ("", ""))[1].startswith("<mediawiki"):
        return "mediawiki"
    head = wikitext_articles(islice(text_lines(path), _LINES_TO_JUDGE))
    return "wikitext" if any(article.title for article in head) else "text"


def _matching(pattern: Path) -> list[Path]:
    """Return the files whose names match the last part of a path, such as ``dumps/enwiki-*.xml*.bz2``, sorted."""
    if not any(letter in pattern.name for letter in "*?[") or not pattern.parent.is_dir():
        return []
    return [
        path for path in sorted(pattern.parent.iterdir()) if fnmatchcase(path.name, pattern.name) and path.is_file()
    ]


def _find_files(found: Iterable[Path], root: Path, requested: str, skipped: Skipped) -> list[_File]:
    """Return the files to read of those that were found in ``root``; adds the others to ``skipped``."""
    paths = []
    for path in found:
        by_name = _format_by_name(path)
        if _NOTES.fullmatch(path.name.lower()):
            skipped[str(path)] = "a note about the data"
        elif by_name is None:
            skipped[str(path)] = f"its name is not that of a {_ANY_FORMAT} file"
        elif requested != "auto" and by_name != {"wikitext": "text"}.get(requested, requested):
            skipped[str(path)] = f"not {requested}, which --corpus.format asks for"
        else:
            paths.append(path)
    if not paths:
        formats = _ANY_FORMAT if requested == "auto" else requested
        raise UserError(f"no {formats} files in this folder", root, "check --corpus.path and --corpus.format")
    if any(_split_of(path, root, requested) for path in paths):
        for path in paths:
            if not _split_of(path, root, requested):
                skipped[str(path)] = "the folder has splits, and this is none"
        paths = [path for path in paths if str(path) not in skipped]
    for path in paths:
        check_inside(path, root)
        check_regular(path)
    first = {_format_by_name(path): path for path in reversed(paths)}
    if requested == "auto" and len(first) > 1:
        kinds = " and ".join(f"{kind} ({path.relative_to(root)})" for kind, path in sorted(first.items(), key=str))
        raise UserError(f"holds files of several formats: {kinds}", root, "choose one with --corpus.format")
    formats_ = {path: _format_of(path, requested) for path in paths}
    if "wikitext" in formats_.values():  # A blank file beside WikiText is WikiText too.
        for path, format_ in formats_.items():
            if format_ == "text" and not any(line.strip() for _, line in text_lines(path)):
                formats_[path] = "wikitext"
    for path, format_ in formats_.items():
        is_plain = requested == "auto" and format_ == "text"
        if is_plain and _split_of(path, root, "") and not _split_of(path, root, "text"):
            do = "choose --corpus.format text if each file is an article, or write titles as ' = Title = ' lines"
            raise UserError("named like a split but without WikiText titles", path, do)
    return [_File(path, format_, _split_of(path, root, format_) or "train") for path, format_ in formats_.items()]


def walk(folder: Path, root: Path, skipped: Skipped) -> Iterator[Path]:
    """Yield the files below ``folder`` in order, without hidden ones.

    A linked folder is followed only if it is named like a split: others may form cycles.
    """
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if not path.is_dir():
            if path.exists():
                yield path
            else:
                skipped[str(path)] = "a link that leads nowhere"
        elif path.is_symlink() and not (folder == root and path.name.lower() in SPLIT_NAMES):
            skipped[str(path)] = "a linked folder"
        else:
            check_inside(path, root)
            yield from walk(path, root, skipped)


def _check_unique(files: list[_File]) -> None:
    """Raise UserError if two files are the same text in different packings or spellings."""
    seen: dict[Path, Path] = {}
    for file in files:
        name = Path(unpacked_name(file.path))
        twin = seen.setdefault(file.path.with_name(name.stem if file.format == "wikitext" else name.name), file.path)
        if twin != file.path:
            raise UserError(f"the same text as {file.path.name} beside it", twin, "remove one of them")


def _split_of(path: Path, root: Path, format_: str) -> str | None:
    """Return the split named by the topmost folder or the file; the name of a text file is its title instead."""
    parts = path.relative_to(root).parts
    if len(parts) > 1 and parts[0].lower() in SPLIT_NAMES:
        return SPLIT_NAMES[parts[0].lower()]
    match = None if format_ == "text" else _SPLIT_FILE.fullmatch(path.name.lower())
    return SPLIT_NAMES[match[1]] if match else None
