"""Articles spooled to disk, so that a source is read once and its texts are available as often as they are needed.

A corpus is identified by its content (tokenizers and token arrays are cached under it), which is known only after the
last article was read.
"""

from __future__ import annotations

import bisect
import contextlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynlm.data.article import Article
from dynlm.runtime.files import cache_folder, staging_dir
from dynlm.runtime.hashing import Hasher

CHUNK_CHARACTERS = 1 << 20
"""A chunk ends with the article that reaches so many characters of text."""
CHUNK_ARTICLES = 4096


@dataclass(frozen=True)
class SpooledArticles:
    """Articles on disk in chunks of about a MiB, each a line of JSON; ``content`` is their ``content_of``."""

    path: Path
    content: dict[str, Any]
    firsts: list[int]
    """Index of each chunk's first article."""
    offsets: list[int]
    """Where each chunk begins in the file."""

    @property
    def fingerprint(self) -> str:
        return str(self.content["fingerprint"])

    def __len__(self) -> int:
        return int(self.content["articles"])

    def chunk(self, index: int) -> list[Article]:
        with self.path.open("rb") as file:
            file.seek(self.offsets[index])
            return [Article(*fields) for fields in json.loads(file.readline())]

    def texts(self) -> Iterator[str]:
        return (article.text for index in range(len(self.offsets)) for article in self.chunk(index))

    def where(self, index: int) -> str:
        """Return where article ``index`` came from."""
        chunk = bisect.bisect(self.firsts, index) - 1
        return self.chunk(chunk)[index - self.firsts[chunk]].where


def content_of(articles: Iterable[Article]) -> dict[str, Any]:
    """Return the number of articles and the fingerprint of their titles and texts, as a dictionary for JSON."""
    hasher, count = Hasher(), 0
    for article in articles:
        hasher.add(article.title)
        hasher.add(article.text)
        count += 1
    return {"articles": count, "fingerprint": hasher.hexdigest()}


@contextlib.contextmanager
def spool(articles: Iterable[Article]) -> Iterator[SpooledArticles]:
    """Write ``articles`` to a folder in the cache, which is removed after the block.

    Raises what ``articles`` raises, and UserError if the cache cannot be written.
    """
    with staging_dir(cache_folder() / "tokens") as folder:
        path = folder / "articles.jsonl"
        firsts: list[int] = []
        offsets: list[int] = []
        with path.open("wb") as file:

            def written() -> Iterator[Article]:
                count = 0
                for chunk in _chunks(articles):
                    firsts.append(count)
                    offsets.append(file.tell())
                    count += len(chunk)
                    line = json.dumps([(a.title, a.text, a.where) for a in chunk], ensure_ascii=False)
                    file.write(line.encode("utf-8", "surrogatepass"))  # File names may have lone surrogates.
                    file.write(b"\n")
                    yield from chunk

            content = content_of(written())
        yield SpooledArticles(path, content, firsts, offsets)


def _chunks(articles: Iterable[Article]) -> Iterator[list[Article]]:
    chunk: list[Article] = []
    characters = 0
    for article in articles:
        chunk.append(article)
        characters += len(article.text)
        if characters >= CHUNK_CHARACTERS or len(chunk) == CHUNK_ARTICLES:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk
