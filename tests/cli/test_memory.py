"""The verbs of kept memories, at the command line: what they do, and what they refuse in one line."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from dynlm.adapt import memory_file as format
from dynlm.adapt.memory_file import load_about
from dynlm.run.folder import load_model, params_fingerprint
from tests.cli.commands import Capture, answer, answer_json, refused
from tests.tiny import Run, listing, readable_name

TEXT = " the bafidela of the town was seen near a bafidela .\n" * 6


@pytest.fixture
def book(tmp_path: Path) -> Path:
    (tmp_path / "book.txt").write_text(TEXT, encoding="utf-8")
    return tmp_path / "book.txt"


@pytest.fixture
def me(tmp_path: Path) -> Path:
    return tmp_path / "me.safetensors"


def read(capsys: Capture, run: Run, me: Path, *arguments: object) -> Any:
    return answer_json(capsys, "read", run.folder, "--memory", me, *arguments)


def test_a_book_is_read_and_remembered(tuned_copy: Run, book: Path, me: Path, capsys: Capture) -> None:
    before = listing(tuned_copy.folder)
    first = read(capsys, tuned_copy, me, book)
    mark = params_fingerprint(load_model(tuned_copy.folder).params)
    assert first["static_parameters"] == {"before": mark, "after": mark}
    assert listing(tuned_copy.folder) == before
    again = read(capsys, tuned_copy, me, "--again", book)
    assert again["nats_per_token"] < first["nats_per_token"] - 0.1
    assert again["memory"]["tokens"] == 2 * first["tokens"]
    said = answer(capsys, "read", tuned_copy.folder, f"--memory={me}", "--again", book)
    assert f"checksum {mark} before, {mark} after" in said and f"wrote {me}" in said


def test_standard_input_is_an_unfinished_article(
    tuned_copy: Run, book: Path, me: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole.safetensors"
    read(capsys, tuned_copy, whole, book)
    for part, more in ((TEXT[:77], ["--unfinished"]), (TEXT[77:], [])):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(part.encode()), encoding="latin-1"))
        read(capsys, tuned_copy, me, *more, "-")
    assert answer_json(capsys, "memory", "diff", whole, me)["equal"] is True
    assert "equal to the bit" in answer(capsys, "memory", "diff", whole, me)
    assert load_about(whole)[0].content == load_about(me)[0].content


def test_a_memory_brings_its_options(tuned_copy: Run, book: Path, me: Path, capsys: Capture) -> None:
    """Who reads on, scores or generates need not say again how."""
    folder = tuned_copy.folder
    read(capsys, tuned_copy, me, book, "--memory.rule", "meta", "--memory.segment", "10")
    read(capsys, tuned_copy, me, book)
    scored = answer_json(capsys, "score", folder, "--memory", me, "--articles", "1-2")
    assert readable_name(Path(scored["file"])) == "valid-1-2-meta-stream-no-regret-after-me"
    assert scored["variants"][0]["protocol"]["segment"] == 10
    told = answer_json(capsys, "generate", folder, "--memory", me, "--prompt", " the", "--tokens", "5")
    plain = answer_json(capsys, "generate", folder, "--memory.rule", "meta", "--prompt", " the", "--tokens", "5")
    assert told["prompt"] == plain["prompt"] and told["samples"][0]["text"] and plain["samples"][0]["text"]
    said = refused(capsys, "score", folder, "--memory", me, "--memory.segment", "20")
    assert "memory.segment 10, not 20" in said and str(me) in said


def test_show_diff_and_reset(tuned_copy: Run, book: Path, me: Path, tmp_path: Path, capsys: Capture) -> None:
    early = tmp_path / "early.safetensors"
    read(capsys, tuned_copy, me, book)
    shutil.copyfile(me, early)
    read(capsys, tuned_copy, me, book, book)
    shown = answer_json(capsys, "memory", "show", me)
    about, tensors = load_about(me)
    assert (shown["tokens"], shown["articles"], shown["model"]) == (about.tokens, 3, about.model)
    assert shown["moved"].keys() == load_model(tuned_copy.folder).params.keys()
    moved = tensors["params/embedding"]
    assert shown["moved"]["embedding"] == pytest.approx(float(moved.square().mean().sqrt()))
    said = answer(capsys, "memory", "show", me)
    assert f"{about.tokens:,} tokens of 3 articles" in said and "rule rms" in said
    in_words, rest = said.split("moved from the static parameters")
    assert (
        "expects more" in in_words and "bafidela (36 times, " in in_words and f"read last: {book}, {book}" in in_words
    )
    assert "% of the static ones' size" in in_words and "it helped by" in in_words and "embedding" in rest
    assert shown["record"]["words"]["bafidela"][0] == 36 and shown["distance"] > 0
    apart = answer_json(capsys, "memory", "diff", early, me)
    assert apart["equal"] is False and apart["articles"] == [1, 3]
    assert all(value > 0 for value in apart["apart"].values())
    said = answer(capsys, "memory", "diff", early, me)
    assert said.index(f"{me} expects more (nats saved in all): ") < said.index("apart") and "bafidela (+" in said
    assert "as if nothing had been read" in answer(capsys, "memory", "reset", me)
    assert "0 tokens of 0 articles" in answer(capsys, "memory", "show", me)
    from_fresh = answer_json(capsys, "memory", "diff", me, early)
    assert from_fresh["apart"]["embedding"] == pytest.approx(
        float(load_about(early)[1]["params/embedding"].square().mean().sqrt())
    )
    read(capsys, tuned_copy, me, book)
    assert me.read_bytes() == early.read_bytes()


def test_what_cannot_be_is_refused_and_nothing_is_written(
    tuned_copy: Run, book: Path, me: Path, tmp_path: Path, capsys: Capture
) -> None:
    folder = tuned_copy.folder
    assert "--memory FILE" in refused(capsys, "read", folder, "--unfinished", book)
    assert "no such file" in refused(capsys, "score", folder, "--memory", me).lower()
    assert "no such file" in refused(capsys, "read", folder, "--memory", me, tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    assert "UTF-8" in refused(capsys, "read", folder, "--memory", me, tmp_path / "latin.txt")
    (tmp_path / "empty.txt").write_bytes(b"")
    assert "empty" in refused(capsys, "read", folder, "--memory", me, tmp_path / "empty.txt")
    assert not me.exists()
    read(capsys, tuned_copy, me, book)
    whole = me.read_bytes()
    for content in (whole[:-1], whole[:100], b"", b"not a memory", whole[:-8] + bytes(8)):
        me.write_bytes(content)
        for verb in (["read", folder, "--memory", me, book], ["memory", "show", me], ["memory", "reset", me]):
            assert str(me) in refused(capsys, *verb)
        assert me.read_bytes() == content
    for verb in ("show", "reset"):
        refused(capsys, "memory", verb, folder / "model.safetensors")
    commands = "memory diff, memory export, memory import, memory reset, memory show"
    assert f"choose one of {commands}" in refused(capsys, "memory", "eat")


def test_the_memory_of_an_lstm_is_no_adapter(
    tuned_copy: Run, book: Path, me: Path, tmp_path: Path, capsys: Capture
) -> None:
    read(capsys, tuned_copy, me, book)
    said = refused(capsys, "memory", "export", me, tmp_path / "adapter", "--run", tuned_copy.folder)
    assert "adapters are of pretrained transformers" in said and not (tmp_path / "adapter").exists()


def test_a_memory_of_another_model_is_refused(
    tuned_copy: Run, book: Path, me: Path, tmp_path: Path, capsys: Capture
) -> None:
    read(capsys, tuned_copy, me, book)
    about, tensors = load_about(me)
    other = tmp_path / "other.safetensors"
    format._write(
        other, format.dataclasses.replace(about, model="feedfacefeedface"), {k: v.clone() for k, v in tensors.items()}
    )
    for verb in (["read", book], ["score"], ["generate"]):
        said = refused(capsys, verb[0], tuned_copy.folder, "--memory", other, *verb[1:])
        assert "another model (feedfacefeedface" in said
    assert "two models" in refused(capsys, "memory", "diff", me, other)


def test_hostile_words_in_a_memory_do_not_reach_the_terminal(
    tuned_copy: Run, book: Path, me: Path, capsys: Capture
) -> None:
    read(capsys, tuned_copy, me, book)
    about, tensors = load_about(me)
    hostile = "\x1b[2J\u202egnp\n"
    changed = {**{k: v.clone() for k, v in tensors.items()}, f"weights/{hostile}": torch.zeros(2)}
    forged = format.dataclasses.replace(about, model=hostile, options={**about.options, "rule": hostile})
    format._write(me, forged, changed)
    said = answer(capsys, "memory", "show", me) + answer(capsys, "memory", "diff", me, me)
    said += refused(capsys, "score", tuned_copy.folder, "--memory", me)
    assert "\x1b" not in said and "\u202e" not in said
