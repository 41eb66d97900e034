"""The configs that ship: found by name, in a checkout and in a wheel; files come before names."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from dynlm.cli.config_files import config_path, shipped_configs
from dynlm.cli.main import COMMANDS, main
from dynlm.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
Capture = pytest.CaptureFixture[str]


def printed_config(capsys: Capture, *argv: str) -> dict[str, object]:
    with pytest.raises(SystemExit) as stop:
        main([*argv, "--print_config"])
    assert stop.value.code == 0
    content: dict[str, object] = yaml.safe_load(capsys.readouterr().out)
    return content


def test_every_config_of_the_repository_has_a_name() -> None:
    files = {path.relative_to(ROOT / "configs").with_suffix("").as_posix() for path in ROOT.glob("configs/**/*.yaml")}
    assert set(shipped_configs()) == files >= {"demo", "study-wikitext-2", "fewshot/cubic-maml"}
    assert all(Path(config_path(name)).read_bytes() for name in files)


def test_a_file_comes_before_a_name_and_a_folder_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    assert config_path("demo") == str(ROOT / "configs" / "demo.yaml")
    (tmp_path / "demo").rmdir()
    (tmp_path / "demo").write_text("run: {name: mine}\n")
    assert config_path("demo") == "demo"


@pytest.mark.parametrize(
    "name, meant",
    [
        ("dmeo", "demo"),
        ("cubic-maml", "fewshot/cubic-maml"),
        ("configs/wikitext-2-smal.yaml", "wikitext-2-small"),
        ("configs/demo.yaml", "demo"),
    ],
)
def test_the_nearest_name_is_told(name: str, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        config_path(name)
    assert f"did you mean {meant}?" in str(error.value) and "fewshot/sinusoid-maml" in str(error.value)
    assert "\n" not in str(error.value)


def test_the_demo_is_one_whether_its_config_is_named_or_not(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plain = printed_config(capsys, "demo")
    assert plain["model"] == {"kind": "lstm", "embedding": 192, "hidden": 192, "layers": 1, "tied": True}
    assert plain["metatrain"]["pick_tokens"] == 12000  # type: ignore[index]
    for config in ("demo", str(ROOT / "configs" / "demo.yaml")):
        assert printed_config(capsys, "demo", "--config", config) == plain
        assert printed_config(capsys, "demo", f"--config={config}") == plain
    quick = printed_config(capsys, "demo", "--pretrain.epochs", "1")
    assert quick["pretrain"] == {**plain["pretrain"], "epochs": 1.0}  # type: ignore[dict-item]
    (tmp_path / "own.yaml").write_text("pretrain: {epochs: 5}\n")
    assert printed_config(capsys, "demo", "--config", "own.yaml")["metatrain"] != plain["metatrain"]


def test_names_stand_for_configs_and_for_what_configs_stand_on(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    study = printed_config(capsys, "study", "--config", "study-wikitext-2")
    assert study["run"]["name"] == "wikitext-2-small"  # type: ignore[index]
    assert printed_config(capsys, "study", "--base", "wikitext-2-small")["run"] == study["run"]
    assert main(["pretrain", "--config", "wikitext-2-smal"]) == 2
    assert "did you mean wikitext-2-small?" in capsys.readouterr().err


@pytest.fixture(scope="module")
def unpacked_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(place)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = place.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(place / "unpacked")
    return place / "unpacked"


def test_a_wheel_holds_the_configs_and_its_demo_is_the_repositorys(
    unpacked_wheel: Path, tmp_path: Path, capsys: Capture
) -> None:
    configs = unpacked_wheel / "dynlm" / "configs"
    held = {path.relative_to(configs) for path in configs.rglob("*.yaml")}
    assert held == {path.relative_to(ROOT / "configs") for path in ROOT.glob("configs/**/*.yaml")}
    done = subprocess.run(
        [sys.executable, "-m", "dynlm", "demo", "--print_config"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(unpacked_wheel)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout) == printed_config(capsys, "demo")


def test_only_what_resumes_says_that_it_goes_on(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    goes_on = {name for name, verb in COMMANDS.items() if verb.resumes}
    assert goes_on == {
        *(
            "demo",
            "learn",
            "study",
            "pretrain",
            "tune",
            "metatrain",
            "finetune",
            "score",
            "fewshot demo",
            "fewshot train",
        )
    }
    for name in COMMANDS:
        with monkeypatch.context() as patch:
            patch.setattr("dynlm.cli.parser.parse", interrupted)
            assert main(name.split()) == 130
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert ("goes on from the newest checkpoint" in said) == COMMANDS[name].resumes != ("begins anew" in said)
