"""The audit: every rule keeps every promise, and readers that break one are caught."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from dynlm.corpus.articles import load_articles
from dynlm.corpus.tokens import TokenisedSplit, excerpt, tokenise
from dynlm.errors import UserError
from dynlm.evaluation import audit as module
from dynlm.evaluation.audit import Check, audit, audit_reader, to_dict, to_text
from dynlm.memory import unroll as loop
from dynlm.memory.rules import LEVEL_1, Rule
from dynlm.memory.unroll import Reader
from dynlm.model.lstm import Hidden, LSTMLanguageModel, Params
from dynlm.training.memory_folder import open_reader
from dynlm.training.run_folder import load_model
from tests.tiny import Run, with_memory

CAUSAL = "no loss depends on a later token"
ZERO = "with all rates zero the losses are level 1's, bit for bit"
SITTINGS = "reading in two sittings is reading in one"
STATIC = "reading leaves the static parameters as they are"


@pytest.fixture(scope="module")
def text(tuned_run: Run) -> TokenisedSplit:
    tokenizer = load_model(tuned_run.folder).tokenizer
    return excerpt(tokenise(load_articles(tuned_run.config.corpus, "valid"), tokenizer), articles=2, tokens=90)


def honest(run: Run, rule: str = "rms", reset: str = "stream") -> Reader:
    return open_reader(run.folder, load_model(run.folder), with_memory(run.config, rule=rule, reset=reset).memory)


def broken(checks: list[Check]) -> set[str]:
    return {check.promise for check in checks if not check.kept}


class PeekingModel(LSTMLanguageModel):
    """Each token's loss depends a little on the target after it."""

    def loss(  # type: ignore[override]
        self, params: Params, inputs_BT: Tensor, targets_BT: Tensor, share_BT: Tensor, hidden: Hidden
    ) -> tuple[Tensor, Tensor, Hidden]:
        total, nats_BT, hidden = super().loss(params, inputs_BT, targets_BT, share_BT, hidden)
        return total, nats_BT + 1e-3 * (targets_BT.roll(-1, 1) % 7), hidden


class DeafModel(LSTMLanguageModel):
    """Every loss is the same, whatever is read."""

    def loss(  # type: ignore[override]
        self, params: Params, inputs_BT: Tensor, targets_BT: Tensor, share_BT: Tensor, hidden: Hidden
    ) -> tuple[Tensor, Tensor, Hidden]:
        total, nats_BT, hidden = super().loss(params, inputs_BT, targets_BT, share_BT, hidden)
        return total, torch.ones_like(nats_BT), hidden


def with_model(reader: Reader, kind: type[LSTMLanguageModel]) -> Reader:
    return dataclasses.replace(reader, model=kind(reader.model.config, reader.model.vocabulary))


@pytest.mark.parametrize("reset", ["stream", "article"])
@pytest.mark.parametrize("rule", ["none", "sgd", "rms", "meta"])
def test_every_rule_keeps_every_promise(rule: str, reset: str, tuned_run: Run) -> None:
    config = with_memory(tuned_run.config, rule=rule, reset=reset)
    checks = audit(tuned_run.folder, config, "valid", places=4, tokens=70)
    assert not broken(checks)
    assert {check.promise for check in checks} == {CAUSAL, SITTINGS, STATIC} | ({ZERO} if rule != "none" else set())


@pytest.mark.parametrize("rule", ["none", "rms"])
def test_a_loss_that_peeks_at_the_next_target_is_caught(rule: str, tuned_run: Run, text: TokenisedSplit) -> None:
    checks = audit_reader(with_model(honest(tuned_run, rule), PeekingModel), text, 20, places=10, seed=0)
    assert CAUSAL in broken(checks)
    assert f"BROKEN  {CAUSAL}" in to_text(checks)
    assert to_dict(checks)["kept"] is False


