"""The honest table: a study of an adopted transformer does not take context for memory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="the extra dynlm[hf] is not installed")

from dynlm.cli.main import main
from dynlm.evaluation.score_file import read_scores
from dynlm.models.options import ModelOptions
from dynlm.run.run import Run
from dynlm.runtime.validation import section_of
from dynlm.study import pages

Capture = pytest.CaptureFixture[str]
CONTEXT, STRIDE = 48, 24
MEMORY = ["--memory.rule", "adam", "--memory.lr", "0.01", "--memory.segment", "16"]
ROWS = ["static, disjoint windows", "static", "adam, article", "adam, stream, in order"]
pytestmark = pytest.mark.parametrize("pretrained", ["llama"], indirect=True)


@pytest.fixture
def run(adopted: Path, tmp_path: Path) -> Path:
    """A copy of the adopted run to be written to."""
    return Path(shutil.copytree(adopted, tmp_path / "runs" / "tiny"))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies without pictures, which take most of their time."""
    monkeypatch.setattr(pages, "plot_run", lambda *_: [])


def answer(capsys: Capture, *words: object) -> dict[str, Any]:
    """Return what a command prints with ``--json``."""
    capsys.readouterr()
    assert main([*map(str, words), "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def study(capsys: Capture, run: Path, *words: object) -> dict[str, Any]:
    fixed = ["--study.articles", "4-5", "--study.resamples", "50", "--tune.articles", "1-3"]
    return answer(capsys, "study", run, *fixed, *words)


def label(row: dict[str, Any]) -> str:
    return ", ".join(part for part in (row["variant"], row["reset"], row["order"]) if part)


def test_four_rows_tell_memory_from_context(run: Path, capsys: Capture) -> None:
    found = study(capsys, run, *MEMORY)
    rows = {label(row): row for row in found["readings"]}
    assert list(rows) == ROWS
    own = {"context": CONTEXT, "stride": STRIDE, "refresh": 0}
    assert [row["reading"] for row in rows.values()] == [{**own, "stride": CONTEXT}, own, own, own]
    static = rows["static"]["nats_per_token"]
    assert rows["static"]["gains"] == [{"over": {"variant": "static", "reset": None, "order": None}, "nats": None}]
    for name in (ROWS[0], *ROWS[2:]):
        (gain,) = rows[name]["gains"]
        assert gain["over"]["variant"] == "static" and gain["low"] <= gain["nats"] <= gain["high"]
        assert gain["nats"] == pytest.approx(static - rows[name]["nats_per_token"], abs=1e-6)
    assert rows["adam, article"]["gains"][0]["nats"] > 0
    assert all(row["cost"]["seconds"] > 0 for row in rows.values())

    table = (run / "study" / "table.md").read_text()
    headings = [cell.strip() for cell in table.splitlines()[0].split("|")[1:-1]]
    assert headings[3:5] == ["context", "stride"] and headings[-3:] == ["seconds", "tokens/s", "peak MB"]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]][3:5] for line in table.splitlines()[2:]]
    assert cells == [["48", "48"], ["48", "24"], ["48", "24"], ["48", "24"]]
    page = (run / "study" / "README.md").read_text()
    assert "## Context and memory" in page and table.splitlines()[2] in page


@pytest.mark.usefixtures("undrawn")
def test_rows_are_what_score_gives_and_are_not_read_again(run: Path, capsys: Capture) -> None:
    found = study(capsys, run, *MEMORY)
    paths = {label(row): Path(row["file"]) for row in found["readings"]}
    static = ["--memory.rule", "none", "--memory.segment", "16"]
    alone = [
        [*static, "--model.stride", CONTEXT],
        static,
        [*MEMORY, "--memory.reset", "article"],
        [*MEMORY, "--memory.reset", "stream"],
    ]
    files = []
    for name, words in zip(ROWS, alone, strict=True):
        files.append(answer(capsys, "score", run, "--articles", "4-5", *words)["file"])
        assert (read_scores(paths[name]).nats == read_scores(Path(files[-1])).nats).all(), name
    assert len(set(files)) == 4
    labels = [each["label"] for each in answer(capsys, "compare", *files)["variants"]]
    own = f"context {CONTEXT}, stride"
    assert labels[:2] == [f"level 1, {own} {CONTEXT}", f"level 1, {own} {STRIDE}"] and len(set(labels)) == 4
    assert main(["verify", str(run / "study")]) == 0

    before = {path: path.stat().st_mtime_ns for path in paths.values()}
    assert study(capsys, run, *MEMORY)["readings"] == found["readings"]
    assert {path: path.stat().st_mtime_ns for path in paths.values()} == before
    # Another context is another reading, of each row.
    other = study(capsys, run, *MEMORY, "--model.context", "32", "--model.stride", "16")
    assert all(path.stat().st_mtime_ns != at for path, at in before.items())
    assert [row["reading"]["context"] for row in other["readings"]] == [32] * 4


