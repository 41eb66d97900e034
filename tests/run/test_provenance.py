"""What a run says it was made with, and that one seed makes it again."""

from __future__ import annotations

import json
import platform
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

import dynlm
from dynlm.data.articles import iter_articles
from dynlm.data.spool import content_of
from dynlm.errors import UserError
from dynlm.evaluation.protocol import ArticleOrder
from dynlm.evaluation.score_file import read_scores
from dynlm.run import provenance
from dynlm.run.provenance import differences, made_with, record_sitting, rounds_alike
from dynlm.train.pretrain import pretrain
from tests.tiny import Run, listing, scored, tiny_config, with_memory
from tests.trainings import metatrain, tune


def test_a_run_records_what_made_it(trained_run: Run) -> None:
    content = json.loads((trained_run.folder / "provenance.json").read_text())
    assert set(content["data"]) == {"train", "meta", "valid", "test"}
    for split, told in content["data"].items():
        assert told == content_of(iter_articles(trained_run.config.corpus, split))
    (sitting,) = content["sittings"]
    assert sitting["versions"]["python"] == platform.python_version()
    assert set(sitting["versions"]) == {"dynlm", "python", "torch", "numpy", "sentencepiece"}
    assert sitting["platform"]["threads"] == torch.get_num_threads()
    assert sitting["date"] and sitting["platform"]["machine"] and sitting["platform"]["processor"]


def test_the_commit_is_that_of_the_code_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")

    def git(*words: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.run(
            ["git", *identity, "-C", str(tmp_path), *words], check=True, capture_output=True, text=True
        ).stdout.strip()

    code = tmp_path / "dynlm"
    code.mkdir()
    (code / "__init__.py").write_text("")
    monkeypatch.setattr(dynlm, "__file__", str(code / "__init__.py"))
    git("init", "-q")
    assert (made_with()["commit"], made_with()["dirty"]) == (None, None)  # in a checkout that does not know it
    git("add", ".")
    git("commit", "-qm", "first")
    assert (made_with()["commit"], made_with()["dirty"]) == (git("rev-parse", "HEAD"), False)
    (tmp_path / "notes.txt").write_text("beside the code")
    assert made_with()["dirty"] is False
    (code / "new.py").write_text("")
    assert made_with()["dirty"] is True


def test_what_changed_is_told_and_what_decides_rounding_is_known() -> None:
    then, now = made_with(), made_with()
    assert rounds_alike(then, now)
    then["commit"] = now["commit"] = "a" * 40
    then["dirty"] = now["dirty"] = False
    assert differences(then, now) == []
    then["versions"]["python"] = "3.0"
    assert differences(then, now) == [f"python 3.0 then, {platform.python_version()} now"]
    assert rounds_alike(then, now)
    then["versions"]["torch"] = "1.0"
    then["commit"] = "b" * 40
    assert len(differences(then, now)) == 3
    assert not rounds_alike(then, now)
    assert not rounds_alike({}, now) and len(differences({}, now)) > 5


def test_sittings_are_told_when_something_changed(tmp_path: Path) -> None:
    data, made = {"train": {"articles": 3, "fingerprint": "f"}}, made_with()
    for _ in range(2):
        record_sitting(tmp_path, data, {**made, "date": "later"})
    record_sitting(tmp_path, data, {**made, "commit": "other"})
    content = json.loads((tmp_path / provenance.FILE).read_text())
    assert [sitting["commit"] for sitting in content["sittings"]] == [made["commit"], "other"]
    with pytest.raises(UserError, match="the text of split 'train' is not the one that this run was started with"):
        record_sitting(tmp_path, {"train": {"articles": 3, "fingerprint": "g"}}, made)
    assert json.loads((tmp_path / provenance.FILE).read_text()) == content
    for wrong in ("[]", '{"sittings": 3}'):
        (tmp_path / provenance.FILE).write_text(wrong)
        with pytest.raises(UserError, match=r"provenance\.json"):
            record_sitting(tmp_path, data, made)


def _untimed(content: Any) -> Any:
    """Return JSON content without the seconds that something took, which differ from one time to the next."""
    if not isinstance(content, dict):
        return content
    return {name: _untimed(value) for name, value in content.items() if name != "seconds"}


def _without_seconds(path: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Return the bytes of a file's tensors, and its card."""
    with safe_open(path, "numpy") as file:
        card = {name: _untimed(json.loads(value)) for name, value in (file.metadata() or {}).items()}
        return {name: file.get_tensor(name).tobytes() for name in file.keys()}, card  # noqa: SIM118


def test_one_seed_fixes_everything(tiny_corpus: Path, tmp_path: Path) -> None:
    """Weights, statistics, rates, phi and scores, whatever the global generators were left at."""
    made = []
    for index, name in enumerate(("one", "two")):
        random.seed(index)
        np.random.seed(index)
        torch.manual_seed(index)
        config = tiny_config(tiny_corpus, tmp_path / name, pretrain={"epochs": 0.5}, regularisation={"weight": 0.3})
        pretrain(config, quiet=True)
        tune(config.run.path, config)
        metatrain(config.run.path, config)
        scored(config.run.path, with_memory(config, rule="meta"), "4-5", order=ArticleOrder("shuffled", 2))
        files = listing(config.run.path)
        of_tensors = [file for file in files if Path(file).suffix == ".safetensors"]
        made.append({file: _without_seconds(config.run.path / file) for file in of_tensors})
        made[-1]["tuned"] = _untimed(json.loads(files["memory/tuned.json"]))
        (parquet,) = (file for file in files if file.endswith(".parquet"))
        made[-1]["nats"] = read_scores(config.run.path / parquet).nats.tobytes()
    assert len(made[0]) >= 5
    assert made[0].keys() == made[1].keys()
    assert [name for name in made[0] if made[0][name] != made[1][name]] == []
