"""Processes killed at random moments: the same command goes on, and what it ends with is what it would have been.

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

import torch

from dynlm.cli.app import main
from dynlm.run.folder import load_model, load_tensors
from tests.tiny import Run, as_yaml, tiny_config

KILLS = 10
PRETRAIN: dict[str, Any] = {"epochs": 1.0, "checkpoint_every": 2, "validate_every": 7, "log_every": 3}
DROPOUTS = {"input": 0.2, "output": 0.2, "weight": 0.3, "embedding": 0.1}
G = """--g.flush true --g.importance true --g.features [fresh,surprise] --g.consolidation 0.1 --g.momentum 0.2
--metatrain.lanes 2 --metatrain.tokens 900 --metatrain.window 4 --metatrain.checkpoint_every 1
--metatrain.pick_tokens 100""".split()

_forked = multiprocessing.get_context("forkserver")
_forked.set_forkserver_preload(["tests.train.forked"])


def killed_and_run_again(
    command: Callable[[Path], list[str]], result: Callable[[Path], Any], folders: Path, seed: int
) -> int:
    """Kill ``command`` at random moments, with every run's end equal to that of one that was let be: how often it was.

    ``command`` and ``result`` are given a run's folder. What was finished before its kill is compared, and another run
    begun.
    """
    started(["--version"]).join()  # Whoever they are forked from is ready now.
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
        # Who dies between making a folder aside and locking it leaves it, empty, for a minute.
        assert not [path for path in folder.rglob(".aside-*") if any(path.iterdir())]
    return kills


def started(arguments: list[str]) -> multiprocessing.process.BaseProcess:
    process = _forked.Process(target=main, args=(arguments,), daemon=True)
    process.start()
    return process


def bits(tensors: dict[str, torch.Tensor]) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def test_of_all_kills_each_is_resumed_bit_for_bit(tiny_corpus: Path, tuned_run: Run, tmp_path: Path) -> None:
    def pretrain(folder: Path) -> list[str]:
        config = tiny_config(
            tiny_corpus, folder.parent, run={"name": folder.name}, pretrain=PRETRAIN, regularisation=DROPOUTS
        )
        path = folder.parent / f"{folder.name}.yaml"
        path.write_text(as_yaml(config))
        return ["pretrain", "--config", str(path)]

    def metatrain(folder: Path) -> list[str]:
        if not folder.exists():
            shutil.copytree(tuned_run.folder, folder)
            (folder / "log.jsonl").unlink()
            # A start that leaves much to learn.
            tuned = json.loads((folder / "memory" / "tuned.json").read_text())
            tuned["rms"]["stream"]["rate"] /= 4
            (folder / "memory" / "tuned.json").write_text(json.dumps(tuned))
        return ["metatrain", str(folder), "--memory.g", "all", *G]

    def weights(folder: Path) -> Any:
        trained = load_model(folder)
        return bits(trained.params), trained.card["valid_nats_per_token"]

    def phi(folder: Path) -> Any:
        tensors, about = load_tensors(folder / "memory" / "all-stream.safetensors")
        log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        logged = [line for line in log if line["event"] == "metatrain"]
        windows = {line["tokens"]: (line["nats_of_window"], line["phi"]) for line in logged}
        assert about["kept"] != "start" and len(windows) > 4
        return bits(tensors), about, windows

    for name in ("pretrain", "metatrain"):
        (tmp_path / name).mkdir()
    resumed = killed_and_run_again(pretrain, weights, tmp_path / "pretrain", seed=1)
    resumed += killed_and_run_again(metatrain, phi, tmp_path / "metatrain", seed=2)
    print(f"{resumed} of {2 * KILLS} kills resumed bit for bit")
    assert resumed == 2 * KILLS == 20
