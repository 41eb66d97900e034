"""Regularisers: what they drop, that means are kept, and that the generator decides."""

import pytest
import torch

from dynlm.models.lstm.model import LSTMLanguageModel
from dynlm.models.lstm.regularisers import Regularisers
from dynlm.models.options import LSTMOptions, RegularisationOptions


def regularisers(seed=0, **options):
    return Regularisers(RegularisationOptions(**options), torch.Generator().manual_seed(seed))


def test_variational_dropout_is_the_same_at_every_step():
    x = torch.ones(50, 4, 30)
    dropped = regularisers().variational(x, 0.4)
    assert torch.equal(dropped, dropped[:1].expand_as(dropped))
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.6])


def test_dropout_keeps_the_mean():
    x = torch.ones(1, 100, 400)
    assert regularisers().variational(x, 0.3).mean().item() == pytest.approx(1, abs=0.02)
    assert regularisers(weight=0.5).weight_drop(x[0]).mean().item() == pytest.approx(1, abs=0.02)


def test_embedding_dropout_drops_every_occurrence_of_a_type():
    tokens = torch.arange(20).repeat(6)[:, None]
    dropped = regularisers(embedding=0.5).embedding(torch.ones(120, 1, 3), tokens, 20)
    by_type = dropped[:, 0, 0].view(6, 20)
    assert torch.equal(by_type, by_type[:1].expand_as(by_type))
    assert 0 < (by_type[0] == 0).sum() < 20


def test_penalties_of_known_values():
    raw = torch.tensor([0.0, 2.0, 2.0]).view(3, 1, 1)
    dropped = raw * 2
    assert regularisers(activation=0.5).penalty(dropped, raw).item() == pytest.approx(0.5 * 32 / 3)
    assert regularisers(temporal_activation=0.5).penalty(dropped, raw).item() == pytest.approx(0.5 * 4 / 2)
    assert regularisers(temporal_activation=0.5).penalty(dropped[:1], raw[:1]).item() == 0


def test_masks_depend_on_the_seed_and_zero_changes_nothing():
    model = LSTMLanguageModel(LSTMOptions(8, 8, 2), 11)
    params = model.init_params(torch.Generator().manual_seed(0))
    tokens = torch.arange(10)[None] % 11
    state = model.init_state(1, params["embedding"])
    options = {"embedding": 0.2, "input": 0.3, "between": 0.3, "output": 0.3, "weight": 0.3}

    def outputs(chosen):
        return (model if chosen is None else model.regularised(chosen)).features(params, state, tokens)[0]

    assert torch.equal(outputs(regularisers(1, **options)), outputs(regularisers(1, **options)))
    assert not torch.equal(outputs(regularisers(1, **options)), outputs(regularisers(2, **options)))
    assert torch.equal(outputs(regularisers()), outputs(None))


def test_masks_of_two_processes_are_the_lanes_of_one_process() -> None:
    options = RegularisationOptions(embedding=0.3, input=0.5, weight=0.4)
    x_TBH, recurrent, tokens_TB = torch.ones(3, 4, 5), torch.ones(8, 2), torch.arange(12).view(3, 4)
    found = {}
    for world in (1, 2):
        for rank in range(world):
            drop = Regularisers(options, torch.Generator().manual_seed(3), rank, world)
            own = slice(rank, None, world)
            found[rank, world] = (
                drop.embedding(x_TBH[:, own], tokens_TB[:, own], 12),
                drop.variational(x_TBH[:, own], 0.5),
                drop.weight_drop(recurrent),
                drop.variational(x_TBH[:, own], 0.5),
            )
    for rank in range(2):
        for number, (whole, part) in enumerate(zip(found[0, 1], found[rank, 2], strict=True)):
            assert torch.equal(whole if number == 2 else whole[:, rank::2], part)
