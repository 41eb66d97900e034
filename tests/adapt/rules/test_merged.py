"""Updates that are held as factors and merged predict as updates that are taken at once."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from dynlm.adapt.dynamic_model import DynamicModel
from dynlm.adapt.loop import iter_segments
from dynlm.adapt.rules.base import Rule
from dynlm.adapt.rules.elementwise import ElementwiseRule, Rates
from dynlm.adapt.rules.merged import MergedRule, dense_gradient, nearest_product
from dynlm.adapt.update_filter import UpdateFilter
from dynlm.models.displacement import LowRank, with_displacement
from dynlm.models.lstm.engine import LSTMEngine
from dynlm.models.options import LSTMOptions
from dynlm.models.protocol import Factors
from tests.adapt.readings import (
    MODEL,
    NAMES,
    assert_no_loss_depends_on_a_later_token,
    dynamic_model,
    nats_of,
    rule,
    static_params,
    stream,
    text,
)
from tests.models.cases import SHAPES, Case

SEGMENT = 5


def product_rule(lr: float = 0.3, decay: float = 0.0) -> ElementwiseRule:
    """Return a rule whose preconditions of matrices are products of a row's and a column's factor."""
    generator = torch.Generator().manual_seed(3)
    precondition = {
        name: torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype) + 0.5
        for name, tensor in static_params().items()
    }
    for name, tensor in precondition.items():
        if tensor.dim() == 2:
            precondition[name] = tensor[:, :1] * tensor[:1]
    shape = {name: torch.full_like(tensor, 0.7) for name, tensor in precondition.items()}
    return ElementwiseRule("rms", dict.fromkeys(NAMES, Rates(lr, decay)), precondition, shape)


def reader(chosen: Rule, reset: str = "stream") -> DynamicModel:
    return dataclasses.replace(dynamic_model("rms", reset), rule=chosen, dynamic=NAMES if chosen.learns else ())


def merged(plain: ElementwiseRule, every: int) -> MergedRule:
    return MergedRule(plain, "embedding", every, SEGMENT)


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("options", SHAPES)
def test_a_displacement_as_factors_is_that_of_the_dense_matrix(options: LSTMOptions, lanes: int) -> None:
    case = Case(options, lanes)
    name = case.model.factored_tensor
    generator = torch.Generator().manual_seed(9)
    shapes = ((lanes, 4, len(case.static[name])), (lanes, 4, case.static[name].shape[1]))
    displacement = LowRank(*(torch.randn(shape, generator=generator, dtype=torch.float64) * 0.2 for shape in shapes))
    dense = {**case.lane_params, name: case.lane_params[name] + displacement.dense()}
    factored = with_displacement(case.lane_params, name, displacement)
    found = []
    for lane_params in (dense, factored):
        engine = LSTMEngine(case.model)
        scored = engine.score(case.static, lane_params, case.inputs_BT, case.targets_BT, case.state)
        gradients = {tensor: torch.zeros_like(t) for tensor, t in case.lane_params.items()}
        for gradient in engine.gradients(scored, case.share_BT, case.names):
            whole = gradient.tensor if gradient.factors is None else dense_gradient(gradient.factors)
            gradients[gradient.name][:, gradient.part] = whole
            matrix = case.static[gradient.name].dim() == 2 and (case.model.options.tied or gradient.name != "embedding")
            assert (gradient.factors is not None) == (matrix and lane_params is factored)
        found.append((scored.nats_BT, gradients))
    torch.testing.assert_close(found[0], found[1], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("reset", ["stream", "article"])
@pytest.mark.parametrize("every", [2, 3, 7])
def test_losses_equal_those_of_the_rule_where_the_precondition_is_a_product(every: int, reset: str) -> None:
    """Without decay nothing is approximated: articles end inside segments and between two merges."""
    plain = product_rule()
    wanted, found = (nats_of(reader(chosen, reset)) for chosen in (plain, merged(plain, every)))
    assert (wanted - nats_of(reader(rule("none"), reset))).abs().max() > 0.01
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


def test_lanes_equal_readings_one_by_one() -> None:
    chosen = reader(merged(product_rule(), 3), "article")
    split = text((23, 31, 8, 17))
    side_by_side = dataclasses.replace(stream(split), lanes=2)
    found: dict[int, list[torch.Tensor]] = {}
    for read in iter_segments(chosen, side_by_side):
        for lane, (nats_T, mask_T) in enumerate(zip(read.nats_BT, read.segment.mask_BT, strict=True)):
            if mask_T.any():
                article = int(read.segment.position_B2[lane, 0])
                found.setdefault(article, []).append(nats_T[torch.from_numpy(mask_T)])
    alone = nats_of(reader(product_rule(), "article"), split)
    torch.testing.assert_close(torch.cat([torch.cat(found[article]) for article in sorted(found)]), alone)


def test_a_merge_is_the_formula() -> None:
    """Updates are by a product as precondition; those held decay alike, each weight as the rule has it."""
    plain, every = rule("rms", 0.01, 0.05), 3
    chosen = reader(merged(plain, every))
    memory, seen = chosen.fresh_memory(), list[Factors]()
    theta_0, lr = chosen.static["embedding"], plain.rates["embedding"].lr
    assert plain.precondition is not None
    precondition, by = plain.precondition["embedding"], nearest_product(plain.precondition["embedding"])
    beta = plain.beta["embedding"]
    kept = 1 - float(beta.mean())  # type: ignore[union-attr]
    engine_gradients = LSTMEngine.gradients

    def recorded(self, *arguments):  # type: ignore[no-untyped-def]
        for gradient in engine_gradients(self, *arguments):
            if gradient.factors is not None and gradient.name == "embedding":
                seen.append(Factors(*(tensor[0].clone() for tensor in gradient.factors)))
            yield gradient

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LSTMEngine, "gradients", recorded)
        reads = iter_segments(chosen, stream(text((60,)), SEGMENT), memory)
        for _ in range(every + 1):
            next(reads)
    theta = theta_0.clone()
    for factors in seen[:every]:
        theta.index_add_(0, factors.rows_BT, factors.at_rows_BTH * precondition[factors.rows_BT], alpha=-lr)
    theta = theta_0 + (1 - beta) ** every * (theta - theta_0)
    for age, factors in enumerate(reversed(seen[:every])):
        theta -= lr * kept**age * by[0][:, None] * by[1] * (factors.left_BTV.T @ factors.right_BTH)
    last = seen[every]
    theta.index_add_(0, last.rows_BT, last.at_rows_BTH * precondition[last.rows_BT], alpha=-lr)
    torch.testing.assert_close(memory.params["embedding"][0], theta, rtol=1e-11, atol=1e-13)
    assert int(memory.rule.lanes.rows_B[0]) == SEGMENT


def test_losses_are_near_those_of_the_rule() -> None:
    plain = rule("rms", 0.002, 0.01)
    wanted, static = (nats_of(reader(chosen)) for chosen in (plain, rule("none")))
    found = nats_of(reader(merged(plain, 4)))
    assert (found - wanted).abs().max() < 0.25 * (static - wanted).abs().max()
    assert abs(float((found - wanted).mean())) < 0.15 * abs(float((static - wanted).mean()))


@pytest.mark.parametrize("name", ["sgd", "sgd+decay", "rms"])
def test_rates_of_zero_give_the_losses_of_level_1(name: str) -> None:
    chosen = merged(rule(name), 2).standing_still()
    assert torch.equal(nats_of(reader(chosen)), nats_of(reader(rule("none"))))


def test_no_loss_depends_on_a_later_token() -> None:
    assert_no_loss_depends_on_a_later_token(reader(merged(rule("rms"), 2)), every=SEGMENT)


def test_a_rejected_update_is_not_held() -> None:
    """With a limit that no update is within, the weights stay the static ones."""
    chosen = reader(merged(product_rule(), 3))
    limits = UpdateFilter.for_model(chosen.static, NAMES, MODEL.vocab_size, False)
    none = dataclasses.replace(limits, limits=dict.fromkeys(NAMES, 1e-9))
    chosen = dataclasses.replace(chosen, filter=none)
    static = nats_of(reader(rule("none")))
    torch.testing.assert_close(nats_of(chosen), static, rtol=1e-12, atol=1e-12)


def test_the_nearest_product_of_a_product_is_itself() -> None:
    by_row, by_column = torch.tensor([1.0, 4.0, 0.5]), torch.tensor([3.0, 0.1])
    found_row, found_column = nearest_product(by_row[:, None] * by_column)
    torch.testing.assert_close(found_row[:, None] * found_column, by_row[:, None] * by_column)
