"""Check that a run's readings keep the protocol: each promise is tried on real text, bit for bit."""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dynlm.adapt.dynamic_model import DynamicModel
from dynlm.adapt.loop import iter_segments
from dynlm.adapt.options import MemoryOptions
from dynlm.adapt.rules.elementwise import LEVEL_1
from dynlm.adapt.rules.registry import RULES, tuned_rules
from dynlm.data.joined import join_articles
from dynlm.data.stream import StreamPosition, read_in_order
from dynlm.data.tokenised_split import TokenisedSplit
from dynlm.data.tokenizers.tokenizer import Tokenizer
from dynlm.evaluation.evaluate import Evaluation, evaluate
from dynlm.run.run import Run
from dynlm.runtime.tensors import load_tensors, params_fingerprint, save_tensors
from dynlm.runtime.validation import within

CHANGES = ("characters", "cuts", "headings", "newlines")
"""Changes of a text at one place: a character replaced, the rest cut off, a line that only its end makes a heading, or
a newline inserted."""
PADDINGS = (0, 8, 24, 56)
ROUNDING = 1e-4
"""Nats by which a loss may differ in the one segment whose length a change of the text changes."""
_CACHE: dict[str, Any] = {"cache": "fixed", "cache_window": 500, "cache_inverse_temperature": [0.5], "cache_share": 0.1}


class Check(NamedTuple):
    """One promise, whether it was kept, and what was tried."""

    promise: str
    kept: bool
    tried: str


def check_protocol(run: Run, split: str, places: int = 20, tokens: int = 300) -> list[Check]:
    """Try each promise with the run's memory options on the first ``tokens`` tokens of three articles of ``split``.

    Without ``memory.article_boundaries`` they are read as one text. ``places`` is the number of changes of the text.
    Raises UserError if it is below 1.
    """
    within("places", places, 1)
    dynamic_model, memory, trained = run.dynamic_model(), run.section(MemoryOptions), run.trained
    text = run.split(split).excerpt(articles=3, tokens=tokens)
    text = text if memory.article_boundaries else join_articles(text, range(text.articles))
    before = params_fingerprint(trained.params)
    checks = check_dynamic_model(dynamic_model, text, memory.segment, places, run.options.seed, trained.tokenizer)
    if memory.lanes > 1:
        checks.append(_lanes_are_independent(dynamic_model, text, memory.segment, memory.lanes))
    kept = params_fingerprint(trained.params) == before
    return [*checks, Check("reading leaves the static parameters as they are", kept, "their checksum before and after")]


def check_every_rule(run: Run, split: str, places: int = 20, tokens: int = 300) -> list[Check]:
    """``check_protocol`` of each rule that is tuned or learned for the reset policy: alone, with a cache, mixed.

    Each rule also reads with parameters that begin at several addresses in memory.
    """
    memory, checks = run.section(MemoryOptions), list[Check]()
    for rule, g in rules_of(run, memory):
        alone = memory.replace(rule=rule, g=g or memory.g, cache="none", no_regret=False, **_as_tuned(run, rule))
        readings = {"": alone, " with a cache": dataclasses.replace(alone, **_CACHE)}
        if rule != "none":
            readings[" without regret"] = dataclasses.replace(alone, no_regret=True)
        found = [
            (partner, check)
            for partner, options in readings.items()
            for check in check_protocol(run.with_sections(options), split, places, tokens)
        ]
        if rule != "none":
            text = run.split(split).excerpt(articles=1, tokens=tokens)
            found.append(("", _addresses_do_not_matter(run, alone, text)))
        name = rule if g in ("", "meta") else f"meta ({g})"
        checks += [check._replace(promise=f"{name}{partner}: {check.promise}") for partner, check in found]
    return checks


def rules_of(run: Run, memory: MemoryOptions) -> list[tuple[str, str]]:
    """Return (rule, name of a learned g or "") of level 1 and of what a run holds for the policy of ``memory``."""
    tuned = [(rule, "") for rule in tuned_rules() if run.store.load_tuned(rule, memory.policy)]
    return [("none", ""), *tuned, *(("meta", name) for name in run.store.learned_names(memory.reset))]


