"""Fine-tuning that a signal stopped resumes at its window."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from dynlm.run.memory_store import MemoryStore
from tests.tiny import Run, listing
from tests.train.test_resuming import Capture, copy_of, log_of, run, stopped_after

FINETUNE = {
    "rms": ("--memory.rule", "rms"),
    "level 1": ("--memory.rule", "none", "--finetune.pick_rule", "rms"),
    "phi too": ("--memory.rule", "meta", "--finetune.phi", "true", "--finetune.lanes", "2"),
}


@pytest.mark.parametrize("options", FINETUNE.values(), ids=FINETUNE.keys())
def test_stopped_finetuning_resumes_at_its_window(
    options: tuple[str, ...], tuned_run: Run, tmp_path: Path, capsys: Capture
) -> None:
    shared = "--finetune.name new --finetune.tokens 900 --finetune.window 4 --finetune.lr 1e-3".split()
    words = (*options, *shared, "--finetune.pick_tokens", "100")
    found = []
    for name in ("whole", "parts"):
        folder = copy_of(tuned_run, tmp_path / name / "tiny")
        for steps, number in ((2, signal.SIGTERM), (3, signal.SIGINT)) if name == "parts" else ():
            capsys.readouterr()
            assert stopped_after(steps, number, "finetune", folder, *words) == 128 + number
            assert f"goes on from {folder / 'checkpoints' / 'finetune-new-0000000'}" in capsys.readouterr().err
            assert not (tmp_path / name / "new").exists()
        assert run("finetune", folder, *words) == 0
        assert not list((folder / "checkpoints").iterdir())
        files = listing(tmp_path / name / "new")
        card = json.loads(files["model.json"])
        windows = [{key: line.get(key) for key in ("tokens", "nats_of_window", "phi")} for line in log_of(folder)]
        memory = {path: content for path, content in files.items() if path.startswith("memory")}
        found.append((files["model.safetensors"], card["tuning_nats_per_token"], memory, windows))
        resumed = [line["checkpoint"][-8 - 12 :] for line in log_of(folder) if line["event"] == "resumed"]
        assert len(resumed) == (2 if name == "parts" else 0)
    whole, parts = found
    assert whole[:3] == parts[:3]
    assert [window for window in parts[3] if window["nats_of_window"]] == whole[3] and len(whole[3]) > 6


def test_a_new_run_that_was_half_written_is_written_again(
    tuned_copy: Run, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    words = (
        "finetune",
        tuned_copy.folder,
        "--memory.rule",
        "rms",
        *"--finetune.tokens 300 --finetune.name new".split(),
    )
    with monkeypatch.context() as patch:
        patch.setattr(MemoryStore, "copy_to", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        assert run(*words) == 143
    new = tuned_copy.folder.parent / "new"
    assert (new / "model.json").exists() and not (new / "memory").exists()
    assert run(*words) == 0
    assert (new / "memory" / "tuned.json").exists()
    capsys.readouterr()
    assert run(*words) == 2
    assert "there already" in capsys.readouterr().err
