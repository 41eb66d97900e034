"""Commands that read a text of the user's own, or go on from it. torch is imported only when they run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dynlm.cli.command import Option, command, open_run, print_answer, print_pieces
from dynlm.errors import UserError
from dynlm.runtime.text import read_text
from dynlm.runtime.validation import LARGEST_SEED, is_utf8

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from dynlm.train.config import Config


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
    sections="run memory",
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
