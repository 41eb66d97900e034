"""Articles gathered on disk: a source is read once, and its texts are then at hand as often as they are needed.

Which tokenizer and which cached arrays belong to a corpus is known only when its last article was read. Texts are
therefore written aside while they are read, and their content is what tells one corpus from another.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynlm.data.array_files import Strings, StringsFile
from dynlm.data.article import Article
from dynlm.runtime.files import staging_dir
from dynlm.runtime.hashing import Hasher
from dynlm.runtime.paths import cache_folder

TEXT, TITLES, WHERES = "text", "titles", "wheres"


@dataclass(frozen=True)
class Gathered:
    """Articles on disk, in ``folder``; ``fingerprint`` tells their titles, texts and borders from any others."""

    folder: Path
    articles: int
    fingerprint: str

    @property
    def content(self) -> dict[str, Any]:
        """What ``content_of`` says of the same articles."""
        return {"articles": self.articles, "fingerprint": self.fingerprint}

    def texts(self) -> Strings:
        """The texts. They are mapped anew by each call, so that no more of them stays in memory than is held."""
        return Strings(self.folder, TEXT)

    def title(self, index: int) -> str:
        return Strings(self.folder, TITLES)[index]

    def where(self, index: int) -> str:
        return Strings(self.folder, WHERES)[index]


def content_of(articles: Iterable[Article]) -> dict[str, Any]:
    """Number and fingerprint of ``articles``, as ``gathered`` would find them, without keeping them."""
    mark, count = Hasher(), 0
    for article in articles:
        _add(mark, article)
        count += 1
    return {"articles": count, "fingerprint": mark.hexdigest()}


def _add(mark: Hasher, article: Article) -> None:
    mark.add(article.title.encode("utf-8", "surrogatepass"))
    mark.add(article.text.encode())


@contextlib.contextmanager
def gathered(articles: Iterable[Article]) -> Iterator[Gathered]:
    """Read ``articles`` once into a folder of the cache, which is removed when the block ends.

    Raises what ``articles`` raises, and UserError where the cache cannot be written.
    """
    with staging_dir(cache_folder() / "tokens") as folder:
        mark, count = Hasher(), 0
        with (
            StringsFile(folder, TEXT) as texts,
            StringsFile(folder, TITLES) as titles,
            StringsFile(folder, WHERES) as wheres,
        ):
            for article in articles:
                texts.append(article.text.encode())
                titles.append(article.title.encode("utf-8", "surrogatepass"))
                wheres.append(article.where.encode("utf-8", "surrogatepass"))
                _add(mark, article)
                count += 1
        yield Gathered(folder, count, mark.hexdigest())
