"""``dynlm learn``: from a folder of texts to a report, interrupted and repeated, or read by a model at hand."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dynlm.cli.main import COMMANDS, main
from dynlm.run import locate
from dynlm.run.run import Run as OpenRun
from dynlm.runtime import signals
from dynlm.study import learn, main_job
from dynlm.study.fit import TextSize, fit
from dynlm.train.config import Config
from tests.cli.commands import Capture, answer, answer_json, refused
from tests.tiny import Run, article

QUICK = ["--run.cpu", "true", "--learn.fewest_words", "5000", "--learn.budget", "0.01"]
STEPS = ("pretrain", "tune", "metatrain", "score", "plot_run", "heatmap_run", "report_run")


def write_texts(folder: Path) -> Path:
    """Write over 5,000 words in files of all formats, and some that are none."""
    rng = np.random.default_rng(0)
    texts = [article(rng, 60) for _ in range(9)]
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text("".join(texts[:4]))
    (folder / "deep" / "b.md").write_text("# Five\n\n" + texts[4].replace(" = ", " "))
    (folder / "c.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[5:7]))
    pq.write_table(pa.table({"text": texts[7:8], "title": ["P"]}), folder / "d.parquet")
    (folder / "e.txt.gz").write_bytes(gzip.compress(texts[8].encode()))
    (folder / "f.png").write_bytes(b"\x89PNG\0")
    return folder


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def quickly(config: Config, size: TextSize, budget: float) -> Config:
    """``fit``, with still less to tune, to learn and to score."""
    fitted = fit(config, size, budget)
    fitted.corpus = fitted.corpus.replace(hold_out_every=15)
    fitted.tune = fitted.tune.replace(tokens=300, fewest_tokens=100, statistics_tokens=400)
    fitted.metatrain = fitted.metatrain.replace(tokens=600, pick_tokens=300)
    return fitted


def changed(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_folder_becomes_a_report(work: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    texts, words = write_texts(work / "texts"), ["learn", "texts", "--run.name", "mine", *QUICK]

    def stop(*_: Any, **__: Any) -> None:
        raise signals.Stopped

    monkeypatch.setattr(learn, "fit", quickly)
    for name in ("plot_run", "heatmap_run"):  # They have tests of their own.
        monkeypatch.setattr(main_job, name, lambda *_: [])
    with monkeypatch.context() as patch:
        patch.setattr(main_job, "metatrain", stop)
        assert main(words) == 130
    said = capsys.readouterr()
    assert "read texts: 9 texts of " in said.out and "in 2 .txt, 1 .jsonl, 1 .md, 1 .parquet" in said.out
    assert "not read: texts/f.png: line 1: NUL" in said.out and "texts over 300 words were cut" in said.out
    assert "the same command goes on" in said.err
    held = changed(work / "runs" / "mine")
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)
    said_then = answer(capsys, *words)
    run, page = work / "runs" / "mine", work / "runs" / "mine" / "figures" / "report.html"
    for path in (run / "model.safetensors", run / "memory" / "tuned.json"):
        assert held[path] == path.stat().st_mtime_ns, "it goes on where it was stopped"
    assert "perplexity per word" in said_then and "report: runs/mine/figures/report.html" in said_then
    assert page.stat().st_size > 10_000 and not opened
    splits = [OpenRun.open(run).split(name) for name in ("train", "meta", "valid", "test")]
    assert all(split.articles for split in splits) and "a, part 1" not in splits[0].titles

    # Again: nothing is done, the answer is the same.
    before = changed(run)
    with monkeypatch.context() as patch:
        for name in set(STEPS) - {"score"}:
            patch.setattr(main_job, name, stop)
        told = answer_json(capsys, *words, "--open")
    assert changed(run) == before and opened == [page.as_uri()]
    assert [each["label"] for each in told["variants"]] == ["level 1", "rms", "meta"]
    assert told["texts"]["skipped"].keys() == {"texts/f.png"} and str(page.relative_to(work)) in told["files"]

    # Another budget, another text, another command's run.
    assert "learn.budget 0.02 is not what" in refused(capsys, *words, "--learn.budget", "0.02")
    (texts / "g.txt").write_text("more")
    assert "these texts are not what this run was begun with" in refused(capsys, *words)
    (texts / "g.txt").unlink()
    (run / learn.FILE).unlink()
    assert "made by another command" in refused(capsys, *words)


def test_too_few_texts_are_read_by_a_model_at_hand(
    tuned_copy: Run, work: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    texts = work / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text(" the bafidela of the town was seen near a bafidela .\n" * 9)
    (texts / "b.png").write_bytes(b"\x89PNG\0")
    monkeypatch.setattr(locate, "MODELS", ())
    assert "no model 'wikitext-2-small'" in refused(capsys, "learn", "texts")
    assert "99 words are too few to train on, which takes 100,000" in refused(capsys, "learn", "texts")
    monkeypatch.setattr(locate, "MODELS", (tuned_copy.folder.parent,))
    model = ["--learn.model", tuned_copy.folder.name, "--run.cpu", "true"]
    said = answer(capsys, "learn", "texts", *model)
    assert f"{tuned_copy.folder.name} reads them instead" in said and "not read: texts/b.png" in said
    assert "nats per token before each was learned from" in said and "bafidela" in said
    told = answer_json(capsys, "learn", "texts", *model)
    assert [text["title"] for text in told["texts"]] == ["texts/a.txt"]
    assert sorted(path.name for path in work.iterdir() if path.name != tuned_copy.folder.parent.name) == ["texts"]


@pytest.mark.parametrize(
    ("files", "what"),
    [
        ({}, "no text in this folder"),
        ({"a.png": b"\x89PNG\0", "b.pdf": b"%PDF"}, "no text in this folder (own/a.png: line 1: NUL character"),
        (None, "own: no such file or folder"),
        (b"\0", "own:1: NUL character"),
    ],
)
def test_what_holds_no_text_is_refused_in_one_line(files: Any, what: str, work: Path, capsys: Capture) -> None:
    if isinstance(files, dict):
        (work / "own").mkdir()
        for name, content in files.items():
            (work / "own" / name).write_bytes(content)
    elif files is not None:
        (work / "own").write_bytes(files)
    before = sorted(work.rglob("*"))
    assert what in refused(capsys, "learn", "own")
    assert sorted(work.rglob("*")) == before


def test_options_that_are_fitted_are_not_taken(work: Path, capsys: Capture) -> None:
    (work / "own.txt").write_text("text")
    assert "pretrain" in refused(capsys, "learn", "own.txt", "--pretrain.epochs", "3")
    assert "learn.fewest_words is 10" in refused(capsys, "learn", "own.txt", "--learn.fewest_words", "10")
    assert COMMANDS["learn"].resumes
