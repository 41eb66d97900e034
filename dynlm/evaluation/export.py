"""Tables as Markdown, CSV and LaTeX: one implementation for every command that prints figures."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dynlm.runtime.text import csv_field, latex, markdown_cell, printable

Format = Literal["text", "markdown", "csv", "latex", "json"]
"""``text`` is for terminals; ``json`` has everything that a command found out, not its tables alone."""


@dataclass(frozen=True)
class Table:
    """Cells of text, unescaped, and the same figures unrounded."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    notes: Sequence[str] = ()
    left: int = 1
    """Columns that are aligned to the left: names."""
    baseline: int | None = None
    """Row whose name is in italics."""
    records: Sequence[Mapping[str, Any]] = ()
    """Rows for CSV, with the same fields; empty: the cells."""


def align(rows: Sequence[Sequence[str]], left: int = 1) -> list[list[str]]:
    """Pad the cells of each column to one width; the first ``left`` columns are aligned to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    pads = [str.ljust if n < left else str.rjust for n in range(len(widths))]
    return [[pad(cell, width) for pad, cell, width in zip(pads, row, widths, strict=True)] for row in rows]


def markdown_rows(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Return the lines of a Markdown table, aligned in a terminal too; the first row holds the headings."""
    headings, *cells = align(rows, left)
    rule = ["-" * len(cell) if n < left else "-" * (len(cell) - 1) + ":" for n, cell in enumerate(headings)]
    return [f"| {' | '.join(row)} |" for row in (headings, rule, *cells)]


def to_markdown(table: Table) -> str:
    """Return a Markdown table with its notes below it."""
    rows = [[*map(markdown_cell, row)] for row in (table.columns, *table.rows)]
    if table.baseline is not None:
        rows[table.baseline + 1][0] = f"*{rows[table.baseline + 1][0]}*"
    notes = "  \n".join(map(markdown_cell, table.notes))
    return "\n".join([*markdown_rows(rows, table.left), *(["", notes] if notes else [])]) + "\n"


def to_csv(table: Table) -> str:
    """Return the table's records as comma-separated values, unrounded; an empty field where there is no figure.

    Text is escaped so that no spreadsheet takes it for a formula.
    """
    records = table.records or [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(map(csv_field, records[0] if records else table.columns))
    for record in records:
        writer.writerow([csv_field(value) if isinstance(value, str) else value for value in record.values()])
    return written.getvalue()


def to_latex(table: Table) -> str:
    """Return a ``table`` environment for ``\\usepackage{booktabs}``; the notes are comments above it."""
    head, *rows = ([*map(latex, row)] for row in (table.columns, *table.rows))
    if table.baseline is not None:
        rows[table.baseline][0] = rf"\emph{{{rows[table.baseline][0]}}}"
    lines = align([[*row[:-1], rf"{row[-1]} \\"] for row in (head, *rows)], left=len(head))
    body = [f"    {' & '.join(line).rstrip()}" for line in lines]
    columns = "l" * table.left + "r" * (len(head) - table.left)
    return "\n".join(
        [
            *(f"% {printable(note)}" for note in table.notes),
            r"\begin{table}",
            r"  \centering",
            *([rf"  \caption{{{latex(table.title)}}}"] if table.title else []),
            rf"  \begin{{tabular}}{{{columns}}}",
            r"    \toprule",
            body[0],
            r"    \midrule",
            *body[1:],
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def export(tables: Sequence[Table], form: Format) -> str:
    """Return tables in a format for other programs, with an empty line between them; ``json`` is the caller's."""
    write = {"markdown": to_markdown, "csv": to_csv, "latex": to_latex}[form]
    return "\n".join(map(write, tables))