def test_learning_before_scoring_is_caught(
    tuned_run: Run, text: TokenisedSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The classic leak: the segment is learned from, then scored by what was learned."""
    whole = loop.read_segment

    def adapted_first(reader, memory, segment, observe=None):  # type: ignore[no-untyped-def]
        _, learned = whole(reader, memory.copy(), segment)
        nats_T, _ = whole(reader, loop.Memory(learned.weights, memory.hidden), segment)
        return nats_T, learned

    monkeypatch.setattr(loop, "read_segment", adapted_first)
    assert broken(audit_reader(honest(tuned_run), text, 20, places=10, seed=0)) == {CAUSAL}


def test_a_reader_that_feels_nothing_is_not_called_causal(tuned_run: Run, text: TokenisedSplit) -> None:
    checks = audit_reader(with_model(honest(tuned_run, "none"), DeafModel), text, 20, places=5, seed=0)
    assert broken(checks) == {CAUSAL}


def test_a_rule_that_moves_at_rate_zero_is_caught(tuned_run: Run, text: TokenisedSplit) -> None:
    class Restless(Rule):
        def step_(self, weights: Params, gradients: Params, static: Params) -> Params:
            return {name: tensor + 1e-4 for name, tensor in weights.items()}

    rule = honest(tuned_run, "sgd").rule
    reader = dataclasses.replace(honest(tuned_run), rule=Restless(rule.name, rule.rates))
    assert broken(audit_reader(reader, text, 20, places=3, seed=0)) == {ZERO}


def test_state_outside_the_memory_is_caught(tuned_run: Run, text: TokenisedSplit) -> None:
    """What a reader carries beside its memory is lost between two sittings."""

    class Counting(Rule):
        seen = 0

        def step_(self, weights: Params, gradients: Params, static: Params) -> Params:
            Counting.seen += 1
            return {name: tensor + 1e-4 * Counting.seen for name, tensor in weights.items()}

    rule = honest(tuned_run, "sgd").rule
    reader = dataclasses.replace(honest(tuned_run), rule=Counting(rule.name, rule.rates))
    assert SITTINGS in broken(audit_reader(reader, text, 20, places=1, seed=0))


def test_static_parameters_that_move_are_caught(tuned_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = module.audit_reader

    def careless(reader: Reader, *arguments: object) -> list[Check]:
        checks = whole(reader, *arguments)  # type: ignore[arg-type]
        reader.static["output.bias"][0] += 1
        return checks

    monkeypatch.setattr(module, "audit_reader", careless)
    config = with_memory(tuned_run.config, rule="none")
    assert broken(audit(tuned_run.folder, config, "valid", places=2, tokens=40)) == {STATIC}


def test_a_text_of_one_segment_can_be_audited(tuned_run: Run, text: TokenisedSplit) -> None:
    short = excerpt(text, articles=1, tokens=8)
    checks = audit_reader(honest(tuned_run), short, 20, places=20, seed=0)
    assert not broken(checks)
    assert checks[0].tried.startswith("8 tokens changed")


def test_trying_nothing_is_refused(tuned_run: Run) -> None:
    with pytest.raises(UserError, match="places"):
        audit(tuned_run.folder, with_memory(tuned_run.config, rule="none"), "valid", places=0)


def test_places_are_tried_all_over_the_text(tuned_run: Run, text: TokenisedSplit) -> None:
    """A leak of a single place is found when every place is tried."""

    class LeakAtOneToken(PeekingModel):
        def loss(  # type: ignore[override]
            self, params: Params, inputs_BT: Tensor, targets_BT: Tensor, share_BT: Tensor, hidden: Hidden
        ) -> tuple[Tensor, Tensor, Hidden]:
            total, nats_BT, hidden = LSTMLanguageModel.loss(self, params, inputs_BT, targets_BT, share_BT, hidden)
            if torch.equal(inputs_BT[0, :3], opening):
                nats_BT = nats_BT + 1e-3 * (targets_BT[:, -1:] % 7)
            return total, nats_BT, hidden

    short = excerpt(text, articles=2, tokens=12)
    opening = torch.from_numpy(short.inputs(1)[6:9].astype(np.int64))
    reader = Reader(LeakAtOneToken(honest(tuned_run).model.config, 420), honest(tuned_run).static, LEVEL_1, ())
    assert broken(audit_reader(reader, short, 6, places=24, seed=0)) == {CAUSAL}
