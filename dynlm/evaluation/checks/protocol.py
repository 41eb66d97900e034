"""Does a run's reading keep the protocol? Each promise is tried on real text, bit for bit."""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from dynlm.adapt.loop import iter_segments
from dynlm.adapt.options import MemoryOptions
from dynlm.adapt.reader import Reader
from dynlm.adapt.rules.elementwise import Rates
from dynlm.data.articles import iter_articles
from dynlm.data.stream import StreamPosition, read_in_order
from dynlm.data.token_store import tokenise
from dynlm.data.tokenised_split import TokenisedSplit
from dynlm.data.tokenizers.tokenizer import Tokenizer
from dynlm.errors import UserError
from dynlm.evaluation.evaluate import Evaluation, evaluate
from dynlm.run.folder import TrainedModel, load_model, params_fingerprint
from dynlm.run.rule_store import HAND_MADE, learned_names, load_tuned, open_reader
from dynlm.runtime.distributed import Processes
from dynlm.runtime.tensors import load_tensors, save_tensors
from dynlm.train.config import Config

CHANGES = ("characters", "cuts", "headings", "newlines")
"""What is done to a text at a place: a character replaced, the rest cut off, a line put in that only its end makes a
heading, or a newline."""
PADDINGS = (0, 8, 24, 56)
ROUNDING = 1e-4
"""Nats by which a loss may differ in the one segment whose length a change changes."""


class Check(NamedTuple):
    """One promise, whether it was kept, and what was tried."""

    promise: str
    kept: bool
    tried: str


def audit(folder: Path, config: Config, split: str, places: int = 20, tokens: int = 300) -> list[Check]:
    """Try each promise of the protocol with ``config.memory`` on the opening of three articles of ``split``.

    Raises UserError where there is no place to try.
    """
    if places < 1:
        raise UserError(f"places is {places}", do="choose at least 1")
    trained = load_model(folder, Processes.start(config.run.cpu).device)
    reader = open_reader(folder, trained, config.memory)
    whole = tokenise(iter_articles(config.corpus, split), trained.tokenizer, config.corpus.num_proc)
    text = whole.excerpt(articles=3, tokens=tokens)
    before = params_fingerprint(trained.params)
    checks = audit_reader(reader, text, config.memory.segment, places, config.run.seed, trained.tokenizer)
    if config.memory.lanes > 1:
        checks.append(_apart(reader, text, config.memory.segment, config.memory.lanes))
    kept = params_fingerprint(trained.params) == before
    return [*checks, Check("reading leaves the static parameters as they are", kept, "their checksum before and after")]


def audit_all(folder: Path, config: Config, split: str, places: int = 20, tokens: int = 300) -> list[Check]:
    """``audit`` by every rule that is tuned or g that is learned under the reset policy: alone, cached, without regret.

    The parameters are also loaded from files with headers of several lengths. Raises UserError as ``audit`` does.
    """
    trained = load_model(folder, Processes.start(config.run.cpu).device)
    checks = []
    alone: dict[str, Any] = {"cache": "none", "no_regret": False}
    cached: dict[str, Any] = {
        "cache": "fixed",
        "cache_window": 500,
        "cache_flatness": [0.5],
        "cache_share": 0.1,
        "no_regret": False,
    }
    for rule, g in rules_of(folder, config.memory.reset, trained):
        called = rule if g in ("", "meta") else f"meta ({g})"
        by_rule = dataclasses.replace(config.memory, rule=rule, g=g or config.memory.g)
        partners = {"": alone, " with a cache": cached}
        if rule != "none":
            partners[" without regret"] = {**alone, "no_regret": True}
        for named, options in partners.items():
            memory = dataclasses.replace(by_rule, **options)
            own = audit(folder, dataclasses.replace(config, memory=memory), split, places, tokens)
            checks += [check._replace(promise=f"{called}{named}: {check.promise}") for check in own]
        if rule != "none":
            memory = dataclasses.replace(by_rule, **alone)
            whole = tokenise(iter_articles(config.corpus, split), trained.tokenizer, config.corpus.num_proc)
            text = whole.excerpt(articles=1, tokens=tokens)
            checks.append(_aligned(folder, trained, memory, text, called))
    return checks


