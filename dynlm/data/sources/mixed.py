"""Files of several formats in one folder: each is read by its own. What cannot be read is skipped, with a reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from dynlm.data.options import CorpusOptions
from dynlm.data.sources.lines import unpacked_name
from dynlm.data.sources.local import open_local, walk
from dynlm.data.sources.source import Article, Skipped, Source
from dynlm.errors import UserError
from dynlm.runtime.files import check_inside
from dynlm.runtime.hashing import fingerprint

_TO_CONVERT = dict.fromkeys(
    (".pdf", ".ps", ".rtf", ".doc", ".docx", ".odt", ".epub", ".htm", ".html", ".xhtml", ".svg", ".ipynb"),
    "not plain text: convert it first",
)


def open_mixed(corpus: CorpusOptions) -> Source:
    """Open all files of the folder ``corpus.path``, hidden ones excepted, or one file; all are the split train.

    A file of any other suffix than those of ``open_local`` is text. A folder's files that cannot be read from beginning
    to end are skipped as a whole, and so are texts that are there before. Raises UserError for a file or folder that
    does not exist, and, when it is read, for a single file that cannot be.
    """
    root, skipped = Path(corpus.path or "").expanduser(), Skipped()
    if not root.exists():
        raise UserError("no such file or folder", root, "check the path")
    files = [*walk(root, root, skipped)] if root.is_dir() else [root]
    return Source(str(root), {"train": partial(_articles, files, root, corpus, skipped, {})}, skipped)


def no_text_in(folder: str, skipped: Skipped) -> UserError:
    """Return the UserError for a folder of which all files were ``skipped``."""
    reason = f" ({': '.join(next(iter(skipped.items())))})" if skipped else ""
    return UserError(f"no text in this folder{reason}", folder, "name a folder with text files or JSON lines")


def _articles(
    files: list[Path], root: Path, corpus: CorpusOptions, skipped: Skipped, readable: dict[Path, bool]
) -> Iterator[Article]:
    """Yield the articles of ``files``; ``readable`` keeps from one call to the next which files can be read."""
    seen: dict[str, str] = {}
    for path in files:
        if path not in readable:
            readable[path] = _is_readable(path, root, corpus, skipped)
        if not readable[path]:
            continue
        kept, repeated = 0, list[str]()
        for article in _open(path, root, corpus).splits["train"]():
            if (key := fingerprint(article.text)) in seen:
                repeated.append(seen[key])
                continue
            seen[key] = article.where
            kept += 1
            yield _titled(article, path, root)
        if repeated:
            several = f"{len(repeated):,} of its texts were read before"
            skipped[str(path)] = several if kept else f"the same text as {repeated[0]}"


def _is_readable(path: Path, root: Path, corpus: CorpusOptions, skipped: Skipped) -> bool:
    """Return whether a file holds text to its end; if not, add it to ``skipped``. One that is the root has to."""
    try:
        if (why := _TO_CONVERT.get(Path(unpacked_name(path)).suffix.lower())) is not None:
            raise UserError(why, path)
        source = _open(path, root, corpus)
        if not sum(1 for _ in source.splits["train"]()):
            raise UserError("it holds no text", path)
    except UserError as error:
        if path == root:
            raise
        # The error names the file, or the file and a line.
        skipped[str(path)] = str(error).removeprefix(f"{path}: ").replace(f"{path}:", "line ", 1)
        return False
    skipped |= source.skipped
    return True


def _open(path: Path, root: Path, corpus: CorpusOptions) -> Source:
    if path != root:
        check_inside(path, root)
    return open_local(replace(corpus, path=str(path), format="auto"))


def _titled(article: Article, path: Path, root: Path) -> Article:
    """Return an article; a text file's has the file's name within the folder as its title."""
    if article.where != str(path) or path == root:
        return article
    relative = path.relative_to(root)
    return replace(article, title=relative.with_name(Path(unpacked_name(relative)).stem).as_posix())
