"""Training that a signal stopped resumes bit for bit; checkpoints of other options or other work are refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from torch.optim.optimizer import register_optimizer_step_post_hook

from dynlm.cli.main import main
from dynlm.run.folder import load_tensors
from dynlm.runtime.checkpoints import Checkpoints
from dynlm.train import cache as caches
from dynlm.train import pretrain as pretraining
from dynlm.train import tune as tuning
from tests.tiny import Run, as_yaml, listing, memory_of, tiny_config, without_seconds

Capture = pytest.CaptureFixture[str]
SHORT = ("--metatrain.tokens", "700", "--metatrain.window", "4", "--metatrain.pick_tokens", "100")
G = {
    "rates alone": (),
    "all": (
        "--g.boundary_reset true --g.importance true --g.features [doc_age_20,loss_delta,weight_distance] "
        "--g.slow_rate 0.1"
    ).split(),
    "slow weights": "--g.slow true --g.boundary_reset true --g.slow_rate 0.1".split(),
    "rows, momentum, level 2, articles": (
        "--g.sharing row --g.momentum 0.3 --g.level 2 --memory.reset article --metatrain.lanes 2".split()
    ),
    "as one text": "--memory.article_boundaries false --metatrain.lanes 2 --g.features [doc_age_20]".split(),
    "kinds of text": "--metatrain.texts [code:json,docs:json] --metatrain.lanes 2".split(),
    "LSTM": "--g.kind lstm --g.hidden 2".split(),
    "LSTM, articles": "--g.kind lstm --g.hidden 2 --memory.reset article --metatrain.lanes 2".split(),
}


def stopped_after(steps: int, number: int, *words: object) -> int:
    """Run ``dynlm`` with a signal sent after so many steps of an optimiser; returns its exit code."""
    taken = 0

    def after_step(*_: object) -> None:
        nonlocal taken
        taken += 1
        if taken == steps:
            os.kill(os.getpid(), number)

    handle = register_optimizer_step_post_hook(after_step)
    try:
        return main([str(word) for word in words])
    finally:
        handle.remove()


def run(*words: object) -> int:
    return main([str(word) for word in words])


def copy_of(run: Run, folder: Path) -> Path:
    shutil.copytree(run.folder, folder)
    (folder / "log.jsonl").unlink()
    return folder


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def learned(folder: Path, name: str) -> tuple[Any, ...]:
    """What meta-training left: phi, its card, and each window's nats and phi."""
    (path,) = (folder / "memory").glob(f"{name}-*.safetensors")
    tensors, about = load_tensors(path)
    windows = {
        line["tokens"]: (line["nats_of_window"], line.get("phi"))
        for line in log_of(folder)
        if line["event"] == "metatrain"
    }
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}, without_seconds(about), windows


@pytest.mark.parametrize("options", G.values(), ids=G.keys())
def test_stopped_meta_training_resumes_bit_for_bit(
    options: tuple[str, ...], tuned_run: Run, tmp_path: Path, capsys: Capture
) -> None:
    whole, parts = copy_of(tuned_run, tmp_path / "whole"), copy_of(tuned_run, tmp_path / "parts")
    words = ("--memory.g", "g", *options, *SHORT)
    assert run("metatrain", whole, *words) == 0
    for steps, number in ((2, signal.SIGTERM), (3, signal.SIGINT)):
        capsys.readouterr()
        assert stopped_after(steps, number, "metatrain", parts, *words) == 128 + number
        said = capsys.readouterr().err
        assert said.startswith(
            f"dynlm: stopped; the same command goes on from {parts / 'checkpoints' / 'metatrain-g-'}"
        )
        assert said.count("\n") == 1
        assert not list((parts / "memory").glob("g-*"))
    assert run("metatrain", parts, *words) == 0
    assert learned(parts, "g") == learned(whole, "g")
    assert len(learned(whole, "g")[2]) > 6
    assert not list((parts / "checkpoints").iterdir())
    resumed = [line["checkpoint"].rpartition("-")[2] for line in log_of(parts) if line["event"] == "resumed"]
    assert resumed == ["00000002.safetensors", "00000005.safetensors"]


