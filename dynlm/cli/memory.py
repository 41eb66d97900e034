"""The verbs of memories that are kept: ``dynlm read``, ``dynlm memory VERB``. torch is imported only by their calls."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dynlm.cli.command import Command, add_json, open_run, print_answer
from dynlm.errors import UserError
from dynlm.runtime.text import LARGEST_TEXT, printable, read_text

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from dynlm.train.config import Config


_NOTICEABLE = 0.02
"""Nats per token: a memory that is worse by less is not warned of."""
_TEXTS = f"text files, each an article of up to {LARGEST_TEXT // 2**20} MiB; -: standard input"


def _add_read_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "texts",
        type=str,
        nargs="+",
        metavar="TEXT",
        help=_TEXTS,
    )
    parser.add_argument("--unfinished", action="store_true", help="more of the last text is to follow")
    parser.add_argument("--again", action="store_true", help="learn texts once more that the memory has read last")
    add_json(parser)


def _read(options: Namespace, config: Config) -> int:
    from dynlm.evaluation.session import read_files

    if options.memory_file is None:
        raise UserError("a memory to keep was not named", do="give --memory FILE, such as --memory me.safetensors")
    path = Path(options.memory_file)
    texts: list[Callable[[], str]] = [functools.partial(read_text, name) for name in options.texts]
    done = read_files(open_run(options, config), texts, path, not options.unfinished, options.again)
    told = done.to_dict()
    if done.repeated:
        what = "these texts are what this memory has read last; they were not read again"
        print(printable(f"dynlm: warning: {path}: {what}; give --again to learn them once more"), file=sys.stderr)
        cost = "nothing"
    elif done.tokens:
        cost = f"{done.tokens:,} tokens, {told['nats_per_token']:.4f} nats per token before each was learned from"
        cost += f" (level 1: {told['level_1_nats_per_token']:.4f})"
    else:
        cost = "nothing yet: the text goes on"
    if done.worse_by > _NOTICEABLE:
        what = f"reading with this memory cost {done.worse_by:.2f} nats per token more than without"
        do = "tune the rule on more text, or lower its rate"
        if not config.memory.no_regret:
            do += ", or begin a memory with --memory.no_regret true"
        print(printable(f"dynlm: warning: {path}: {what}; {do}"), file=sys.stderr)
    text = "\n".join(
        [
            f"read {cost}",
            f"the memory has read {done.about.tokens:,} tokens of {done.about.articles:,} articles; its weights are "
            f"{done.distance:.4g} |theta_0| from the static ones",
            *([f"the update filter acted {done.rejected:,} times"] if done.rejected else []),
            f"static parameters: checksum {done.static[0]} before, {done.static[1]} after",
            *([] if done.repeated else [f"wrote {path}"]),
        ]
    )
    print_answer(options, {"file": str(path), **told}, text)
    return 0


def _add_show_options(parser: ArgumentParser) -> None:
    parser.add_argument("file", type=str, metavar="FILE", help="a memory file")
    add_json(parser)


def _show(options: Namespace, config: Config) -> int:
    from dynlm.evaluation.memory_report import as_text, show

    told = show(Path(options.file))
    print_answer(options, told, as_text(told))
    return 0


def _reset(options: Namespace, config: Config) -> int:
    from dynlm.adapt.memory_file import reset_memory

    path = Path(options.file)
    about = reset_memory(path)
    print_answer(options, {"file": str(path), "content": about.content}, f"{path}: as if nothing had been read")
    return 0


def _add_diff_options(parser: ArgumentParser) -> None:
    parser.add_argument("file", type=str, metavar="FILE", help="a memory file")
    parser.add_argument("other", type=str, metavar="OTHER", help="another of the same model")
    add_json(parser)


def _diff(options: Namespace, config: Config) -> int:
    from dynlm.evaluation.memory_report import diff, diff_as_text

    told = diff(Path(options.file), Path(options.other))
    print_answer(options, told, diff_as_text(told))
    return 0


COMMANDS: dict[str, Command] = {
    "read": Command(
        "read texts of your own and keep the memory of them in a file, to go on with",
        (
            "dynlm read runs/demo --memory me.safetensors book.txt",
            "dynlm read runs/demo --memory me.safetensors --unfinished - < notes.txt",
        ),
        _read,
        _add_read_options,
        takes_run=True,
        takes_memory=True,
        mixes_new_memories=True,
        sections=("run", "memory"),
    ),
    "memory show": Command(
        "tell what a memory file holds: whose it is, how it reads, what it has read, how far it went",
        ("dynlm memory show me.safetensors", "dynlm memory show me.safetensors --json"),
        _show,
        _add_show_options,
        takes_config=False,
    ),
    "memory reset": Command(
        "make a memory file forget all that was read",
        ("dynlm memory reset me.safetensors", "dynlm memory reset me.safetensors --json"),
        _reset,
        _add_show_options,
        takes_config=False,
    ),
    "memory diff": Command(
        "tell how two memories of one model differ",
        (
            "dynlm memory diff yesterday.safetensors me.safetensors",
            "dynlm memory diff a.safetensors b.safetensors --json",
        ),
        _diff,
        _add_diff_options,
        takes_config=False,
    ),
}
