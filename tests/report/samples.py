"""Inputs that several tests of the report share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dynlm.evaluation.score_file import Scores, write_scores

HOSTILE_TOKENS = [
    b" <script>alert(1)</script>",
    b'" onmouseover="alert(2)',
    b"' onclick='alert(3)",
    b"<img src=x onerror=alert(4)>",
    b"</span></p></body>",
    b"{{ 7 * 7 }}",
    b"\x00",
    "\u202eevil\u202c".encode(),
    b"\xff",
    b" \n",
]


def write_files(folder: Path, variants: Sequence[Scores]) -> list[Path]:
    """Write each variant's score file into ``folder``. Return their paths."""
    paths = [folder / f"{index}.parquet" for index in range(len(variants))]
    for path, scores in zip(paths, variants, strict=True):
        write_scores(path, scores)
    return paths
