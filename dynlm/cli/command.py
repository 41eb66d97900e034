"""``Command``: what a command of the command line does and takes; and what all commands share."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynlm.errors import UserError
from dynlm.evaluation.export import Format, Table, export
from dynlm.runtime.launcher import is_main_process
from dynlm.runtime.text import json_text, printable
from dynlm.runtime.validation import LARGEST

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from dynlm.run.run import Run
    from dynlm.train.config import Config

Function = Callable[["Namespace", Any], int]
"""Called with a command's own options and the dataclass of all sections; returns the exit code."""


@dataclass(frozen=True)
class Option:
    """An option of a command's own; without a ``type`` a switch. Numbers must lie in [low, high].

    ``many``: it may be given several times, and its value is the list of all, or None.
    """

    name: str
    about: str
    type: Any = None
    default: Any = None
    low: float = 0
    high: float = LARGEST
    many: bool = False


@dataclass(frozen=True)
class Argument:
    """A positional argument of a command's own, or several (``many``), whose name then ends with an s."""

    metavar: str
    about: str
    many: bool = False
    runs: str | None = None
    """The folder of runs in which a name is looked up as well; the words are then the folders that were found. One that
    is not there is refused here, several are looked at by the command."""


@dataclass(frozen=True)
class Command:
    """A command: its function, whose docstring describes it, and its options."""

    run: Function
    own: tuple[Option | Argument, ...] = ()
    takes_run: bool = False
    """Whether a run's folder or name is the first argument; the run's options are then the defaults."""
    run_is_optional: bool = False
    """Whether that argument may be left out."""
    takes_config: bool = True
    runs: str = "runs"
    """The folder of runs of its kind, in which a run is found by its name."""
    takes_memory: bool = False
    """Whether ``--memory FILE`` names a memory file; the options that it was read with are then the defaults."""
    mixes_new_memories: bool = False
    """Whether ``memory.no_regret`` defaults to true without a memory file that exists."""
    options: str = "dynlm.train.config:Config"
    """The dataclass of all sections that a config file may have, which is imported when the command runs."""
    sections: str = ""
    """Names of those that this command uses, or of single options (``corpus.text_field``); empty: all. Options that it
    does not use of a section that it does follow with a minus (``memory -memory.track``)."""
    common: str = ""
    """Names of those of them that ``--help`` shows; empty: all of them."""
    config: str | None = None
    """The shipped config that is the default of ``--config``."""
    resumes: bool = False
    """Whether the same command resumes from a checkpoint; the others start from the beginning."""
    load_run: str = "dynlm.train.config:load_config"
    """The function that loads them from a run's folder."""

    @property
    def about(self) -> str:
        """What it does, in one line: the docstring of its function without the examples."""
        return (inspect.getdoc(self.run) or "").partition("\n\n")[0].removesuffix(".")

    def used_sections(self) -> dict[str, tuple[str, ...]]:
        """Return the sections of ``sections``, each with the names of its options, or none where all are used."""
        used: dict[str, tuple[str, ...]] = {}
        for word in (word for word in self.sections.split() if not word.startswith("-")):
            section, _, option = word.partition(".")
            used[section] = (*used.get(section, ()), *([option] if option else []))
        return used

    @property
    def unused_options(self) -> set[str]:
        """Options of ``sections`` that it does not use, as ``section.option``."""
        return {word[1:] for word in self.sections.split() if word.startswith("-")}

    @property
    def examples(self) -> list[str]:
        """Two examples: the last lines of the docstring."""
        return (inspect.getdoc(self.run) or "").splitlines()[-2:]


FORMAT = Option(
    "--format", "of the table: csv has unrounded figures, latex is for booktabs, json has everything", Format, "text"
)
"""Option of the commands that print tables."""
READING = "run.seed run.cpu"
"""Options of the section run that a command takes which only reads with a run, for ``sections``."""
WORK = f"run.name run.folder {READING} run.checkpoint_seconds run.checkpoints_kept"
"""Those of one that adds to a run, or to its copy where that is read-only, and that can be interrupted."""
MEMORY = "memory -memory.track"
"""The section memory of a command that reads and writes no score file."""
COMMANDS: dict[str, Command] = {}
"""All commands by name."""
_MOST_SKIPPED = 20
"""Files that were not read, which are listed; JSON has all."""


def command(name: str, *own: Option | Argument, **fields: Any) -> Callable[[Function], Function]:
    """Register a function as a command; its docstring is the description and, after an empty line, two examples."""

    def register(run: Function) -> Function:
        COMMANDS[name] = Command(run, own, **fields)
        return run

    return register


def open_run(options: Namespace, config: Config) -> Run:
    """Open the run that the command line names, with the options given there."""
    from dynlm.run.run import Run

    return Run.open(options.folder, *vars(config).values())


def answer_format(options: Namespace) -> Format:
    """Return the format of the answer: that of ``--format``, or ``json`` for ``--json``."""
    return "json" if options.json else options.get("format", "text")


def print_answer(options: Namespace, content: Any, text: str, indent: int | None = 2) -> None:
    """Print ``text``, or ``content`` as JSON for ``--json``, with control characters escaped; the main process only.

    ``indent`` None prints JSON on one line.
    """
    if is_main_process():
        print(json_text(content, indent) if answer_format(options) == "json" else printable(text, lines=True))


def print_tables(options: Namespace, tables: Sequence[Table], content: Any, text: str) -> None:
    """Print ``tables`` in the format of ``--format``: ``content`` for JSON, and ``text`` for a terminal."""
    form = answer_format(options)
    if form in ("text", "json"):
        print_answer(options, content, text)
    elif is_main_process():
        print(export(tables, form), end="")


def print_pieces(pieces: Iterable[str]) -> None:
    """Print a text as its pieces come, with control characters escaped; the main process only."""
    for piece in pieces:
        if is_main_process():
            print(printable(piece, lines=True), end="", flush=True)


def open_in_browser(page: Path) -> None:
    """Show a page in the browser. Raises UserError where none is found."""
    import webbrowser

    if not webbrowser.open(page.resolve().as_uri()):
        raise UserError("no browser was found to show it in", page, "open it yourself")


def skipped_lines(skipped: Mapping[str, str]) -> Iterator[str]:
    """Yield a line with the reason for each file that was not read, or for the first of them and one for the rest."""
    for path, why in [*skipped.items()][:_MOST_SKIPPED]:
        yield printable(f"not read: {path}: {why}")
    if (more := len(skipped) - _MOST_SKIPPED) > 0:
        yield f"not read: {more:,} more, which --json has"


def is_quiet(options: Namespace) -> bool:
    """Return whether to hide progress bars: for JSON output and without a terminal."""
    return bool(options.json or not sys.stderr.isatty())
