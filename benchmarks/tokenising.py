"""Speed of tokenising text onto disk: MB of UTF-8 a second for each core.

    python -m benchmarks.tokenising [--repeat 4] [--json]

Reads WikiText-2's training text where DYNLM_DATA names a folder that holds it, else the embedded corpus, and encodes it
with 6,000 pieces into an empty cache: gathering, tokens, their bytes and words, writing and mapping, all included.
Articles come from memory, so that no decompressor is measured. ``--repeat`` reads them so many times over, which makes
up for the start of the processes. Time nothing else on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal
from unittest import mock

from dynlm.data.articles import WHOLE_TRAIN, load_articles
from dynlm.data.options import CorpusOptions, TokenizerOptions
from dynlm.data.sources.source import Article
from dynlm.data.token_store import tokenise
from dynlm.data.tokenizers.pieces import PieceTokenizer

KINDS: tuple[Literal["bpe", "unigram"], ...] = ("bpe", "unigram")
PROCESSES = (1, 2)


def measure(repeat: int = 4, rounds: int = 2) -> dict[str, float]:
    """MB a second and core by kind and number of processes, the best of ``rounds``, and the MB of text read."""
    articles = load_articles(_corpus(), WHOLE_TRAIN)
    text_bytes = repeat * sum(len(article.text.encode()) for article in articles)
    result = {"megabytes": round(text_bytes / 1e6, 1)}
    for kind in KINDS:
        tokenizer = PieceTokenizer.train(TokenizerOptions(kind, 6000), (article.text for article in articles))
        for num_proc in PROCESSES:
            # A fresh tokenizer remembers no units.
            fresh = [PieceTokenizer(tokenizer.config, tokenizer.model) for _ in range(rounds)]
            seconds = min(_seconds(articles, repeat, one, num_proc) for one in fresh)
            result[f"{kind}_{num_proc}_processes_mb_a_second_a_core"] = round(text_bytes / 1e6 / seconds / num_proc, 2)
    return result


def _corpus() -> CorpusOptions:
    folder = Path(os.environ.get("DYNLM_DATA", "")) / "wikitext-2"
    return CorpusOptions(path=str(folder)) if "DYNLM_DATA" in os.environ and folder.is_dir() else CorpusOptions()


def _seconds(articles: list[Article], repeat: int, tokenizer: PieceTokenizer, num_proc: int) -> float:
    def repeated() -> Iterator[Article]:
        for time_over in range(repeat):
            for article in articles:
                yield replace(article, title=f"{article.title} {time_over}")

    with tempfile.TemporaryDirectory() as cache, mock.patch.dict(os.environ, {"DYNLM_CACHE": cache}):
        begun = time.perf_counter()
        tokenise(repeated(), tokenizer, num_proc)
        return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=4)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = measure(options.repeat)
    if options.json:
        print(json.dumps(result))
        return
    print(f"{result['megabytes']} MB of text, MB a second and core:")
    for kind in KINDS:
        rates = (f"{result[f'{kind}_{n}_processes_mb_a_second_a_core']} with num_proc {n}" for n in PROCESSES)
        print(f"  {kind:8} {', '.join(rates)}")


if __name__ == "__main__":
    main()
