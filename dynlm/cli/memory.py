"""Commands of memory files, ``dynlm memory COMMAND``. torch is imported only when they run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dynlm.cli.command import Argument, Option, command, print_answer
from dynlm.errors import UserError
from dynlm.runtime.text import read_text

if TYPE_CHECKING:
    from jsonargparse import Namespace


_FILE = Argument("FILE", "a memory file")


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
