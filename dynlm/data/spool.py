"""Articles spooled to disk, so that a source is read once and its texts are available as often as they are needed.

A corpus is identified by its content (tokenizers and token arrays are cached under it), which is known only after the
last article was read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynlm.data.array_files import Strings, strings_writer
from dynlm.data.article import Article
from dynlm.runtime.files import cache_folder, staging_dir
from dynlm.runtime.hashing import Hasher

TEXT, TITLES, WHERES = "text", "titles", "wheres"


@dataclass(frozen=True)
class SpooledArticles:
    """Articles on disk, in ``folder``; ``content`` is their ``content_of``."""

    folder: Path
    content: dict[str, Any]

    def __len__(self) -> int:
        return int(self.content["articles"])

    @property
    def fingerprint(self) -> str:
        return str(self.content["fingerprint"])

    def texts(self) -> Strings:
        """Return the texts. Each call maps them anew, so that pages of an earlier pass do not stay in memory."""
        return Strings(self.folder, TEXT)

    def where(self, index: int) -> str:
        """Return where article ``index`` came from."""
        return Strings(self.folder, WHERES)[index]


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
        with (
            strings_writer(folder, TEXT) as append_text,
            strings_writer(folder, TITLES) as append_title,
            strings_writer(folder, WHERES) as append_where,
        ):

            def written() -> Iterator[Article]:
                for article in articles:
                    append_text(article.text)
                    append_title(article.title)
                    append_where(article.where)
                    yield article

            content = content_of(written())
        yield SpooledArticles(folder, content)
