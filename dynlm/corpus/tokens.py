"""A split as one memory-mapped array of tokens, with the place where each article starts.

Arrays are cached by content: the same articles under the same tokenizer are encoded once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dynlm.corpus.article import Article
from dynlm.corpus.tokenizer import Tokenizer, words_starting
from dynlm.errors import UserError
from dynlm.files import cache_folder, fingerprint, read_json, write_json, written_whole


@dataclass(frozen=True)
class TokenisedSplit:
    """Articles as tokens, N in all.

    ids_N (int32), lengths_N (int32, bytes of each token's surface), words_N (int16, words starting in each token),
    starts (int64, article a is the slice starts[a]:starts[a + 1]), titles and wheres one an article.
    """

    ids_N: np.ndarray
    lengths_N: np.ndarray
    words_N: np.ndarray
    text: np.ndarray
    """The text's bytes (uint8); token n's surface is the slice of ``lengths_N[n]`` bytes after those before it."""
    starts: np.ndarray
    titles: list[str]
    start_token: int
    fingerprint: str

    @property
    def articles(self) -> int:
        return len(self.titles)

    def article(self, index: int) -> np.ndarray:
        """Token ids of one article."""
        return self.ids_N[self.starts[index] : self.starts[index + 1]]

    def inputs(self, index: int) -> np.ndarray:
        """What the model is fed to predict ``article(index)``: the start token, then all tokens but the last."""
        ids = self.article(index)
        return np.concatenate([np.array([self.start_token], dtype=ids.dtype), ids[:-1]])

    def surfaces(self, index: int) -> list[bytes]:
        """The bytes that each token of an article stands for."""
        low, high = self.starts[index], self.starts[index + 1]
        ends = np.cumsum(self.lengths_N[low:high], dtype=np.int64) + int(self.lengths_N[:low].sum(dtype=np.int64))
        begins = ends - self.lengths_N[low:high]
        return [self.text[b:e].tobytes() for b, e in zip(begins, ends, strict=True)]


def tokenise(articles: Iterable[Article], tokenizer: Tokenizer) -> TokenisedSplit:
    """Encode ``articles``, or map the arrays that an earlier call cached.

    Raises UserError for an article of fewer than two tokens, naming it, and where there is no article at all.
    """
    kept = list(articles)
    if not kept:
        raise UserError("no articles to encode", do="look at what `dynlm corpus` tells of the source")
    text_mark = fingerprint(*(part for article in kept for part in (article.title, article.text)))
    folder = cache_folder() / "tokens" / fingerprint(text_mark, tokenizer.fingerprint, str(tokenizer.start))
    if not (folder / "card.json").exists():
        _encode(kept, tokenizer, folder)
    return _mapped(folder, tokenizer)


def _encode(articles: list[Article], tokenizer: Tokenizer, folder: Path) -> None:
    ids, lengths, words, starts = [], [], [], [0]
    for article in articles:
        encoding = tokenizer.encode(article.text)
        if len(encoding.ids) < 2:
            raise UserError(
                f"article {article.title!r} has {len(encoding.ids)} token(s), too few to predict anything",
                article.where,
                "remove it or join it with another",
            )
        ids.append(encoding.ids)
        lengths.append(encoding.lengths)
        words.append(words_starting(article.text, encoding.lengths))
        starts.append(starts[-1] + len(encoding.ids))
    text = np.frombuffer(b"".join(article.text.encode() for article in articles), dtype=np.uint8)
    arrays = {
        "ids": np.concatenate(ids),
        "lengths": np.concatenate(lengths),
        "words": np.concatenate(words),
        "text": text,
        "starts": np.array(starts, dtype=np.int64),
    }
    for name, array in arrays.items():
        with written_whole(folder / f"{name}.npy") as aside:
            np.save(aside, array)
    mark = fingerprint(arrays["ids"].tobytes(), arrays["starts"].tobytes(), text.tobytes())
    write_json(folder / "card.json", {"titles": [article.title for article in articles], "fingerprint": mark})


def _mapped(folder: Path, tokenizer: Tokenizer) -> TokenisedSplit:
    card = read_json(folder / "card.json")
    try:
        ids, lengths, words, text, starts = (
            np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("ids", "lengths", "words", "text", "starts")
        )
    except (OSError, ValueError) as error:
        raise UserError(f"a cached token array is damaged ({error})", folder, "remove the folder") from error
    return TokenisedSplit(ids, lengths, words, text, starts, card["titles"], tokenizer.start, card["fingerprint"])


def corpus_fingerprint(articles: Iterable[Article]) -> str:
    """What tells one set of articles from another: their texts and their borders."""
    return fingerprint(json.dumps([fingerprint(article.text) for article in articles]))


def split_of_text(text: str, tokenizer: Tokenizer, title: str = "") -> TokenisedSplit:
    """One text as a split of one article, in memory; an empty text has no tokens."""
    encoding = tokenizer.encode(text)
    data = np.frombuffer(text.encode(), dtype=np.uint8)
    words = words_starting(text, encoding.lengths) if len(encoding.ids) else np.zeros(0, dtype=np.int16)
    starts = np.array([0, len(encoding.ids)], dtype=np.int64)
    mark = fingerprint(encoding.ids.tobytes(), data.tobytes())
    return TokenisedSplit(encoding.ids, encoding.lengths, words, data, starts, [title], tokenizer.start, mark)


def excerpt(split: TokenisedSplit, articles: int, tokens: int) -> TokenisedSplit:
    """The first ``tokens`` tokens of each of the first ``articles`` articles, in memory, to be changed at will."""
    kept = range(min(articles, split.articles))
    parts = [slice(int(split.starts[a]), min(int(split.starts[a]) + tokens, int(split.starts[a + 1]))) for a in kept]
    ids = np.concatenate([split.ids_N[part] for part in parts])
    lengths = np.concatenate([split.lengths_N[part] for part in parts])
    words = np.concatenate([split.words_N[part] for part in parts])
    surfaces = [
        surface for a, part in zip(kept, parts, strict=True) for surface in split.surfaces(a)[: part.stop - part.start]
    ]
    text = np.frombuffer(b"".join(surfaces), dtype=np.uint8)
    starts = np.cumsum([0] + [part.stop - part.start for part in parts]).astype(np.int64)
    mark = fingerprint(ids.tobytes(), starts.tobytes())
    return TokenisedSplit(ids, lengths, words, text, starts, [split.titles[a] for a in kept], split.start_token, mark)
