"""The plug-in rule Adamax against ``torch.optim.Adamax``."""

import torch

from dynlm.adapt.rules.base import StepEvent
from dynlm.models.protocol import Gradient
from dynlm.models.scratch import Scratch
from tests.plugins.adamax import Adamax


def test_adamax_is_that_of_torch():
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(3, 4, generator=generator, dtype=torch.float64))
    optimizer = torch.optim.Adamax([weight], lr=0.1, betas=(0.8, 0.9))
    rule = Adamax(("w",), 0.1, 0.8, 0.9)
    theta_0 = weight.detach().clone()
    theta = theta_0.clone()[None]
    state = rule.init_state({"w": theta})
    for _ in range(12):
        u = torch.randn(3, 4, generator=generator, dtype=torch.float64)
        weight.grad = u
        optimizer.step()
        slots = {slot: tensors["w"] for slot, tensors in state.slots.items()}
        gradient = Gradient("w", u[None])
        one = slice(0, 1), torch.zeros(1)
        rule.step_(StepEvent(gradient, u[None], theta, theta_0, slots, *one, Scratch(), state.lanes))
        state = state._replace(lanes=rule.end_segment(state.lanes, torch.zeros(1)))
    torch.testing.assert_close(theta[0], weight.detach())


def test_steps_are_counted_anew_where_weights_are_restored():
    rule = Adamax(("w",), 0.1, 0.8, 0.9)
    after = rule.restore_lanes(torch.tensor([4.0, 5.0]), torch.tensor([True, False]), torch.zeros(()))
    assert after.tolist() == [0, 5]
