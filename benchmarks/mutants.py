"""How many small faults the tests notice: each is put into a copy of the tree, and the tests of its module are run.

    python -m benchmarks.mutants [--seed 0] [--count 20] [--modules adapt/loop.py] [--seconds 1200] [--log FILE]

A mutant differs from the source in one position: a comparison, an arithmetic operator, a number by 1, a boolean, a
negated condition, a dropped ``not``, ``and`` for ``or``, a statement left out, ``None`` returned. Those of one seed are
always sampled in the same order, so that a larger ``--count`` continues where a smaller one ended. Outcomes are written
to the log, a line of JSON each, and are not computed again while neither the module nor its tests change. Look at the
survivors: some change nothing that can be observed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.mutations import Mutant, on_one_line, sample_mutants
from dynlm.errors import UserError
from dynlm.runtime.hashing import fingerprint

ROOT = Path(__file__).resolve().parents[1]
_COPIED = ("dynlm", "tests", "benchmarks", "scripts", "configs", "data", "docs", "README.md", "Makefile")
_TIMES_BASELINE, _AT_LEAST_SECONDS = 3.0, 30.0
"""A mutant's tests may take this multiple of their time without it, plus these seconds."""

DEFAULT_MODULES = ("adapt/**/*.py", "data/stream.py", "evaluation/**/*.py", "runtime/checkpoints.py")
"""Modules whose errors would change figures without failing, as patterns below ``dynlm``."""


def modules_of(patterns: Sequence[str], root: Path = ROOT) -> list[str]:
    """Return the modules that match any of the patterns and have tests, as paths below ``dynlm``, sorted."""
    package = root / "dynlm"
    found = {path.relative_to(package).as_posix() for each in patterns for path in package.glob(each)}
    return sorted(name for name in found if not name.endswith("__init__.py") and covering_tests(name, root))


def covering_tests(module: str, root: Path = ROOT) -> list[str]:
    """Return the test files of a module: those of the folder that mirrors its own, or below, that import it.

    Where there are none, all that import it.
    """
    dotted = re.compile(rf"\bdynlm\.{module.removesuffix('.py').replace('/', '[.]')}\b")
    tests = root / "tests"
    importing = [path for path in sorted(tests.rglob("test_*.py")) if dotted.search(path.read_text(encoding="utf-8"))]
    mirror = (tests / module).parent
    return [path.relative_to(root).as_posix() for path in importing if mirror in path.parents] or [
        path.relative_to(root).as_posix() for path in importing
    ]


@dataclass(frozen=True)
class Outcome:
    """The result of a mutant: ``killed`` by a failing test or the time limit; ``key`` identifies source and tests."""

    name: str
    module: str
    killed: bool
    why: str
    seconds: float
    key: str


class Tree:
    """A copy of the repository in which the tests of a module run with one of its mutants."""

    def __init__(self, folder: Path, root: Path = ROOT):
        self.folder = folder
        for name in (*_COPIED, "pyproject.toml"):
            source = root / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            elif source.exists():
                shutil.copy2(source, folder / name)
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(folder),
            # A mutant may have the size and the second of the source that was compiled.
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self._seconds: dict[str, float] = {}

    def baseline(self, module: str) -> float:
        """Return the seconds of the module's tests without a mutant. Raises UserError if they do not pass."""
        if module not in self._seconds:
            begun = time.monotonic()
            code, said = self._run(module, None)
            if code:
                raise UserError(f"its tests fail without any mutant (pytest ends with {code}): {said}", module)
            self._seconds[module] = time.monotonic() - begun
        return self._seconds[module]

    def outcome(self, mutant: Mutant, key: str) -> Outcome:
        """Return whether the tests fail with ``mutant``."""
        limit = _TIMES_BASELINE * self.baseline(mutant.module) + _AT_LEAST_SECONDS
        path = self.folder / "dynlm" / mutant.module
        source, begun = path.read_text(encoding="utf-8"), time.monotonic()
        path.write_text(mutant.source, encoding="utf-8")
        try:
            code, said = self._run(mutant.module, limit)
        finally:
            path.write_text(source, encoding="utf-8")
        if code in (4, 5):
            raise UserError(f"pytest ends with {code}: {said}", mutant.module)
        why = "the tests pass" if code == 0 else "time" if code is None else said
        return Outcome(mutant.name, mutant.module, code != 0, why, round(time.monotonic() - begun, 1), key)

    def _run(self, module: str, limit: float | None) -> tuple[int | None, str]:
        """Return exit code and last line of pytest on the module's tests; None as code past the time ``limit``."""
        files = covering_tests(module, self.folder)
        with tempfile.TemporaryDirectory() as aside:
            command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--basetemp", f"{aside}/t"]
            # In its own process group, so that processes that the tests started are ended too.
            running = subprocess.Popen(
                [*command, *files],
                cwd=self.folder,
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            try:
                said, _ = running.communicate(timeout=limit)
            except subprocess.TimeoutExpired:
                return None, ""
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(running.pid, signal.SIGKILL)
                running.wait()
        failed = [line for line in said.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return running.returncode, on_one_line((failed or said.splitlines() or [""])[-1], 200)


def key_of(mutant: Mutant, root: Path = ROOT) -> str:
    """Return a fingerprint of a mutant's whole source and of its tests: with the same, the outcome is the same."""
    return fingerprint(
        mutant.name, mutant.source, *((root / n).read_bytes() for n in covering_tests(mutant.module, root))
    )


def logged(path: Path) -> dict[str, Outcome]:
    """Return the outcomes in a log by key, without a truncated last line."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            outcome = Outcome(**json.loads(line))
            found[outcome.key] = outcome
    return found


def summary(outcomes: Sequence[Outcome]) -> str:
    """Return the rate of killed mutants in total and for each module, and the survivors."""
    all_of, killed = (Counter(each.module for each in outcomes if each.killed >= least) for least in (False, True))
    rows = [f"{killed[module]:4} of {count:4} killed  {module}" for module, count in all_of.items()]
    rows.append(f"{killed.total():4} of {all_of.total():4} killed")
    return "\n".join([*rows, *(f"survived: {each.name}" for each in outcomes if not each.killed)])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=20, help="mutants, including those in the log")
    about = "paths or patterns of modules below dynlm"
    parser.add_argument("--modules", nargs="+", default=list(DEFAULT_MODULES), metavar="MODULE", help=about)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no mutant after this")
    parser.add_argument("--log", type=Path, default=Path("runs/mutants.jsonl"))
    options = parser.parse_args()
    begun, known = time.monotonic(), logged(options.log)
    modules = modules_of(options.modules)
    sources = {module: (ROOT / "dynlm" / module).read_text(encoding="utf-8") for module in modules}
    outcomes = []
    options.log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, options.log.open("a", encoding="utf-8") as log:
        tree = Tree(Path(folder))
        for mutant in sample_mutants(sources, options.seed, options.count):
            key = key_of(mutant)
            if key not in known:
                if time.monotonic() - begun > options.seconds:
                    print("time limit reached")
                    break
                known[key] = tree.outcome(mutant, key)
                log.write(json.dumps(asdict(known[key])) + "\n")
                log.flush()
            outcomes.append(known[key])
            shown = outcomes[-1]
            print(f"{'killed  ' if shown.killed else 'SURVIVED'}  {shown.name}  ({shown.seconds:.1f} s, {shown.why})")
            sys.stdout.flush()
    print(summary(outcomes))


if __name__ == "__main__":
    main()
