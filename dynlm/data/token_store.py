"""A split as one memory-mapped array of tokens, with the place where each article starts.

Arrays are cached by content: the same articles under the same tokenizer are encoded once. They are written aside and
moved to their place as one folder, so that whatever is there is whole.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dynlm.data.array_files import ArrayFile, Strings, StringsFile, add_array, bounds, check_starts, mapped
from dynlm.data.article import Article
from dynlm.data.encoding import encoded, long_enough
from dynlm.data.headings import headings_completed
from dynlm.data.spool import TEXT, TITLES, Gathered, gathered
from dynlm.data.tokenizers.tokenizer import Tokenizer
from dynlm.data.words import words_starting
from dynlm.errors import UserError
from dynlm.runtime.files import commit_dir, link_or_copy, staging_dir
from dynlm.runtime.hashing import Hasher, fingerprint
from dynlm.runtime.parsing import read_json, write_json
from dynlm.runtime.paths import cache_folder
from dynlm.runtime.text import printable

_FEWEST_TOKENS = 2
"""Of an article: the first one alone is predicted from nothing."""
_LAYOUT = "5"
"""Of a cached folder's files; part of what it is found by."""


@dataclass(frozen=True)
class TokenisedSplit:
    """Articles as tokens, N in all.

    ids_N (int32), lengths_N (int32, bytes of each token's surface), words_N (int16, words starting in each token),
    starts (int64, article a is the slice starts[a]:starts[a + 1]), text_starts (int64, the same for its bytes in
    text), titles one an article, headings (int64, the tokens that complete a heading's line, ascending).
    """

    ids_N: np.ndarray
    lengths_N: np.ndarray
    words_N: np.ndarray
    text: np.ndarray
    """The text's bytes (uint8); token n's surface is the slice of ``lengths_N[n]`` bytes after those before it."""
    starts: np.ndarray
    text_starts: np.ndarray
    titles: Sequence[str]
    start_token: int
    fingerprint: str
    headings: np.ndarray

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
        text = self.text[self.text_starts[index] : self.text_starts[index + 1]].tobytes()
        ends = np.cumsum(self.lengths_N[self.starts[index] : self.starts[index + 1]], dtype=np.int64).tolist()
        return [text[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


def tokenise(articles: Iterable[Article], tokenizer: Tokenizer, num_proc: int = 1) -> TokenisedSplit:
    """Encode ``articles`` by up to ``num_proc`` processes, or map the arrays that an earlier call cached.

    Articles are read once, as they come, and neither they nor their tokens are held in memory. Articles of fewer than
    two tokens are left out, and standard error is told how many. Raises UserError where there is no other.
    """
    with gathered(articles) as texts:
        return tokenise_spooled(texts, tokenizer, num_proc)


def tokenise_spooled(texts: Gathered, tokenizer: Tokenizer, num_proc: int = 1) -> TokenisedSplit:
    """``tokenise`` for articles that are on disk already, which stay there."""
    if not texts.articles:
        raise UserError("no articles to encode", do="look at what `dynlm corpus` tells of the source")
    key = fingerprint(texts.fingerprint, tokenizer.fingerprint, str(tokenizer.start), _LAYOUT)
    folder = cache_folder() / "tokens" / key
    if not (folder / "card.json").exists():
        with staging_dir(folder.parent) as aside:
            _encode(texts, tokenizer, num_proc, aside)
            commit_dir(aside, folder)
    split = _mapped(folder, tokenizer)
    _tell_left_out(texts, folder)
    return split


def _encode(texts: Gathered, tokenizer: Tokenizer, num_proc: int, folder: Path) -> None:
    with (
        ArrayFile(folder / "ids.npy", np.int32) as ids,
        ArrayFile(folder / "lengths.npy", np.int32) as lengths,
        ArrayFile(folder / "words.npy", np.int16) as words,
        ArrayFile(folder / "starts.npy", np.int64) as starts,
        ArrayFile(folder / "headings.npy", np.int64) as headings,
    ):
        article = tokens = 0
        too_short = list[int]()
        starts.append(np.zeros(1, dtype=np.int64))
        for chunk in encoded(texts, tokenizer, num_proc):
            too_short += (article + np.flatnonzero(chunk.sizes < _FEWEST_TOKENS)).tolist()
            article += len(chunk.sizes)
            chunk = long_enough(chunk, _FEWEST_TOKENS)
            ids.append(chunk.ids)
            lengths.append(chunk.lengths)
            words.append(chunk.words)
            starts.append(tokens + np.cumsum(chunk.sizes))
            headings.append(tokens + chunk.headings)
            tokens += int(chunk.sizes.sum())
    if len(too_short) == article:
        raise UserError(
            f"each of its {article:,} article(s) has fewer than {_FEWEST_TOKENS} tokens, too few to predict anything",
            texts.where(0),
            "give longer articles, or join them",
        )
    _keep_strings(texts, set(too_short), folder)
    mark = Hasher()
    for name in ("ids", "starts", TEXT):
        add_array(mark, folder / f"{name}.npy")
    card = {"articles": article - len(too_short), "tokens": tokens, "fingerprint": mark.hexdigest()}
    write_json(
        folder / "card.json",
        {**card, "left_out": len(too_short), "first_left_out": too_short[0] if too_short else None},
    )


def _keep_strings(texts: Gathered, left_out: set[int], folder: Path) -> None:
    """Give ``folder`` the texts and titles that belong to its tokens."""
    for name in (TEXT, TITLES):
        if left_out:
            with StringsFile(folder, name) as kept:
                for index, string in enumerate(Strings(texts.folder, name)):
                    if index not in left_out:
                        kept.append(string.encode("utf-8", "surrogatepass"))
            continue
        for file in (f"{name}.npy", f"{name}_starts.npy"):
            link_or_copy(texts.folder / file, folder / file)


def _tell_left_out(texts: Gathered, folder: Path) -> None:
    card = read_json(folder / "card.json")
    count, first = card.get("left_out", 0), card.get("first_left_out")
    # Of several processes that do one thing together, one tells.
    if isinstance(first, int) and 0 <= first < texts.articles and os.environ.get("RANK", "0") == "0":
        what = f"left out {count} article(s) of fewer than {_FEWEST_TOKENS} tokens, the first at {texts.where(first)}"
        print(f"dynlm: {printable(what)}", file=sys.stderr)


def _mapped(folder: Path, tokenizer: Tokenizer) -> TokenisedSplit:
    card = read_json(folder / "card.json")
    kinds = {"ids": np.int32, "lengths": np.int32, "words": np.int16, "starts": np.int64, "headings": np.int64}
    ids, lengths, words, starts, headings = (mapped(folder / f"{name}.npy", kind) for name, kind in kinds.items())
    text, titles = Strings(folder, TEXT), Strings(folder, TITLES)
    check_starts(starts, len(ids), folder)
    fits = (
        isinstance(card, dict)
        and isinstance(card.get("fingerprint"), str)
        and len(ids) == len(lengths) == len(words) > 0
        and len(starts) == len(text.starts) == len(titles.starts)
        # A pass at the disk's speed over what is read anyway.
        and 0 <= (of_ids := bounds(folder / "ids.npy", np.int32))[0] <= of_ids[1] < tokenizer.size
        and bounds(folder / "lengths.npy", np.int32)[0] >= 0
        and (not len(headings) or (headings[0] >= 0 and headings[-1] < len(ids) and (np.diff(headings) > 0).all()))
    )
    if not fits:
        raise UserError("cached tokens are damaged", folder, "remove the folder")
    return TokenisedSplit(
        ids, lengths, words, text.data, starts, text.starts, titles, tokenizer.start, card["fingerprint"], headings
    )


def split_of_text(text: str, tokenizer: Tokenizer, title: str = "") -> TokenisedSplit:
    """One text as a split of one article, in memory; an empty text has no tokens."""
    encoding = tokenizer.encode(text)
    data = np.frombuffer(text.encode(), dtype=np.uint8)
    words = words_starting(text, encoding.lengths)
    starts, text_starts = (np.array([0, size], dtype=np.int64) for size in (len(encoding.ids), len(data)))
    mark = fingerprint(encoding.ids.tobytes(), data.tobytes())
    headings = headings_completed(text, encoding.lengths)
    return TokenisedSplit(
        encoding.ids, encoding.lengths, words, data, starts, text_starts, [title], tokenizer.start, mark, headings
    )


def split_of_texts(texts: Sequence[str], tokenizer: Tokenizer) -> TokenisedSplit:
    """Several texts as a split in memory, an article each; everything in it is derived from them."""
    parts = [split_of_text(text, tokenizer) for text in texts]
    starts = np.cumsum([0] + [len(part.ids_N) for part in parts]).astype(np.int64)
    text_starts = np.cumsum([0] + [len(part.text) for part in parts]).astype(np.int64)
    ids, lengths, words, text = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("ids_N", "lengths_N", "words_N", "text")
    )
    headings = np.concatenate([part.headings + start for part, start in zip(parts, starts[:-1], strict=True)])
    mark = fingerprint(ids.tobytes(), text.tobytes(), starts.tobytes())
    titles = [""] * len(parts)
    return TokenisedSplit(
        ids, lengths, words, text, starts, text_starts, titles, tokenizer.start, mark, headings.astype(np.int64)
    )


def excerpt(split: TokenisedSplit, articles: int, tokens: int) -> TokenisedSplit:
    """The first ``tokens`` tokens of each of the first ``articles`` articles, in memory, to be changed at will."""
    kept = range(min(articles, split.articles))
    parts = [slice(int(split.starts[a]), min(int(split.starts[a]) + tokens, int(split.starts[a + 1]))) for a in kept]
    ids = np.concatenate([split.ids_N[part] for part in parts])
    lengths = np.concatenate([split.lengths_N[part] for part in parts])
    words = np.concatenate([split.words_N[part] for part in parts])
    openings = [b"".join(split.surfaces(a)[: p.stop - p.start]) for a, p in zip(kept, parts, strict=True)]
    text = np.frombuffer(b"".join(openings), dtype=np.uint8)
    starts = np.cumsum([0] + [part.stop - part.start for part in parts]).astype(np.int64)
    text_starts = np.cumsum([0] + [len(opening) for opening in openings]).astype(np.int64)
    titles = [split.titles[a] for a in kept]
    mark = fingerprint(ids.tobytes(), starts.tobytes())
    kept_N = np.concatenate([np.arange(part.start, part.stop) for part in parts])
    headings = np.flatnonzero(np.isin(kept_N, split.headings))
    return TokenisedSplit(ids, lengths, words, text, starts, text_starts, titles, split.start_token, mark, headings)