def test_disjoint_windows_are_the_models_own_loss(run: Path, pretrained: Path, capsys: Capture) -> None:
    """Windows of 48 inputs, each from scratch: the first token of one is predicted from the one before it alone."""
    from transformers import AutoModelForCausalLM

    words = ["--memory.rule", "none", "--memory.segment", "16", "--model.stride", CONTEXT]
    scores = read_scores(Path(answer(capsys, "score", run, *words)["file"]))
    module = AutoModelForCausalLM.from_pretrained(pretrained).eval()
    start = Run.open(run).split("valid").start_token
    for article in scores.articles:
        rows = scores.rows(int(article))
        targets_N = torch.from_numpy(scores.token[rows].astype(np.int64))
        inputs_N = torch.cat([torch.tensor([start]), targets_N[:-1]])
        parts = []
        for inputs_T, targets_T in zip(inputs_N.split(CONTEXT), targets_N.split(CONTEXT), strict=True):
            with torch.no_grad():
                logits_TV = module(inputs_T[None]).logits[0]
            parts.append(torch.nn.functional.cross_entropy(logits_TV, targets_T, reduction="none"))
        assert len(parts) > 2
        np.testing.assert_allclose(scores.nats[rows], torch.cat(parts), rtol=1e-4, atol=1e-4)


def test_another_reading_of_a_run_changes_no_other(run: Path) -> None:
    opened = Run.open(run)
    own = opened.trained
    chosen = opened.section(ModelOptions).replace(context=32, stride=32)
    other = opened.with_sections(chosen).trained
    assert other.model.options.reading() == {"context": 32, "stride": 32, "refresh": 0}
    assert opened.trained is own and own.model.options.reading()["context"] == CONTEXT
    assert other.fingerprint == own.fingerprint and all(other.params[n] is own.params[n] for n in own.params)
    assert opened.with_sections(chosen.replace()).trained is other
    # What is no option of reading stays as the model was made.
    eager = opened.with_sections(section_of(ModelOptions, {**vars(chosen), "attention": "eager", "architecture": "{}"}))
    assert eager.trained is other


def test_options_of_reading_are_in_the_help_of_a_transformers_run(run: Path, capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main(["score", str(run), "--help"])
    shown = capsys.readouterr().out
    assert all(f"--model.{name}" in shown for name in ("context", "stride", "refresh"))
    assert "--model.architecture" not in shown and "(default: 48)" in shown
    for words, said in (
        (["--model.context", "16"], "model.stride is 24, more than model.context 16"),
        (["--model.attention", "eager"], "--model.attention"),
    ):
        assert main(["score", str(run), *words]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.usefixtures("undrawn")
def test_factors_and_all_weights_are_variants_of_one_study(run: Path, tmp_path: Path, capsys: Capture) -> None:
    """Each has its own rates and gradient statistics; all are read with a context of their own."""
    variants = [
        {"name": "static", "memory": {"rule": "none"}},
        {"name": "static, 32", "memory": {"rule": "none"}, "model": {"context": 32, "stride": 16}},
        {"name": "all", "memory": {"rule": "rms", "reset": "article"}},
        {"name": "LoRA", "memory": {"rule": "rms", "lora_rank": 2, "reset": "article"}},
        {
            "name": "LoRA, 32",
            "memory": {"rule": "adam", "lora_rank": 2, "lr": 0.01, "reset": "article"},
            "model": {"context": 32, "stride": 16},
        },
    ]
    chosen = tmp_path / "study.yaml"
    tuning = {"tokens": 300, "fewest_tokens": 100, "rounds": 0, "statistics_tokens": 300}
    asked = {"variants": variants, "baselines": ["static"], "pairs": []}
    chosen.write_text(json.dumps({"model": {"kind": "hf"}, "study": asked, "tune": tuning}))
    found = study(capsys, run, "--config", chosen, "--memory.segment", "16")
    rows = {row["variant"]: row for row in found["readings"]}
    assert [row["gains"][0]["over"]["variant"] for row in rows.values()] == [*["static"] * 4, "static, 32"]
    slots = {name: [each["slot"] for each in row["found"]] for name, row in rows.items()}
    assert len(slots["all"]) == len(slots["LoRA"]) == 2 and not {*slots["all"]} & {*slots["LoRA"]}
    assert (run / "memory" / "statistics.safetensors").exists() and len([*run.glob("memory/lora2-*/tuned.json")]) == 1


def test_a_run_that_was_not_adopted_is_not_pretrained(run: Path, tiny_corpus: Path, capsys: Capture) -> None:
    capsys.readouterr()
    folder = ["--run.folder", str(run.parent), "--run.name"]
    assert main(["study", "--config", "study-transformer", *folder, "none"]) == 2
    assert "make it with `dynlm adopt SOURCE --run.name none` first" in capsys.readouterr().err
    words = ["--corpus.path", str(tiny_corpus), "--study.articles", "4-5", "--tune.articles", "1-3"]
    assert main(["study", *folder, "tiny", *words]) == 2
    assert "the run's model is of kind hf" in capsys.readouterr().err
    assert [path.name for path in run.parent.iterdir()] == ["tiny"]
