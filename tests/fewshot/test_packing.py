"""A packed learner is found by its name, evaluates as its run does, and is never written to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dynlm.cli.main import main
from dynlm.errors import UserError
from dynlm.fewshot.evaluate import evaluate
from dynlm.fewshot.packing import check_packed_learner, pack_learner
from dynlm.fewshot.results import load_scores
from dynlm.fewshot.run_folder import load_run_options
from dynlm.fewshot.train import train
from dynlm.run import locate
from tests.fewshot.test_train import options_in
from tests.tiny import listing


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of models with a packed learner, found from an empty working folder."""
    options = options_in(tmp_path / "made", "cubic")
    train(options, quiet=True)
    evaluate(options.run.path, options, quiet=True)
    (options.run.path / "secret.json").write_text("{}")
    pack_learner(options.run.path, tmp_path / "models" / "fewshot-cubic")
    monkeypatch.setattr(locate, "MODELS", (tmp_path / "models",))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "models"


def test_it_is_whole_and_nothing_else(models: Path, tmp_path: Path) -> None:
    files = listing(models / "fewshot-cubic")
    scores = [name for name in files if name.startswith("scores/")]
    assert files.keys() == {"checksums.json", "config.yaml", "learner.json", "learner.safetensors", *scores}
    assert len(scores) == 1 and not any(str(tmp_path).encode() in content for content in files.values())
    done = check_packed_learner(models / "fewshot-cubic")
    assert done.holds and done.score is not None and done.files == 4
    assert main(["verify", "fewshot-cubic"]) == 0
    with pytest.raises(UserError, match="there is something already"):
        pack_learner(tmp_path / "made" / "cubic", models / "fewshot-cubic")
    (models / "fewshot-cubic" / "learner.json").write_text("{}")
    assert check_packed_learner(models / "fewshot-cubic").broken == ["learner.json was changed"]


def test_commands_find_it_by_its_name(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = listing(models)
    assert main(["fewshot", "show", "fewshot-cubic", "--json"]) == 0
    assert main(["fewshot", "evaluate", "fewshot-cubic", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out.split("\n}\n")[1] + "\n}")
    path = Path(answer["file"])
    assert path.parent == Path("runs/fewshot/fewshot-cubic/scores")
    (made,) = (tmp_path / "made" / "cubic" / "scores").iterdir()
    assert load_scores(path).at(2) == load_scores(made).at(2)
    assert listing(models) == before
    assert load_run_options(models / "fewshot-cubic").run.name == "fewshot-cubic"
    assert main(["fewshot", "evaluate", "fewshot-cubec"]) == 2
    assert "did you mean fewshot-cubic?" in capsys.readouterr().err
