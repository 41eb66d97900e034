"""``dynlm fewshot``: all commands, and errors of one line that leave no files behind."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from dynlm.cli.main import main
from dynlm.fewshot.demo import demo_options
from dynlm.fewshot.learners.learner import LEARNERS
from dynlm.fewshot.registry import warn_once
from dynlm.report.fewshot_results import load_fewshot
from tests.cli.commands import Capture, answer, answer_json, process, refused
from tests.fewshot.drawn import write_classes
from tests.fewshot.foreign_learner import Ridge

SMALL = ["--learner.filters", "4", "--learner.layers", "2", "--train.steps", "3", "--train.tasks", "2"]
SMALL += ["--evaluate.episodes", "6", "--task.queries", "3"]


def test_training_evaluation_and_tables(tmp_path: Path, capsys: Capture) -> None:
    runs = tmp_path / "runs"
    folder = ["--run.folder", runs]
    output = answer_json(capsys, "fewshot", "train", *folder, "--run.name", "maml", *SMALL, "--learner.kind", "maml")
    assert output["folder"] == str(runs / "maml") and output["steps"] == 3
    answer(capsys, "fewshot", "train", *folder, "--run.name", "nearest", *SMALL, "--learner.kind", "nearest-neighbour")
    content = answer_json(capsys, "fewshot", "evaluate", runs / "maml")
    assert content["protocol"]["statistics"] == "transductive" and [step["step"] for step in content["steps"]] == [5]
    content = answer_json(capsys, "fewshot", "evaluate", runs / "maml", "--learner.statistics", "inductive")
    assert content["protocol"]["statistics"] == "inductive"
    assert "nearest neighbour, 6 episodes: accuracy" in answer(capsys, "fewshot", "evaluate", runs / "nearest")
    shown = answer_json(capsys, "fewshot", "show", runs / "maml", runs / "nearest", "--out", tmp_path / "out")
    assert len(shown["tables"][0]["rows"]) == 3
    assert load_fewshot(tmp_path / "out").pictures
    (runs / "figures").mkdir()
    everything = [run for run in sorted(runs.iterdir()) if not run.name.startswith(".")]
    assert len(everything) == 3
    assert len(answer_json(capsys, "fewshot", "show", *everything, "--out", tmp_path / "all")["tables"][0]["rows"]) == 3
    assert "no few-shot run" in refused(capsys, "fewshot", "show", runs / "figures")
    assert "| nearest neighbour |" in answer(
        capsys, "fewshot", "show", runs / "nearest", "--format", "markdown", "--out", tmp_path / "one"
    )


def test_tasks_shows_counts_of_splits(capsys: Capture) -> None:
    content = answer_json(capsys, "fewshot", "tasks", "--task.ways", "7")
    assert content["episode"] == {"ways": 7, "shots": 1, "queries": 15} and content["splits"]["test"]["classes"] > 100
    assert "40 support and 80 query points" in answer(capsys, "fewshot", "tasks", "--task.source", "cubic")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--task.ways", "900"], "has 305 classes, fewer than the 900"),
        (["--task.shots", "10", "--task.queries", "11"], "has 20 images, fewer than 10 for support and 11 for query"),
        (["--learner.kind", "mamml"], "learner.kind is 'mamml'"),
        (["--task.source", "omniglot"], "task.path is not set"),
        (["--task.source", "cubic", "--learner.kind", "prototypes"], "needs classes, and task.source 'cubic' has none"),
        (["--task.train_ways", "20"], "maml has one output a class"),
        (
            ["--learner.inner_optimizer", "adam"],
            "learner.inner_optimizer is set, but learner.kind 'maml' does not use it",
        ),
        (["--learner.kind", "anil", "--learner.multi_step_loss", "true"], "learner.multi_step_loss is set"),
        (["--learner.gains", "[1, 2, 3]"], "learner.gains is for cubic and sinusoid alone"),
        (["--learner.kind", "nearest-neighbour", "--evaluate.steps", "3"], "evaluate.steps is set"),
        (["--task.source", "cubic", "--task.mirrored", "true"], "task.mirrored is set, but task.source 'cubic'"),
        (["--train.rate", "-1"], "train.rate is -1"),
        (["--task.held_out", "3"], "task.held_out is set, but task.source 'glyphs' does not use it"),
        (["--task.source", "cubic", "--learner.gains", "[1, 2]"], "learner.gains has 2 factors, for 3 layers"),
        (["--task.source", "bandit", "--learner.kind", "greedy", "--task.pulls", "0"], "task.pulls is 0"),
        (["--task.source", "tabular", "--learner.kind", "psrl", "--task.horizon", "0"], "task.horizon is 0"),
        (["--task.source", "bandit"], "learner.kind 'maml' needs labelled examples"),
        (["--task.source", "navigation", "--learner.kind", "ucb1"], "learner.kind 'ucb1' is for bandits"),
        (
            ["--task.source", "gymnasium", "--learner.kind", "random-actions"],
            "task.parameters is empty" if find_spec("gymnasium") else "pip install dynlm[rl]",
        ),
        (["--task.source", "cubic", "--learner.activation", "swish"], "learner.activation is 'swish'"),
    ],
)
def test_bad_options_are_refused_before_writing(
    options: list[str], message: str, tmp_path: Path, capsys: Capture
) -> None:
    output = refused(capsys, "fewshot", "train", "--run.folder", tmp_path / "runs", *options)
    assert message in output
    assert not (tmp_path / "runs").exists()


def test_bad_images_are_refused_before_writing(tmp_path: Path, capsys: Capture) -> None:
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


def test_folders_without_runs_are_refused(tmp_path: Path, capsys: Capture) -> None:
    assert "no such run" in refused(capsys, "fewshot", "evaluate", tmp_path / "none")
    assert "no such run" in refused(capsys, "fewshot", "show", tmp_path / "none")
    assert "there is no command 'fewshot trian'" in refused(capsys, "fewshot", "trian")
    for words in (["fewshot"], ["fewshot", "--help"]):
        assert main(words) == 0
        assert "fewshot evaluate" in capsys.readouterr().out


def test_demo_in_a_real_process(tmp_path: Path) -> None:
    done = process(
        sys.executable,
        *("-m", "dynlm", "fewshot", "demo", "--folder", tmp_path / "demo", "--share", "0.004", "--json"),
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert [table["title"] for table in content["tables"]] == ["Error on cubic", "Accuracy on glyphs"]
    names = {Path(file).name for file in content["files"]}
    assert {"cubic-fits.gif", "cubic-maml.gif", "cubic-strip.png", "cubic-error.png", "fewshot.json"} <= names
    assert {config.run.name for config in demo_options(tmp_path)} == {
        path.name
        for path in (tmp_path / "demo").iterdir()
        if path.name != "figures" and not path.name.endswith(".lock")
    }


def test_scores_of_other_images_are_other_files(tmp_path: Path, capsys: Capture) -> None:
    """Images with inverted values give the same scores, and the output says that they were inverted."""
    from PIL import Image, ImageOps

    for seed, name in enumerate(("one", "two")):
        write_classes(tmp_path / name, 12, 5, seed=seed)
    for path in sorted((tmp_path / "one").rglob("*.png")):
        turned = tmp_path / "turned" / path.relative_to(tmp_path / "one")
        turned.parent.mkdir(parents=True, exist_ok=True)
        ImageOps.invert(Image.open(path).convert("L")).save(turned)
    options = ["--task.source", "imagefolder", "--task.size", "16", "--task.ways", "2", "--task.queries", "2"]
    run = ["--run.folder", tmp_path / "runs", "--run.name", "nearest", "--learner.kind", "nearest-neighbour"]
    answer(capsys, "fewshot", "train", *run, *options, "--task.path", tmp_path / "one", "--evaluate.episodes", "5")
    evaluate = ["fewshot", "evaluate", tmp_path / "runs" / "nearest", "--task.path"]
    files = {name: answer_json(capsys, *evaluate, tmp_path / name)["file"] for name in ("one", "two", "turned")}
    assert files["one"] != files["two"] and all(Path(file).is_file() for file in files.values())
    output = {name: answer(capsys, *evaluate, tmp_path / name) for name in ("one", "turned")}
    assert sum("values inverted" in text for text in output.values()) == 1
    accuracies = {text.partition("accuracy ")[2].partition(" ")[0] for text in output.values()}
    assert len(accuracies) == 1


def test_the_former_name_of_nearest_neighbour_is_read_with_a_warning(tmp_path: Path, capsys: Capture) -> None:
    train = ["fewshot", "train", "--run.folder", tmp_path, "--run.name", "old", "--learner.kind", "pixels"]
    warn_once.cache_clear()
    assert main([str(word) for word in train]) == 0
    output = capsys.readouterr()
    assert "nearest-neighbour: nothing to train" in output.out
    assert output.err.count("learner.kind 'pixels' is now called 'nearest-neighbour'") == 1


def test_a_run_folder_of_the_former_format_is_evaluated(tmp_path: Path, capsys: Capture) -> None:
    """Its config.yaml has the options of all kinds, some of which its kind does not use."""
    words = ["fewshot", "train", "--run.folder", tmp_path, "--run.name", "old", *SMALL, "--learner.kind", "reptile"]
    answer(capsys, *words)
    path = tmp_path / "old" / "config.yaml"
    options = yaml.safe_load(path.read_text())
    options["learner"] |= {"reader_hidden": 64, "multi_step_loss": False, "first_order_share": 0.3, "gains": None}
    options["task"] |= {"path": None, "split": "vinyals", "held_out": 2, "colour": False}
    path.write_text(yaml.safe_dump(options, explicit_start=True, explicit_end=True))
    assert answer_json(capsys, "fewshot", "evaluate", tmp_path / "old")["protocol"]["learner"] == "reptile"
    assert answer_json(capsys, *words)["steps"] == 3


@pytest.fixture
def ridge(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Registers the learner ``ridge`` for one test."""
    with monkeypatch.context() as patch:
        patch.setitem(LEARNERS._items, "ridge", Ridge)
        yield


