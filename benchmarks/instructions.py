"""Processor instructions of one segment: a count that other programs on the machine do not change.

    python -m benchmarks.instructions [--kinds rms meta-training] [--tolerance 0.02] [--out runs/instructions.json]

Reads a few segments under valgrind's callgrind, then more in another process, and takes the difference. One thread, so
that no waiting is counted; about four minutes a kind. The exit code is 1, and the file ``--out`` stays as it was, if a
count grew by more than the tolerance since the run that the file holds: for CI, where wall time is unreliable. Counts
are not comparable between different processors.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from dynlm.errors import UserError
from dynlm.runtime.parsing import read_json, write_json

FEW, MORE = 3, 13


def instructions_a_segment(kind: str, config: str) -> float:
    """Raises UserError where there is no valgrind."""
    few, more = (_instructions(kind, segments, config) for segments in (FEW, MORE))
    return (more - few) / (MORE - FEW)


def _instructions(kind: str, segments: int, config: str) -> int:
    if shutil.which("valgrind") is None:
        raise UserError("valgrind is not installed", do="install it: apt-get install valgrind")
    words = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable]
    # Every segment is read after as many warm-up segments; the kind's own count is all that differs.
    words += ["-m", "benchmarks.kinds", kind, "--segments", str(segments), "--threads", "1", "--config", config]
    fixed = {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, **fixed})
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or found is None:
        raise RuntimeError(f"{' '.join(words)} failed: {done.stderr[-500:]}")
    return int(found[1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/wikitext-2-small.yaml")
    parser.add_argument("--kinds", nargs="+", default=["rms"])
    parser.add_argument("--tolerance", type=float, default=0.02)
    parser.add_argument("--out", type=Path, default=Path("runs/instructions.json"))
    options = parser.parse_args()
    before: dict[str, float] = read_json(options.out) if options.out.exists() else {}
    counts, grew = dict(before), False
    for kind in options.kinds:
        counts[kind] = instructions_a_segment(kind, options.config)
        change = counts[kind] / before[kind] - 1 if kind in before else 0.0
        grew = grew or change > options.tolerance
        told = f", {change:+.1%} since the last run" if kind in before else ""
        print(f"{kind}: {counts[kind] / 1e6:,.2f} million instructions a segment{told}")
    if not grew:
        write_json(options.out, counts)
    return int(grew)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
