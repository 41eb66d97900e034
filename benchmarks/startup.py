"""Time of `dynlm score` until its first scored token: a whole run over an article of a few tokens in a new process.

    python -m benchmarks.startup

The article is scored by level 1 and the file written, so the first token comes a little sooner than what is printed.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from dynlm.cli.config_files import load_options
from dynlm.data.articles import iter_articles
from dynlm.data.options import CorpusOptions
from dynlm.data.tokenizers.pieces import PieceTokenizer
from dynlm.models.lstm.model import LSTMLanguageModel
from dynlm.run.folder import save_config, save_model
from dynlm.run.options import RunOptions
from dynlm.train.config import Config


def measure(config_path: str = "configs/wikitext-2-small.yaml", times: int = 5) -> dict[str, float]:
    """Medians in seconds of the whole command and of torch's own import."""
    config = load_options(config_path, Config)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = PieceTokenizer.train(config.tokenizer, (a.text for a in iter_articles(CorpusOptions(), "train")))
        model = LSTMLanguageModel(config.model, tokenizer.size)
        for split in ("train", "valid", "test"):
            (folder / f"{split}.txt").write_text(f"\n = {split} = \n\n A few words to read . \n", encoding="utf-8")
        config = dataclasses.replace(
            config, run=RunOptions(name="run", folder=name), corpus=CorpusOptions(path=name, format="wikitext")
        )
        run = folder / "run"
        save_config(run, config)
        tokenizer.save(run / "tokenizer")
        save_model(run, model, model.init_params(torch.Generator().manual_seed(0)), tokenizer, {})
        call = "import sys; from dynlm.cli.main import main; sys.exit(main())"
        score = [sys.executable, "-c", call, "score", str(run), "--memory.rule", "none", "--force"]
        return {
            "score_seconds": _median_seconds(score, times),
            "torch_import_seconds": _median_seconds([sys.executable, "-c", "import torch"], times),
        }


def _median_seconds(words: list[str], times: int) -> float:
    seconds = []
    for _ in range(times + 1):
        begun = time.perf_counter()
        subprocess.run(words, check=True, capture_output=True)
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds[1:])


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    result = measure()
    print(
        f"dynlm score to its first token and its end: {result['score_seconds']:.2f} s, of which importing torch "
        f"{result['torch_import_seconds']:.2f} s"
    )


if __name__ == "__main__":
    main()
