"""Articles spooled to disk, so that a source is read once and its texts are available as often as they are needed.

A corpus is identified by its content (tokenizers and token arrays are cached under it), which is known only after the
last article was read.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynlm.data.sources.source import Article
from dynlm.runtime.files import cache_folder, staging_dir
from dynlm.runtime.hashing import Hasher

CHUNK_BYTES = 1 << 20
"""A chunk ends with the article that reaches so many bytes in the file."""


@dataclass(frozen=True)
class SpooledArticles:
    """Articles in a file: for each, a line with title, location and bytes of its text as JSON, then the text."""

    path: Path
    content: dict[str, Any]
    """Result of ``content_of``."""
    firsts: list[int]
    """First article of each chunk."""
    offsets: list[int]
    """Where each chunk begins in the file."""

    def __len__(self) -> int:
        return int(self.content["articles"])

    def __iter__(self) -> Iterator[Article]:
        return itertools.chain.from_iterable(map(self.chunk, range(len(self.offsets))))

    def chunk(self, index: int) -> Iterator[Article]:
        """Yield the articles of one chunk."""
        end = self.firsts[index + 1] if index + 1 < len(self.firsts) else len(self)
        with self.path.open("rb") as file:
            file.seek(self.offsets[index])
            for _ in range(self.firsts[index], end):
                title, where, size = json.loads(file.readline())
                yield Article(title, file.read(size).decode("utf-8", "surrogatepass"), where)

    def __getitem__(self, index: int) -> Article:
        chunk = bisect.bisect(self.firsts, index) - 1
        return next(itertools.islice(self.chunk(chunk), index - self.firsts[chunk], None))


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
        path = folder / "articles"
        firsts: list[int] = []
        offsets: list[int] = []
        with path.open("wb") as file:

            def written() -> Iterator[Article]:
                for index, article in enumerate(articles):
                    if not offsets or file.tell() - offsets[-1] >= CHUNK_BYTES:
                        firsts.append(index)
                        offsets.append(file.tell())
                    text = article.text.encode("utf-8", "surrogatepass")
                    file.write(f"{json.dumps((article.title, article.where, len(text)))}\n".encode())
                    file.write(text)
                    yield article

            content = content_of(written())
        yield SpooledArticles(path, content, firsts, offsets)
