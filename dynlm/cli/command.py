"""What a verb of the command line is, and what all verbs share."""

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
    """A verb of the command line: what it does, its own options, and the call."""

    about: str
    examples: tuple[str, str]
    run: Callable[[Namespace, Any], int]
    add_options: Callable[[ArgumentParser], None] = lambda parser: None
    takes_run: bool = False
    takes_config: bool = True
    takes_memory: bool = False
    """Whether ``--memory FILE`` names a memory file; the options that it was read by are then the defaults."""
    mixes_new_memories: bool = False
    """Whether a memory that is not there yet is read with ``memory.no_regret`` unless that is said to be false."""
    options: Callable[[], type] = _language_model_options
    """The dataclass of its config."""
    config: str | None = None
    """The shipped config that stands where ``--config`` is not given."""
    resumes: bool = False
    """Whether the same command goes on from what a stopped one saved; the others begin anew."""
    load_run: Callable[[Path], Any] = _load_language_model_run
    """A run's own config, which gives the defaults where a run is taken."""


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
"""The verbs' own numbers, and from where to where they go."""
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 1e-3, 1e3


def check_numbers(options: Namespace) -> None:
    """Raise UserError, naming the option, where a number among a verb's own options is out of its bounds."""
    for name, bounds in NUMBERS.items():
        if isinstance(value := options.get(name), int | float):
            within(f"--{name}", value, *bounds)
    if value := options.get("temperature"):
        within("--temperature (where it is not 0)", value, LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE)


def print_answer(options: Namespace, content: Any, text: str) -> None:
    """Print ``text``, or ``content`` as JSON where that was asked for; control characters of either are spelt."""
    # Of several processes that did one thing together, one tells.
    if os.environ.get("RANK", "0") == "0":
        print(json_text(content) if options.json else printable(text, lines=True))


def is_quiet(options: Namespace) -> bool:
    """Whether bars stay away: for JSON, and where nobody watches."""
    return bool(options.json or not sys.stderr.isatty())


def add_json(parser: ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help="print JSON, and nothing else on standard output")


def add_files(parser: ArgumentParser) -> None:
    """Add the score files that a verb looks at, or runs of them."""
    parser.add_argument("files", type=str, nargs="+", metavar="FILE", help="score files, or a run whose files to take")


def open_run(options: Namespace, config: Config) -> Run:
    """Open the run that the command line names, with the options given there."""
    from dynlm.run.run import Run

    return Run.open(options.folder, *vars(config).values())
