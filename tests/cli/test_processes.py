"""Commands as real processes: what they import, and several processes of one command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dynlm.evaluation.score_file import read_scores
from tests.cli.commands import ROOT, process
from tests.tiny import Run, as_yaml, tiny_config


def test_a_command_runs_as_a_module(tiny_corpus: Path, tmp_path: Path) -> None:
    done = process(sys.executable, "-m", "dynlm", "corpus", "--corpus.path", tiny_corpus, "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["train"]["articles"] == 18
    assert not list(tmp_path.iterdir())


def test_the_overview_imports_nothing_heavy(tmp_path: Path) -> None:
    code = "import sys; from dynlm.cli.main import main; main([]); sys.exit('torch' in sys.modules)"
    done = process(sys.executable, "-c", code, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: dynlm COMMAND")


@pytest.mark.parametrize("words", [["corpus"], ["score", "--help"], ["pretrain", "--print_config"], ["compare", "x"]])
def test_commands_that_do_not_compute_import_no_torch(words: list[str], tmp_path: Path) -> None:
    code = "import contextlib, sys; from dynlm.cli.main import main\n"
    code += f"with contextlib.suppress(SystemExit): main({words})\nsys.exit('torch' in sys.modules)"
    done = process(sys.executable, "-c", code, folder=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [["score", "RUN", "--force"], ["read", "RUN", "own.txt"]], ids=["score", "read"])
def test_reading_imports_nothing_that_it_does_not_use(words: list[str], tuned_run: Run, tmp_path: Path) -> None:
    """Each of these takes a tenth of a second or more: the first token would come later."""
    (tmp_path / "own.txt").write_text("A few words to read.\n")
    shutil.copytree(tuned_run.folder, tmp_path / "runs" / "tiny")
    words = ["tiny" if word == "RUN" else word for word in words]
    unused = {
        "pandas",
        "jinja2",
        "rich",
        "matplotlib",
        "datasets",
        "transformers",
        "accelerate",
        "huggingface_hub",
        "scipy",
    }
    code = f"import sys; from dynlm.cli.main import main; assert main({[*words, '--memory.rule', 'rms']}) == 0\n"
    code += f"print(sorted({unused} & set(sys.modules)), file=sys.stderr)"
    done = process(sys.executable, "-c", code, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"


def test_a_refusal_is_one_line_of_a_real_process(tmp_path: Path) -> None:
    done = process(sys.executable, "-m", "dynlm", "score", "no-such-run", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"dynlm: error: no-such-run: no such run; looked in {tmp_path}, ")
    assert done.stderr.endswith("\n") and done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_launched_process_trains_as_one_called(tiny_corpus: Path, tmp_path: Path) -> None:
    """Several: ``training/test_several_processes``."""
    from dynlm.train.pretrain import pretrain

    steps = {"epochs": 0.4, "log_every": 1, "optimizer": "nt-asgd", "lr": 5.0}
    called = tiny_config(tiny_corpus, tmp_path / "called", pretrain=steps)
    pretrain(called, quiet=True)
    path = tmp_path / "tiny.yaml"
    path.write_text(as_yaml(tiny_config(tiny_corpus, tmp_path / "launched", pretrain=steps)))
    launcher = ["accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1"]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no", "-m", "dynlm", "pretrain"]
    done = process(sys.executable, "-m", *launcher, "--config", path, folder=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    losses = {}
    for name in ("called", "launched"):
        log = (tmp_path / name / "tiny" / "log.jsonl").read_text().splitlines()
        losses[name] = [line["loss"] for line in map(json.loads, log) if "loss" in line]
    assert losses["called"][-1] < losses["called"][0] - 0.2
    assert losses["launched"] == losses["called"]


def launched(verb: str, *words: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """Return what a command in two processes said."""
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
    return process(sys.executable, "-m", *launcher, "dynlm", verb, *words, folder=folder)


@pytest.mark.parametrize("rule", ["none", "rms"])
def test_two_processes_share_the_articles_to_be_scored(rule: str, tuned_copy: Run, tmp_path: Path) -> None:

    options = ("--memory.rule", rule, "--memory.reset", "article")
    command = (sys.executable, "-m", "dynlm", "score", tuned_copy.folder, *options, "--json")
    done = process(*command, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    path = Path(json.loads(done.stdout)["file"])
    alone = read_scores(path)
    path.unlink()
    done = launched("score", tuned_copy.folder, *options, "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["file"] == str(path)
    together = read_scores(path)
    assert together.protocol["processes"] == 2
    assert together.token.tolist() == alone.token.tolist()
    assert together.nats.tolist() == pytest.approx(alone.nats.tolist(), rel=1e-4, abs=1e-4)


def test_one_stream_is_not_for_two_processes(tuned_copy: Run, tmp_path: Path) -> None:
    done = launched("score", tuned_copy.folder, "--memory.rule", "rms", folder=tmp_path)
    assert done.returncode != 0
    assert "2 processes cannot share the one stream of memory.reset 'stream'; start one process" in done.stderr
    assert not (tuned_copy.folder / "scores").exists()


def test_a_reader_that_goes_away_ends_it_quietly() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as nobody:
        done = subprocess.run(
            [sys.executable, "-m", "dynlm", "--help"],
            stdout=nobody,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
    assert (done.returncode, done.stderr) == (141, "")
