"""`dynlm study` on a tiny run: whole, interrupted and resumed, on another text, and refused in one line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from dynlm.cli.config_files import load_options
from dynlm.cli.main import main
from dynlm.evaluation.compare import check_same_text
from dynlm.evaluation.overlap import overlaps
from dynlm.evaluation.score_file import read_scores, scores_of_run
from dynlm.study import reading
from dynlm.study.options import StudyOptions
from tests.tiny import Run, listing, write_corpus

Capture = pytest.CaptureFixture[str]
VARIANTS = [
    {"name": "level 1", "memory": {"rule": "none"}},
    {"name": "rms", "memory": {"rule": "rms"}},
    {"name": "g", "memory": {"rule": "meta", "g": "meta"}},
]
READINGS = ["level-1", "rms-stream-in-order", "rms-stream-shuffled", "rms-article"]
READINGS += ["g-stream-in-order", "g-stream-shuffled", "g-article"]


def study_file(folder: Path, made: Run, **study: Any) -> Path:
    """A study's config beside the run's own, on which it stands."""
    (folder / "base.yaml").write_text(yaml.safe_dump(dataclasses.asdict(made.config)))
    runs = {"folder": str(made.folder.parent), "name": made.folder.name, "cpu": True}
    asked = {"variants": VARIANTS, "articles": "4-6", "resamples": 50, "pairs": ["level 1:g"], **study}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({"base": "base.yaml", "run": runs, "study": asked}))
    return path


def output_of(capsys: Capture, code: int, *arguments: object) -> str:
    """Run ``dynlm study``, check its exit code, and return what it prints."""
    capsys.readouterr()
    assert main(["study", *map(str, arguments)]) == code
    out, err = capsys.readouterr()
    if code == 2:
        assert out == "" and err.startswith("dynlm: error: ") and err.count("\n") == 1, out + err
    return out + err


def changed(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_an_interrupted_study_resumes_and_repeats_nothing(
    run_copy: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    config, folder = study_file(tmp_path, run_copy), run_copy.folder
    weights = (folder / "model.safetensors").read_bytes()
    read: list[Path] = []

    def stopped(*arguments: Any, **named: Any) -> Any:
        if len(read) == 3:
            raise KeyboardInterrupt
        done = score(*arguments, **named)
        read.append(done[0])
        return done

    score = reading.score
    with monkeypatch.context() as patch:
        patch.setattr(reading, "score", stopped)
        assert "stopped" in output_of(capsys, 130, "--config", config)
    assert [path.stem for path in read] == READINGS[:3]
    before = {**changed(folder / "study" / "scores"), **changed(folder / "memory")}

    out = output_of(capsys, 0, "--config", config)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for what in ("gradient statistics R", "the rates of rms under article", "g (meta) under stream", "the reading"):
        assert f"reused: {what}" in out
    assert "reading valid 4-6: g, article" in out and "] finding" not in out
    assert (folder / "model.safetensors").read_bytes() == weights

    place = folder / "study"
    made = [read_scores(path) for path in scores_of_run(place)]
    assert sorted(path.stem for path in scores_of_run(place)) == sorted(READINGS)
    check_same_text(made)
    names = {"README.md", "table.md", "table.csv", "table.tex", "table.json", "words.md", "words.json", "config.yaml"}
    names |= {f"{picture}.{kind}" for picture in ("difference", "position") for kind in ("png", "svg", "pdf")}
    assert {path.name for path in place.iterdir()} == {*names, "scores"}
    content = json.loads((place / "table.json").read_text())
    assert [each["variant"] for each in content["readings"]] == ["level 1", *["rms"] * 3, *["g"] * 3]
    by_file = {Path(each["file"]).stem: each for each in content["readings"]}
    assert by_file["g-article"]["found"][1]["settings"] > 1
    in_order, shuffled = (read_scores(place / "scores" / f"rms-stream-{o}.parquet") for o in ("in-order", "shuffled"))
    assert shuffled.protocol["order"] == "shuffled, seed 0"
    assert (in_order.nats != shuffled.nats).any()
    assert main(["compare", str(place), "--resamples", "20"]) == 0

    # The saved options give the same study.
    kept = load_options(place / "config.yaml", StudyOptions)
    assert kept.base is None and kept.study.articles == "4-6" and kept.model == run_copy.config.model
    scores = changed(place / "scores")
    again = json.loads(output_of(capsys, 0, "--config", place / "config.yaml", "--json"))
    assert again["readings"] == content["readings"]
    assert changed(place / "scores") == scores

    # Another setting of a variant is another reading, and only of that variant.
    output_of(capsys, 0, "--config", config, "--study.seed", "1", "--study.resamples", "20")
    moved = {path.stem for path, at in changed(place / "scores").items() if scores[path] != at}
    assert moved == {"rms-stream-shuffled", "g-stream-shuffled"}


def test_a_damaged_reading_is_made_again(tuned_copy: Run, tmp_path: Path, capsys: Capture) -> None:
    options = ["--config", study_file(tmp_path, tuned_copy, resets=["article"], tune=False)]
    output_of(capsys, 0, *options)
    path = tuned_copy.folder / "study" / "scores" / "g-article.parquet"
    whole = read_scores(path)
    path.write_bytes(path.read_bytes()[:-100])
    out = output_of(capsys, 0, *options)
    assert "reading valid 4-6: g, article" in out and "reused: the reading of rms, article" in out
    assert (read_scores(path).nats == whole.nats).all()


def test_a_new_text_is_read_with_what_the_run_holds(tuned_copy: Run, tmp_path: Path, capsys: Capture) -> None:
    other = write_corpus(tmp_path / "other", seed=7)
    memory = listing(tuned_copy.folder / "memory")
    options = ["--config", study_file(tmp_path, tuned_copy, tune=False, articles="all", split="test")]
    options += ["--corpus.path", other, "--study.name", "other"]
    output_of(capsys, 0, *options)
    assert listing(tuned_copy.folder / "memory") == memory
    place = tuned_copy.folder / "other"
    scores = read_scores(place / "scores" / "g-article.parquet")
    assert b"".join(scores.surface).decode().split() == (other / "test.txt").read_text().split()
    assert "nothing was tuned on this text" in (place / "README.md").read_text()
    records = scores.protocol["tuned_on"]
    assert records and all(record["corpus"] != scores.protocol["corpus"] for record in records)
    assert overlaps(scores.protocol) == []
    # Its folder is not for another text.
    assert "a study of another text; choose another --study.name" in output_of(
        capsys, 2, *options, "--study.split", "valid"
    )


def test_a_missing_slot_is_reported(run_copy: Run, tmp_path: Path, capsys: Capture) -> None:
    config, before = study_file(tmp_path, run_copy, tune=False), listing(run_copy.folder)
    assert "it holds no gradient statistics R; leave out --study.tune false" in output_of(capsys, 2, "--config", config)
    assert listing(run_copy.folder) == before
    missing = output_of(capsys, 2, "--config", config, "--run.name", "none")
    assert "no such run folder; run `dynlm pretrain` first" in missing
    assert listing(run_copy.folder.parent / "tiny") == before


REFUSED: list[tuple[list[str], str]] = [
    (["--study.articles", "4-7"], "study.articles is '4-7' but there are 6 articles"),
    (["--study.articles", "3-6"], "article 3 of valid is in study.articles '3-6' and, for tuning, in tune.articles"),
    (["--study.variants", "[]"], "study.variants is empty"),
    (
        ["--study.variants", "[{name: level 1}, {name: rms, memory: {speed: 3}}]"],
        "variant 'rms': memory has no option 'speed'",
    ),
    (["--study.baselines", "[sgd]"], "study.baselines names 'sgd'"),
    (["--study.split", "dev"], "no split 'dev'"),
    (["--study.depth", "3"], "study.depth"),
    (["--base", "no-such.yaml"], "no-such.yaml"),
]


@pytest.mark.parametrize("arguments, message", REFUSED, ids=[message for _, message in REFUSED])
def test_bad_input_is_one_line(
    arguments: list[str], message: str, trained_run: Run, tmp_path: Path, capsys: Capture
) -> None:
    before = listing(trained_run.folder)
    assert message in output_of(capsys, 2, "--config", study_file(tmp_path, trained_run), *arguments)
    assert listing(trained_run.folder) == before


def test_articles_that_the_run_was_tuned_on_are_not_reported_on(
    tuned_run: Run, tmp_path: Path, capsys: Capture
) -> None:
    config, before = study_file(tmp_path, tuned_run, tune=False, articles="1-6"), listing(tuned_run.folder)
    line = output_of(capsys, 2, "--config", config)
    assert "the rates of rms under stream were tuned on article" in line
    assert listing(tuned_run.folder) == before


LAUNCHED = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}


def test_several_processes_are_refused(
    trained_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    assert "runs in one process" in output_of(capsys, 2, "--config", study_file(tmp_path, trained_run))
