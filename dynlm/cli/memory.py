"""Commands of memory files: ``dynlm read``, ``dynlm memory COMMAND``. torch is imported only when they run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dynlm.cli.command import Argument, Option, command, open_run, print_answer
from dynlm.errors import UserError
from dynlm.runtime.text import LARGEST_TEXT, read_text, warn

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from dynlm.train.config import Config

_FILE = Argument("FILE", "a memory file")
_NOTICEABLE = 0.02
"""Nats per token: a memory that is worse by less causes no warning."""


@command(
    "read",
    Argument("TEXT", f"text files, each an article of up to {LARGEST_TEXT // 2**20} MiB; -: standard input", many=True),
    Option("--unfinished", "more of the last text is to follow"),
    Option("--again", "learn again from texts that the memory has read last"),
    sections="run memory",
    takes_run=True,
    takes_memory=True,
    mixes_new_memories=True,
)
def _read(options: Namespace, config: Config) -> int:
    """Read texts of your own and keep the memory of them in a file, to continue with.

    dynlm read runs/demo --memory me.safetensors book.txt
    dynlm read runs/demo --memory me.safetensors --unfinished - < notes.txt
    """
    from dynlm.evaluation.session import read_texts

    if options.memory_file is None:
        raise UserError("a memory to keep was not named", do="give --memory FILE, such as --memory me.safetensors")
    run, path = open_run(options, config), Path(options.memory_file)
    texts = [read_text(name) for name in options.texts]  # standard input may take long: no file is locked meanwhile
    done = read_texts(run, texts, path, not options.unfinished, options.again)
    report, cost = done.to_dict(), "nothing yet: the text goes on"
    if done.repeated:
        what = "these texts are what this memory has read last; they were not read again"
        warn(f"{path}: {what}; give --again to learn them once more")
        cost = "nothing"
    elif done.tokens:
        cost = f"{done.tokens:,} tokens, {report['nats_per_token']:.4f} nats per token before each was learned from"
        cost += f" (level 1: {report['level_1_nats_per_token']:.4f})"
    if done.worse_by > _NOTICEABLE:
        what = f"reading with this memory cost {done.worse_by:.2f} nats per token more than without"
        do = "tune the rule on more text, or lower its rate"
        do += "" if config.memory.no_regret else ", or begin a memory with --memory.no_regret true"
        warn(f"{path}: {what}; {do}")
    lines = [
        f"read {cost}",
        f"the memory has read {done.about.tokens:,} tokens of {done.about.articles:,} articles; its weights are "
        f"{done.distance:.4g} |theta_0| from the static ones",
        f"the update filter acted {done.rejected:,} times" if done.rejected else "",
        f"static parameters: checksum {done.static[0]} before, {done.static[1]} after",
        "" if done.repeated else f"wrote {path}",
    ]
    print_answer(options, {"file": str(path), **report}, "\n".join(line for line in lines if line))
    return 0


@command("memory show", _FILE, takes_config=False)
def _show(options: Namespace, config: None) -> int:
    """Describe a memory file: its model, its options, what it has read, how far its weights are.

    dynlm memory show me.safetensors
    dynlm memory show me.safetensors --json
    """
    from dynlm.evaluation.memory_report import as_text, show

    report = show(Path(options.file))
    print_answer(options, report, as_text(report))
    return 0


@command("memory reset", _FILE, takes_config=False)
def _reset(options: Namespace, config: None) -> int:
    """Make a memory file forget all that was read.

    dynlm memory reset me.safetensors
    dynlm memory reset me.safetensors --json
    """
    from dynlm.adapt.memory_file import reset_memory

    path = Path(options.file)
    about = reset_memory(path)
    print_answer(options, {"file": str(path), "content": about.content}, f"{path}: as if nothing had been read")
    return 0


@command("memory diff", _FILE, Argument("OTHER", "another of the same model"), takes_config=False)
def _diff(options: Namespace, config: None) -> int:
    """Show how two memories of one model differ.

    dynlm memory diff yesterday.safetensors me.safetensors
    dynlm memory diff a.safetensors b.safetensors --json
    """
    from dynlm.evaluation.memory_report import diff, diff_as_text

    report = diff(Path(options.file), Path(options.other))
    print_answer(options, report, diff_as_text(report))
    return 0


@command(
    "memory export",
    _FILE,
    Argument("FOLDER", "the adapter folder to write"),
    Option("--run", "the run that the memory belongs to", str),
    Option("--rank", "rank of the factors that approximate weights which moved as a whole", int, 16, 1, 4096),
    Option("--drop", "leave out tensors that moved and have no place in an adapter (norm gains, biases, embeddings)"),
    Option("--named", "write into FOLDER a folder that is named by its content"),
    Option("--base", "name of the base model in the adapter; unset: where it was adopted from", str),
    Option("--text", "a text to compare the memory, the adapter and the static model on, with frozen weights", str),
    takes_config=False,
)
def _export(options: Namespace, config: None) -> int:
    """Write the memory of a transformer as a PEFT adapter, which servers load.

    dynlm memory export me.safetensors me-adapter --run runs/smol
    dynlm memory export me.safetensors adapters --run runs/smol --named --rank 32 --text news.txt
    """
    from dynlm.adapt.memory_folder import AdapterOptions
    from dynlm.evaluation.memory_export import as_text, export_memory
    from dynlm.run.run import Run

    if options.run is None:
        raise UserError("the run of the memory was not named", do="give --run RUN, such as --run runs/smol")
    path, text = Path(options.file), None if options.text is None else read_text(options.text)
    how = AdapterOptions(path.stem, options.rank, options.drop, options.named)
    report = export_memory(Run.open(options.run), path, Path(options.folder), how, options.base, text)
    print_answer(options, report, as_text(report))
    return 0


@command(
    "memory import",
    Argument("FOLDER", "an adapter folder that `dynlm memory export` wrote"),
    Argument("FILE", "the memory file to write"),
    takes_config=False,
)
def _import(options: Namespace, config: None) -> int:
    """Write the memory of an adapter folder to a memory file, to read on with.

    dynlm memory import me-adapter me.safetensors
    dynlm memory import me-adapter me.safetensors --json
    """
    from dynlm.evaluation.memory_export import import_memory

    done = import_memory(Path(options.folder), Path(options.file))
    text = f"wrote {done['file']}: it has read {done['tokens']:,} tokens of {done['articles']:,} articles"
    print_answer(options, done, text)
    return 0
