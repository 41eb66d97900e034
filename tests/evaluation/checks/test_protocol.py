"""The protocol check: every rule passes, and models that break a promise are caught."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dynlm.adapt import loop
from dynlm.adapt.dynamic_model import DynamicModel
from dynlm.adapt.options import LearnedRuleOptions
from dynlm.adapt.rules.base import StepEvent
from dynlm.adapt.rules.elementwise import ElementwiseRule, Rates
from dynlm.adapt.rules.learned import LearnedRule
from dynlm.data import tokenised_split
from dynlm.data.articles import load_articles
from dynlm.data.token_store import tokenise
from dynlm.data.tokenised_split import TokenisedSplit
from dynlm.errors import UserError
from dynlm.evaluation.checks import protocol as module
from dynlm.evaluation.checks.protocol import (
    Check,
    check_dynamic_model,
    check_every_rule,
    check_protocol,
    rules_of,
    to_dict,
    to_text,
)
from dynlm.models.lstm.engine import LSTMEngine
from dynlm.models.protocol import Scored
from dynlm.run.folder import load_model
from dynlm.run.memory_store import MemoryStore
from dynlm.run.opening import open_dynamic_model
from tests.tiny import Run, opened, with_memory

CAUSAL = "no loss depends on a later token"
ZERO = "with all rates zero the losses are level 1's, bit for bit"
SITTINGS = "reading in two sittings is reading in one"
STATIC = "reading leaves the static parameters as they are"


@pytest.fixture(scope="module")
def text(tuned_run: Run) -> TokenisedSplit:
    tokenizer = load_model(tuned_run.folder).tokenizer
    return tokenise(load_articles(tuned_run.config.corpus, "valid"), tokenizer).excerpt(articles=2, tokens=90)


def honest(run: Run, rule: str = "rms", reset: str = "stream") -> DynamicModel:
    return open_dynamic_model(
        run.folder, load_model(run.folder), with_memory(run.config, rule=rule, reset=reset).memory
    )


def broken(checks: list[Check]) -> set[str]:
    return {check.promise for check in checks if not check.kept}


def have_losses(change: Callable[[Tensor, Tensor, Tensor], Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every loss read is ``change(nats_BT, inputs_BT, targets_BT)`` from here on."""
    whole = LSTMEngine.score

    def score(engine: LSTMEngine, static: Any, own: Any, inputs_BT: Tensor, targets_BT: Tensor, *others: Any) -> Scored:
        scored = whole(engine, static, own, inputs_BT, targets_BT, *others)
        return scored._replace(nats_BT=change(scored.nats_BT, inputs_BT, targets_BT))

    monkeypatch.setattr(LSTMEngine, "score", score)


