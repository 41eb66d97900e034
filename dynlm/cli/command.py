"""``Command``: what a command of the command line does and takes; and what all commands share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynlm.runtime.text import json_text, printable
from dynlm.runtime.validation import LARGEST, LARGEST_SEED, within

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from dynlm.run.run import Run
    from dynlm.train.config import Config


def _language_model_options() -> type:
    from dynlm.train.config import Config

    return Config


def _load_language_model_run(folder: Path) -> Any:
    from dynlm.train.config import load_config

    return load_config(folder)


@dataclass(frozen=True)
class Command:
    """A command: what it does, its options, and the function that it calls with them."""

    about: str
    examples: tuple[str, str]
    run: Callable[[Namespace, Any], int]
    """Called with the command's own options and the dataclass of all sections; returns the exit code."""
    add_options: Callable[[ArgumentParser], None] = lambda parser: None
    """Adds the command's own options."""
    takes_run: bool = False
    """Whether a run's folder is the first argument; the run's options are then the defaults."""
    takes_config: bool = True
    takes_memory: bool = False
    """Whether ``--memory FILE`` names a memory file; the options that it was read with are then the defaults."""
    mixes_new_memories: bool = False
    """Whether ``memory.no_regret`` defaults to true for a memory file that does not exist yet."""
    options: Callable[[], type] = _language_model_options
    """The dataclass of all sections that a config file may have."""
    sections: tuple[str, ...] | None = None
    """Those that this command uses; None: all."""
    common: tuple[str, ...] | None = None
    """Those of them that ``--help`` shows; None: all of them. ``--help all`` shows every one."""
    config: str | None = None
    """The shipped config that is the default of ``--config``."""
    resumes: bool = False
    """Whether the same command resumes from a checkpoint; the others start from the beginning."""
    load_run: Callable[[Path], Any] = _load_language_model_run
    """Loads a run's own options."""


NUMBERS: dict[str, tuple[float, float]] = {
    "tokens": (0, LARGEST),
    "top": (0, LARGEST),
    "resamples": (0, 1_000_000),
    "window": (1, LARGEST),
    "places": (1, 1_000_000),
    "length": (1, 1_000_000),
    "start": (0, LARGEST),
    "article": (1, LARGEST),
    "seed": (0, LARGEST_SEED),
    "order_seed": (0, LARGEST_SEED),
    "tolerance": (0, 1_000),
    "share": (0, 1_000),
}
"""Bounds of the numbers among commands' own options."""
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 1e-3, 1e3


def check_numbers(options: Namespace) -> None:
    """Raise UserError, naming the option, if a number among a command's own options is out of bounds."""
    for name, bounds in NUMBERS.items():
        if isinstance(value := options.get(name), int | float):
            within(f"--{name}", value, *bounds)
    if value := options.get("temperature"):
        within("--temperature (where it is not 0)", value, LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE)


def print_answer(options: Namespace, content: Any, text: str) -> None:
    """Print ``text``, or ``content`` as JSON for ``--json``, with control characters escaped; the main process only."""
    if os.environ.get("RANK", "0") == "0":
        print(json_text(content) if options.json else printable(text, lines=True))


def is_quiet(options: Namespace) -> bool:
    """Return whether to hide progress bars: for JSON output and without a terminal."""
    return bool(options.json or not sys.stderr.isatty())


def add_json(parser: ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help="print JSON, and nothing else on standard output")


def add_files(parser: ArgumentParser) -> None:
    """Add the score files that a command reads, or runs of them."""
    parser.add_argument("files", type=str, nargs="+", metavar="FILE", help="score files, or a run whose files to take")


def open_run(options: Namespace, config: Config) -> Run:
    """Open the run that the command line names, with the options given there."""
    from dynlm.run.run import Run

    return Run.open(options.folder, *vars(config).values())
