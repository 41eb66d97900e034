"""Decoding rejects invalid text with its byte; escaped text is inert in every medium."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynlm.errors import UserError
from dynlm.runtime.text import (
    counted,
    csv_field,
    csv_text,
    decode_text,
    json_text,
    markdown,
    markdown_code,
    printable,
    read_text,
)

ANY = st.text(st.characters(exclude_categories=()), max_size=40)


@given(ANY)
def test_printable_text_is_one_line_without_control_characters(text):
    shown = printable(text)
    shown.encode("utf-8")
    assert "\n" not in shown
    assert all(letter.isprintable() or letter in "\u200c\u200d" for letter in shown)


def test_control_characters_are_escaped():
    assert printable("a\x1b[2Jb\tc\nd \ud83d\u202e") == r"a\x1b[2Jb c d \ud83d\u202e"
    assert printable("a\tb\r\n", lines=True) == "a\tb\\r\n"
    assert printable("漢字 naïve 👩\u200d👩") == "漢字 naïve 👩\u200d👩"


@given(st.recursive(ANY, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY, inner, max_size=3)))
def test_json_text_round_trips(content):
    text = json_text(content)
    assert json.loads(text.encode("utf-8")) == content
    assert all(letter.isprintable() or letter in "\n\u200c\u200d" for letter in text)


@given(ANY)
def test_a_csv_field_is_never_a_formula(text):
    assert not csv_field(text).startswith(("=", "+", "-", "@"))
    if not text.startswith("'"):
        assert csv_text(csv_field(text)) == printable(text)


def test_markdown_is_escaped():
    assert markdown("a|b\n# [x](http://y) <b>") == "a\\|b # \\[x\\](http:\\//y) \\<b\\>"


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"ab\xff", "not UTF-8 at byte 12 (0xff)"), (b"ab\0", "NUL character at byte 12"), (b"\xe6\xbc", "byte 10")],
)
def test_invalid_text_is_located_by_byte(data, message):
    with pytest.raises(UserError, match="book.txt: ") as refused:
        decode_text(data, "book.txt", 10)
    assert message in str(refused.value)


def test_a_byte_order_mark_is_dropped_only_at_the_start():
    assert decode_text(b"\xef\xbb\xbfa\r\n\xef\xbb\xbf", "x") == "a\r\n\ufeff"
    assert decode_text(b"\xef\xbb\xbfa", "x", 5) == "\ufeffa"


def test_read_text_has_a_limit_and_standard_input_is_utf8(tmp_path, monkeypatch):
    path = tmp_path / "text"
    path.write_bytes(b"12345")
    assert read_text(path, 5) == "12345"
    with pytest.raises(UserError, match="larger than"):
        read_text(path, 4)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\ufeffgrün\r\n".encode()), encoding="latin-1"))
    assert read_text("-") == "grün\r\n"


def test_streams_escape_what_their_encoding_lacks(monkeypatch):
    code = "from dynlm.runtime.text import escape_for_streams; escape_for_streams(); print('漢\\ud83d')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env={"PYTHONIOENCODING": "latin-1", "PYTHONPATH": "."}
    )
    assert (done.returncode, done.stdout) == (0, b"\\u6f22\\ud83d\n")


@given(st.text(st.characters(exclude_categories=())))
def test_a_code_span_cannot_be_closed_by_its_text(text):
    span = markdown_code(text)
    fence = re.match("`+", span).group()
    inside = span[len(fence) : -len(fence)]
    assert span.endswith(fence) and "\n" not in span
    assert not re.search(rf"(?<!`){fence}(?!`)", inside)
    assert not (inside.startswith("`") or inside.endswith("`"))
    assert inside.strip() == printable(text)


def test_one_is_not_several() -> None:
    assert [counted(number, "article") for number in (0, 1, 2, 1234)] == [
        "0 articles",
        "1 article",
        "2 articles",
        "1,234 articles",
    ]