def test_a_checkpoint_of_other_options_is_refused_in_one_line(tuned_copy: Run, capsys: Capture) -> None:
    folder = tuned_copy.folder
    words = ("--memory.g", "g", *SHORT)
    assert stopped_after(2, signal.SIGTERM, "metatrain", folder, *words) == 143
    before = listing(folder)
    capsys.readouterr()
    for option, value, said in (
        ("--metatrain.lr", "0.5", "metatrain.lr 0.02, not 0.5"),
        ("--g.features", "[doc_age_20]", r"g.features [], not ['fresh']"),
        ("--run.seed", "3", "run.seed 0, not 3"),
    ):
        assert run("metatrain", folder, *words, option, value) == 2
        err = capsys.readouterr().err
        assert f"this checkpoint was made with {said}; " in err and err.count("\n") == 1
        assert listing(folder) == before
    # Another name or policy is other work; how often checkpoints are written and kept decides nothing.
    assert run("metatrain", folder, *SHORT, "--memory.g", "other", "--metatrain.lr", "0.5") == 0
    assert run("metatrain", folder, *words, "--metatrain.checkpoint_every", "1", "--run.checkpoints_kept", "1") == 0
    # Another start gives another result.
    assert stopped_after(2, signal.SIGTERM, "metatrain", folder, *words) == 143
    tuned = json.loads((folder / "memory" / "tuned.json").read_text())
    tuned["rms"]["stream"]["lr"] *= 2
    (folder / "memory" / "tuned.json").write_text(json.dumps(tuned))
    capsys.readouterr()
    assert run("metatrain", folder, *words) == 2
    assert "was made with the tuned rms [" in capsys.readouterr().err


def test_an_option_sets_how_many_checkpoints_are_kept(tiny_corpus: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_corpus, tmp_path, run={"checkpoints_kept": 3}, pretrain={"checkpoint_every": 1})
    path = tmp_path / "config.yaml"
    path.write_text(as_yaml(config))
    assert stopped_after(5, signal.SIGTERM, "pretrain", "--config", path) == 143
    kept = sorted(found.name for found in (tmp_path / "tiny" / "checkpoints").iterdir())
    assert kept == [f"step-0000000{step}.safetensors" for step in (3, 4, 5)]


