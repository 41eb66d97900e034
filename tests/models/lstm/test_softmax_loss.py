"""The softmax layer's losses and gradients equal those of plain operations."""

import pytest
import torch
import torch.nn.functional as F

from dynlm.models.lstm import softmax_loss as module
from dynlm.models.lstm.softmax_loss import weighted_nats


def inputs(dtype=torch.float64, positions=37, width=5, vocabulary=11, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(positions, width, generator=generator, dtype=dtype) * 3
    weight = torch.randn(vocabulary, width, generator=generator, dtype=dtype) * 3
    bias = torch.randn(vocabulary, generator=generator, dtype=dtype)
    targets = torch.randint(vocabulary, (positions,), generator=generator)
    share = torch.rand(positions, generator=generator, dtype=dtype) * (torch.arange(positions) % 3 > 0)
    return features, weight, bias, targets, share


@pytest.mark.parametrize("factor", [1.0, 2.5])
@pytest.mark.parametrize("rows", [1, 8, 256])
def test_losses_and_gradients_equal_cross_entropy(rows, factor, monkeypatch):
    monkeypatch.setattr(module, "_ROWS_ON_CPU", rows)
    *leaves, targets, share = inputs()
    leaves = [leaf.requires_grad_() for leaf in leaves]
    naive = F.cross_entropy(F.linear(*leaves), targets, reduction="none")
    expected = torch.autograd.grad((naive * share).sum() * factor, leaves)
    total, nats = weighted_nats(*leaves, targets, share)
    torch.testing.assert_close(nats, naive)
    torch.testing.assert_close(total, (naive * share).sum())
    for found, gradient in zip(torch.autograd.grad(total * factor, leaves), expected, strict=True):
        torch.testing.assert_close(found, gradient)


def test_losses_are_the_same_bits_with_and_without_gradients():
    features, weight, bias, targets, share = inputs(torch.float32, positions=300)
    with torch.no_grad():
        _, without = weighted_nats(features, weight, bias, targets, share)
    _, with_gradients = weighted_nats(features, weight.requires_grad_(), bias, targets, share)
    assert torch.equal(without, with_gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_logits_do_not_overflow(dtype):
    features = torch.tensor([[1000.0]], dtype=dtype)
    weight = torch.tensor([[1.0], [-1.0]])
    _, nats = weighted_nats(features, weight, torch.zeros(2), torch.tensor([0]), torch.ones(1))
    assert nats.item() == 0.0


@pytest.mark.parametrize("entries", [1, 4, 512])
def test_bfloat16_features_give_the_losses_and_gradients_of_their_rounded_product(entries, monkeypatch):
    monkeypatch.setattr(module, "_ENTRIES_ON_CPU", entries)
    features, weight, bias, targets, share = inputs(torch.float32, positions=64)
    low = features.bfloat16().requires_grad_()
    leaves = [weight.requires_grad_(), bias.requires_grad_()]
    rounded = (low @ weight.bfloat16().T).float() + bias
    naive = F.cross_entropy(rounded, targets, reduction="none")
    expected = torch.autograd.grad((naive * share).sum(), [low, *leaves])
    total, nats = weighted_nats(low, *leaves, targets, share)
    torch.testing.assert_close(nats, naive, rtol=1e-4, atol=1e-4)
    found = torch.autograd.grad(total, [low, *leaves])
    assert [gradient.dtype for gradient in found] == [torch.bfloat16, torch.float32, torch.float32]
    for mine, gradient in zip(found, expected, strict=True):
        # The gradient of the logits is rounded once, to 8 bits.
        torch.testing.assert_close(mine, gradient, rtol=0.02, atol=0.02)


def test_positions_without_a_share_have_no_gradient_in_bfloat16():
    features, weight, bias, targets, share = inputs(torch.float32, positions=9)
    low = features.bfloat16().requires_grad_()
    (gradient,) = torch.autograd.grad(weighted_nats(low, weight, bias, targets, share)[0], low)
    assert not gradient[share == 0].any() and gradient[share > 0].any(1).all()


def test_no_positions_have_gradients_of_zero():
    features, weight, bias = (torch.randn(shape, requires_grad=True) for shape in ((0, 4), (6, 4), (6,)))
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # Memory that is not written to is then NaN.
    try:
        total, nats = weighted_nats(features, weight, bias, torch.zeros(0, dtype=torch.int64), torch.zeros(0))
        total.backward()
    finally:
        torch.use_deterministic_algorithms(before)
    assert len(nats) == 0 and not weight.grad.any() and not bias.grad.any()