def rules_of(folder: Path, reset: str, trained: TrainedModel) -> list[tuple[str, str]]:
    """(rule, the name of a learned g or "") of level 1 and what is tuned or learned in a run under ``reset``."""
    tuned = [(rule, "") for rule in HAND_MADE if load_tuned(folder, rule, reset, trained)]
    return [("none", ""), *tuned, *(("meta", name) for name in learned_names(folder, reset, trained))]


def _aligned(folder: Path, trained: TrainedModel, memory: MemoryOptions, text: TokenisedSplit, called: str) -> Check:
    """Are losses the same wherever a file's header lets the parameters begin in memory?"""
    read, static = [], []
    with tempfile.TemporaryDirectory() as place:
        for padding in PADDINGS:
            path = Path(place) / f"{padding}.safetensors"
            save_tensors(path, trained.params, {"padding": "x" * padding})
            params = load_tensors(path, trained.params["embedding"].device)[0]
            params = {name: params[name] for name in trained.params}
            reader = open_reader(folder, dataclasses.replace(trained, params=params), memory)
            zero = dataclasses.replace(reader.rule, rates=dict.fromkeys(reader.rule.rates, Rates(0.0, 0.0)))
            level_1 = dataclasses.replace(zero, rates={})
            read.append(nats_of(reader, text, memory.segment))
            static += [nats_of(dataclasses.replace(reader, rule=r), text, memory.segment) for r in (zero, level_1)]
    kept = all(np.array_equal(nats, of[0]) for of in (read, static) for nats in of)
    told = f"headers longer by {', '.join(map(str, PADDINGS))} bytes"
    return Check(f"{called}: losses do not depend on where parameters lie in memory", kept, told)


def audit_reader(
    reader: Reader, text: TokenisedSplit, segment: int, places: int, seed: int, tokenizer: Tokenizer
) -> list[Check]:
    """The promises that need no files: causality, zero rates, and reading in two sittings."""
    articles = range(text.articles)
    nats = nats_of(reader, text, segment)
    texts = texts_of(text)
    changes = changes_of(texts, places, seed, segment)
    checks = [_causality(reader, texts, changes, segment, tokenizer)]
    if reader.rule.learns:
        zero = dataclasses.replace(reader.rule, rates=dict.fromkeys(reader.rule.rates, Rates(0.0, 0.0)))
        standing_still = nats_of(dataclasses.replace(reader, rule=zero), text, segment)
        # Where level 1 is mixed in, both experts are then equal, and so is their mixture.
        level_1 = dataclasses.replace(reader, rule=dataclasses.replace(zero, rates={}), hedge=None)
        static = nats_of(level_1, text, segment)
        kept = np.array_equal(standing_still, static)
        checks.append(Check("with all rates zero the losses are level 1's, bit for bit", kept, f"{len(nats)} tokens"))
    stream = read_in_order(text, segment, articles)
    first = list(iter_segments(reader, stream))
    halfway = len(first) // 2
    memory, place = reader.fresh_memory(), stream.begin()
    for read in itertools.islice(iter_segments(reader, stream), halfway):
        memory, place = read.memory, read.place
    rest = iter_segments(reader, stream, memory.copy(), StreamPosition.from_dict(place.to_dict()))
    second = torch.cat([read.nats_T for read in rest]).cpu().numpy()
    checks.append(
        Check(
            "reading in two sittings is reading in one",
            np.array_equal(second, nats[-len(second) :]),
            f"stopped after {halfway} of {len(first)} segments",
        )
    )
    return checks


def nats_of(reader: Reader, text: TokenisedSplit, segment: int) -> np.ndarray:
    """The nats of every token of ``text``, read in order."""
    stream = read_in_order(text, segment, range(text.articles))
    return torch.cat([read.nats_T for read in iter_segments(reader, stream)]).cpu().numpy()


def texts_of(split: TokenisedSplit) -> list[str]:
    """The text of each article; of a character that an excerpt cut in two nothing is kept."""
    bounds = itertools.pairwise(split.text_starts.tolist())
    return [split.text[start:end].tobytes().decode(errors="ignore") for start, end in bounds]


