"""Level-1 training that was stopped resumes bit for bit, and only with the options that it was begun with."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from dynlm.errors import UserError
from dynlm.train.config import Config
from dynlm.train.optimizers import Optimiser
from dynlm.train.pretrain import pretrain
from tests.tiny import Run, listing, tiny_config
from tests.train.test_pretrain import DROPOUTS, SHORT, assert_equal, log, losses, weights


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the training stopped as by Ctrl-C before its ``step``-th step of the optimiser."""
    taken = 0
    whole = Optimiser.step

    def counted(self: Optimiser, rate: float) -> None:
        nonlocal taken
        taken += 1
        if taken == step:
            raise KeyboardInterrupt
        whole(self, rate)

    monkeypatch.setattr(Optimiser, "step", counted)


@pytest.mark.parametrize("stopped_at", [3, 7, 10])
def test_stopped_training_resumes_bit_for_bit(
    stopped_at: int, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tiny_config(tiny_corpus, tmp_path / "whole", pretrain=SHORT, regularisation=DROPOUTS)
    pretrain(whole, quiet=True)
    parts = dataclasses.replace(whole, run=dataclasses.replace(whole.run, folder=str(tmp_path / "parts")))
    with monkeypatch.context() as patch:
        stop_at(stopped_at, patch)
        with pytest.raises(KeyboardInterrupt):
            pretrain(parts, quiet=True)
    assert not (parts.run.path / "model.json").exists()
    before = len(log(parts))
    pretrain(parts, quiet=True)
    first = next(line["step"] for line in log(parts)[before:] if "loss" in line)
    assert first == (stopped_at - 1) // 4 * 4 + 1, "resumed from the newest checkpoint"
    assert_equal(weights(whole), weights(parts))
    assert losses(parts)[-3:] == losses(whole)[-3:]


def test_averaging_is_resumed_too(tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A rate this large makes validation worse now and then, which is what averaging waits for.
    options = {**SHORT, "optimizer": "nt-asgd", "lr": 30.0, "clip": 0.25, "validate_every": 1, "patience": 1}
    whole = tiny_config(tiny_corpus, tmp_path / "whole", pretrain=options)
    pretrain(whole, quiet=True)
    begins = [line["step"] for line in log(whole) if line.get("averaging")]
    assert len(begins) == 1
    parts = dataclasses.replace(whole, run=dataclasses.replace(whole.run, folder=str(tmp_path / "parts")))
    with monkeypatch.context() as patch:
        stop_at(max(begins[0] + 2, 6), patch)
        with pytest.raises(KeyboardInterrupt):
            pretrain(parts, quiet=True)
    pretrain(parts, quiet=True)
    assert_equal(weights(whole), weights(parts))


def test_a_trained_run_is_never_trained_over(run_copy: Run) -> None:
    config = dataclasses.replace(
        run_copy.config, run=dataclasses.replace(run_copy.config.run, folder=str(run_copy.folder.parent))
    )
    before = listing(run_copy.folder)
    with pytest.raises(UserError, match="trained already"):
        pretrain(config, quiet=True)
    assert listing(run_copy.folder) == before


def begun(corpus: Path, runs: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """The options of a run that was stopped at its second step."""
    config = tiny_config(corpus, runs, pretrain=SHORT)
    with monkeypatch.context() as patch:
        stop_at(2, patch)
        with pytest.raises(KeyboardInterrupt):
            pretrain(config, quiet=True)
    return config


@pytest.mark.parametrize(
    "section, option, value",
    [("pretrain", "lr", 0.5), ("model", "embedding", 16), ("corpus", "meta_every", 5), ("run", "seed", 9)],
)
def test_other_options_do_not_resume_a_run(
    section: str, option: str, value: Any, tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = begun(tiny_corpus, tmp_path, monkeypatch)
    before = listing(config.run.path)
    other = dataclasses.replace(getattr(config, section), **{option: value})
    with pytest.raises(UserError, match=rf"begun with {section}\.{option}"):
        pretrain(dataclasses.replace(config, **{section: other}), quiet=True)
    assert listing(config.run.path) == before


def test_another_number_of_tokenizer_processes_resumes_a_run(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = begun(tiny_corpus, tmp_path, monkeypatch)
    pretrain(dataclasses.replace(config, corpus=dataclasses.replace(config.corpus, num_proc=2)), quiet=True)
    assert (config.run.path / "model.json").exists()


def test_a_truncated_checkpoint_is_named_and_the_previous_one_used(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = tiny_config(tiny_corpus, tmp_path / "whole", pretrain=SHORT)
    pretrain(whole, quiet=True)
    config = tiny_config(tiny_corpus, tmp_path / "cut", pretrain=SHORT)
    with monkeypatch.context() as patch:
        stop_at(10, patch)
        with pytest.raises(KeyboardInterrupt):
            pretrain(config, quiet=True)
    newest = config.run.path / "checkpoints" / "step-00000008.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    capsys.readouterr()
    pretrain(config, quiet=True)
    said = capsys.readouterr().err
    assert said.startswith(f"dynlm: warning: {newest}: not a whole safetensors file")
    assert said.count("\n") == 1
    assert [line["step"] for line in log(config) if line["event"] == "resumed"] == [4]
    assert_equal(weights(whole), weights(config))


def test_what_fails_after_the_last_step_is_not_trained_again(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(tiny_corpus, tmp_path, pretrain=SHORT)

    def failing(*_: Any) -> Any:
        raise MemoryError

    with monkeypatch.context() as patched, pytest.raises(MemoryError):
        patched.setattr("dynlm.train.pretrain_loop.perplexity", failing)
        pretrain(config, quiet=True)
    steps = len(losses(config))
    pretrain(config, quiet=True)
    assert len(losses(config)) == steps
    assert (config.run.path / "model.safetensors").exists()
