#!/usr/bin/env python3
"""Write the table of README.md, and the files under docs/ that it is made of, from a study of WikiText-2.

    scripts/readme_results.py [STUDY]       copy the study's table.csv and seeds.csv to docs/, then write README.md
    scripts/readme_results.py --check       fail unless README.md is what docs/ makes

STUDY is runs/wikitext-2-small/study, which `dynlm study --config study-wikitext-2` makes; `make results DIR=...` runs
both. Only the standard library is used.
"""

from __future__ import annotations

import csv
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
TABLE, SEEDS = ROOT / "docs" / "wikitext-2-table.csv", ROOT / "docs" / "wikitext-2-seeds.csv"
PICTURES = {
    "difference.png": "wikitext-2-difference.png",
    "position.png": "wikitext-2-position.png",
}
BEGIN, END = "<!-- begin: scripts/readme_results.py -->", "<!-- end: scripts/readme_results.py -->"
SHOWN = (
    ("level 1", ""),
    ("level 1 + fixed cache", "stream"),
    ("level 1 + fixed cache", "article"),
    ("rms", "stream"),
    ("rms", "article"),
    ("rms+slow", "stream"),
    ("rms + gated cache", "stream"),
    ("rms + gated cache", "article"),
    ("level 2", "stream"),
    ("level 2 with slow weights", "stream"),
    ("level 3", "stream"),
    ("level 3", "article"),
    ("level 3 + gated cache", "stream"),
    ("level 3 + gated cache", "article"),
)
"""Variants and reset policies of README.md; the files have all of them."""


def read(path: Path) -> list[dict[str, str]]:
    """Return the records of a CSV file, those of shuffled articles left out."""
    with path.open(encoding="utf-8", newline="") as file:
        return [record for record in csv.DictReader(file) if record["order"] != "shuffled"]


def gain(record: dict[str, str], key: str) -> str:
    """Return a gain with its interval; a dash for what is compared with itself."""
    if not record.get(key):
        return "-"
    value, low, high = (float(record[key + end]) for end in ("", "_low", "_high"))
    return f"{value:+.4f} [{low:+.4f}, {high:+.4f}]"


def section() -> str:
    """Return what stands between the marks in README.md."""
    table = {(record["variant"], record["reset"]): record for record in read(TABLE)}
    seeds = {(record["variant"], record["reset"]): record for record in read(SEEDS)} if SEEDS.exists() else {}
    headings = ["variant", "reset", "nats/token", "ppl/word", "bits/byte"]
    headings += ["gain over level 1 [95 %]", "gain over rms [95 %]", *(["nats/token over seeds"] if seeds else [])]
    lines = [headings, ["---", "---", *["---:"] * (len(headings) - 2)]]
    for key in SHOWN:
        if (record := table.get(key)) is None:
            continue
        figures = [f"{float(record['nats_per_token']):.4f}", f"{float(record['perplexity_per_word']):.1f}"]
        figures.append(f"{float(record['bits_per_byte']):.4f}")
        cells = [*key, *figures, gain(record, "gain_over_level_1"), gain(record, "gain_over_rms")]
        if seeds:
            cells.append(over_seeds(seeds.get(key)))
        lines.append(cells)
    text = next(iter(table.values()))
    tokens, words = (f"{int(text[name]):,}" for name in ("tokens", "words"))
    about = f"{tokens} tokens, {words} words with ends of line, read in order. `make results DIR=...` makes this table."
    return "\n".join([about, "", *(f"| {' | '.join(line)} |" for line in lines)])


def over_seeds(record: dict[str, str] | None) -> str:
    """Return the mean and the range over seeds, and how many readings they are of."""
    if record is None:
        return "-"
    mean, low, high = (float(record[f"nats_per_token_{name}"]) for name in ("mean", "lowest", "highest"))
    count = int(record["base_models"]) * int(record["meta_seeds"] or 1)
    return f"{mean:.4f} ({low:.4f} to {high:.4f}, {count} readings)" if count > 1 else "-"


def written(readme: str) -> str:
    """Return the text of README.md with the section of today."""
    before, after = readme.index(BEGIN) + len(BEGIN), readme.index(END)
    return f"{readme[:before]}\n{section()}\n{readme[after:]}"


def main(arguments: list[str]) -> int:
    """Run the command of the module's docstring; returns the exit code."""
    if arguments == ["--check"]:
        readme = README.read_text(encoding="utf-8")
        if written(readme) != readme:
            print("README.md is not what docs/wikitext-2-*.csv make: run scripts/readme_results.py", file=sys.stderr)
            return 2
        return 0
    if len(arguments) > 1 or any(re.match("-", argument) for argument in arguments):
        print(__doc__, file=sys.stderr)
        return 2
    study = Path(arguments[0]) if arguments else ROOT / "runs" / "wikitext-2-small" / "study"
    if not (study / "table.csv").exists():
        print(f"no study ({study}): run `dynlm study --config study-wikitext-2 --corpus.path DIR`", file=sys.stderr)
        return 2
    shutil.copy(study / "table.csv", TABLE)
    if (study / "seeds.csv").exists():
        shutil.copy(study / "seeds.csv", SEEDS)
    for name, kept in PICTURES.items():
        if (study / name).exists():
            shutil.copy(study / name, ROOT / "docs" / kept)
    README.write_text(written(README.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
