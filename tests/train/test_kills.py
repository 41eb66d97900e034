"""Training processes killed at random moments: the same command resumes, and gives what an uninterrupted run gives.

The killed are real processes, forked from one that has imported torch already: that alone would take a second each.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dynlm.cli.main import main
from dynlm.run.folder import load_model, load_tensors
from tests.tiny import Run, as_yaml, tiny_config, without_seconds

pytestmark = pytest.mark.slow
KILLS = 10
PRETRAIN: dict[str, Any] = {"epochs": 1.0, "checkpoint_every": 2, "validate_every": 7, "log_every": 3}
DROPOUTS = {"input": 0.2, "output": 0.2, "weight": 0.3, "embedding": 0.1}
SHORT = (
    """--metatrain.lanes 2 --metatrain.window 4 --metatrain.checkpoint_every 1 --metatrain.pick_tokens 100""".split()
)
G = """--g.boundary_reset true --g.importance true --g.features [doc_age_20,loss_delta] --g.slow_rate 0.1
--g.momentum 0.2 --metatrain.tokens 900""".split()
FINETUNE = """--memory.rule rms --finetune.tokens 900 --finetune.window 4 --finetune.lanes 2 --finetune.lr 1e-3
--finetune.pick_tokens 100 --run.checkpoint_seconds 0""".split()

_forked = multiprocessing.get_context("forkserver")
_forked.set_forkserver_preload(["tests.train.forked"])


def kill_and_resume(
    command: Callable[[Path], list[str]], result: Callable[[Path], Any], folders: Path, seed: int
) -> int:
    """Kill ``command`` at random moments and run it again, until it was killed ``KILLS`` times; returns how often.

    ``command`` and ``result`` are given a run's folder. Each run that ends is compared with one that was never killed.
    """
    started(["--version"]).join()  # The process that they are forked from is ready now.
    rng, begun, whole = random.Random(seed), time.monotonic(), folders / "whole"
    started(command(whole)).join()
    seconds, wanted = time.monotonic() - begun, result(whole)
    runs = kills = 0
    while kills < KILLS:
        runs += 1
        folder = folders / str(runs)
        while True:
            process = started(command(folder))
            process.join(rng.uniform(0, seconds) if kills < KILLS else None)
            process.kill()
            process.join()
            if process.exitcode != -signal.SIGKILL:
                break
            kills += 1
        assert result(folder) == wanted, f"run {runs}, after {kills} kills"
        assert not list((folder / "checkpoints").glob("*.safetensors"))
        # A process killed between making a staging folder and locking it leaves it, empty, for a minute.
        assert not [path for path in folder.rglob(".aside-*") if any(path.iterdir())]
    return kills


def started(arguments: list[str]) -> multiprocessing.process.BaseProcess:
    process = _forked.Process(target=main, args=(arguments,), daemon=True)
    process.start()
    return process


def bits(tensors: dict[str, torch.Tensor]) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def windows(folder: Path, event: str) -> dict[int, Any]:
    """What the log says of each window; one that was read again as it was the last time."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {
        line["tokens"]: {name: value for name, value in line.items() if name not in ("time", "run")}
        for line in lines
        if line["event"] == event
    }


def test_killed_pretraining_resumes_bit_for_bit(tiny_corpus: Path, tmp_path: Path) -> None:
    def pretrain(folder: Path) -> list[str]:
        config = tiny_config(
            tiny_corpus, folder.parent, run={"name": folder.name}, pretrain=PRETRAIN, regularisation=DROPOUTS
        )
        path = folder.parent / f"{folder.name}.yaml"
        path.write_text(as_yaml(config))
        return ["pretrain", "--config", str(path)]

    def result(folder: Path) -> Any:
        trained = load_model(folder)
        return bits(trained.params), trained.card["valid_nats_per_token"]

    assert kill_and_resume(pretrain, result, tmp_path, seed=1) == KILLS


def tuned_copy_at(folder: Path, tuned_run: Run) -> None:
    """Copy the tuned run, with a learning rate that leaves much to learn."""
    if not folder.exists():
        shutil.copytree(tuned_run.folder, folder)
        (folder / "log.jsonl").unlink()
        tuned = json.loads((folder / "memory" / "tuned.json").read_text())
        tuned["rms"]["stream"]["lr"] /= 4
        (folder / "memory" / "tuned.json").write_text(json.dumps(tuned))


@pytest.mark.parametrize("options", [G, ["--g.kind", "lstm", "--g.hidden", "2", "--metatrain.tokens", "700"]])
def test_killed_meta_training_resumes_bit_for_bit(options: list[str], tuned_run: Run, tmp_path: Path) -> None:
    def metatrain(folder: Path) -> list[str]:
        tuned_copy_at(folder, tuned_run)
        return ["metatrain", str(folder), "--memory.g", "all", *SHORT, *options]

    def result(folder: Path) -> Any:
        tensors, about = load_tensors(folder / "memory" / "all-stream.safetensors")
        read = windows(folder, "metatrain")
        assert about["kept"] != "start" and len(read) > 4
        return bits(tensors), without_seconds(about), read

    assert kill_and_resume(metatrain, result, tmp_path, seed=2) == KILLS


def test_killed_finetuning_resumes_bit_for_bit(tuned_run: Run, tmp_path: Path) -> None:
    def finetune(folder: Path) -> list[str]:
        tuned_copy_at(folder, tuned_run)
        return ["finetune", str(folder), *FINETUNE]

    def result(folder: Path) -> Any:
        new = folder.parent / f"{folder.name}-finetuned-rms"
        trained, read = load_model(new), windows(folder, "finetune")
        assert trained.card["kept"] != "start" and len(read) > 4
        card = {name: value for name, value in trained.card.items() if name not in ("seconds", "finetuned_from")}
        return bits(trained.params), card, (new / "memory" / "tuned.json").read_bytes(), read

    assert kill_and_resume(finetune, result, tmp_path, seed=3) == KILLS


@pytest.mark.parametrize(
    "options", [["--memory.rule", "sgd+decay"], ["--memory.rule", "rms", "--memory.cache", "fixed"]]
)
def test_killed_tuning_resumes_with_the_same_settings(options: list[str], tuned_run: Run, tmp_path: Path) -> None:
    def tune(folder: Path) -> list[str]:
        tuned_copy_at(folder, tuned_run)
        return ["tune", str(folder), *options]

    def result(folder: Path) -> Any:
        name = "tuned.json" if "fixed" not in options else "cache-rms-stream.json"
        return without_seconds(json.loads((folder / "memory" / name).read_text()))

    assert kill_and_resume(tune, result, tmp_path, seed=4) == KILLS


def test_killed_gate_training_resumes_bit_for_bit(tuned_run: Run, tmp_path: Path) -> None:
    def train_gate(folder: Path) -> list[str]:
        tuned_copy_at(folder, tuned_run)
        options = "--memory.rule none --memory.cache learned --run.checkpoint_seconds 0".split()
        return ["metatrain", str(folder), *options]

    def result(folder: Path) -> Any:
        tensors, about = load_tensors(folder / "memory" / "gated-cache-none-stream.safetensors")
        return bits(tensors), without_seconds(about)

    assert kill_and_resume(train_gate, result, tmp_path, seed=5) == KILLS
