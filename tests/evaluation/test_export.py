"""Every format of a table holds the same cells, and no cell can be markup, a formula or a command."""

from __future__ import annotations

import csv
import io
import re
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynlm.evaluation.export import Table, export, to_csv, to_latex, to_markdown
from dynlm.runtime.text import latex, printable

HOSTILE = "a|b & c_d $x$ 100% #1 {y} \\input{z} ~ ^ <i> [q](http://r) =1+1"
TABLE = Table(
    ["variant", "nats/token", "gain [95 %]"],
    [["level 1", "3.5000", "-"], [HOSTILE, "3.2500", "-0.25 [-0.3000, +0.2000]"]],
    title="A & B",
    notes=["Text: 2 articles.", "50 % more\n\\end{document}"],
    baseline=0,
    records=[{"variant": "level 1", "nats": 3.5, "gain": None}, {"variant": "=1+1", "nats": 1 / 3, "gain": -0.25}],
)
LATEX = [
    (r"\textbackslash{}", "\\"),
    (r"\textasciicircum{}", "^"),
    (r"\textasciitilde{}", "~"),
    (r"\textquotedbl{}", '"'),
    *((f"{{{letter}}}", letter) for letter in "[]"),
    *((f"${letter}$", letter) for letter in "<>|-"),
    *((f"\\{letter}", letter) for letter in "{}$&#_%"),
]


def from_latex(text: str) -> str:
    """Read back what ``latex`` writes, one mark after another."""
    read = ""
    while text:
        written, letter = next((pair for pair in LATEX if text.startswith(pair[0])), (text[0], text[0]))
        assert written != text[0] or letter not in "\\{}$&#^_%~<>|[]", text
        read, text = read + letter, text[len(written) :]
    return read


def test_markdown_has_intervals_as_they_are_and_names_escaped():
    lines = to_markdown(TABLE).splitlines()
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[:4]]
    assert cells[0] == TABLE.columns and cells[1][0].startswith("--") and cells[1][1].endswith(":")
    assert cells[2] == ["*level 1*", "3.5000", "-"] and cells[3][1:] == TABLE.rows[1][1:]
    assert r"\[q\](http:" in cells[3][0] and r"a\|b" in cells[3][0]
    assert lines[4:] == ["", "Text: 2 articles.  ", r"50 % more \\end{document}"]
    (line,) = to_markdown(Table(["a [1](b)"], [])).splitlines()[:1]
    assert r"\[1\](b)" in line


def test_csv_has_the_records_unrounded_or_the_cells():
    rows = list(csv.DictReader(io.StringIO(to_csv(TABLE))))
    assert rows[0] == {"variant": "level 1", "nats": "3.5", "gain": ""}
    assert rows[1] == {"variant": "'=1+1", "nats": repr(1 / 3), "gain": "-0.25"}
    cells = Table(["a", "=b"], [["1,5", "+x"]])
    assert list(csv.reader(io.StringIO(to_csv(cells)))) == [["a", "'=b"], ["1,5", "'+x"]]


def test_latex_is_a_table_of_booktabs_with_as_many_columns():
    text = to_latex(TABLE)
    comments, body = text[: text.index("\\begin{table}")], text[text.index("\\begin{table}") :]
    assert all(line.startswith("% ") for line in comments.splitlines()) and "\\caption{A \\& B}" in body
    assert "\\begin{tabular}{lrr}" in body
    assert re.findall(r"\\(\w+rule|begin|end)\b", body) == [
        *("begin", "begin", "toprule", "midrule", "bottomrule", "end", "end")
    ]
    rows = re.search(r"\\toprule\n(.*)\\bottomrule", body, re.DOTALL)[1].replace("    \\midrule\n", "").splitlines()
    read = [[cell.strip() for cell in re.split(r"(?<!\\)&", row.strip().removesuffix("\\\\"))] for row in rows]
    assert read[1][0] == "\\emph{level 1}"
    assert [[*map(from_latex, row)] for row in (read[0], read[2])] == [TABLE.columns, TABLE.rows[1]]


SPELT_OUT = "\u00b1\u00d7\u2192\u2212\u03b8\u03c6\u03bb\u00b2" + "".join(map(chr, range(0x2080, 0x208A)))


@given(st.text(st.characters(exclude_characters=SPELT_OUT)))
def test_nothing_in_latex_is_a_command(text):
    assert from_latex(latex(text)) == printable(text)
    assert latex("1 \u00b1 2 \u2192 \u03b8\u2080") == r"1 $\pm$ 2 $\rightarrow$ $\theta$$_0$"


def test_several_tables_are_apart():
    assert export([TABLE, TABLE], "csv") == f"{to_csv(TABLE)}\n{to_csv(TABLE)}"
    assert export([TABLE], "markdown") == to_markdown(TABLE) and export([TABLE], "latex") == to_latex(TABLE)


def test_pandas_reads_the_csv():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pandas = pytest.importorskip("pandas")
    frame = pandas.read_csv(io.StringIO(to_csv(TABLE)))
    assert frame["nats"].tolist() == [3.5, 1 / 3] and frame["gain"].isna().tolist() == [True, False]
