"""Token arrays of articles, cached by content: the same articles under the same tokenizer are encoded once.

The arrays are memory-mapped. A cache entry is written to a staging folder and renamed, so that it is always complete.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from dynlm.data.array_files import (
    Strings,
    array_bounds,
    array_writer,
    check_offsets,
    hash_array,
    map_array,
    strings_writer,
)
from dynlm.data.article import Article
from dynlm.data.encoding import encode_chunks
from dynlm.data.spool import TEXT, TITLES, SpooledArticles, spool
from dynlm.data.tokenised_split import TokenisedSplit, Tokens
from dynlm.data.tokenizers.tokenizer import Tokenizer
from dynlm.errors import UserError
from dynlm.runtime.files import cache_folder, commit_dir, staging_dir
from dynlm.runtime.hashing import Hasher, fingerprint
from dynlm.runtime.launcher import is_main_process
from dynlm.runtime.parsing import read_json, write_json
from dynlm.runtime.text import printable

_MIN_TOKENS = 2
"""Of an article: with one token there is nothing to condition on."""
_LAYOUT = "5"
"""Version of the files of a cache entry, part of its key."""
_DTYPES = {"ids": np.int32, "lengths": np.int32, "words": np.int16, "headings": np.int64, "starts": np.int64}


def tokenise(articles: Iterable[Article] | SpooledArticles, tokenizer: Tokenizer, num_proc: int = 1) -> TokenisedSplit:
    """Encode ``articles`` with up to ``num_proc`` processes, or memory-map the arrays of an earlier call.

    Neither articles nor tokens are held in memory. Articles of fewer than two tokens are left out, and their number is
    printed on standard error. Raises UserError if no article remains.
    """
    if not isinstance(articles, SpooledArticles):
        with spool(articles) as spooled:
            return tokenise(spooled, tokenizer, num_proc)
    if not len(articles):
        raise UserError("no articles to encode", do="see what `dynlm corpus` prints of the source")
    key = fingerprint(articles.fingerprint, tokenizer.fingerprint, str(tokenizer.start), _LAYOUT)
    folder = cache_folder() / "tokens" / key
    if not (folder / "card.json").exists():
        with staging_dir(folder.parent) as staged:
            _encode(articles, tokenizer, num_proc, staged)
            commit_dir(staged, folder)
    card = read_json(folder / "card.json")
    split = _load(folder, card, tokenizer)
    first = card.get("first_left_out")
    if isinstance(first, int) and 0 <= first < len(articles) and is_main_process():
        what = f"left out {card.get('left_out')} article(s) of fewer than {_MIN_TOKENS} tokens, the first at "
        print(f"dynlm: {printable(what + articles.where(first))}", file=sys.stderr)
    return split


def _encode(articles: SpooledArticles, tokenizer: Tokenizer, num_proc: int, folder: Path) -> None:
    """Write a cache entry to ``folder``."""
    with contextlib.ExitStack() as stack:
        append = {
            name: stack.enter_context(array_writer(folder / f"{name}.npy", kind)) for name, kind in _DTYPES.items()
        }
        count = num_tokens = 0
        left_out: list[int] = []
        append["starts"]([0])
        for chunk in encode_chunks(articles, tokenizer, num_proc):
            left_out += (count + np.flatnonzero(chunk.sizes < _MIN_TOKENS)).tolist()
            count += len(chunk.sizes)
            chunk = _without_short(chunk)
            offsets = (num_tokens + chunk.headings, num_tokens + np.cumsum(chunk.sizes))
            for name, array in zip(_DTYPES, (*chunk[:3], *offsets), strict=True):
                append[name](array)
            num_tokens += len(chunk.ids_N)
    if len(left_out) == count:
        raise UserError(
            f"each of its {count:,} article(s) has fewer than {_MIN_TOKENS} tokens, too few to predict anything",
            articles.where(0),
            "give longer articles, or join them",
        )
    short = set(left_out)
    for name in (TEXT, TITLES):
        with strings_writer(folder, name) as append_string:
            for index, string in enumerate(Strings(articles.folder, name)):
                if index not in short:
                    append_string(string)
    hasher = Hasher()
    for name in ("ids", "starts", TEXT):
        hash_array(hasher, folder / f"{name}.npy")
    card = {"articles": count - len(left_out), "tokens": num_tokens, "fingerprint": hasher.hexdigest()}
    card |= {"left_out": len(left_out), "first_left_out": next(iter(left_out), None)}
    write_json(folder / "card.json", card)


def _without_short(chunk: Tokens) -> Tokens:
    """Return ``chunk`` without articles of fewer than ``_MIN_TOKENS`` tokens."""
    kept = chunk.sizes >= _MIN_TOKENS
    if kept.all():
        return chunk
    kept_N = np.repeat(kept, chunk.sizes)
    headings = np.flatnonzero(np.isin(np.flatnonzero(kept_N), chunk.headings))
    ids_N, lengths_N, words_N = (array[kept_N] for array in chunk[:3])
    return Tokens(ids_N, lengths_N, words_N, headings, chunk.sizes[kept])


def _load(folder: Path, card: Any, tokenizer: Tokenizer) -> TokenisedSplit:
    """Memory-map a cache entry. Raises UserError if it is damaged."""
    ids, lengths, words, headings, starts = (map_array(folder / f"{name}.npy", kind) for name, kind in _DTYPES.items())
    text, titles = Strings(folder, TEXT), Strings(folder, TITLES)
    check_offsets(starts, len(ids), folder)
    is_valid = (
        isinstance(card, dict)
        and isinstance(card.get("fingerprint"), str)
        and len(ids) == len(lengths) == len(words) > 0
        and len(starts) == len(text.starts) == len(titles.starts)
        # One pass over the files, at the speed of the disk.
        and 0 <= (bounds := array_bounds(folder / "ids.npy", np.int32))[0] <= bounds[1] < tokenizer.size
        and array_bounds(folder / "lengths.npy", np.int32)[0] >= 0
        and (not len(headings) or (headings[0] >= 0 and headings[-1] < len(ids) and (np.diff(headings) > 0).all()))
    )
    if not is_valid:
        raise UserError("cached tokens are damaged", folder, "remove the folder")
    arrays = (ids, lengths, words, headings, text.data, starts, text.starts)
    return TokenisedSplit(*arrays, titles, tokenizer.start, card["fingerprint"])
