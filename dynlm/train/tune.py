"""The constants of hand-made rules, tuned by reading articles that no figure is reported on.

A coordinate search over factors: each of a rule's options is moved up or down by its factor for as long as the nats per
token of the articles fall. Every hand-made rule and fixed cache is tuned by this search on the same tokens; the rule g
and gates are learned (``metatrain``, ``cache``).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dynlm.adapt.loop import gradient_statistics, mean_nats
from dynlm.adapt.reader import Reader
from dynlm.adapt.rules.elementwise import LEVEL_1, Statistics
from dynlm.adapt.rules.registry import RULES, Search, tuned_rules
from dynlm.adapt.state import dynamic_tensors
from dynlm.data.article_range import article_range
from dynlm.data.articles import iter_articles, source_name
from dynlm.data.stream import Stream, read_side_by_side
from dynlm.data.token_store import tokenise
from dynlm.data.tokenised_split import TokenisedSplit
from dynlm.errors import UserError
from dynlm.models.registry import EngineSettings, engine_for
from dynlm.run import rule_store
from dynlm.run.folder import TrainedModel, load_model, log_line, memory_path, params_fingerprint
from dynlm.run.tuned_on import record
from dynlm.runtime.checkpoints import Checkpointer, Checkpoints, State
from dynlm.runtime.distributed import Processes
from dynlm.runtime.files import exclusive
from dynlm.runtime.renamed import original_options
from dynlm.runtime.validation import fingerprint_options
from dynlm.train.config import Config

_NOTICEABLE = 2e-4
"""Nats per token: between settings that differ by less the search stays where it is."""


def tuning_stream(split: TokenisedSplit, config: Config, tokens: int) -> Stream:
    """The articles that ``tune.articles`` names: all (``tokens`` 0), or evenly many of them up to about ``tokens``."""
    named = article_range(config.tune.articles, split.articles, "tune.articles")
    sizes = [len(split.article(index)) for index in named]
    kept = list(named)
    if tokens and sum(sizes) > tokens:
        count = max(1, round(len(named) * tokens / sum(sizes)))
        kept = [named[index * len(named) // count] for index in range(count)]
    return read_side_by_side(split, config.memory.segment, kept, config.memory.lanes)


def enough_to_tune(split: TokenisedSplit, config: Config) -> Stream:
    """The articles that rates are tuned on: all that are named where ``tune.tokens`` of them are too few.

    Raises UserError where all of them have less than ``tune.fewest_tokens``.
    """
    for tokens in (config.tune.tokens, 0):
        stream = tuning_stream(split, config, tokens)
        held = sum(len(split.article(index)) for index in stream.order)
        if held >= config.tune.fewest_tokens:
            return stream
    raise UserError(
        f"the tuning articles have {held:,} tokens, and rates found on less than {config.tune.fewest_tokens:,} "
        "may make reading worse",
        do="name more by --tune.articles, give more text, or set --tune.fewest_tokens lower",
    )


def ensure_statistics(folder: Path, trained: TrainedModel, config: Config) -> Statistics:
    """Return the run's R over all its tensors, computed on training articles if it was not before."""
    statistics = rule_store.load_statistics(folder, trained, trained.device)
    if statistics is None:
        train = tokenise(iter_articles(config.corpus, "train"), trained.tokenizer, config.corpus.num_proc)
        stream = Stream(train, 1, config.memory.segment, range(train.articles), seed=config.run.seed)
        dynamic = tuple(trained.model.shapes())
        reader = Reader(engine_for(trained.model, EngineSettings()), trained.params, LEVEL_1, dynamic)
        statistics = gradient_statistics(reader, stream, config.tune.statistics_tokens)
        rule_store.save_statistics(folder, statistics, trained, config.tune.statistics_tokens)
    return statistics


def tune(folder: Path, config: Config, quiet: bool = False) -> dict[str, Any]:
    """Tune ``config.memory.rule`` for ``config.memory.reset`` and keep the result in the run.

    Resumes with the settings that an interrupted search has measured. Returns the constants, their nats per token and
    level 1's, how many settings were read and on how many tokens. Raises UserError for a rule that has nothing to tune
    by hand, for less than ``tune.fewest_tokens`` to read, and where another process tunes the same; Stopped, with a
    checkpoint saved, at Ctrl-C and SIGTERM.
    """
    memory = config.memory
    if not RULES[memory.rule].searched:
        raise UserError(f"memory.rule {memory.rule!r} is not tuned by hand", do=f"choose {', '.join(tuned_rules())}")
    processes = Processes.start(config.run.cpu)
    trained = load_model(folder, processes.device)
    with exclusive(memory_path(folder, f"tune-{memory.rule}-{memory.reset}"), f"the search for rates of {memory.rule}"):
        return _tune(folder, config, trained, processes.is_main, quiet)


def _tune(folder: Path, config: Config, trained: TrainedModel, saves: bool, quiet: bool) -> dict[str, Any]:
    memory = config.memory
    split = tokenise(iter_articles(config.corpus, config.tune.split), trained.tokenizer, config.corpus.num_proc)
    stream = enough_to_tune(split, config)
    kind, dynamic = RULES[memory.rule], dynamic_tensors(trained.model, memory.dynamic)
    assert kind.build is not None
    build = kind.build
    statistics = ensure_statistics(folder, trained, config).of(dynamic) if kind.needs_statistics else None
    constants = kind.constants(memory)
    searched = {
        name: each if constants[name] is None else each._replace(start=constants[name])
        for name, each in kind.searched.items()
    }
    bar = tqdm(desc=f"tune {memory.rule}", unit="setting", disable=quiet)

    def nats_of(values: dict[str, float]) -> float:
        rule = build(dynamic, {**constants, **values}, statistics)
        nats = mean_nats(rule_store.reader_of(trained, memory, rule, dynamic), stream)
        bar.update()
        bar.set_postfix({"nats": f"{nats:.4f}", **{name: f"{value:.1e}" for name, value in values.items()}})
        log_line(
            folder, event="tune", rule=memory.rule, reset=memory.reset, nats=nats, **original_options("memory", values)
        )
        return nats

    checkpoints = search_checkpoints(
        folder,
        f"tune-{memory.rule}-{memory.reset}",
        config,
        {
            "the model": trained.fingerprint,
            "the text": split.fingerprint,
            "the statistics R": params_fingerprint({} if statistics is None else statistics.rms),
        },
    )
    best, nats, settings = coordinate_search(nats_of, searched, config.tune.rounds, checkpoints if saves else None)
    bar.close()
    level_1 = mean_nats(rule_store.reader_of(trained, memory, LEVEL_1, dynamic), stream)
    tuned: dict[str, Any] = {
        **original_options("memory", best),
        "nats_per_token": nats,
        "level_1_nats_per_token": level_1,
        "settings": settings,
        "tokens": sum(len(split.article(index)) for index in stream.order),
        "corpus": source_name(config.corpus),
        "split": config.tune.split,
        "articles": sorted(int(index) + 1 for index in stream.order),
        "segment": memory.segment,
        "tuned_on": [record("rates", "tuned", config.corpus, config.tune.split, split, stream.order)],
    }
    rule_store.save_tuned(folder, memory.rule, memory.reset, tuned, trained)
    if saves:
        checkpoints.drop()
    return {"rule": memory.rule, "reset": memory.reset, **tuned}


def search_checkpoints(folder: Path, stem: str, config: Config, data: Mapping[str, str]) -> Checkpoints:
    """Return the checkpoints of a search by the options of memory and tune; ``data``: fingerprints of what it reads."""
    options = fingerprint_options(config.memory, config.tune)
    del options["memory.g"]  # It names a learned rule, and decides nothing here.
    return Checkpoints(folder / "checkpoints", stem, config.run.checkpoints_kept, {**options, **data})


class _Measured:
    """The settings that a search has measured, with their values; infinite where that was not finite."""

    def __init__(self) -> None:
        self.values: dict[tuple[float, ...], float] = {}

    def state_dict(self) -> State:
        return State({}, {"measured": [[list(key), value] for key, value in self.values.items()]})

    def load_state_dict(self, state: State) -> None:
        self.values = {tuple(key): float(value) for key, value in state.values["measured"]}


def coordinate_search(
    measure: Callable[[dict[str, float]], float],
    searched: Mapping[str, Search],
    rounds: int,
    checkpoints: Checkpoints | None = None,
) -> tuple[dict[str, float], float, int]:
    """Return (best setting, its value, settings measured): the lowest ``measure`` that steps by factors find.

    Non-finite values are treated as infinite. Every setting that was measured is saved in ``checkpoints``, and not
    measured again by the same search. Raises UserError where no setting that was tried is finite.
    """
    measured = _Measured()
    with nullcontext() if checkpoints is None else Checkpointer(checkpoints, measured) as checkpointer:
        if checkpointer is not None:
            checkpointer.resume()

        def value_of(setting: dict[str, float]) -> float:
            key, known = tuple(setting.values()), measured.values
            if key not in known:
                value = measure(setting)
                known[key] = value if math.isfinite(value) else math.inf
                if checkpointer is not None:
                    checkpointer.after_step(len(known))
            return known[key]

        best = {name: each.start for name, each in searched.items()}
        lowest = value_of(best)
        for _, (name, each) in itertools.product(range(rounds), searched.items()):
            for factor in (each.factor, 1 / each.factor):
                moved = False
                while True:
                    # Rounding keeps a step up and one down on the same grid.
                    trial = {**best, name: float(f"{best[name] * factor:.4g}")}
                    value = value_of(trial)
                    if not value < lowest - _NOTICEABLE:
                        break
                    best, lowest, moved = trial, value, True
                if moved:
                    break
    if not math.isfinite(lowest):
        tried = ", ".join(f"{name} {value:g}" for name, value in best.items())
        raise UserError(f"no setting near {tried} gives finite losses", do="start from a lower rate")
    return best, lowest, len(measured.values)
