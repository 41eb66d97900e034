"""Commands that read a text of the user's own, or go on from it. torch is imported only when they run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dynlm.cli.command import (
    MEMORY,
    READING,
    Argument,
    Option,
    command,
    open_run,
    print_answer,
    print_pieces,
    skipped_lines,
)
from dynlm.errors import UserError
from dynlm.runtime.launcher import is_main_process
from dynlm.runtime.text import counted, read_text, warn
from dynlm.runtime.validation import LARGEST_SEED, is_utf8

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from dynlm.evaluation.sitting import ReadSummary
    from dynlm.train.config import Config

_NOTICEABLE = 0.02
"""Nats per token: a memory that is worse by less causes no warning."""
_MOST_SHOWN = 600
"""Tokens: of longer texts two passages are shown."""


@command(
    "read",
    Argument("TEXT", "text files, folders, JSON lines, or - for standard input; a text is an article", many=True),
    Option("--unfinished", "more of the last text is to follow"),
    Option("--again", "learn again from texts that the memory has read last"),
    Option("--compare", "false: don't read with the static model too, which saves its time", bool, True),
    Option("--show", "print the text in colours: blue where the memory loses fewer nats than the static model"),
    sections=f"{READING} {MEMORY} corpus.text_field corpus.title_field",
    takes_run=True,
    takes_memory=True,
    mixes_new_memories=True,
)
def _read(options: Namespace, config: Config) -> int:
    """Read texts of your own, say what was learned, and keep the memory in a file to continue with.

    dynlm read runs/demo book.txt --show
    dynlm read runs/demo --memory me.safetensors book.txt notes/ --json
    """
    from dynlm.data.own_texts import load_own_texts
    from dynlm.evaluation.sitting import read_texts
    from dynlm.evaluation.word_gains import changes_text

    if options.show and (options.json or options.unfinished or not options.compare):
        what = "--show prints whole texts in colours, by the difference from the static model"
        raise UserError(what, do="leave out --json, --unfinished and --compare false")
    if options.unfinished and options.memory_file is None:
        raise UserError("what is to follow needs a memory that is kept", do="give --memory FILE")
    run, path = open_run(options, config), None if options.memory_file is None else Path(options.memory_file)
    # Standard input may take long: no file is locked meanwhile.
    texts, skipped = load_own_texts(options.texts, config.corpus)
    done = read_texts(run, texts, path, not options.unfinished, options.again, options.compare)
    if done.repeated:
        what = "these texts are what this memory has read last; they were not read again"
        warn(f"{path}: {what}; give --again to learn them once more")
    if done.worse_by > _NOTICEABLE:
        where = "" if path is None else f"{path}: "
        what = f"reading with this memory cost {done.worse_by:.2f} nats per token more than without"
        do = "tune the rule on more text, or lower its rate"
        do += "" if config.memory.no_regret else ", or begin a memory with --memory.no_regret true"
        warn(f"{where}{what}; {do}")
    if options.show and done.tokens:
        _show(done)
    memory = done.memory
    lines = [
        *skipped_lines(skipped),
        f"read {_cost(done)}",
        *(f"the memory {line}" for line in changes_text(done.words)),
        f"the memory has read {counted(memory['tokens'], 'token')} of {counted(memory['articles'], 'article')}; its "
        f"weights are {done.distance:.4g} |theta_0| from the static ones",
        f"the update filter acted {done.rejected:,} times" if done.rejected else "",
        f"static parameters: checksum {done.static[0]} before, {done.static[1]} after",
        "nothing was kept: --memory FILE keeps the memory"
        if path is None
        else ""
        if done.repeated
        else f"wrote {path}",
    ]
    file = None if path is None else str(path)
    answer = {"file": file, **done.to_dict(), "skipped": skipped}
    print_answer(options, answer, "\n".join(line for line in lines if line), indent=None)
    return 0


def _cost(done: ReadSummary) -> str:
    """Return what was read, and what it cost with the memory and by the static model."""
    if done.repeated:
        return "nothing"
    if not done.tokens:
        return "nothing yet: the text goes on"
    cost = f"{done.tokens:,} tokens, {done.nats_per_token:.4f} nats per token before each was learned from"
    if done.static_nats_per_token is None:
        return cost
    time = "; --compare false saves its time" if done.read_twice else ""
    return f"{cost} (static model: {done.static_nats_per_token:.4f}{time})"


def _show(done: ReadSummary) -> None:
    """Print the heat map of what was read."""
    from rich.console import Console

    from dynlm.report.own_text import heat_map_of, score_pair

    heat_map = heat_map_of(*score_pair(done.results, done.titles, done.protocol), _MOST_SHOWN)
    if is_main_process():
        Console(highlight=False).print(heat_map, soft_wrap=True)


@command(
    "generate",
    Option("--prompt", "text to read first; - reads standard input", str),
    Option("--prompt_file", "a file with that text", str),
    Option("--tokens", "most tokens to generate", int, 200),
    Option("--temperature", "0 takes the likeliest token each time", float, 0.8),
    Option("--top_k", "draw from this many likeliest tokens; 0: all", int, 40),
    Option("--top_p", "of these, draw from the fewest whose probabilities sum to this much; 1: all", float, 1.0),
    Option("--stop", "end before this text, as in --stop $'\\n'; may be given several times", str, many=True),
    Option("--samples", "texts to generate after the prompt, with seeds one apart", int, 1, 1, 10_000),
    Option("--seed", "seed of the first text; unset: the run's", int, high=LARGEST_SEED),
    Option("--learn", "learn from the generated text too, segment by segment"),
    sections=f"{READING} {MEMORY}",
    takes_run=True,
    takes_memory=True,
    mixes_new_memories=True,
)
def _generate(options: Namespace, config: Config) -> int:
    """Read a prompt, learn from it, and continue it; no memory file is changed.

    dynlm generate runs/demo --prompt 'Return the' --samples 3
    dynlm generate runs/demo --memory me.safetensors --prompt_file notes.txt --stop $'\\n\\n'
    """
    from dynlm.evaluation.generate import continue_text, read_prompt
    from dynlm.evaluation.sampling import Sampling, Stop
    from dynlm.evaluation.session import Session

    seed, ends = config.run.seed if options.seed is None else options.seed, options.stop or []
    if not all(end and is_utf8(end) for end in ends):
        raise UserError("--stop is empty, or not UTF-8", do="name the text to end before")
    sampling = Sampling(options.tokens, options.temperature, options.top_k, options.top_p, seed)
    prompt = _prompt(options.prompt, options.prompt_file)
    memory_file = None if options.memory_file is None else Path(options.memory_file)
    session = Session.open(open_run(options, config), memory_file)
    start, segment = read_prompt(session, prompt), session.options.segment if options.learn else None
    how = session.dynamic_model, session.trained.tokenizer, start
    seeds = [(seed + number) % (LARGEST_SEED + 1) for number in range(options.samples)]
    texts = [continue_text(*how, replace(sampling, seed=each), Stop(tuple(ends)), segment) for each in seeds]
    if options.json:
        samples = [{"seed": each, "text": "".join(text)} for each, text in zip(seeds, texts, strict=True)]
        print_answer(options, {"prompt": prompt, "samples": samples}, "")
    else:
        print_pieces(_answer(prompt, seeds, texts))
    return 0


def _prompt(prompt: str | None, file: str | None) -> str:
    """Return the prompt that ``--prompt`` or ``--prompt_file`` gives. Raises UserError for both, and for a bad text."""
    if prompt is not None and file is not None:
        raise UserError("--prompt and --prompt_file were both given", do="give one of them")
    if file is not None or prompt == "-":
        return read_text("-" if file is None else file)
    if not is_utf8(prompt or ""):
        raise UserError("the prompt is not UTF-8", "--prompt", "convert it")
    return prompt or ""


def _answer(prompt: str, seeds: list[int], texts: list[Iterator[str]]) -> Iterator[str]:
    """Yield the prompt with its continuation, or with several ones below headings, in pieces."""
    yield prompt
    if len(texts) == 1:
        yield from texts[0]
    for seed, text in zip(seeds, texts, strict=True) if len(texts) > 1 else ():
        yield f"\n\n=== seed {seed} ===\n"
        yield from text
    yield "\n"
