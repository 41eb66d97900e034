"""Figures and tables of few-shot runs, made from files alone, and their use in the report."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dynlm.errors import UserError
from dynlm.evaluation.export import to_markdown
from dynlm.fewshot.report.episode import unpack_images
from dynlm.fewshot.report.summary import as_export, as_text, published_accuracy, published_error, summarise, tables_of
from dynlm.fewshot.results import EpisodeScores, scores_of_runs, write_scores
from dynlm.report.fewshot_results import load_fewshot
from dynlm.report.palette import LIGHT
from tests.report.test_palette import pixels


def accuracies(learner: str = "maml", ways: int = 5, mean: float = 0.98, task: str = "omniglot") -> EpisodeScores:
    protocol = {
        "label": learner.upper(),
        "run": f"{task}-{learner}",
        "learner": learner,
        "metric": "accuracy",
        "task": task,
        "split": "test",
        "classes": "background",
        "episodes": 100,
        "ways": ways,
        "shots": 1,
        "statistics": "transductive",
    }
    values = np.full((100, 2), mean) + np.tile([[0.01], [-0.01]], (50, 2))
    return EpisodeScores(protocol, [0, 1], values)


def curve_run(folder: Path, name: str, error: float, shift: float = 0.0) -> Path:
    """Write scores and examples of a run that was never trained."""
    protocol = {
        "label": name,
        "run": name,
        "learner": name,
        "metric": "mean squared error",
        "task": "cubic",
        "split": "test",
        "episodes": 50,
        "shots": 40,
        "statistics": "plain",
    }
    values = error * np.linspace(2, 1, 50)[:, None] / np.arange(1, 12)[None]
    write_scores(folder / name / "scores" / "a.json", EpisodeScores(protocol, list(range(11)), values))
    grid = np.linspace(-2, 2, 21)
    task = {
        "true": (grid**3 + shift).round(4).tolist(),
        "support": [[0.5, 0.125], [1.0, 1.0]],
        "fits": [(grid**3 * share).tolist() for share in (0.0, 0.5, 1.0)],
        "errors": [1.0, 0.5, 0.0],
    }
    (folder / name / "examples").mkdir(parents=True)
    content = {"kind": "curves", "protocol": protocol, "grid": grid.tolist(), "tasks": [task]}
    (folder / name / "examples" / "a.json").write_text(json.dumps(content))
    return folder / name


def test_published_figures_are_of_the_same_protocol() -> None:
    protocol = accuracies().protocol
    assert published_accuracy(protocol) == ("98.7 ± 0.4", "Finn et al. 2017")
    assert published_accuracy({**protocol, "statistics": "inductive"}) == ("-", "-")
    assert published_accuracy({**protocol, "task": "glyphs"}) == ("-", "-")
    assert (
        published_accuracy({**protocol, "learner": "reptile", "statistics": "inductive", "ways": 20})[0]
        == "88.14 ± 0.15"
    )
    sinusoid = {"task": "sinusoid", "learner": "maml", "shots": 10}
    assert [published_error(sinusoid, step)[0] for step in (1, 5, 10)] == ["0.67", "0.38", "0.35"]
    assert published_error({**sinusoid, "shots": 5}, 1) == ("-", "-")


def test_tables_have_scores_with_intervals() -> None:
    (table,) = tables_of([accuracies(mean=0.98), accuracies("reptile", mean=0.93)])
    text = as_text(table)
    assert "98.00 ± 0.20" in text and "98.7 ± 0.4" in text and "100 episodes" in text
    assert [row[0] for row in table.rows] == ["REPTILE", "MAML"]
    assert to_markdown(as_export(table)).partition("\n\n")[0].count("\n") == 3
    assert len(tables_of([accuracies(), accuracies(task="glyphs")])) == 2
    one, other = accuracies(mean=0.97), accuracies(mean=0.98)
    other.protocol["run"] = "longer"
    (table,) = tables_of([one, other])
    assert [row[0] for row in table.rows] == ["MAML (omniglot-maml)", "MAML (longer)"]


def test_figures_are_drawn_from_files_and_included_in_the_report(tmp_path: Path) -> None:
    runs = [curve_run(tmp_path, name, error) for name, error in (("random", 5.0), ("maml", 0.5))]
    tables, written = summarise(runs, tmp_path / "out")
    names = {path.name for path in written}
    assert {"cubic-error.png", "cubic-fits.gif", "cubic-strip.svg", "cubic-random.gif", "fewshot.json"} <= names
    assert tables[0].rows[1][2].startswith("0.375 ±")
    with Image.open(tmp_path / "out" / "cubic-fits.gif") as animation:
        assert animation.n_frames == 3
        sizes = animation.size
    with Image.open(tmp_path / "out" / "cubic-random.gif") as single:
        assert single.size[0] < sizes[0]
    shown = load_fewshot(tmp_path / "out")
    assert len(shown.pictures) == 3 and shown.tables[0].rows == tables[0].rows
    before = (tmp_path / "out" / "cubic-fits.gif").read_bytes(), (tmp_path / "out" / "cubic-error.png").read_bytes()
    summarise(runs, tmp_path / "out")
    assert before == (
        (tmp_path / "out" / "cubic-fits.gif").read_bytes(),
        (tmp_path / "out" / "cubic-error.png").read_bytes(),
    )


def test_pictures_draw_a_learner_in_its_colour_whichever_others_are_there(tmp_path: Path) -> None:
    reptile, maml = (curve_run(tmp_path, name, 1.0) for name in ("Reptile", "MAML"))
    for number, runs in enumerate(([maml, reptile], [reptile])):
        summarise(runs, out := tmp_path / str(number))
        for png in (out / "cubic-error.png", out / "cubic-strip.png"):
            assert pixels(png, LIGHT[2]) > 50
            assert (pixels(png, LIGHT[1]) > 50) == (maml in runs)


def test_different_curves_are_not_compared(tmp_path: Path) -> None:
    runs = [curve_run(tmp_path, name, 1.0, shift) for name, shift in (("random", 0.0), ("maml", 1.0))]
    with pytest.raises(UserError, match="random and maml show different curves"):
        summarise(runs, tmp_path / "out")


def test_scores_of_a_packed_run_and_its_copy_are_one_row(tmp_path: Path) -> None:
    run = curve_run(tmp_path, "maml", 0.5)
    (scores,) = scores_of_runs([run])
    other = dataclasses.replace(scores, protocol={**scores.protocol, "run": "packed"})
    write_scores(run / "scores" / "z.json", other)
    assert [one.protocol["run"] for one in scores_of_runs([run])] == ["packed"]
    write_scores(run / "scores" / "z.json", dataclasses.replace(other, values_EJ=2 * other.values_EJ))
    assert len(scores_of_runs([run])) == 2


def test_a_run_without_scores_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match="no few-shot scores here"):
        summarise([tmp_path / "run"], tmp_path / "out")
    path = tmp_path / "run" / "scores" / "a.json"
    write_scores(path, accuracies())
    path.write_text(path.read_text()[:200])
    with pytest.raises(UserError, match="cut short"):
        summarise([tmp_path / "run"], tmp_path / "out")
    path.write_text('{"format": "another"}')
    with pytest.raises(UserError, match="not few-shot scores"):
        summarise([tmp_path / "run"], tmp_path / "out")


def test_packed_images_are_unpacked_without_loss() -> None:
    import base64

    images = np.random.default_rng(0).integers(0, 256, (3, 5, 5, 1)).astype(np.uint8)
    packed = {"shape": list(images.shape), "bytes": base64.b64encode(images.tobytes()).decode()}
    assert np.array_equal(unpack_images(packed), images)