def test_a_run_killed_while_its_checkpoints_are_removed_is_finished(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """After the card is written only checkpoints are left to remove; the same command does that."""
    path = tmp_path / "config.yaml"
    path.write_text(as_yaml(tiny_config(tiny_corpus, tmp_path, pretrain={"epochs": 0.4, "checkpoint_every": 4})))
    with monkeypatch.context() as patch:
        patch.setattr(pretraining.Checkpoints, "drop", lambda _: os.kill(os.getpid(), signal.SIGTERM))
        assert run("pretrain", "--config", path) == 143
    folder = tmp_path / "tiny"
    model = (folder / "model.safetensors").read_bytes()
    assert list((folder / "checkpoints").iterdir())
    assert run("pretrain", "--config", path) == 0
    assert not list((folder / "checkpoints").iterdir())
    assert (folder / "model.safetensors").read_bytes() == model
    capsys.readouterr()
    assert run("pretrain", "--config", path) == 2
    assert "trained already" in capsys.readouterr().err


def test_a_checkpoint_of_something_else_is_refused(
    tuned_copy: Run, tiny_corpus: Path, tmp_path: Path, capsys: Capture
) -> None:
    """Valid by its checksum and made with these options, but with other content than expected."""
    path = tmp_path / "config.yaml"
    path.write_text(as_yaml(tiny_config(tiny_corpus, tmp_path / "runs")))
    for folder, words in (
        (tmp_path / "runs" / "tiny", ("pretrain", "--config", path)),
        (tuned_copy.folder, ("metatrain", tuned_copy.folder, *SHORT)),
        (tuned_copy.folder, ("metatrain", tuned_copy.folder, *SHORT, "--memory.g", "l", "--g.kind", "lstm")),
        (tuned_copy.folder, ("finetune", tuned_copy.folder, "--memory.rule", "rms")),
    ):
        assert stopped_after(2, signal.SIGTERM, *words) == 143
        (saved,) = (folder / "checkpoints").iterdir()
        stem = saved.stem.rpartition("-")[0]
        made_with = json.loads(load_tensors(saved)[1]["content"])["made_with"]
        for state in ({}, {"position": 3, "steps": 1, "step": 1}):
            Checkpoints(folder / "checkpoints", stem, made_with=made_with).save(9, {}, state)
            capsys.readouterr()
            assert run(*words) == 2
            err = capsys.readouterr().err
            assert "00000009.safetensors: a checkpoint of something else" in err and err.count("\n") == 1
        Checkpoints(folder / "checkpoints", stem).drop()


TUNE = {
    "rates": ("tune", "--memory.rule", "rms"),
    "cache": ("tune", "--memory.cache", "fixed"),
    "gate": ("metatrain", "--memory.cache", "learned"),
}


@pytest.mark.parametrize("shortest", [1000, 50], ids=["whole", "parts"])
@pytest.mark.parametrize("words", TUNE.values(), ids=TUNE.keys())
def test_a_stopped_search_reads_nothing_again(
    words: tuple[str, ...],
    shortest: int,
    tuned_run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    """``metatrain`` with a learned cache tunes the fixed one first. In short parts settings race against each other."""
    command, *options = words
    options += ["--run.checkpoint_seconds", "0"]
    monkeypatch.setattr("dynlm.train.search._SHORTEST_PART", shortest)
    whole, parts = copy_of(tuned_run, tmp_path / "whole"), copy_of(tuned_run, tmp_path / "parts")
    assert run(command, whole, *options) == 0
    before = listing(parts / "memory")
    module, name = (
        (caches, "mixture") if "fixed" in options or "learned" in options else (tuning.RuleReading, "read_part")
    )
    measure, measured = getattr(module, name), 0

    def interrupted(*arguments: Any) -> Any:
        nonlocal measured
        measured += 1
        if measured == 3 + (shortest < 100):
            os.kill(os.getpid(), signal.SIGTERM)
        return measure(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, interrupted)
        capsys.readouterr()
        assert run(command, parts, *options) == 143
    (saved,) = (parts / "checkpoints").glob(f"tune-*-0000000{measured}.safetensors")
    assert f"the same command goes on from {saved}" in capsys.readouterr().err
    assert listing(parts / "memory") == before
    assert run(command, parts, *options) == 0
    assert memory_of(whole) == memory_of(parts)
    assert not list((parts / "checkpoints").iterdir())
    settings = [{name: value for name, value in line.items() if name != "time"} for line in log_of(parts)]
    assert settings == [{name: value for name, value in line.items() if name != "time"} for line in log_of(whole)]


def test_a_stopped_gate_resumes_at_its_pass(tuned_run: Run, tmp_path: Path, capsys: Capture) -> None:
    whole, parts = copy_of(tuned_run, tmp_path / "whole"), copy_of(tuned_run, tmp_path / "parts")
    words = ("--memory.rule", "none", "--memory.cache", "learned")
    assert run("metatrain", whole, *words) == 0
    passes = []
    for steps, number in ((7, signal.SIGTERM), (20, signal.SIGINT)):
        assert stopped_after(steps, number, "metatrain", parts, *words) == 128 + number
        saved = max((parts / "checkpoints").glob("gate-none-stream-*.safetensors"))
        passes.append(int(saved.stem[-8:]))
        assert str(saved) in capsys.readouterr().err
    assert passes[1] > passes[0] > 0
    assert run("metatrain", parts, *words) == 0
    assert memory_of(whole) == memory_of(parts)