def peek(nats_BT: Tensor, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
    """Each token's loss depends a little on the target after it."""
    return nats_BT + 1e-3 * (targets_BT.roll(-1, 1) % 7)


@pytest.mark.parametrize("reset", ["stream", "article"])
@pytest.mark.parametrize("rule", ["none", "sgd", "rms", "meta"])
def test_every_rule_keeps_every_promise(rule: str, reset: str, tuned_run: Run) -> None:
    config = with_memory(tuned_run.config, rule=rule, reset=reset)
    checks = check_protocol(opened(tuned_run.folder, config), "valid", places=4, tokens=70)
    assert not broken(checks)
    assert {check.promise for check in checks} == {CAUSAL, SITTINGS, STATIC} | ({ZERO} if rule != "none" else set())


def test_a_rule_with_a_cache_mixed_with_level_1_keeps_every_promise(tuned_run: Run) -> None:
    cache = {"cache": "fixed", "cache_window": 30, "cache_share": 0.2, "cache_inverse_temperature": [0.5]}
    config = with_memory(tuned_run.config, rule="rms", no_regret=True, **cache)
    assert not broken(check_protocol(opened(tuned_run.folder, config), "valid", places=4, tokens=70))


@pytest.mark.parametrize("rule", ["none", "rms"])
def test_a_loss_that_peeks_at_the_next_target_is_caught(
    rule: str, tuned_run: Run, text: TokenisedSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    have_losses(peek, monkeypatch)
    checks = check_dynamic_model(honest(tuned_run, rule), text, 20, 10, 0, load_model(tuned_run.folder).tokenizer)
    assert CAUSAL in broken(checks)
    assert f"BROKEN  {CAUSAL}" in to_text(checks)
    assert to_dict(checks)["kept"] is False


def test_learning_before_scoring_is_caught(
    tuned_run: Run, text: TokenisedSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The classic leak: the segment is learned from, then scored by what was learned."""
    whole = loop.read_segment

    def adapted_first(dynamic_model, memory, segment, observe=None):  # type: ignore[no-untyped-def]
        _, learned = whole(dynamic_model, memory.copy(), segment)
        nats_BT, _ = whole(dynamic_model, learned.copy()._replace(state=memory.state), segment)
        return nats_BT, learned

    monkeypatch.setattr(loop, "read_segment", adapted_first)
    assert broken(check_dynamic_model(honest(tuned_run), text, 20, 10, 0, load_model(tuned_run.folder).tokenizer)) == {
        CAUSAL
    }


def test_a_model_that_ignores_its_input_does_not_pass_as_causal(
    tuned_run: Run, text: TokenisedSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    have_losses(lambda nats_BT, *_: torch.ones_like(nats_BT), monkeypatch)
    checks = check_dynamic_model(honest(tuned_run, "none"), text, 20, 5, 0, load_model(tuned_run.folder).tokenizer)
    assert broken(checks) == {CAUSAL}


def test_a_rule_that_moves_at_rate_zero_is_caught(tuned_run: Run, text: TokenisedSplit) -> None:
    class Restless(ElementwiseRule):
        def step_(self, event: StepEvent) -> None:
            event.theta.add_(1e-4)

    rates = dict.fromkeys(honest(tuned_run).dynamic, Rates(0.1, 0.0))
    dynamic_model = dataclasses.replace(honest(tuned_run), rule=Restless("sgd", rates))
    assert broken(check_dynamic_model(dynamic_model, text, 20, 3, 0, load_model(tuned_run.folder).tokenizer)) == {ZERO}


def test_state_outside_the_memory_is_caught(tuned_run: Run, text: TokenisedSplit) -> None:
    """What a model carries beside its memory is lost between two sittings."""

    class Counting(ElementwiseRule):
        seen = 0

        def step_(self, event: StepEvent) -> None:
            Counting.seen += 1
            event.theta.add_(1e-4 * Counting.seen)

    rates = dict.fromkeys(honest(tuned_run).dynamic, Rates(0.1, 0.0))
    dynamic_model = dataclasses.replace(honest(tuned_run), rule=Counting("sgd", rates))
    assert SITTINGS in broken(
        check_dynamic_model(dynamic_model, text, 20, 1, 0, load_model(tuned_run.folder).tokenizer)
    )


def test_static_parameters_that_move_are_caught(tuned_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = module.check_dynamic_model

    def careless(dynamic_model: DynamicModel, *arguments: object) -> list[Check]:
        checks = whole(dynamic_model, *arguments)  # type: ignore[arg-type]
        dynamic_model.static["output.bias"][0] += 1
        return checks

    monkeypatch.setattr(module, "check_dynamic_model", careless)
    config = with_memory(tuned_run.config, rule="none")
    assert broken(check_protocol(opened(tuned_run.folder, config), "valid", places=2, tokens=40)) == {STATIC}


def test_a_text_of_one_segment_can_be_checked(tuned_run: Run, text: TokenisedSplit) -> None:
    short = text.excerpt(articles=1, tokens=8)
    checks = check_dynamic_model(honest(tuned_run), short, 20, 20, 0, load_model(tuned_run.folder).tokenizer)
    assert not broken(checks)
    assert checks[0].tried.startswith("20 changes of the text")


def test_zero_places_are_refused(tuned_run: Run) -> None:
    with pytest.raises(UserError, match="places"):
        check_protocol(opened(tuned_run.folder, with_memory(tuned_run.config, rule="none")), "valid", places=0)


def test_changed_places_cover_the_text(tuned_run: Run, text: TokenisedSplit, monkeypatch: pytest.MonkeyPatch) -> None:
    """A leak of a single place is found when every place is tried."""
    short = text.excerpt(articles=2, tokens=12)
    opening = torch.from_numpy(short.inputs(1)[6:9].astype(np.int64))

    def leak_at_one_token(nats_BT: Tensor, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        if torch.equal(inputs_BT[0, :3], opening):
            return nats_BT + 1e-3 * (targets_BT[:, -1:] % 7)
        return nats_BT

    have_losses(leak_at_one_token, monkeypatch)
    assert broken(
        check_dynamic_model(honest(tuned_run, "none"), short, 6, 200, 0, load_model(tuned_run.folder).tokenizer)
    ) == {CAUSAL}


APART = "articles in different lanes do not influence each other"


@pytest.mark.parametrize("rule", ["none", "rms"])
def test_several_lanes_are_checked(rule: str, tuned_run: Run) -> None:
    config = with_memory(tuned_run.config, rule=rule, reset="article", lanes=2)
    checks = check_protocol(opened(tuned_run.folder, config), "valid", places=2, tokens=50)
    assert not broken(checks)
    assert APART in {check.promise for check in checks}


def test_lanes_that_influence_each_other_are_caught(tuned_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LSTMEngine, "lanes_at_once", lambda *_: 4)
    have_losses(lambda nats_BT, *_: nats_BT + 1e-3 * nats_BT.mean(), monkeypatch)
    config = with_memory(tuned_run.config, rule="rms", reset="article", lanes=2)
    assert APART in broken(check_protocol(opened(tuned_run.folder, config), "valid", places=2, tokens=50))


def test_headings_flagged_where_they_begin_are_caught(
    tuned_run: Run, text: TokenisedSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line is a heading only by its end: g must not look at that where the line begins."""
    trained = load_model(tuned_run.folder)
    stored = MemoryStore(tuned_run.folder, trained).load_statistics()
    assert stored is not None
    dynamic_model = honest(tuned_run)
    held = stored[0].of(dynamic_model.dynamic)
    g = LearnedRule(held, trained.params, 0.02, 0.01, 1e-2, LearnedRuleOptions(features=["section_age"]))
    dynamic_model = dataclasses.replace(
        dynamic_model, rule=g.rule({key: tensor + 0.5 for key, tensor in g.initial().items()})
    )

    def where_lines_begin(text: bytes, lengths: np.ndarray) -> np.ndarray:
        begin = [found.start() + 1 for found in tokenised_split._HEADING.finditer(text)]
        return np.unique(np.searchsorted(np.cumsum(lengths, dtype=np.int64), begin, side="right"))

    assert not broken(check_dynamic_model(dynamic_model, text, 20, 8, 0, trained.tokenizer))
    monkeypatch.setattr("dynlm.data.tokenised_split.find_headings", where_lines_begin)
    assert broken(check_dynamic_model(dynamic_model, text, 20, 8, 0, trained.tokenizer)) == {CAUSAL}


def test_every_rule_of_a_run_is_checked_alone_cached_and_mixed(tuned_run: Run) -> None:
    checks = check_every_rule(opened(tuned_run.folder, tuned_run.config), "valid", places=4, tokens=60)
    assert not broken(checks)
    reported = {check.promise.partition(":")[0] for check in checks}
    rules = rules_of(opened(tuned_run.folder, tuned_run.config), tuned_run.config.memory.replace(reset="stream"))
    assert rules == [("none", ""), ("sgd", ""), ("rms", ""), ("meta", "meta")]
    assert {
        f"{rule}{named}" for rule in ("rms", "meta") for named in ("", " with a cache", " without regret")
    } <= reported


def test_every_g_of_a_run_is_checked_under_its_name(tuned_copy: Run) -> None:
    memory = tuned_copy.folder / "memory"
    for suffix in ("safetensors", "json"):
        (memory / f"other-g-stream.{suffix}").write_bytes((memory / f"meta-stream.{suffix}").read_bytes())
    checks = check_every_rule(opened(tuned_copy.folder, tuned_copy.config), "valid", places=4, tokens=40)
    reported = {check.promise.partition(":")[0] for check in checks}
    assert not broken(checks) and {"meta", "meta (other-g)", "meta (other-g) with a cache"} <= reported