def _as_tuned(run: Run, rule: str) -> dict[str, Any]:
    """Return the options that decide which statistics of batches a rule was tuned with; none for other rules."""
    if RULES[rule].statistics != "batches":
        return {}
    tuned = run.store.load_tuned(rule, run.section(MemoryOptions).policy) or {}
    return {name: tuned[name] for name in ("segment", "statistics_lanes") if name in tuned}


def check_dynamic_model(
    dynamic_model: DynamicModel, text: TokenisedSplit, segment: int, places: int, seed: int, tokenizer: Tokenizer
) -> list[Check]:
    """Try the promises that need no files: causality, zero rates, and reading in two sittings."""
    # Half characters may stand at the end of an excerpt.
    bounds = itertools.pairwise(text.text_starts.tolist())
    texts = [text.text[start:end].tobytes().decode(errors="ignore") for start, end in bounds]
    changes = [*changes_of(texts, places, seed, segment)]
    checks = [_is_causal(dynamic_model, texts, changes, segment, tokenizer)]
    nats = nats_of(dynamic_model, text, segment)
    if dynamic_model.rule.learns:
        still, level_1 = _at_rest(dynamic_model)
        kept = np.array_equal(nats_of(still, text, segment), nats_of(level_1, text, segment))
        checks.append(Check("with all rates zero the losses are level 1's, bit for bit", kept, f"{len(nats)} tokens"))
    stream, count = read_in_order(text, segment, range(text.articles)), int((-(-np.diff(text.starts) // segment)).sum())
    memory, position = dynamic_model.fresh_memory(), stream.begin()
    for read in itertools.islice(iter_segments(dynamic_model, stream), count // 2):
        memory, position = read.memory, read.position
    rest = iter_segments(dynamic_model, stream, memory.copy(), StreamPosition.from_dict(position.to_dict()))
    second = np.concatenate([read.nats_T.cpu().numpy() for read in rest])
    kept, tried = np.array_equal(second, nats[-len(second) :]), f"stopped after {count // 2} of {count} segments"
    return [*checks, Check("reading in two sittings is reading in one", kept, tried)]


def _at_rest(dynamic_model: DynamicModel) -> tuple[DynamicModel, DynamicModel]:
    """Return the model with all rates zero, and level 1.

    Without a cache they are equal experts, whose mixture is either of them; a cache makes another expert of one.
    """
    mixture = dynamic_model.mixture if dynamic_model.cache is None else None
    zero = dataclasses.replace(dynamic_model, rule=dynamic_model.rule.standing_still(), mixture=mixture)
    return zero, dataclasses.replace(dynamic_model, rule=LEVEL_1, mixture=None)


def nats_of(dynamic_model: DynamicModel, text: TokenisedSplit, segment: int) -> np.ndarray:
    """Return the nats of every token of ``text``, read in order."""
    stream = read_in_order(text, segment, range(text.articles))
    return np.concatenate([read.nats_T.cpu().numpy() for read in iter_segments(dynamic_model, stream)])


def changes_of(texts: Sequence[str], count: int, seed: int, segment: int) -> Iterator[tuple[int, str, str]]:
    """Yield ``count`` times (an article, its text, its text changed at a random place), by each of CHANGES in turn.

    For a heading both texts have the line, of at least two segments, and differ in its last characters alone.
    """
    generator = np.random.default_rng(seed)
    letters = sorted(set("".join(texts)) | set("=\n"))
    long_enough = [article for article, text in enumerate(texts) if len(text) > 1]
    for number in range(count if long_enough else 0):
        article = int(generator.choice(long_enough))
        text = texts[article]
        place = int(generator.integers(1, len(text)))
        before, after = text[:place], text[place:]
        kind = CHANGES[number % len(CHANGES)]
        if kind == "characters":
            others = [letter for letter in letters if letter != text[place]]
            yield article, text, before + str(generator.choice(others)) + after[1:]
        elif kind == "cuts":
            yield article, text, before
        elif kind == "headings":
            line = "\n = = " + " ".join((text.split() or ["X"]) * (2 * segment))[: 20 * segment].strip()
            yield article, f"{before}{line} ...\n{after}", f"{before}{line} = = \n{after}"
        else:
            yield article, text, f"{before}\n{after}"


def _is_causal(
    dynamic_model: DynamicModel,
    texts: Sequence[str],
    changes: Sequence[tuple[int, str, str]],
    segment: int,
    tokenizer: Tokenizer,
) -> Check:
    """Check that a change of the text leaves the losses before the first changed token as they are, bit for bit.

    Tokens, headings, words and segments are all derived from the changed text. In a segment that became shorter or
    longer losses may differ by ROUNDING: matrix products round otherwise there.
    """

    def read(article: int, text: str) -> tuple[TokenisedSplit, np.ndarray]:
        split = TokenisedSplit.from_texts([*texts[:article], text, *texts[article + 1 :]], tokenizer)
        return split, nats_of(dynamic_model, split, segment)

    plain = read(0, texts[0])
    leaks = felt = 0
    for article, text, changed in changes:
        one, one_N = plain if text == texts[article] else read(article, text)
        other, other_N = read(article, changed)
        shorter = min(len(one.article(article)), len(other.article(article)))
        differ = np.flatnonzero(one.article(article)[:shorter] != other.article(article)[:shorter])
        start, own = int(one.starts[article]), int(differ[0]) if len(differ) else shorter
        begin, first = start + own // segment * segment, start + own
        ends = {min(begin + segment, int(split.starts[article + 1])) for split in (one, other)}
        close = np.allclose(one_N[begin:first], other_N[begin:first], rtol=0, atol=0 if len(ends) == 1 else ROUNDING)
        leaks += not (close and np.array_equal(one_N[:begin], other_N[:begin]))
        felt += bool(len(differ) and one_N[first] != other_N[first])
    about = f"{len(changes)} changes of the text ({', '.join(CHANGES)}), {felt} felt at their place, {leaks} before it"
    # If no change were felt where it was made, nothing would have been tried.
    return Check("no loss depends on a later token", leaks == 0 and felt > 0, about)


def _lanes_are_independent(dynamic_model: DynamicModel, text: TokenisedSplit, segment: int, lanes: int) -> Check:
    """Change every token of one article after another, and look for changes of the others' losses."""
    evaluation = Evaluation(dynamic_model, text, range(text.articles), segment, lanes)
    before, leaks, felt = evaluate(evaluation).nats, 0, 0
    for article in range(text.articles):
        own_N = np.zeros(len(text.ids_N), dtype=bool)
        own_N[text.starts[article] : text.starts[article + 1]] = True
        ids_N = np.where(own_N, (text.ids_N + 1) % dynamic_model.model.vocab_size, text.ids_N)
        after = evaluate(dataclasses.replace(evaluation, text=dataclasses.replace(text, ids_N=ids_N))).nats
        leaks += not np.array_equal(after[~own_N], before[~own_N])
        felt += bool((after[own_N] != before[own_N]).any())
    tried = f"each of {text.articles} articles changed, in {lanes} lanes: {felt} felt it, {leaks} times a neighbour did"
    return Check("articles in different lanes do not influence each other", leaks == 0 and felt > 0, tried)


def _addresses_do_not_matter(run: Run, memory: MemoryOptions, text: TokenisedSplit) -> Check:
    """Load the parameters from files with headers of several lengths, which decide on their addresses."""
    read, static = [], []
    with tempfile.TemporaryDirectory() as folder:
        for padding in PADDINGS:
            path = Path(folder) / f"{padding}.safetensors"
            save_tensors(path, run.trained.params, {"padding": "x" * padding})
            params = load_tensors(path, run.processes.device)[0]
            trained = dataclasses.replace(run.trained, params={name: params[name] for name in run.trained.params})
            dynamic_model = run.dynamic_model(memory, trained)
            read.append(nats_of(dynamic_model, text, memory.segment))
            static += [nats_of(each, text, memory.segment) for each in _at_rest(dynamic_model)]
    kept = all(np.array_equal(nats, of[0]) for of in (read, static) for nats in of)
    tried = f"headers longer by {', '.join(map(str, PADDINGS))} bytes"
    return Check("losses do not depend on the parameters' addresses in memory", kept, tried)


def to_dict(checks: list[Check]) -> dict[str, Any]:
    """Return the outcome, ready for JSON."""
    return {"kept": all(check.kept for check in checks), "checks": [check._asdict() for check in checks]}


def to_text(checks: list[Check]) -> str:
    """Return one line for each promise."""
    return "\n".join(f"{'kept  ' if check.kept else 'BROKEN'}  {check.promise} ({check.tried})" for check in checks)
