"""Stopped by signals, meta-training and level-1 training go on bit for bit; what was made otherwise is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from torch.optim.optimizer import register_optimizer_step_post_hook

from dynlm.cli.app import main
from dynlm.run.folder import load_tensors
from dynlm.runtime.checkpoints import Checkpoints
from dynlm.train import pretrain as pretraining
from dynlm.train import tune as tuning
from tests.tiny import Run, as_yaml, listing, tiny_config

Capture = pytest.CaptureFixture[str]
SHORT = ("--metatrain.tokens", "700", "--metatrain.window", "4", "--metatrain.pick_tokens", "100")
G = {
    "rates alone": (),
    "all": "--g.flush true --g.importance true --g.features [fresh,surprise,distance] --g.consolidation 0.1".split(),
    "slow weights": "--g.slow true --g.flush true --g.consolidation 0.1".split(),
    "rows, momentum, level 2, articles": (
        "--g.sharing row --g.momentum 0.3 --g.level 2 --memory.reset article --metatrain.lanes 2".split()
    ),
}


def stopped_after(steps: int, number: int, *words: object) -> int:
    """``dynlm``'s exit code, a signal sent after so many steps of an optimiser."""
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


def learned(folder: Path, name: str) -> tuple[Any, ...]:
    """All that meta-training left: phi, what is told of it, and each window's nats and phi."""
    (path,) = (folder / "memory").glob(f"{name}-*.safetensors")
    tensors, about = load_tensors(path)
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    windows = {line["tokens"]: (line["nats_of_window"], line["phi"]) for line in log if line["event"] == "metatrain"}
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}, about, windows


@pytest.mark.parametrize("options", G.values(), ids=G.keys())
def test_meta_training_stopped_and_run_again_is_never_stopped(
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
    log = [json.loads(line) for line in (parts / "log.jsonl").read_text().splitlines()]
    resumed = [line["checkpoint"].rpartition("-")[2] for line in log if line["event"] == "resumed"]
    assert resumed == ["00000002.safetensors", "00000005.safetensors"]


def test_a_checkpoint_of_other_options_is_refused_in_one_line(tuned_copy: Run, capsys: Capture) -> None:
    folder = tuned_copy.folder
    words = ("--memory.g", "g", *SHORT)
    assert stopped_after(2, signal.SIGTERM, "metatrain", folder, *words) == 143
    before = listing(folder)
    capsys.readouterr()
    for option, value, said in (
        ("--metatrain.rate", "0.5", "metatrain.rate 0.02, not 0.5"),
        ("--g.features", "[fresh]", r"g.features [], not ['fresh']"),
        ("--run.seed", "3", "run.seed 0, not 3"),
    ):
        assert run("metatrain", folder, *words, option, value) == 2
        err = capsys.readouterr().err
        assert f"this checkpoint was made with {said}; " in err and err.count("\n") == 1
        assert listing(folder) == before
    # Under another name, or another policy, other things are learned; how often they are kept is nothing to them.
    assert run("metatrain", folder, *SHORT, "--memory.g", "other", "--metatrain.rate", "0.5") == 0
    assert run("metatrain", folder, *words, "--metatrain.checkpoint_every", "1", "--run.checkpoints_kept", "1") == 0
    # Other rates to start from, another result.
    assert stopped_after(2, signal.SIGTERM, "metatrain", folder, *words) == 143
    tuned = json.loads((folder / "memory" / "tuned.json").read_text())
    tuned["rms"]["stream"]["rate"] *= 2
    (folder / "memory" / "tuned.json").write_text(json.dumps(tuned))
    capsys.readouterr()
    assert run("metatrain", folder, *words) == 2
    assert "was made with the tuned rms [" in capsys.readouterr().err


def test_options_say_how_many_checkpoints_stay(tiny_corpus: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_corpus, tmp_path, run={"checkpoints_kept": 3}, pretrain={"checkpoint_every": 1})
    path = tmp_path / "config.yaml"
    path.write_text(as_yaml(config))
    assert stopped_after(5, signal.SIGTERM, "pretrain", "--config", path) == 143
    kept = sorted(found.name for found in (tmp_path / "tiny" / "checkpoints").iterdir())
    assert kept == [f"step-0000000{step}.safetensors" for step in (3, 4, 5)]


def test_a_run_killed_when_it_was_as_good_as_done_is_done(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Between the model's card and the end only checkpoints are dropped; the same command then does that."""
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
    """Whole, by its checksum, and made with these options: but what it holds is not what is looked for."""
    path = tmp_path / "config.yaml"
    path.write_text(as_yaml(tiny_config(tiny_corpus, tmp_path / "runs")))
    for folder, words in (
        (tmp_path / "runs" / "tiny", ("pretrain", "--config", path)),
        (tuned_copy.folder, ("metatrain", tuned_copy.folder, *SHORT)),
    ):
        assert stopped_after(2, signal.SIGTERM, *words) == 143
        (saved,) = (folder / "checkpoints").iterdir()
        stem = saved.stem.rpartition("-")[0]
        made_with = json.loads(load_tensors(saved)[1]["content"])["made_with"]
        for state in ({}, {"place": 3, "steps": 1, "step": 1}):
            Checkpoints(folder / "checkpoints", stem, made_with=made_with).save(9, {}, state)
            capsys.readouterr()
            assert run(*words) == 2
            err = capsys.readouterr().err
            assert "00000009.safetensors: a checkpoint of something else" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "verb, options", [("tune", ()), ("tune", ("--memory.cache", "fixed")), ("metatrain", ("--memory.cache", "learned"))]
)
def test_a_search_that_is_stopped_leaves_nothing_and_begins_anew(
    verb: str, options: tuple[str, ...], tuned_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = copy_of(tuned_run, tmp_path / "whole"), copy_of(tuned_run, tmp_path / "parts")
    assert run(verb, whole, *options) == 0
    before = {name: content for name, content in listing(parts).items() if name != "log.jsonl"}
    measured = 0

    def interrupted(*arguments: Any) -> Any:
        nonlocal measured
        measured += 1
        if measured == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return read(*arguments)

    from dynlm.train import cache as cache_gate

    module = tuning if not options else cache_gate
    name = "mean_nats" if not options else "mixture"
    read = getattr(module, name)
    with monkeypatch.context() as patch:
        patch.setattr(module, name, interrupted)
        assert run(verb, parts, *options) == 143
    assert {name: content for name, content in listing(parts).items() if name != "log.jsonl"} == before
    assert run(verb, parts, *options) == 0
    after = [{name: content for name, content in listing(each / "memory").items()} for each in (whole, parts)]
    assert after[0] == after[1]
