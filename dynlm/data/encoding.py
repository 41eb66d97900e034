"""Tokenisation of spooled articles in chunks, by one process or several.

Chunks are yielded in order and do not depend on the number of processes: the output does not either, and the memory
used does not depend on the size of the corpus.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np

from dynlm.data.array_files import Strings
from dynlm.data.spool import TEXT, SpooledArticles
from dynlm.data.tokenised_split import Tokens, encode_texts
from dynlm.data.tokenizers.tokenizer import Tokenizer
from dynlm.errors import UserError

CHUNK_BYTES = 1 << 20
"""Most bytes of text of a chunk; it has at least one article, which is never cut."""
CHUNK_ARTICLES = 4096


def encode_chunks(articles: SpooledArticles, tokenizer: Tokenizer, num_proc: int) -> Iterator[Tokens]:
    """Yield the tokens of ``articles`` chunk by chunk; with several processes the tokenizer is pickled.

    Raises UserError if a worker process is killed or cannot start.
    """
    ranges = list(_chunk_ranges(articles))
    if num_proc == 1 or len(ranges) < 2:
        return (_encode_range(articles.folder, low, high, tokenizer) for low, high in ranges)
    return _encode_in_processes(articles.folder, ranges, tokenizer, min(num_proc, len(ranges)))


def _chunk_ranges(articles: SpooledArticles) -> Iterator[tuple[int, int]]:
    starts, low = articles.texts().starts, 0
    while low < len(articles):
        high = int(np.searchsorted(starts, starts[low] + CHUNK_BYTES, side="right")) - 1
        high = min(max(high, low + 1), low + CHUNK_ARTICLES, len(articles))
        yield low, high
        low = high


def _encode_range(folder: Path, low: int, high: int, tokenizer: Tokenizer) -> Tokens:
    return encode_texts(map(Strings(folder, TEXT).__getitem__, range(low, high)), tokenizer)


def _encode_in_processes(
    folder: Path, ranges: list[tuple[int, int]], tokenizer: Tokenizer, num_proc: int
) -> Iterator[Tokens]:
    # Spawned, not forked: a fork copies locks that other threads (torch's, SentencePiece's) may hold.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_proc, context, initializer=_init_worker, initargs=(folder, tokenizer))
    try:
        yield from pool.map(_work, *zip(*ranges, strict=True))
    except BrokenProcessPool as error:
        what = "a process that tokenised was killed or could not start"
        raise UserError(what, "corpus.num_proc", "choose 1, or free some memory") from error
    finally:
        pool.shutdown(cancel_futures=True)


_worker: tuple[Path, Tokenizer]
"""A worker process's arguments."""


def _init_worker(folder: Path, tokenizer: Tokenizer) -> None:
    global _worker
    _worker = folder, tokenizer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The main process gets it too, and stops the workers.
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """End this process when its parent ends: a pool's worker waits forever for a parent that was killed."""
    if (parent := multiprocessing.parent_process()) is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _work(low: int, high: int) -> Tokens:
    folder, tokenizer = _worker
    return _encode_range(folder, low, high, tokenizer)
