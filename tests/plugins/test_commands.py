"""Models and rules of another package on the command line, found by their entry points, in processes of their own."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from dynlm.evaluation.score_file import read_scores
from tests.tiny import tiny_config

ROOT = Path(__file__).parents[2]
ENTRY_POINTS = """
[dynlm.models]
gru = tests.plugins.gru:GRULanguageModel
transformer = tests.plugins.transformer:Transformer
[dynlm.rules]
adamax = tests.plugins.adamax:adamax
"""
MODELS: dict[str, dict[str, Any]] = {
    "gru": {"kind": "gru", "width": 24},
    "transformer": {"kind": "transformer", "width": 24, "context": 16},
}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that has the plug-ins installed."""
    site = tmp_path_factory.mktemp("site")
    about = site / "dynlm_plugins-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: dynlm-plugins\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(ENTRY_POINTS)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(site)])}


class Commands:
    """Commands on one run."""

    def __init__(self, environment: dict[str, str], folder: Path):
        self.environment, self.folder = environment, folder

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "dynlm", *words]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=self.environment, cwd=self.folder, text=True, stdout=pipe, stderr=pipe)

    def checkpoints(self, run: str) -> set[int]:
        """Return the times at which the run's checkpoints were written.

        The process under test creates and removes staging folders meanwhile. ``os.walk`` skips a folder that is gone;
        ``Path.rglob`` of Python 3.11 raises.
        """
        times = set()
        for folder, _, names in os.walk(self.folder / run / "scores"):
            for name in names:
                if name.endswith(".safetensors"):
                    with contextlib.suppress(FileNotFoundError):
                        times.add((Path(folder) / name).stat().st_mtime_ns)
        return times

    def __call__(self, *words: str) -> str:
        process = self.start(*words)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        return out


@pytest.fixture(scope="module", params=MODELS)
def commands(
    request: pytest.FixtureRequest,
    environment: dict[str, str],
    tiny_corpus: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Commands:
    """Commands on the folder ``run``, which holds a trained model."""
    folder = tmp_path_factory.mktemp(request.param)
    config = tiny_config(tiny_corpus, folder, pretrain={"epochs": 4.0}, metatrain={"tokens": 600})
    options = dataclasses.asdict(config)
    options["model"], options["run"]["name"] = MODELS[request.param], "run"
    (folder / "options.yaml").write_text(yaml.safe_dump(options))
    run = Commands(environment, folder)
    run("pretrain", "--config", "options.yaml")
    return run


def test_a_foreign_model_takes_part_in_every_command(commands: Commands) -> None:
    """Pretrained, tuned, meta-trained, scored under three rules, compared and reported."""
    for words in (["tune", "run", "--memory.rule", "rms"], ["metatrain", "run"]):
        commands(*words)
    for rule in ("none", "rms", "meta"):
        commands("score", "run", "--articles", "4-6", "--memory.rule", rule)
    rows = {row["label"]: row for row in json.loads(commands("compare", "run", "--json"))["variants"]}
    assert len(rows) == 3
    nats = {name: row["nats_per_token"] for name, row in rows.items()}
    static = next(value for name, value in nats.items() if "level 1" in name or "none" in name)
    assert all(value < static for name, value in nats.items() if value != static), nats
    commands("report", "run")
    page = next((commands.folder / "run").rglob("*.html"))
    assert page.stat().st_size > 10_000


def test_a_foreign_model_reads_into_a_memory_file_and_generates(commands: Commands, tmp_path: Path) -> None:
    text, memory = tmp_path / "text.txt", tmp_path / "memory.safetensors"
    text.write_text("the bade of the kula was seen near a kula .\n" * 5)
    words = ["--memory.rule", "sgd", "--memory.lr", "0.1", "--memory.cache", "none"]
    commands("read", "run", str(text), "--memory", str(memory), *words)
    assert memory.stat().st_size > 1000
    assert commands("generate", "run", "--prompt", "the bade", "--tokens", "5", "--memory", str(memory))


def test_a_foreign_rule_resumes_where_it_was_killed(commands: Commands) -> None:
    words = "--memory.rule adamax --memory.lr 0.003 --memory.segment 5 --run.checkpoint_seconds 0".split()
    shutil.copytree(commands.folder / "run", commands.folder / "whole")
    shutil.rmtree(commands.folder / "whole" / "scores", ignore_errors=True)
    shutil.copytree(commands.folder / "whole", commands.folder / "killed")
    before: set[int] = set()
    for _ in range(2):
        process = commands.start("score", "killed", *words)
        while process.poll() is None and commands.checkpoints("killed") <= before:
            time.sleep(0.005)
        before = commands.checkpoints("killed")
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it ended before it was killed"
    for run in ("killed", "whole"):
        commands("score", run, *words)
    killed, whole = (read_scores(*(commands.folder / run).rglob("*.parquet")) for run in ("killed", "whole"))
    assert (killed.nats == whole.nats).all() and len(whole) > 500
    assert not commands.checkpoints("killed")
