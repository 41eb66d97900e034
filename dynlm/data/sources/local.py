"""Local files and folders as a source: which files are read, in what format, and as which split."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, groupby, islice
from pathlib import Path

from dynlm.data.article import Article, Lines
from dynlm.data.options import CorpusOptions
from dynlm.data.sources.lines import regular_file, text_lines, unpacked_name
from dynlm.data.sources.records import Record, json_records, parquet_records, record_articles
from dynlm.data.sources.source import SPLIT_NAMES, Articles, Source, with_held_out
from dynlm.data.sources.wikitext import wikitext_articles
from dynlm.errors import UserError
from dynlm.runtime.paths import check_inside

_KINDS = {
    **dict.fromkeys((".txt", ".md", ".tokens", ".raw"), "text"),
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), "jsonl"),
    ".parquet": "parquet",
}
_SPLIT_FILE = re.compile(rf"(?:wiki\.)?({'|'.join(SPLIT_NAMES)})(?:[._-].*)?")
_HELPER = re.compile(r"(readme|licen[cs]e|copying)([._-].*)?|dataset_infos?\.json|state\.json")
"""What stands beside data and tells about it."""
_RECORDS = ("jsonl", "parquet")
_LINES_TO_JUDGE = 1000
"""WikiText has a title among its first lines."""


@dataclass(frozen=True)
class _File:
    path: Path
    form: str
    """wikitext, text, jsonl or parquet."""
    split: str | None
    """The split that its name or its folder's says."""


def local_source(corpus: CorpusOptions) -> Source:
    """The file or folder ``corpus.path``; without valid and test splits of its own, articles are held out.

    In a folder the splits are files named like them (``train.txt.xz``, ``wiki.valid.tokens``, ``test-00000.parquet``)
    or subfolders; where there are such, other files are not read, nor are notes such as README.md: ``not_read`` says
    which. Raises UserError where nothing is there to read, a file is not a regular one or a link that leads out of the
    folder, or it is not clear which format or file is meant.
    """
    root = Path(corpus.path or "").expanduser()
    not_read: dict[str, str] = {}
    if root.is_dir():
        splits, top = _by_split(_files_to_read(root, corpus.format, not_read)), root
    elif root.exists():
        regular_file(root).close()
        splits, top = {"train": [_File(root, _form_of_file(root, corpus.format), None)]}, root.parent
    else:
        raise UserError("no such file or folder", root, "check --corpus.path")

    def opener(files: list[_File]) -> Articles:
        return lambda: _articles(files, top, corpus)

    held_out = with_held_out({s: opener(files) for s, files in splits.items()}, corpus.hold_out_every)
    return Source(str(root), held_out, not_read)


def _articles(files: list[_File], top: Path, corpus: CorpusOptions) -> Iterator[Article]:
    for is_records, group in groupby(files, lambda file: file.form in _RECORDS):
        if is_records:
            # Together: an article whose lines are rows may go on in the next shard.
            yield from record_articles(chain.from_iterable(_records(file, corpus) for file in group), corpus)
        else:
            for file in group:
                yield from (
                    wikitext_articles(text_lines(file.path), str(file.path))
                    if file.form == "wikitext"
                    else (_text_article(file.path, top))
                )


def _records(file: _File, corpus: CorpusOptions) -> Iterator[Record]:
    return json_records(file.path) if file.form == "jsonl" else parquet_records(file.path, corpus)


def _text_article(path: Path, top: Path) -> Iterator[Article]:
    text = Lines().extend(text_lines(path), str(path)).text
    if text.strip():
        relative = path.relative_to(top)
        yield Article(relative.with_name(Path(unpacked_name(relative)).stem).as_posix(), text, str(path))


def _kind(path: Path) -> str | None:
    return _KINDS.get(Path(unpacked_name(path)).suffix.lower())


def _form_of_file(path: Path, asked: str) -> str:
    if asked != "auto":
        return asked
    kind = _kind(path) or "text"
    return "wikitext" if kind == "text" and _has_titles(path) else kind


def _is_blank(path: Path) -> bool:
    return not any(line.strip() for line in text_lines(path))


