"""Two processes give what one gives, go on with what one left, and end where one of them dies or hangs.

Real processes under ``accelerate launch`` (``--multi_gpu`` is its way to start several here; they talk by gloo), in
float64, where other orders of the same sums differ by less than the tolerance.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from dynlm.cli.main import main
from dynlm.models.lstm.model import Params
from dynlm.run.folder import load_tensors
from dynlm.train.config import Config
from tests.tiny import as_yaml, tiny_config

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 1e-6
PRETRAIN: dict[str, Any] = {
    "epochs": 1.0,
    "accumulate": 2,
    "checkpoint_every": 4,
    "log_every": 1,
    "validate_every": 5,
    "warmup_steps": 3,
}
REGULARISERS = {
    "embedding": 0.1,
    "input": 0.2,
    "between": 0.2,
    "output": 0.2,
    "weight": 0.3,
    "activation": 1.0,
    "temporal_activation": 1.0,
}
METATRAIN = """--memory.g all --g.boundary_reset true --g.importance true --g.features [doc_age_20,loss_delta]
--g.momentum 0.2
--metatrain.lanes 4 --metatrain.tokens 1500 --metatrain.window 8 --metatrain.checkpoint_every 2""".split()


@pytest.fixture
def float64() -> Iterator[None]:
    """This process, too, computes in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def launched(told: dict[str, Any], *words: object) -> subprocess.CompletedProcess[str]:
    """A verb in two processes."""
    launcher = "accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --main_process_port 0"
    launcher += " --mixed_precision no --dynamo_backend no"
    script = ROOT / "tests" / "train" / "launched.py"
    command = [sys.executable, "-m", *launcher.split(), str(script), json.dumps(told), *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)


def stopped_here(number: int, step: int, *words: object) -> None:
    """A verb in this process, stopped by a signal after so many steps."""
    taken = 0

    def after_step(*_: object) -> None:
        nonlocal taken
        taken += 1
        if taken == step:
            os.kill(os.getpid(), number)

    handle = register_optimizer_step_post_hook(after_step)
    try:
        assert main([str(word) for word in words]) == 128 + number
    finally:
        handle.remove()


def configured(corpus: Path, runs: Path, **run: Any) -> tuple[Config, Path]:
    """Options of a training with every regulariser, and a file of them."""
    config = tiny_config(corpus, runs, run=run, pretrain=PRETRAIN, regularisation=REGULARISERS, model={"layers": 2})
    runs.mkdir(parents=True, exist_ok=True)
    path = runs / "config.yaml"
    path.write_text(as_yaml(config))
    return config, path


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def losses(folder: Path) -> dict[int, float]:
    """Each step's loss, one that was taken again as it was the last time."""
    return {line["step"]: line["loss"] for line in log_of(folder) if "loss" in line}


def assert_near(left: Params, right: Params) -> None:
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == torch.float64
        torch.testing.assert_close(left[name], right[name], rtol=0, atol=TOLERANCE, msg=name)


def test_two_processes_train_as_one_and_resume_each_other(tiny_corpus: Path, tmp_path: Path, float64: None) -> None:
    _, path = configured(tiny_corpus, tmp_path / "whole")
    assert main(["pretrain", "--config", str(path)]) == 0
    whole = tmp_path / "whole" / "tiny"

    _, path = configured(tiny_corpus, tmp_path / "two-one")
    done = launched(
        {"dtype": "float64", "signal": signal.SIGTERM, "step": 6, "ranks": [1]}, "pretrain", "--config", path
    )
    two_one = tmp_path / "two-one" / "tiny"
    said = [line for line in done.stderr.splitlines() if line.startswith("dynlm: ")]
    assert said == [
        f"dynlm: stopped; the same command goes on from {two_one / 'checkpoints' / 'step-00000006.safetensors'}"
    ], done.stderr[-3000:]
    assert losses(two_one) == pytest.approx({step: losses(whole)[step] for step in range(1, 7)}, abs=TOLERANCE)
    assert main(["pretrain", "--config", str(path)]) == 0

    _, path = configured(tiny_corpus, tmp_path / "one-two")
    stopped_here(signal.SIGTERM, 5, "pretrain", "--config", path)
    done = launched({"dtype": "float64"}, "pretrain", "--config", path)
    assert done.returncode == 0, done.stderr[-3000:]
    one_two = tmp_path / "one-two" / "tiny"

    assert json.loads((one_two / "model.json").read_text())["processes"] == 2
    for folder in (two_one, one_two):
        assert len([line for line in log_of(folder) if line["event"] == "resumed"]) == 1
        assert losses(folder) == pytest.approx(losses(whole), abs=TOLERANCE)
        assert_near(load_tensors(folder / "model.safetensors")[0], load_tensors(whole / "model.safetensors")[0])
        assert not list((folder / "checkpoints").iterdir())
    assert len(losses(whole)) > 10


