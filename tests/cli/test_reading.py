"""The command ``generate``: what it prints, and what it refuses in one line."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_main import Capture, answer, answer_json, refused
from tests.tiny import Run, listing


def test_generate_goes_on_from_the_prompt(
    tuned_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    options = ["generate", tuned_run.folder, "--tokens", "12", "--memory.rule", "none"]
    made = answer_json(capsys, *options, "--prompt", " the town")
    (sample,) = made["samples"]
    assert made["prompt"] == " the town" and sample["text"] and sample["seed"] == 0
    assert answer(capsys, *options, "--prompt", " the town") == " the town" + sample["text"] + "\n"
    (tmp_path / "prompt.txt").write_text(" the town")
    assert answer_json(capsys, *options, "--prompt_file", tmp_path / "prompt.txt") == made
    for name in ("--prompt", "--prompt_file"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b" the town"), "utf-8"))
        assert answer_json(capsys, *options, name, "-") == made


def test_several_samples_are_those_of_their_seeds(tuned_run: Run, capsys: Capture) -> None:
    options = ["generate", tuned_run.folder, "--tokens", "12", "--prompt", " the town"]
    before = listing(tuned_run.folder)
    three = answer_json(capsys, *options, "--samples", "3", "--seed", "7")["samples"]
    assert [sample["seed"] for sample in three] == [7, 8, 9]
    assert len({sample["text"] for sample in three}) == 3
    assert answer_json(capsys, *options, "--seed", "8")["samples"] == three[1:2]
    assert answer_json(capsys, *options, "--run.seed", "8")["samples"] == three[1:2]
    said = answer(capsys, *options, "--samples", "3", "--seed", "7")
    assert said.startswith(" the town\n") and all(f"=== seed {s['seed']} ===\n{s['text']}\n" in said for s in three)
    assert listing(tuned_run.folder) == before


def test_options_of_generate_decide_on_the_text(tuned_run: Run, capsys: Capture) -> None:
    options = ["generate", tuned_run.folder, "--tokens", "40", "--prompt", " the town"]
    whole = answer_json(capsys, *options, "--temperature", "0")["samples"][0]["text"]
    for alike in (["--top_k", "1"], ["--top_p", "1e-6"], ["--memory.no_regret", "true", "--temperature", "0"]):
        assert answer_json(capsys, *options, *alike)["samples"][0]["text"] == whole, alike
    stop = ["--temperature", "0", "--stop", "never in it", "--stop", whole[9:12]]
    assert answer_json(capsys, *options, *stop)["samples"][0]["text"] == whole[: whole.index(whole[9:12])]
    assert answer_json(capsys, *options, "--learn")["samples"][0]["text"]


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--tokens", "0"], "tokens is 0"),
        (["--temperature", "-1"], "is -1"),
        (["--temperature", "nan"], "temperature"),
        (["--top_k", "-3"], "top_k is -3"),
        (["--top_p", "0"], "top_p is 0"),
        (["--top_p", "1.5"], "top_p is 1.5"),
        (["--samples", "0"], "--samples is 0"),
        (["--seed", "-1"], "--seed is -1"),
        (["--stop", ""], "--stop is empty"),
        (["--top", "3"], "unrecognized arguments: --top 3"),
        (["--prompt", "a", "--prompt_file", "b"], "give one of them"),
        (["--prompt_file", "nowhere.txt"], "nowhere.txt: no such file"),
        (["--prompt", "a\udc80"], "not UTF-8"),
    ],
)
def test_generate_refuses_in_one_line(options: list[str], what: str, tuned_run: Run, capsys: Capture) -> None:
    given = options if "--prompt" in options[0] else [*options, "--prompt", " the town was seen near a town ." * 9]
    assert what.lower() in refused(capsys, "generate", tuned_run.folder, *given).lower()


def test_generated_text_comes_as_it_is_drawn(tuned_run: Run) -> None:
    """The first piece is there long before the last: the reader stops after it, and the command ends."""
    words = ["generate", str(tuned_run.folder), "--tokens", "1000000", "--prompt", " the town"]
    process = subprocess.Popen([sys.executable, "-m", "dynlm", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert len(process.stdout.read(30)) == 30
    process.stdout.close()
    assert process.wait(60) == 141