def _has_titles(path: Path) -> bool:
    lines = islice(text_lines(path), _LINES_TO_JUDGE)
    return any(article.title for article in wikitext_articles(lines, str(path)))


def _files_to_read(root: Path, asked: str, not_read: dict[str, str]) -> list[_File]:
    """The folder's files, sorted: those that are splits, or else all. ``not_read`` is told of the others."""
    files = []
    for path in _walk(root, root, not_read):
        kind = _kind(path)
        if _HELPER.fullmatch(path.name.lower()):
            not_read[str(path)] = "a note about the data"
        elif kind is None:
            not_read[str(path)] = "its name is not that of a text, JSON lines or Parquet file"
        elif asked != "auto" and kind != {"wikitext": "text"}.get(asked, asked):
            not_read[str(path)] = f"not {asked}, which --corpus.format asks for"
        else:
            files.append(path)
    if not files:
        wanted = "text, JSON lines or Parquet" if asked == "auto" else asked
        raise UserError(f"no {wanted} files in this folder", root, "check --corpus.path and --corpus.format")
    if of_splits := [path for path in files if _split(path, root, asked)]:
        others = [path for path in files if path not in set(of_splits)]
        not_read.update((str(path), "the folder has splits, and this is none") for path in others)
        files = of_splits
    for path in files:
        check_inside(path, root)
        regular_file(path).close()
    first_of = {_kind(path): path for path in reversed(files)}
    if asked == "auto" and len(first_of) > 1:
        # Which of them is the corpus, and which tells about it, a name does not say.
        kinds = " and ".join(f"{kind} ({path.relative_to(root)})" for kind, path in sorted(first_of.items(), key=str))
        raise UserError(f"holds files of several formats: {kinds}", root, "choose one with --corpus.format")
    forms = [(path, _form_of_file(path, asked)) for path in files]
    if any(form == "wikitext" for _, form in forms):
        forms = [(path, "wikitext" if form == "text" and _is_blank(path) else form) for path, form in forms]
    for path, form in forms:
        if asked == "auto" and form == "text" and _split(path, root, "wikitext") and not _split(path, root, "text"):
            do = "choose --corpus.format text if each file is an article, or write titles as ' = Title = ' lines"
            raise UserError("named like a split but without WikiText titles", path, do)
    return [_File(path, form, _split(path, root, form)) for path, form in forms]


def _walk(folder: Path, root: Path, not_read: dict[str, str]) -> Iterator[Path]:
    """The files below ``folder`` in order, hidden ones left out. Of linked folders only those named like a split are
    followed: others may lead round in a circle."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if not path.is_dir():
            if path.exists():
                yield path
            else:
                not_read[str(path)] = "a link that leads nowhere"
        elif path.is_symlink() and not (folder == root and path.name.lower() in SPLIT_NAMES):
            not_read[str(path)] = "a linked folder"
        else:
            check_inside(path, root)
            yield from _walk(path, root, not_read)


def _by_split(files: list[_File]) -> dict[str, list[_File]]:
    """Files by split; all are train where none names one. Raises UserError where two are the same text twice."""
    splits: dict[str, list[_File]] = {}
    seen: dict[Path, Path] = {}
    for file in files:
        name = Path(unpacked_name(file.path))
        twin = seen.setdefault(file.path.with_name(name.stem if file.form == "wikitext" else name.name), file.path)
        if twin != file.path:
            raise UserError(f"is beside {file.path.name}: which is to be read?", twin, "move one of them away")
        splits.setdefault(file.split or "train", []).append(file)
    return splits


def _split(path: Path, root: Path, form: str) -> str | None:
    """The split that the file's topmost folder names, or else its name; a text's name is a title and names none."""
    parts = path.relative_to(root).parts
    if len(parts) > 1 and parts[0].lower() in SPLIT_NAMES:
        return SPLIT_NAMES[parts[0].lower()]
    match = None if form == "text" else _SPLIT_FILE.fullmatch(path.name.lower())
    return SPLIT_NAMES[match[1]] if match else None
