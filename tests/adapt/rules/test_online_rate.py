"""The shifts of a slow rate and of decays: known values, what they may not depend on, what they do on kinds of text."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from dynlm.adapt.dynamic_model import DynamicModel
from dynlm.adapt.loop import iter_segments, read_segment
from dynlm.adapt.rules.boundary import Boundary
from dynlm.adapt.rules.elementwise import Rates
from dynlm.adapt.rules.online_rate import OnlineShift, shifted, slope_of_shifted
from dynlm.errors import UserError
from tests.adapt.readings import NAMES, engine, meta, moved_phi, static_params, stream, text

like = torch.zeros(1, dtype=torch.float64)


def after(slopes, step=0.1):
    state = OnlineShift.initial(1, like)
    for slope in slopes:
        state.slope_B.fill_(slope)
        state = state.end_segment(step)
    return state


def test_the_first_step_is_of_its_own_size_whatever_the_slope():
    for slope in (1e-9, 3.0, 1e9):
        assert float(after([slope]).shift_B) == pytest.approx(-0.1)
        assert float(after([-slope]).shift_B) == pytest.approx(0.1)


def test_a_slope_is_divided_by_the_root_of_the_running_mean_of_squares():
    state = after([1.0, 3.0])
    mean = (0.98 * 0.02 * 1 + 0.02 * 9) / (1 - 0.98**2)
    assert float(state.shift_B) == pytest.approx(-0.1 - 0.1 * 3 / mean**0.5)
    assert not state.slope_B.any()


def test_what_is_no_number_changes_nothing():
    before = after([1.0, -2.0])
    for slope in (0.0, float("nan"), float("inf")):
        state = after([1.0, -2.0, slope])
        assert all(torch.equal(*pair) for pair in zip(state, before, strict=True))


def test_a_shift_is_at_most_four():
    assert float(after([1.0] * 100).shift_B) == -4 and float(after([-1.0] * 100).shift_B) == 4


@pytest.mark.parametrize("rate", [0.02, 0.3, 0.98])
@pytest.mark.parametrize("shift", [-2.0, 0.0, 1.5])
def test_the_slope_of_a_shifted_rate_is_its_derivative(rate, shift):
    leaf = torch.tensor(rate, dtype=torch.float64, requires_grad=True)
    shift = torch.tensor(shift, dtype=torch.float64)
    (found,) = torch.autograd.grad(shifted(leaf, shift), leaf)
    assert slope_of_shifted(rate, shift) == pytest.approx(float(found))
    assert float(shifted(rate, torch.zeros((), dtype=torch.float64))) == pytest.approx(rate)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_rate_at_its_end_starts_a_little_inside_and_has_no_slope(rate):
    zero = torch.zeros((), dtype=torch.float64)
    assert float(shifted(rate, zero)) == pytest.approx(abs(rate - 0.02)) and slope_of_shifted(rate, zero) == 0


def test_the_hypergradient_is_the_derivative_of_the_loss_by_the_slow_rate():
    """By finite differences of the loss of the first segment of the second article."""
    made = meta(slow_rate=0.4, slow_step=1e-12, boundary_reset=True)
    phi = moved_phi(made)
    phi["boundary_reset"].fill_(1.0)

    def second_article(rate):
        rule = dataclasses.replace(made, g=made.g.replace(slow_rate=rate)).rule(phi)
        model = DynamicModel(engine(True), static_params(), rule, NAMES)
        source = stream()
        memory, place, starts = model.fresh_memory(), source.begin(), 0
        while True:
            segment, place = source.next(place)
            starts += int(segment.starts_B[0])
            slopes = []
            if starts == 2:
                watched = dataclasses.replace(model, rule=Watched(rule, slopes))
                nats_BT, memory = read_segment(watched, memory, segment)
                return float(nats_BT.mean()), float(sum(slopes))
            _, memory = read_segment(model, memory, segment)

    (high, _), (low, _), (_, slope) = second_article(0.4001), second_article(0.3999), second_article(0.4)
    assert slope == pytest.approx((high - low) / 2e-4, rel=1e-4)


class Watched:
    """A rule whose hypergradient is noted at the end of each segment."""

    def __init__(self, rule, slopes):
        self._rule, self._slopes = rule, slopes

    def __getattr__(self, name):
        return getattr(self._rule, name)

    def end_segment(self, lanes, nats_B):
        self._slopes.append(lanes.slow_shift.slope_B.sum())
        return self._rule.end_segment(lanes, nats_B)


def test_no_loss_depends_on_a_later_token():
    made = meta(slow_rate=0.4, slow_step=0.3, boundary_reset=True)
    model = DynamicModel(engine(), static_params(), made.rule(moved_phi(made)), NAMES)
    whole = [read.nats_T for read in iter_segments(model, stream())]
    for count in (3, 9):
        part = [read.nats_T for read in itertools.islice(iter_segments(model, stream()), count)]
        assert all(torch.equal(*pair) for pair in zip(part, whole, strict=False))


def test_a_repeated_article_raises_the_slow_rate():
    """What the first reading of an article teaches helps at the second: more of it is kept."""
    split = text((40, 40, 40))
    split = dataclasses.replace(split, ids_N=np.tile(split.ids_N[:40], 3))
    made = meta(slow_rate=0.3, slow_step=0.1, boundary_reset=True)
    phi = made.initial()
    phi["boundary_reset"].fill_(1.0)
    model = DynamicModel(engine(), static_params(), made.rule(phi), NAMES)
    *_, last = iter_segments(model, stream(split))
    assert float(last.memory.rule.lanes.slow_shift.shift_B) > 0


def test_nothing_is_kept_for_it_where_articles_start_afresh():
    phi, nats = moved_phi(meta(slow_rate=0.4, boundary_reset=True)), []
    for step in (0.3, 0.0):
        rule = meta(slow_rate=0.4, slow_step=step, boundary_reset=True).rule(phi)
        model = DynamicModel(engine(), static_params(), rule, NAMES, "article")
        *_, last = reads = list(iter_segments(model, stream()))
        assert last.memory.rule.slots.keys() == {"anchor"} and last.memory.rule.lanes is None
        nats.append(torch.cat([read.nats_T for read in reads]))
    assert torch.equal(*nats)


def test_it_needs_slow_weights():
    with pytest.raises(UserError, match="slow_step needs slow weights"):
        meta(slow_step=0.1)
    assert "moved" not in Boundary(slow_rate={"a": 0.5}).slots


def decays(**options):
    """A model whose decays move while it reads."""
    made = meta(**{"decay_step": 0.1, **options})
    rule = made.rule(made.initial())
    return DynamicModel(engine(True), static_params(), rule, NAMES)


def test_the_hypergradient_of_the_decay_is_the_derivative_of_the_loss():
    """By finite differences of the loss of the third segment, the first that a decay changes."""

    def third(factor):
        model = decays(decay_step=1e-12)
        rates = {name: Rates(lr, decay * factor) for name, (lr, decay) in model.rule.rates.items()}
        rule, slopes = dataclasses.replace(model.rule, rates=rates), []
        model = dataclasses.replace(model, rule=WatchedDecay(rule, slopes))
        *_, last = itertools.islice(iter_segments(model, stream()), 3)
        return float(last.nats_T.mean()), float(slopes[-1])

    (high, _), (low, _), (_, slope) = third(1.001), third(1 / 1.001), third(1.0)
    assert slope != 0 and slope == pytest.approx((high - low) / (2 * np.log(1.001)), rel=1e-4)


class WatchedDecay(Watched):
    """A rule whose hypergradient of the decay is noted at the end of each segment."""

    def end_segment(self, lanes, nats_B):
        self._slopes.append(lanes.decay_shift.slope_B.sum())
        return self._rule.end_segment(lanes, nats_B)


def test_a_repeated_text_lowers_the_decay():
    split = text((120,))
    split = dataclasses.replace(split, ids_N=np.tile(split.ids_N[:20], 6))
    model = decays()
    *_, last = iter_segments(model, stream(split))
    shift = float(last.memory.rule.lanes.decay_shift.shift_B)
    assert shift < 0
    moved = {name: slots for name, slots in last.memory.rule.slots["decay_sensitivity"].items()}
    assert all(tensor.isfinite().all() and tensor.any() for tensor in moved.values())


def test_a_shift_of_zero_leaves_the_decay_as_it_is():
    made = meta()
    plain = DynamicModel(engine(True), static_params(), made.rule(made.initial()), NAMES)
    for one, other in zip(
        iter_segments(plain, stream()), iter_segments(decays(decay_step=1e-12), stream()), strict=True
    ):
        torch.testing.assert_close(one.nats_T, other.nats_T, rtol=0, atol=1e-9)


def test_decays_that_are_not_there_cannot_move():
    with pytest.raises(UserError, match="decay_step needs decays"):
        meta(decay_step=0.1, level=2)


def test_where_articles_start_afresh_the_decay_does():
    model, shifts = dataclasses.replace(decays(), reset="article"), []
    for read in iter_segments(model, stream()):
        shift = float(read.memory.rule.lanes.decay_shift.shift_B)
        # Nothing is known of the decay before a third segment.
        assert not (read.segment.starts_B[0] and shift)
        shifts.append(shift)
    assert any(shifts)
