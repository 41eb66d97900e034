"""Variants read with the static weights of another run: of the same tokenizer and text, or refused in one line."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dynlm.evaluation.score_file import read_scores
from dynlm.study import pages
from dynlm.train.pretrain import pretrain
from tests.study.test_run import Capture, output_of, study_file
from tests.tiny import Run, listing

VARIANTS: list[dict[str, Any]] = [
    {"name": "level 1", "memory": {"rule": "none"}},
    {"name": "larger static", "run": "larger"},
    {"name": "given", "memory": {"rule": "sgd", "lr": 0.1}, "over": "larger static"},
]


def options(made: Run, folder: Path, variants: list[dict[str, Any]] = VARIANTS) -> Path:
    chosen = {"variants": variants, "resets": ["article"], "pairs": [], "baselines": ["level 1"]}
    return study_file(folder, made, **chosen)


def train_beside(made: Run, **changes: Any) -> Path:
    """Train a run called larger beside ``made``."""
    run = made.config.run.replace(folder=str(made.folder.parent), name="larger")
    config = dataclasses.replace(made.config, run=run, pretrain=made.config.pretrain.replace(epochs=0.2), **changes)
    pretrain(config, quiet=True)
    return config.run.path


def test_a_static_model_of_another_run_is_a_row(
    run_copy: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(pages, "plot_run", lambda *_: [])
    config = options(run_copy, tmp_path)
    before = listing(run_copy.folder)
    missing = output_of(capsys, 2, "--config", config)
    made = run_copy.folder / "config.yaml"
    assert f"train it: `dynlm pretrain --config {made} --run.name larger` with a larger model" in missing
    assert listing(run_copy.folder) == before

    folder = train_beside(run_copy, model=run_copy.config.model.replace(embedding=48))
    kept = listing(folder)
    answer = json.loads(output_of(capsys, 0, "--config", config, "--json"))
    rows = {each["variant"]: each for each in answer["readings"]}
    scores = read_scores(run_copy.folder / "study" / "scores" / "larger-static.parquet")
    assert scores.protocol["run"] == "larger" and scores.protocol["level"] == 1
    card = json.loads((folder / "model.json").read_text())
    assert scores.protocol["model"] == card["fingerprint"] != rows["level 1"]["file"]
    row = rows["larger static"]
    assert row["cost"]["seconds"] > 0 and row["reset"] is None
    assert row["gains"][0]["nats"] == pytest.approx(rows["level 1"]["nats_per_token"] - row["nats_per_token"], abs=1e-6)
    own = rows["given"]["own_gain"]
    assert own["over"]["variant"] == "larger static"
    assert own["nats"] == pytest.approx(row["nats_per_token"] - rows["given"]["nats_per_token"], abs=1e-6)
    page = (run_copy.folder / "study" / "README.md").read_text()
    assert f"larger static: static weights of another run, larger, model {card['fingerprint']}" in page
    assert "the same for all" not in page
    assert listing(folder) == kept

    # With other weights it is read again.
    shutil.rmtree(folder)
    train_beside(run_copy, model=run_copy.config.model.replace(embedding=40))
    out = output_of(capsys, 0, "--config", config)
    assert "reading valid 4-6: larger static" in out and "reused: the reading of level 1" in out

    # A cache beside it would have to be tuned there.
    cached = [*VARIANTS, {"name": "cached", "run": "larger", "memory": {"cache": "fixed", "reset": "article"}}]
    out = output_of(capsys, 2, "--config", options(run_copy, tmp_path, cached))
    assert "larger: it holds no cache beside none under article" in out


@pytest.mark.parametrize(
    "entry, message",
    [
        (
            {"run": "larger", "memory": {"rule": "rms"}},
            "only static weights are read, memory.rule is 'rms'",
        ),
        ({"run": "../larger"}, "variant 'larger static': run is '../larger'"),
        ({"run": ["larger"]}, "variant 'larger static': run is ['larger']; write a name"),
        ({"over": "larger static"}, "variant 'larger static': its gain is over itself"),
        ({"over": "none"}, "study.variants names 'none', which is no variant"),
        ({"over": 3}, "variant 'larger static': over is 3; write a name"),
    ],
)
def test_a_variant_that_cannot_be_is_refused(
    entry: dict[str, Any], message: str, trained_run: Run, tmp_path: Path, capsys: Capture
) -> None:
    variants = [VARIANTS[0], {"name": "larger static", **entry}]
    assert message in output_of(capsys, 2, "--config", options(trained_run, tmp_path, variants))


def test_another_tokenizer_or_text_is_refused(run_copy: Run, tmp_path: Path, capsys: Capture) -> None:
    config = options(run_copy, tmp_path)
    folder = train_beside(run_copy, tokenizer=run_copy.config.tokenizer.replace(vocab_size=410))
    assert "variant 'larger static': this run has another tokenizer than the study's" in output_of(
        capsys, 2, "--config", config
    )
    # The same tokenizer and weights, trained on another text.
    shutil.rmtree(folder)
    shutil.copytree(run_copy.folder, folder)
    other = json.loads((folder / "provenance.json").read_text())
    other["data"]["train"]["fingerprint"] = "another"
    (folder / "provenance.json").write_text(json.dumps(other))
    assert "variant 'larger static': this run was trained on another text" in output_of(capsys, 2, "--config", config)
