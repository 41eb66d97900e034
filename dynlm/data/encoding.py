"""Gathered texts to tokens, a chunk of articles at a time, by one process or several.

Chunks are cut alike for any number of processes and come back in order, and only a few are under way at once: the
bytes written do not depend on the number, nor does the memory used depend on the corpus.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dynlm.data.array_files import Strings
from dynlm.data.headings import headings_completed
from dynlm.data.spool import TEXT, Gathered
from dynlm.data.tokenizers.tokenizer import Tokenizer
from dynlm.data.words import words_starting
from dynlm.errors import UserError

CHUNK_BYTES = 1 << 20
CHUNK_ARTICLES = 4096
"""Of a chunk, at most; an article is never cut, so a chunk holds at least one whole."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Articles' tokens, one article after the other: ids, bytes and words of each token, tokens of each article, and
    the places in the chunk of tokens that complete a heading."""

    ids: np.ndarray
    lengths: np.ndarray
    words: np.ndarray
    sizes: np.ndarray
    headings: np.ndarray


def long_enough(chunk: Chunk, tokens: int) -> Chunk:
    """``chunk`` without the articles of fewer than ``tokens`` tokens."""
    kept = chunk.sizes >= tokens
    if kept.all():
        return chunk
    kept_N = np.repeat(kept, chunk.sizes)
    headings = np.zeros(len(kept_N), dtype=bool)
    headings[chunk.headings] = True
    ids, lengths, words = (part[kept_N] for part in (chunk.ids, chunk.lengths, chunk.words))
    return Chunk(ids, lengths, words, chunk.sizes[kept], np.flatnonzero(headings[kept_N]))


def encoded(texts: Gathered, tokenizer: Tokenizer, num_proc: int) -> Iterator[Chunk]:
    """The chunks of ``texts`` in order, by up to ``num_proc`` processes (a tokenizer must be fit for pickling then).

    Raises UserError where one of the processes is killed or cannot start.
    """
    ranges = list(_ranges(texts))
    if num_proc == 1 or len(ranges) < 2:
        return (_encoded(texts.folder, low, high, tokenizer) for low, high in ranges)
    return _by_processes(texts.folder, ranges, tokenizer, min(num_proc, len(ranges)))


def _ranges(texts: Gathered) -> Iterator[tuple[int, int]]:
    starts = texts.texts().starts
    low = 0
    while low < texts.articles:
        high = int(np.searchsorted(starts, starts[low] + CHUNK_BYTES, side="right")) - 1
        high = min(max(high, low + 1), low + CHUNK_ARTICLES, texts.articles)
        yield low, high
        low = high


def _encoded(folder: Path, low: int, high: int, tokenizer: Tokenizer) -> Chunk:
    texts = Strings(folder, TEXT)
    ids, lengths, words, headings = [], [], [], []
    before = 0
    for text in texts[low:high]:
        encoding = tokenizer.encode(text)
        ids.append(encoding.ids)
        lengths.append(encoding.lengths)
        words.append(words_starting(text, encoding.lengths))
        headings.append(before + headings_completed(text, encoding.lengths))
        before += len(encoding.ids)
    sizes = np.array([len(article) for article in ids], dtype=np.int64)
    return Chunk(np.concatenate(ids), np.concatenate(lengths), np.concatenate(words), sizes, np.concatenate(headings))


def _by_processes(folder: Path, ranges: list[tuple[int, int]], tokenizer: Tokenizer, num_proc: int) -> Iterator[Chunk]:
    # Spawned, not forked: the caller may run threads (torch's, SentencePiece's), which a fork would cut off.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_proc, context, initializer=_begin, initargs=(folder, tokenizer))
    waiting: deque[Future[Chunk]] = deque()
    try:
        for low, high in ranges:
            waiting.append(pool.submit(_encoded_here, low, high))
            if len(waiting) > 2 * num_proc:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        what = "a process that tokenised was killed or could not start"
        raise UserError(what, "corpus.num_proc", "choose 1, or free some memory") from error
    finally:
        pool.shutdown(cancel_futures=True)


_here: tuple[Path, Tokenizer]
"""In a process of the pool: what it was begun with."""


def _begin(folder: Path, tokenizer: Tokenizer) -> None:
    global _here
    _here = folder, tokenizer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process hears of it too, and ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A process of the pool would wait for ever for one that was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _encoded_here(low: int, high: int) -> Chunk:
    folder, tokenizer = _here
    return _encoded(folder, low, high, tokenizer)