def changes_of(texts: Sequence[str], count: int, seed: int, segment: int) -> Iterator[tuple[int, str, str]]:
    """``count`` times (an article, its text, its text changed at a random place), by each of CHANGES in turn.

    Of a heading both texts have the line, one of at least two segments, and differ in its last characters alone.
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


def _segments_of(reader: Reader, text: TokenisedSplit, segment: int) -> list[np.ndarray]:
    stream = read_in_order(text, segment, range(text.articles))
    return [read.nats_T.cpu().numpy() for read in iter_segments(reader, stream)]


def _causality(
    reader: Reader, texts: Sequence[str], changes: Iterable[tuple[int, str, str]], segment: int, tokenizer: Tokenizer
) -> Check:
    """Losses of tokens before the first token that a change of the text changes must stay.

    Tokens, headings, words and segments are all derived from the changed text.
    """
    whole = TokenisedSplit.from_texts(texts, tokenizer)
    plain = _segments_of(reader, whole, segment)
    tried = leaks = felt = 0
    for article, text, changed in changes:
        one, nats_of_one = whole, plain
        if text != texts[article]:
            one = TokenisedSplit.from_texts([*texts[:article], text, *texts[article + 1 :]], tokenizer)
            nats_of_one = _segments_of(reader, one, segment)
        other = TokenisedSplit.from_texts([*texts[:article], changed, *texts[article + 1 :]], tokenizer)
        same = _common(one.article(article), other.article(article))
        first = int(one.starts[article]) + same
        read = _segments_of(reader, other, segment)
        tried += 1
        leaks += not _same_before(first, nats_of_one, read)
        if same < min(len(one.article(article)), len(other.article(article))):
            felt += bool(np.concatenate(nats_of_one)[first] != np.concatenate(read)[first])
    told = f"{tried} changes of the text ({', '.join(CHANGES)}), {felt} felt at their place, {leaks} before it"
    # A change that is not even felt where it was made would mean that nothing was tried.
    return Check("no loss depends on a later token", leaks == 0 and felt > 0, told)


def _common(one_N: np.ndarray, other_N: np.ndarray) -> int:
    """How many tokens two texts begin with alike."""
    shorter = min(len(one_N), len(other_N))
    differ = np.flatnonzero(one_N[:shorter] != other_N[:shorter])
    return int(differ[0]) if len(differ) else shorter


def _same_before(first: int, one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> bool:
    """Whether the losses of the first ``first`` tokens are the same, bit for bit.

    The matrix products of a segment that became shorter or longer may round otherwise: within ROUNDING there.
    """
    read = 0
    for nats_T, other_T in zip(one, other, strict=False):
        count = min(first - read, len(nats_T), len(other_T))
        if count <= 0:
            break
        here, there = nats_T[:count], other_T[:count]
        alike = len(nats_T) == len(other_T)
        if not (np.array_equal(here, there) if alike else np.allclose(here, there, rtol=0, atol=ROUNDING)):
            return False
        read += len(nats_T)
    return True


def _apart(reader: Reader, text: TokenisedSplit, segment: int, lanes: int) -> Check:
    """Every token of an article is changed, of one article after another: does a neighbour's loss move?"""
    articles = range(text.articles)
    asked = Evaluation(reader, text, articles, segment, lanes)
    before, heard, felt = evaluate(asked).nats, 0, 0
    for article in articles:
        own = np.zeros(len(text.ids_N), dtype=bool)
        own[text.starts[article] : text.starts[article + 1]] = True
        ids = np.where(own, (text.ids_N + 1) % reader.model.vocabulary, text.ids_N)
        after = evaluate(dataclasses.replace(asked, text=dataclasses.replace(text, ids_N=ids))).nats
        heard += not np.array_equal(after[~own], before[~own])
        felt += bool((after[own] != before[own]).any())
    tried = f"each of {len(articles)} articles changed, in {lanes} lanes: {felt} felt it, {heard} times a neighbour did"
    return Check("articles side by side do not hear each other", heard == 0 and felt > 0, tried)


def to_dict(checks: list[Check]) -> dict[str, Any]:
    """Fit for JSON."""
    return {"kept": all(check.kept for check in checks), "checks": [check._asdict() for check in checks]}


def to_text(checks: list[Check]) -> str:
    """One line a promise."""
    return "\n".join(f"{'kept  ' if check.kept else 'BROKEN'}  {check.promise} ({check.tried})" for check in checks)
