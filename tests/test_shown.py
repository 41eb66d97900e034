"""What the command line shows: no name, token or file's text steers a terminal, whatever it holds."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jsonargparse import Namespace

from dynlm.cli.command import print_answer
from dynlm.cli.main import main
from dynlm.evaluation.checks.verify import VerifyResult
from dynlm.evaluation.memory_report import as_text, diff_as_text

HOSTILE = st.text(st.characters(exclude_categories=()), max_size=40)
WORST = "a\x1b[2J\u202e\tb\nc\r\ud83d|<script>=cmd()"


def is_shown(text: str, more: str = "") -> bool:
    text.encode("utf-8")
    return all(letter.isprintable() or letter in "\u200c\u200d" + more for letter in text)


@given(HOSTILE, st.booleans())
@example(WORST, False)
@example(WORST, True)
def test_no_answer_steers_a_terminal(text: str, as_json: bool) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        print_answer(Namespace(json=as_json), {"name": text}, text)
    shown = out.getvalue()
    assert is_shown(shown, "\n\t\u00a0\u3000")
    if as_json:
        assert json.loads(shown) == {"name": text}


@given(HOSTILE)
@example(WORST)
def test_a_verdict_is_a_line_for_each_thing_it_tells(text: str) -> None:
    lines = VerifyResult(Path(f"x{text}"), text, 3, 0.0, broken=[text], changed=[text]).to_text().split("\n")
    assert len(lines) == 3 and all(map(is_shown, lines))


@given(HOSTILE)
@example(WORST)
def test_a_memorys_names_are_a_line_each(text: str) -> None:
    shown = {"file": text, "options": {"rule": text}, "model": text, "bytes": 1, "tokens": 2, "articles": 1}
    record = {"tokens": 2, "static": 3.0, "nats": 1.0, "texts": [text], "words": {text: [2, 3.0, 1.0]}}
    of_memory = {"unfinished": None, "moved": {text: 0.5}, "distance": 0.1, "record": record}
    lines = as_text({**shown, **of_memory}).split("\n")
    assert len(lines) == 8 and all(map(is_shown, lines))
    told = {"files": [text, text], "tokens": [1, 1], "articles": [1, 1], "options": {text: [text, 1]}}
    told |= {"distance": [0.1, None], "records": [record, {}]}
    lines = diff_as_text({**told, "equal": False, "apart": {text: 0.5}}).split("\n")
    assert len(lines) == 6 and all(map(is_shown, lines))


def test_a_corpus_with_a_hostile_title_is_a_line_for_each_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for split in ("train", "valid", "test"):
        record = json.dumps({"title": WORST, "text": "One short article.\nOf two lines.\n"})
        (tmp_path / f"{split}.jsonl").write_text(record + "\n", encoding="utf-8")
    code = main(["corpus", f"--corpus.path={tmp_path}"])
    out, err = capsys.readouterr()
    assert code == 0, err
    lines = out.rstrip("\n").split("\n")
    told = [line for line in lines if r"a\x1b[2J\u202e b c \ud83d|<script>=cmd()" in line]
    assert len(told) >= 2 and all(map(is_shown, lines))
