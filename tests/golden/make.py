"""Write the golden files, or compare today's figures with them, bit for bit.

    python -m tests.golden.make --write     # replaces them: only where figures are meant to change
    python -m tests.golden.make             # tells which figures are the same bits, and by how much others differ

Bits are those of one machine and one version of PyTorch; the tests compare within rounding.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from dynlm.runtime.renamed import FEATURES, current_keys
from tests.golden.commands import FOLDER, ROOT, SCORES, STUDY, Golden, copied, figures_of
from tests.tiny import write_corpus

_KEPT = ("config.yaml", "model.json", "model.safetensors", "tokenizer", "memory")
TEXT = "the bafidela of the town was seen near a bafidela .\n" * 3


def written(name: str) -> Any:
    """A golden JSON file, with keys and values that have been renamed since by their current names."""
    return _renamed(json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")))


def _renamed(content: Any) -> Any:
    if isinstance(content, list):
        return [_renamed(value) for value in content]
    if not isinstance(content, dict):
        return content
    renamed = {key: _renamed(value) for key, value in current_keys(content).items()}
    for key, value in renamed.items():
        if key == "features":
            renamed[key] = [FEATURES[name] for name in value]
        elif key.endswith(".gates") and isinstance(value, dict):
            renamed[key] = {FEATURES[name]: number for name, number in value.items()}
    return renamed


def read_of(golden: Golden) -> dict[str, Any]:
    """Every reading of the run: nats of each token, the figures of a table, of a study and of a kept memory."""
    nats = {name: golden.nats(options) for name, options in SCORES.items()}
    golden.answer("score RUN --corpus.path CORPUS --split valid --memory.rule rms --name kept --force")
    (golden.runs / "book.txt").write_text(TEXT, encoding="utf-8")
    memory = str(golden.runs / "me.safetensors")
    book = str(golden.runs / "book.txt")
    reading = f"read RUN --memory {memory} --memory.rule rms --memory.cache fixed {book}"
    first = figures_of(golden.answer(reading))
    kept = Path(memory).read_bytes()
    again = figures_of(golden.answer(f"read RUN --memory {memory} --again {book}"))
    return {
        "nats": nats,
        "read": {"first": first, "again": again},
        "study": figures_of(golden.answer(STUDY)),
        "memory": kept,
    }


def write() -> None:
    """Train the golden run and keep it with its figures."""
    for name in ("corpus", "run"):
        shutil.rmtree(FOLDER / name, ignore_errors=True)
    write_corpus(FOLDER / "corpus")
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        golden = Golden(runs)
        _write_json("training", golden.trainings())
        (FOLDER / "run").mkdir()
        for name in _KEPT:
            source, target = runs / "golden" / name, FOLDER / "run" / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns(".*"))
            else:
                shutil.copy2(source, target)
        config = (FOLDER / "run" / "config.yaml").read_text(encoding="utf-8")
        config = config.replace(str(runs), "runs")
        (FOLDER / "run" / "config.yaml").write_text(config, encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        golden = copied(Path(folder))
        read = read_of(golden)
        save_file(read["nats"], FOLDER / "nats.safetensors")
        (FOLDER / "me.safetensors").write_bytes(read["memory"])
        (FOLDER / "run" / "scores").mkdir()
        shutil.copy2(golden.runs / "golden" / "scores" / "kept.parquet", FOLDER / "run" / "scores")
        _write_json("reading", {"read": read["read"], "study": read["study"]})
        _write_json("fewshot", golden.fewshot())


def compare() -> bool:
    """Print what differs from the golden files; whether nothing does."""
    with tempfile.TemporaryDirectory() as folder:
        now = {"training": Golden(Path(folder)).trainings()}
    with tempfile.TemporaryDirectory() as folder:
        golden = copied(Path(folder))
        read = read_of(golden)
        now |= {"reading": {"read": read["read"], "study": read["study"]}, "fewshot": golden.fewshot()}
    before, same = load_file(FOLDER / "nats.safetensors"), True
    for name, nats in read["nats"].items():
        equal = np.array_equal(before[name], nats)
        same &= equal
        print(f"{'same' if equal else f'by up to {np.abs(before[name] - nats).max():.3g} nats':24}  {name}")
    for name, figures in now.items():
        equal = written(name) == json.loads(json.dumps(figures))
        same &= equal
        print(f"{'same' if equal else 'DIFFERS':24}  {name}.json")
    return same


def _write_json(name: str, content: Any) -> None:
    (FOLDER / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    os.chdir(ROOT)
    if options.write:
        write()
    elif not compare():
        raise SystemExit(1)
