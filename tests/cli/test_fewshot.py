"""``dynlm fewshot``: every verb's way through, and bad input said in one line with nothing half-written."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from dynlm.cli.app import main
from dynlm.fewshot.demo import demo_configs
from dynlm.report.fewshot_results import read_fewshot
from tests.cli.test_app import Capture, answer, answer_json, process, refused
from tests.fewshot.drawn import write_classes

SMALL = ["--learner.filters", "4", "--learner.layers", "2", "--train.steps", "3", "--train.tasks", "2"]
SMALL += ["--evaluate.episodes", "6", "--task.queries", "3"]


def test_from_training_to_tables(tmp_path: Path, capsys: Capture) -> None:
    runs = tmp_path / "runs"
    folder = ["--run.folder", runs]
    said = answer_json(capsys, "fewshot", "train", *folder, "--run.name", "maml", *SMALL, "--learner.kind", "maml")
    assert said["folder"] == str(runs / "maml") and said["steps"] == 3
    answer(capsys, "fewshot", "train", *folder, "--run.name", "pixels", *SMALL, "--learner.kind", "pixels")
    told = answer_json(capsys, "fewshot", "evaluate", runs / "maml")
    assert told["protocol"]["statistics"] == "transductive" and [step["step"] for step in told["steps"]] == [5]
    told = answer_json(capsys, "fewshot", "evaluate", runs / "maml", "--learner.statistics", "inductive")
    assert told["protocol"]["statistics"] == "inductive"
    assert "nearest pixels, 6 episodes: accuracy" in answer(capsys, "fewshot", "evaluate", runs / "pixels")
    shown = answer_json(capsys, "fewshot", "show", runs / "maml", runs / "pixels", "--out", tmp_path / "out")
    assert len(shown["tables"][0]["rows"]) == 3
    assert read_fewshot(tmp_path / "out").pictures
    (runs / "figures").mkdir()
    everything = [run for run in sorted(runs.iterdir()) if not run.name.startswith(".")]
    assert len(everything) == 3
    assert len(answer_json(capsys, "fewshot", "show", *everything, "--out", tmp_path / "all")["tables"][0]["rows"]) == 3
    assert "no few-shot run" in refused(capsys, "fewshot", "show", runs / "figures")
    assert "| nearest pixels |" in answer(
        capsys, "fewshot", "show", runs / "pixels", "--markdown", "--out", tmp_path / "one"
    )


def test_tasks_tells_what_is_there(capsys: Capture) -> None:
    told = answer_json(capsys, "fewshot", "tasks", "--task.ways", "7")
    assert told["episode"] == {"ways": 7, "shots": 1, "queries": 15} and told["splits"]["test"]["classes"] > 100
    assert "40 support and 80 query points" in answer(capsys, "fewshot", "tasks", "--task.source", "cubic")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--task.ways", "900"], "has 305 classes, fewer than the 900"),
        (["--task.shots", "10", "--task.queries", "11"], "has 20 images, fewer than 10 for support and 11 for query"),
        (["--learner.kind", "mamml"], "learner.kind is 'mamml'"),
        (["--task.source", "omniglot"], "task.path is not set"),
        (["--task.source", "cubic", "--learner.kind", "prototypes"], "needs classes, and task.source 'cubic' has none"),
        (["--task.train_ways", "20"], "maml has one output for each class"),
        (["--learner.inner_optimizer", "adam"], "choose --learner.inner_optimizer sgd"),
        (["--learner.kind", "anil", "--learner.multi_step_loss", "true"], "learner.multi_step_loss is set"),
        (["--learner.gains", "[1, 2, 3]"], "learner.gains is for cubic and sinusoid alone"),
        (["--learner.kind", "pixels", "--evaluate.steps", "3"], "evaluate.steps is set"),
        (["--task.source", "cubic", "--task.mirrored", "true"], "are for images"),
        (["--train.rate", "-1"], "train.rate is -1"),
        (["--task.held_out", "3"], "task.held_out is set, but it is for the background split of omniglot"),
        (["--task.source", "cubic", "--learner.gains", "[1, 2]"], "learner.gains has 2 factors, for 3 layers"),
        (["--task.source", "cubic", "--learner.activation", "swish"], "learner.activation is 'swish'"),
    ],
)
def test_bad_options_are_one_line_and_write_nothing(
    options: list[str], message: str, tmp_path: Path, capsys: Capture
) -> None:
    said = refused(capsys, "fewshot", "train", "--run.folder", tmp_path / "runs", *options)
    assert message in said
    assert not (tmp_path / "runs").exists()


def test_bad_images_are_one_line(tmp_path: Path, capsys: Capture) -> None:
    write_classes(tmp_path / "images", 10, 4)
    source = ["--task.source", "imagefolder", "--task.path", tmp_path / "images", "--run.folder", tmp_path / "runs"]
    source += ["--task.ways", "2", "--task.queries", "2", *SMALL[:8]]
    train = ("fewshot", "train", *source)
    assert "has 6 classes, fewer than the 7 of an episode" in refused(capsys, *train, "--task.ways", "7")
    assert "fewer than 3 for support and 2 for query" in refused(capsys, *train, "--task.shots", "3")
    broken = tmp_path / "images" / "character03" / "0003_01.png"
    broken.write_bytes(broken.read_bytes()[:30])
    assert f"{broken}: a broken image" in refused(capsys, "fewshot", "train", *source)
    assert not (tmp_path / "runs").exists()


def test_folders_that_are_no_runs(tmp_path: Path, capsys: Capture) -> None:
    assert "no such run" in refused(capsys, "fewshot", "evaluate", tmp_path / "none")
    assert "no such run" in refused(capsys, "fewshot", "show", tmp_path / "none")
    assert "there is no verb 'fewshot trian'" in refused(capsys, "fewshot", "trian")
    for words in (["fewshot"], ["fewshot", "--help"]):
        assert main(words) == 0
        assert "fewshot evaluate" in capsys.readouterr().out


def test_demo_in_a_real_process(tmp_path: Path) -> None:
    done = process(
        sys.executable,
        *("-m", "dynlm.cli.app", "fewshot", "demo", "--folder", tmp_path / "demo", "--share", "0.004", "--json"),
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [table["title"] for table in told["tables"]] == ["Error on cubic", "Accuracy on glyphs"]
    names = {Path(file).name for file in told["files"]}
    assert {"cubic-fits.gif", "cubic-maml.gif", "cubic-strip.png", "cubic-error.png", "fewshot.json"} <= names
    assert {config.run.name for config in demo_configs(tmp_path)} == {
        path.name
        for path in (tmp_path / "demo").iterdir()
        if path.name != "figures" and not path.name.endswith(".lock")
    }


def test_figures_of_other_images_are_in_files_of_their_own(tmp_path: Path, capsys: Capture) -> None:
    """And drawings whose ink is the other way round are the same images, which is said."""
    from PIL import Image, ImageOps

    for seed, name in enumerate(("one", "two")):
        write_classes(tmp_path / name, 12, 5, seed=seed)
    for path in sorted((tmp_path / "one").rglob("*.png")):
        turned = tmp_path / "turned" / path.relative_to(tmp_path / "one")
        turned.parent.mkdir(parents=True, exist_ok=True)
        ImageOps.invert(Image.open(path).convert("L")).save(turned)
    options = ["--task.source", "imagefolder", "--task.size", "16", "--task.ways", "2", "--task.queries", "2"]
    run = ["--run.folder", tmp_path / "runs", "--run.name", "pixels", "--learner.kind", "pixels"]
    answer(capsys, "fewshot", "train", *run, *options, "--task.path", tmp_path / "one", "--evaluate.episodes", "5")
    evaluate = ["fewshot", "evaluate", tmp_path / "runs" / "pixels", "--task.path"]
    files = {name: answer_json(capsys, *evaluate, tmp_path / name)["file"] for name in ("one", "two", "turned")}
    assert files["one"] != files["two"] and all(Path(file).is_file() for file in files.values())
    said = {name: answer(capsys, *evaluate, tmp_path / name) for name in ("one", "turned")}
    assert sum("values turned round" in text for text in said.values()) == 1
    accuracies = {text.partition("accuracy ")[2].partition(" ")[0] for text in said.values()}
    assert len(accuracies) == 1