def test_a_learner_of_another_package(tmp_path: Path, capsys: Capture, ridge: None) -> None:
    """One class in one file is registered, has its own options, and is trained and evaluated."""
    words = ["--run.folder", tmp_path, "--run.name", "ridge", "--learner.kind", "ridge", *SMALL[4:]]
    train = ["fewshot", "train", *words, "--learner.penalty", "0.5"]
    assert "learner.kind 'maml' does not use it" in refused(capsys, *train, "--learner.kind", "maml")
    assert answer_json(capsys, *train)["steps"] == 3
    output = answer_json(capsys, "fewshot", "evaluate", tmp_path / "ridge")
    assert output["protocol"]["label"] == "ridge regression" and output["steps"][0]["mean"] > 0.3


def test_yardsticks_are_evaluated_and_tabulated(tmp_path: Path, capsys: Capture) -> None:
    words = ["--config", "fewshot/bandit", "--run.folder", tmp_path, "--evaluate.episodes", "30", "--task.pulls", "4"]
    for kind in ("ucb1", "oracle", "random-actions"):
        answer(capsys, "fewshot", "train", *words, "--run.name", kind, "--learner.kind", kind)
    content = answer_json(capsys, "fewshot", "evaluate", tmp_path / "ucb1")
    protocol = content["protocol"]
    assert protocol["tuned"]["split"] == "valid" and protocol["tuned"]["confidence"] in protocol["tuned"]["grid"]
    assert len(content["steps"]) == len(content["regret"]) == 4 and 0 < content["return"]["mean"] < 4
    assert sum(step["mean"] for step in content["steps"]) == pytest.approx(content["return"]["mean"])
    assert "oracle, 30 tasks: return" in answer(capsys, "fewshot", "evaluate", tmp_path / "oracle")
    answer(capsys, "fewshot", "evaluate", tmp_path / "random-actions")
    runs = [tmp_path / kind for kind in ("ucb1", "oracle", "random-actions")]
    shown = answer_json(capsys, "fewshot", "show", *runs, "--out", tmp_path / "out")
    (table,) = shown["tables"]
    assert table["title"] == "Return on bandit, 10 arms 4 pulls"
    assert [row[0] for row in table["rows"]] == ["random actions", "UCB1", "oracle"]
    assert table["rows"][1][1].startswith("confidence ")
    assert load_fewshot(tmp_path / "out").pictures
    example = json.loads(next((tmp_path / "oracle" / "examples").glob("*.json")).read_text())
    acted = example["tasks"][0]["acted"][0]
    means = example["tasks"][0]["parameters"]["means"]
    assert example["kind"] == "trajectories" and acted["actions"] == [means.index(max(means))] * 4


def test_environments_are_described(capsys: Capture) -> None:
    assert "bandit: 10 arms 7 pulls" in answer(
        capsys, "fewshot", "tasks", "--task.source", "bandit", "--task.pulls", "7"
    )
