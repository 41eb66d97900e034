"""Does a run's reading keep the protocol? Each promise is tried on real text, bit for bit."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from dynlm.config import Config
from dynlm.corpus.articles import iter_articles
from dynlm.corpus.streams import Place, read_in_order
from dynlm.corpus.tokens import TokenisedSplit, excerpt, tokenise
from dynlm.errors import UserError
from dynlm.evaluation.score import read_scored
from dynlm.memory.reader import Reader
from dynlm.memory.rules import Rates
from dynlm.memory.unroll import unroll
from dynlm.training.memory_folder import open_reader
from dynlm.training.processes import Processes
from dynlm.training.run_folder import load_model, params_fingerprint


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
    whole = tokenise(iter_articles(config.corpus, split), trained.tokenizer, config.corpus.num_proc)
    text = excerpt(whole, articles=3, tokens=tokens)
    reader = open_reader(folder, trained, config.memory)
    before = params_fingerprint(trained.params)
    checks = audit_reader(reader, text, config.memory.segment, places, config.run.seed)
    if config.memory.lanes > 1:
        checks.append(_apart(reader, text, config.memory.segment, config.memory.lanes))
    kept = params_fingerprint(trained.params) == before
    return [*checks, Check("reading leaves the static parameters as they are", kept, "their checksum before and after")]


def audit_reader(reader: Reader, text: TokenisedSplit, segment: int, places: int, seed: int) -> list[Check]:
    """The promises that need no files: causality, zero rates, and reading in two sittings."""
    articles = range(text.articles)
    nats = nats_of(reader, text, segment)
    checks = [_causality(reader, text, segment, nats, places, seed)]
    if reader.rule.learns:
        zero = dataclasses.replace(reader.rule, rates=dict.fromkeys(reader.rule.rates, Rates(0.0, 0.0)))
        standing_still = nats_of(dataclasses.replace(reader, rule=zero), text, segment)
        # Where level 1 is mixed in, both experts are then equal, and so is their mixture.
        level_1 = dataclasses.replace(reader, rule=dataclasses.replace(zero, rates={}), hedge=None)
        static = nats_of(level_1, text, segment)
        kept = np.array_equal(standing_still, static)
        checks.append(Check("with all rates zero the losses are level 1's, bit for bit", kept, f"{len(nats)} tokens"))
    stream = read_in_order(text, segment, articles)
    first = list(unroll(reader, stream))
    halfway = len(first) // 2
    memory, place = reader.fresh_memory(), stream.begin()
    for read in itertools.islice(unroll(reader, stream), halfway):
        memory, place = read.memory, read.place
    rest = unroll(reader, stream, memory.copy(), Place.from_dict(place.to_dict()))
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
    return torch.cat([read.nats_T for read in unroll(reader, stream)]).cpu().numpy()


def _causality(reader: Reader, text: TokenisedSplit, segment: int, nats: np.ndarray, places: int, seed: int) -> Check:
    generator = np.random.default_rng(seed)
    changed: dict[str, Any] = {"leaks": 0, "felt": 0}
    count = len(text.ids_N)
    for place in generator.choice(count, size=min(places, count), replace=False):
        ids = np.array(text.ids_N)
        ids[place] = (ids[place] + 1 + generator.integers(reader.model.vocabulary - 1)) % reader.model.vocabulary
        other = nats_of(reader, dataclasses.replace(text, ids_N=ids), segment)
        changed["leaks"] += not np.array_equal(other[:place], nats[:place])
        changed["felt"] += bool(other[place] != nats[place])
    tried = (
        f"{min(places, count)} tokens changed, {changed['felt']} of them felt at their own place, "
        f"{changed['leaks']} before it"
    )
    # A change that is not even felt where it was made would mean that nothing was tried.
    return Check("no loss depends on a later token", changed["leaks"] == 0 and changed["felt"] > 0, tried)


def _apart(reader: Reader, text: TokenisedSplit, segment: int, lanes: int) -> Check:
    """Every token of an article is changed, of one article after another: does a neighbour's loss move?"""
    articles = range(text.articles)
    before, heard, felt = read_scored(reader, text, articles, segment, lanes).nats, 0, 0
    for article in articles:
        own = np.zeros(len(text.ids_N), dtype=bool)
        own[text.starts[article] : text.starts[article + 1]] = True
        ids = np.where(own, (text.ids_N + 1) % reader.model.vocabulary, text.ids_N)
        after = read_scored(reader, dataclasses.replace(text, ids_N=ids), articles, segment, lanes).nats
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