def test_two_processes_meta_train_as_one_and_resume_each_other(
    tiny_corpus: Path, tmp_path: Path, float64: None
) -> None:
    folders = {}
    for name in ("whole", "two-one", "one-two"):
        config = tiny_config(tiny_corpus, tmp_path / name, pretrain={"epochs": 1.0})
        folders[name] = tmp_path / name / "tiny"
        (tmp_path / f"{name}.yaml").write_text(as_yaml(config))
        assert main(["pretrain", "--config", str(tmp_path / f"{name}.yaml")]) == 0
        assert main(["tune", str(folders[name])]) == 0
    assert main(["metatrain", str(folders["whole"]), *METATRAIN]) == 0
    done = launched(
        {"dtype": "float64", "signal": signal.SIGINT, "step": 3, "ranks": [0]},
        *("metatrain", folders["two-one"], *METATRAIN),
    )
    assert "metatrain-all-stream-00000003.safetensors" in done.stderr, done.stderr[-3000:]
    assert main(["metatrain", str(folders["two-one"]), *METATRAIN]) == 0
    stopped_here(signal.SIGINT, 4, "metatrain", folders["one-two"], *METATRAIN)
    done = launched({"dtype": "float64"}, "metatrain", folders["one-two"], *METATRAIN)
    assert done.returncode == 0, done.stderr[-3000:]

    cards, nats, phi = {}, {}, {}
    for name, folder in folders.items():
        phi[name], cards[name] = load_tensors(folder / "memory" / "all-stream.safetensors")
        nats[name] = [line["nats_of_window"] for line in log_of(folder) if line["event"] == "metatrain"]
    assert len(nats["whole"]) > 6
    for name in ("two-one", "one-two"):
        assert nats[name] == pytest.approx(nats["whole"], abs=TOLERANCE)
        assert cards[name]["tuning_nats_per_token"] == pytest.approx(
            cards["whole"]["tuning_nats_per_token"], abs=TOLERANCE
        )
        assert_near(phi[name], phi["whole"])


def test_two_processes_finetune_as_one_and_one_resumes(tiny_corpus: Path, tmp_path: Path, float64: None) -> None:
    config = tiny_config(tiny_corpus, tmp_path / "whole", pretrain={"epochs": 1.0})
    (tmp_path / "config.yaml").write_text(as_yaml(config))
    assert main(["pretrain", "--config", str(tmp_path / "config.yaml")]) == 0
    whole, two = (tmp_path / name / "tiny" for name in ("whole", "two"))
    assert main(["tune", str(whole), "--memory.rule", "rms"]) == 0
    shutil.copytree(whole, two)
    options = "--memory.rule rms --finetune.name new --finetune.tokens 1500 --finetune.window 8".split()
    assert main(["finetune", str(whole), *options]) == 0
    done = launched({"dtype": "float64", "signal": signal.SIGTERM, "step": 3, "ranks": [1]}, "finetune", two, *options)
    assert "finetune-new-00000003.safetensors" in done.stderr, done.stderr[-3000:]
    assert main(["finetune", str(two), *options]) == 0
    assert [line["tokens"] for line in log_of(two) if line["event"] == "resumed"]
    weights, cards = [], []
    for folder in (whole, two):
        weights.append(load_tensors(folder.parent / "new" / "model.safetensors")[0])
        cards.append(json.loads((folder.parent / "new" / "model.json").read_text()))
    assert_near(*weights)
    assert cards[0]["tuning_nats_per_token"] == pytest.approx(cards[1]["tuning_nats_per_token"], abs=TOLERANCE)


@pytest.mark.parametrize("told", [{"signal": signal.SIGKILL}, {}], ids=["dies", "hangs"])
def test_a_process_that_dies_or_hangs_ends_the_run_which_resumes(
    told: dict[str, Any], tiny_corpus: Path, tmp_path: Path
) -> None:
    _, path = configured(tiny_corpus, tmp_path / "runs", patience=3)
    done = launched({**told, "step": 6, "ranks": [1]}, "pretrain", "--config", path)
    assert done.returncode != 0
    # Who dies is told by the launcher too, which may end the other first.
    lost = "dynlm: error: process 0 of 2 lost the others: one has died or hangs"
    assert lost in done.stderr or ("signal" in told and "SIGKILL" in done.stderr), done.stderr[-3000:]
    folder = tmp_path / "runs" / "tiny"
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-00000004.safetensors"]
    assert main(["pretrain", "--config", str(path)]) == 0
    assert [line["step"] for line in log_of(folder) if line["event"] == "resumed"] == [4]
