"""Forward sensitivities against reverse mode through an unroll that keeps everything."""

import dataclasses

import pytest
import torch

from dynlm.corpus.streams import Stream, read_in_order
from dynlm.memory import unroll as loop
from dynlm.memory.batches import to_batch
from dynlm.memory.rules import Rates, gradient_step
from dynlm.memory.sensitivities import Sensitivities
from dynlm.memory.unroll import read_segment
from tests.memory.readings import MODEL, NAMES, reader, stream, text


def forward_mode(chosen, segments, source=None):
    """Sum over segments of (dL / d log alpha, dL / d log pull) of each tensor."""
    source = stream() if source is None else source
    memory, place = chosen.fresh_memory(source.own_lanes), source.begin()
    sensitivities = Sensitivities(chosen.rule, memory, chosen.static)
    for _ in range(segments):
        segment, place = source.next(place)
        if chosen.reset == "article":
            sensitivities.restart(segment.starts_B.nonzero()[0])
        _, memory = read_segment(chosen, memory, segment, sensitivities)
    return dict(zip(sensitivities.names, sensitivities.gathered_K2, strict=True))


def reverse_mode(chosen, segments, source=None):
    """The same by autograd in one lane, u_t taken as a constant."""
    like = chosen.static["embedding"]
    alphas = {n: torch.tensor(r.alpha, dtype=torch.float64, requires_grad=True) for n, r in chosen.rule.rates.items()}
    pulls = {n: torch.tensor(r.pull, dtype=torch.float64, requires_grad=True) for n, r in chosen.rule.rates.items()}
    theta = {name: chosen.static[name].clone() for name in NAMES}
    hidden, total = MODEL.initial_hidden(1, like), 0.0
    source = stream() if source is None else source
    place = source.begin()
    for _ in range(segments):
        segment, place = source.next(place)
        batch = to_batch(segment, like)
        if segment.starts_B[0]:
            hidden = MODEL.initial_hidden(1, like)
            if chosen.reset == "article":
                theta = {name: chosen.static[name].clone() for name in NAMES}
        share = batch.mask_BT / segment.tokens
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in theta.items()}
        at_leaves, _, after = MODEL.loss(leaves, batch.inputs_BT, batch.targets_BT, share, hidden)
        u = dict(zip(NAMES, torch.autograd.grad(at_leaves, list(leaves.values())), strict=True))
        # dL / d theta_t is u_t, whatever graph theta_t has: the chain from the rates to theta_t does the rest.
        total = total + sum((theta[name] * u[name]).sum() for name in NAMES)
        for name in NAMES:
            shape = 1.0 if chosen.rule.shape is None else chosen.rule.shape[name]
            scale = 1.0 if chosen.rule.scale is None else chosen.rule.scale[name]
            beta = (torch.as_tensor(shape) * pulls[name]).clamp(max=1)
            theta[name] = gradient_step(theta[name], u[name], alphas[name], scale, chosen.static[name], beta)
        hidden = tuple((h.detach(), c.detach()) for h, c in after)
    found = torch.autograd.grad(total, [*alphas.values(), *pulls.values()])
    # By the chain rule, d / d log rate = rate * d / d rate.
    pairs = [(found[k] * alphas[name], found[k + len(NAMES)] * pulls[name]) for k, name in enumerate(NAMES)]
    return {name: torch.stack(pair).detach() for name, pair in zip(NAMES, pairs, strict=True)}


@pytest.mark.parametrize("name", ["sgd+decay", "rms", "meta"])
@pytest.mark.parametrize("reset", ["stream", "article"])
@pytest.mark.parametrize("pull", [0.01, 0.18])
def test_forward_is_reverse_to_rounding(name, reset, pull):
    chosen = reader(name, reset, pull=pull)
    wanted = reverse_mode(chosen, segments=11)
    for tensor, found in forward_mode(chosen, segments=11).items():
        torch.testing.assert_close(found, wanted[tensor], rtol=1e-9, atol=1e-12)
        assert found.abs().min() > 0


@pytest.mark.parametrize("at_a_time", [1, 3])
def test_lanes_gather_the_sum_of_what_each_would(at_a_time, monkeypatch):
    monkeypatch.setattr(loop, "lanes_at_a_time", lambda *_: at_a_time)
    chosen = reader("rms", "article", pull=0.05)
    split = text((20, 20, 20, 20, 20))
    together = forward_mode(chosen, 4, Stream(split, 5, 5, range(5)))
    alone = [forward_mode(chosen, 4, read_in_order(split, 5, [article])) for article in range(5)]
    for tensor, found in together.items():
        wanted = torch.stack([one[tensor] for one in alone]).sum(0)
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-13)


def test_the_gradient_of_one_step_is_a_finite_difference():
    """One step is where first order is exact: the second segment's loss by each rate, measured."""
    chosen, step = reader("rms"), 1e-6
    forward = forward_mode(chosen, segments=2)

    def second_loss(rates):
        moved = dataclasses.replace(chosen, rule=dataclasses.replace(chosen.rule, rates=rates))
        memory, source = moved.fresh_memory(), stream()
        place = source.begin()
        for _ in range(2):
            segment, place = source.next(place)
            nats_BT, memory = read_segment(moved, memory, segment)
        return float(nats_BT.mean())

    for tensor in NAMES:
        rates = chosen.rule.rates
        up = {**rates, tensor: Rates(rates[tensor].alpha + step, rates[tensor].pull)}
        down = {**rates, tensor: Rates(rates[tensor].alpha - step, rates[tensor].pull)}
        # The LSTM's state was made by the static weights, as it was for the sensitivities.
        difference = (second_loss(up) - second_loss(down)) / (2 * step)
        assert forward[tensor][0].item() == pytest.approx(rates[tensor].alpha * difference, rel=1e-4, abs=1e-9)


def test_pulls_that_are_clamped_have_no_gradient():
    chosen = reader("sgd+decay", pull=3.0)
    assert all(total[1] == 0 for total in forward_mode(chosen, segments=5).values())
