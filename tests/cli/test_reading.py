"""The commands ``read`` and ``generate``: what they print, and what they refuse in one line."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.commands import Capture, answer, answer_json, refused
from tests.tiny import Run, listing

LINE = " the bafidela of the town was seen near a bafidela .\n"


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A folder with a text, records below it, and a file that is no text."""
    folder = tmp_path / "texts"
    (folder / "more").mkdir(parents=True)
    (folder / "book.txt").write_text(LINE * 6)
    (folder / "more" / "notes.jsonl").write_text('{"text": "the bafidela", "title": "T"}\n{"text": "a town"}\n')
    (folder / "picture.png").write_bytes(b"\x89PNG\0")
    return folder


def test_a_folder_is_read_and_what_was_learned_is_said(tuned_copy: Run, texts: Path, capsys: Capture) -> None:
    before = listing(tuned_copy.folder)
    told = answer_json(capsys, "read", tuned_copy.folder, texts)
    assert listing(tuned_copy.folder) == before and told["file"] is None
    assert [text["title"] for text in told["texts"]] == [str(texts / "book.txt"), "T", f"{texts}/more/notes.jsonl:2"]
    assert [*told["skipped"]] == [str(texts / "picture.png")]
    book = told["texts"][0]
    assert "".join(book["surface"]) == LINE * 6
    assert sum(len(text["nats"]) for text in told["texts"]) == told["tokens"]
    sums = {name: sum(sum(text[name]) for text in told["texts"]) for name in ("nats", "static")}
    assert sums["nats"] / told["tokens"] == pytest.approx(told["nats_per_token"])
    assert sums["static"] / told["tokens"] == pytest.approx(told["level_1_nats_per_token"])
    (best,) = (word for word in told["word_gains"]["gained"] if word["word"] == "bafidela")
    assert best["times"] == 13 and best["static"] > best["nats"]
    said = answer(capsys, "read", tuned_copy.folder, texts, "--show")
    assert "Where no-regret (rms) predicts better than static" in said and "of the town was" in said
    assert "nothing was kept" in said and "bafidela (13 times, " in said


def test_several_texts_and_files_are_read_in_their_order(tuned_copy: Run, texts: Path, capsys: Capture) -> None:
    notes, book = texts / "more" / "notes.jsonl", texts / "book.txt"
    told = answer_json(capsys, "read", tuned_copy.folder, notes, book)
    assert [text["title"] for text in told["texts"]] == ["T", f"{notes}:2", str(book)]


def test_the_static_model_is_read_only_where_it_is_needed(tuned_copy: Run, texts: Path, capsys: Capture) -> None:
    read = ["read", tuned_copy.folder, texts / "book.txt"]
    alone = ["--memory.no_regret", "false"]
    costs = [answer_json(capsys, *read, *more) for more in ([], alone, [*alone, "--compare", "false"])]
    assert costs[0]["level_1_nats_per_token"] == pytest.approx(costs[1]["level_1_nats_per_token"], abs=1e-5)
    assert costs[2]["level_1_nats_per_token"] is None and costs[2]["nats_per_token"] == costs[1]["nats_per_token"]
    assert costs[2]["word_gains"] == {"gained": [], "lost": []} and "static" not in costs[2]["texts"][0]
    assert "--compare false saves its time" in answer(capsys, *read, *alone)
    assert "--compare" not in answer(capsys, *read) + answer(capsys, *read, *alone, "--compare", "false")


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--show", "--json"], "leave out --json"),
        (["--show", "--compare", "false"], "--compare false"),
        (["--compare", "maybe"], "compare"),
        (["nowhere"], "nowhere: no such file"),
    ],
)
def test_read_refuses_in_one_line(options: list[str], what: str, tuned_run: Run, texts: Path, capsys: Capture) -> None:
    assert what in refused(capsys, "read", tuned_run.folder, texts / "book.txt", *options)
    (texts / "more" / "notes.jsonl").write_text("no JSON\n")
    assert "no text in this folder" in refused(capsys, "read", tuned_run.folder, texts / "more")


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
