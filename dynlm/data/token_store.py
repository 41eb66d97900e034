"""Token arrays of articles, encoded by one process or several and cached by content.

The same articles under the same tokenizer are encoded once. The arrays are memory-mapped. A cache entry is written to a
staging folder and renamed, so that it is always complete; it does not depend on the number of processes.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np

from dynlm.data.array_files import Strings, array_bounds, array_writer, hash_array, map_array
from dynlm.data.sources.source import Article
from dynlm.data.spool import SpooledArticles, spool
from dynlm.data.tokenised_split import TokenisedSplit, encode_texts
from dynlm.data.tokenizers.tokenizer import Tokenizer
from dynlm.errors import UserError
from dynlm.runtime.files import cache_folder, commit_dir, staging_dir
from dynlm.runtime.hashing import Hasher, fingerprint
from dynlm.runtime.launcher import is_main_process
from dynlm.runtime.parsing import read_json, write_json
from dynlm.runtime.text import printable

_MIN_TOKENS = 2
"""Of an article: with one token there is nothing to condition on."""
_CHUNKS_A_PROCESS = 4
"""To start a process takes as long as encoding a few chunks."""
_MOST_WAITING = 2
"""Encoded chunks, for each process, that wait for the ones before them."""
_LAYOUT = "5"
"""Version of the files of a cache entry, part of its key."""
_DTYPES: dict[str, type[np.generic]] = {
    **{"ids": np.int32, "lengths": np.int32, "words": np.int16, "headings": np.int64},
    **{"text": np.uint8, "starts": np.int64, "text_starts": np.int64, "titles": np.uint8, "titles_starts": np.int64},
}
_STARTS = {"starts": "ids", "text_starts": "text", "titles_starts": "titles"}
"""Arrays with the first element of each article in another array, and its end."""
_OFFSETS = {**_STARTS, "headings": "ids"}


def tokenise(articles: Iterable[Article] | SpooledArticles, tokenizer: Tokenizer, num_proc: int = 1) -> TokenisedSplit:
    """Encode ``articles`` with up to ``num_proc`` processes, or memory-map the arrays of an earlier call.

    Neither articles nor tokens are held in memory. This process is one of the ``num_proc``; the others, for which the
    tokenizer is pickled, are started for texts that are long enough. Articles of fewer than two tokens are left out,
    and their number is printed on standard error. Raises UserError if no article remains, or if a process is killed or
    cannot start.
    """
    if not isinstance(articles, SpooledArticles):
        with spool(articles) as spooled:
            return tokenise(spooled, tokenizer, num_proc)
    if not len(articles):
        raise UserError("no articles to encode", do="see what `dynlm corpus` prints of the source")
    key = fingerprint(articles.content["fingerprint"], tokenizer.fingerprint, str(tokenizer.start), _LAYOUT)
    folder = cache_folder() / "tokens" / key
    if not (folder / "card.json").exists():
        with staging_dir(folder.parent) as staged:
            _encode(articles, tokenizer, num_proc, staged)
            commit_dir(staged, folder, keep_existing=True)
    card = read_json(folder / "card.json")
    split = _load(folder, card, tokenizer)
    first = card.get("first_left_out")
    if isinstance(first, int) and 0 <= first < len(articles) and is_main_process():
        what = f"left out {card.get('left_out')} article(s) of fewer than {_MIN_TOKENS} tokens, the first at "
        print(f"dynlm: {printable(what + articles[first].where)}", file=sys.stderr)
    return split


def _encode(articles: SpooledArticles, tokenizer: Tokenizer, num_proc: int, folder: Path) -> None:
    """Write a cache entry to ``folder``."""
    count, left_out, ends = 0, [], dict.fromkeys(_DTYPES, 0)
    with contextlib.ExitStack() as stack:
        append = {
            name: stack.enter_context(array_writer(folder / f"{name}.npy", kind)) for name, kind in _DTYPES.items()
        }
        for name in _STARTS:
            append[name]([0])
        for sizes, arrays in _encode_chunks(articles, tokenizer, num_proc):
            left_out += (count + np.flatnonzero(sizes < _MIN_TOKENS)).tolist()
            count += len(sizes)
            for name, array in arrays.items():
                append[name](array + ends[_OFFSETS[name]] if name in _OFFSETS else array)
            for name, array in arrays.items():
                ends[name] += len(array)
    if len(left_out) == count:
        raise UserError(
            f"each of its {count:,} article(s) has fewer than {_MIN_TOKENS} tokens, too few to predict anything",
            articles[0].where,
            "give longer articles, or join them",
        )
    hasher = Hasher()
    for name in ("ids", "starts", "text"):
        hash_array(hasher, folder / f"{name}.npy")
    card = {"articles": count - len(left_out), "tokens": ends["ids"], "fingerprint": hasher.hexdigest()}
    card |= {"left_out": len(left_out), "first_left_out": next(iter(left_out), None)}
    write_json(folder / "card.json", card)


def _load(folder: Path, card: Any, tokenizer: Tokenizer) -> TokenisedSplit:
    """Memory-map a cache entry. Raises UserError if it is damaged."""
    arrays = {name: map_array(folder / f"{name}.npy", kind) for name, kind in _DTYPES.items()}
    ids, lengths, words, headings, text, starts, text_starts, titles, titles_starts = arrays.values()
    is_valid = (
        isinstance(card, dict)
        and isinstance(card.get("fingerprint"), str)
        and len(ids) == len(lengths) == len(words) > 0
        and len(starts) == len(text_starts) == len(titles_starts)
        and all(_fit(arrays[name], arrays[base]) for name, base in _STARTS.items())
        # One pass over the files, at the speed of the disk.
        and 0 <= (bounds := array_bounds(folder / "ids.npy", np.int32))[0] <= bounds[1] < tokenizer.size
        and array_bounds(folder / "lengths.npy", np.int32)[0] >= 0
        and (not len(headings) or (headings[0] >= 0 and headings[-1] < len(ids) and (np.diff(headings) > 0).all()))
    )
    if not is_valid:
        raise UserError("cached tokens are damaged", folder, "remove the folder")
    fields = (ids, lengths, words, headings, text, starts, text_starts, Strings(titles, titles_starts, folder))
    return TokenisedSplit(*fields, tokenizer.start, card["fingerprint"])


def _fit(starts: np.ndarray, array: np.ndarray) -> bool:
    """Return whether ``starts`` begin with 0, end with the length of ``array`` and never decrease."""
    return bool(len(starts) and starts[0] == 0 and starts[-1] == len(array) and (starts[1:] >= starts[:-1]).all())


_Chunk = tuple[np.ndarray, dict[str, np.ndarray]]
"""Tokens of each article of a chunk, and the arrays of those that are not left out, with offsets into the chunk."""


def _encode_chunks(articles: SpooledArticles, tokenizer: Tokenizer, num_proc: int) -> Iterator[_Chunk]:
    """Yield the chunks of ``articles`` in order."""
    chunks, encode = range(len(articles.offsets)), functools.partial(_encode_chunk, articles, tokenizer)
    workers = min(num_proc, -(-len(chunks) // _CHUNKS_A_PROCESS)) - 1
    if not workers:
        yield from map(encode, chunks)
        return
    # Spawned, not forked: a fork copies locks that other threads (torch's, SentencePiece's) may hold.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _init_worker, (encode,))
    try:
        yield from _encode_beside(pool, workers, encode, iter(chunks))
    except BrokenProcessPool as error:
        what = "a process that tokenised was killed or could not start"
        raise UserError(what, "corpus.num_proc", "choose 1, or free some memory") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _encode_beside(
    pool: ProcessPoolExecutor, workers: int, encode: Callable[[int], _Chunk], chunks: Iterator[int]
) -> Iterator[_Chunk]:
    """Yield the chunks in order. Each worker has two to do at a time, and this process encodes others meanwhile."""
    waiting: deque[Future[_Chunk]] = deque()

    def keep_busy() -> None:
        while sum(not each.done() for each in waiting) < 2 * workers and (index := next(chunks, None)) is not None:
            waiting.append(pool.submit(_encode_in_worker, index))

    own_first = [*itertools.islice(chunks, _CHUNKS_A_PROCESS)]
    keep_busy()
    yield from map(encode, own_first)  # While the workers start.
    while True:
        keep_busy()
        if not waiting:
            return
        is_full = len(waiting) >= _MOST_WAITING * (workers + 1)
        if waiting[0].done() or is_full or (index := next(chunks, None)) is None:
            yield waiting.popleft().result()
            continue
        own: Future[_Chunk] = Future()
        own.set_result(encode(index))
        waiting.append(own)


def _encode_chunk(spooled: SpooledArticles, tokenizer: Tokenizer, index: int) -> _Chunk:
    articles = list(spooled.chunk(index))
    *tokens, sizes = encode_texts((article.text for article in articles), tokenizer, _MIN_TOKENS)
    kept = sizes >= _MIN_TOKENS
    titles = [a.title.encode("utf-8", "surrogatepass") for a, keep in zip(articles, kept, strict=True) if keep]
    starts = np.cumsum(sizes[kept])
    text_starts = np.cumsum(tokens[1], dtype=np.int64)[starts - 1]
    titles_starts = np.cumsum([len(title) for title in titles], dtype=np.int64)
    arrays = (*tokens, starts, text_starts, np.frombuffer(b"".join(titles), dtype=np.uint8), titles_starts)
    return sizes, dict(zip(_DTYPES, arrays, strict=True))


_encode_here: Callable[[int], _Chunk]
"""What a worker process does with the index of a chunk; its tokenizer is pickled only once."""


def _init_worker(encode: Callable[[int], _Chunk]) -> None:
    global _encode_here
    _encode_here = encode
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The main process gets it too, and stops the workers.
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """End this process when its parent ends: a pool's worker waits forever for a parent that was killed."""
    if (parent := multiprocessing.parent_process()) is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _encode_in_worker(index: int) -> _Chunk:
    return _encode_here(index)
