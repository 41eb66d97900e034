"""Level-1 training: it learns, it repeats, it resumes bit for bit, and it refuses what would mix two runs."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from dynlm.adapt.dynamic_model import DynamicModel
from dynlm.adapt.loop import mean_nats
from dynlm.adapt.rules.elementwise import LEVEL_1
from dynlm.data.stream import Stream, read_in_order, to_batch
from dynlm.errors import UserError
from dynlm.models.autograd_engine import AutogradEngine
from dynlm.models.lstm.model import LSTMLanguageModel
from dynlm.models.protocol import SequenceModel
from dynlm.run.folder import load_model, load_tensors
from dynlm.runtime.tree import detach
from dynlm.train.config import Config
from dynlm.train.optimizers import Optimiser, lr_at
from dynlm.train.pretrain import load_corpus, pretrain
from dynlm.train.pretrain_loop import validate
from dynlm.types import Params
from tests.tiny import Run, listing, tiny_config

SHORT: dict[str, Any] = {"epochs": 0.4, "checkpoint_every": 4, "validate_every": 3, "log_every": 1, "warmup_steps": 3}
DROPOUTS = {"input": 0.2, "output": 0.2, "weight": 0.3, "embedding": 0.1, "activation": 1.0, "temporal_activation": 1.0}


def weights(config: Config) -> Params:
    return load_tensors(config.run.path / "model.safetensors")[0]


def log(config: Config) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (config.run.path / "log.jsonl").read_text().splitlines()]


def losses(config: Config) -> list[float]:
    return [line["loss"] for line in log(config) if "loss" in line]


def assert_equal(left: Params, right: Params) -> None:
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


def test_training_lowers_the_loss_and_logs_it(trained_run: Run) -> None:
    lines = log(trained_run.config)
    steps = [line for line in lines if "loss" in line]
    valid = [line["valid"] for line in lines if "valid" in line]
    assert steps[0]["loss"] < 1.05 * math.log(420)
    assert steps[-1]["loss"] < steps[0]["loss"] - 1
    assert valid[-1] < valid[0]
    assert [line["tokens"] for line in steps] == sorted(line["tokens"] for line in steps)
    assert lines[-1]["event"] == "pretrained"
    assert not list((trained_run.folder / "checkpoints").iterdir())


def test_same_seed_same_losses(tiny_corpus: Path, tmp_path: Path) -> None:
    runs = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        config = tiny_config(
            tiny_corpus,
            tmp_path,
            run={"name": name, "seed": seed},
            pretrain={**SHORT, "epochs": 0.1},
            regularisation=DROPOUTS,
        )
        pretrain(config, quiet=True)
        runs.append(config)
    assert losses(runs[0]) == losses(runs[1])
    assert_equal(weights(runs[0]), weights(runs[1]))
    assert losses(runs[0]) != losses(runs[2])


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_step_weights_all_tokens_alike(accumulate: int, tiny_corpus: Path, tmp_path: Path) -> None:
    """Batches of unequal size are summed and divided once; checked against one step by hand."""
    options = {"accumulate": accumulate, "epochs": 1e-6, "lanes": 3, "segment": 300, "clip": 0.0}
    config = tiny_config(tiny_corpus, tmp_path, pretrain=options)
    assert pretrain(config, quiet=True)["steps"] == 1
    corpus = load_corpus(config.corpus, config.tokenizer)
    model = LSTMLanguageModel(config.model, corpus.tokenizer.size)
    fresh = model.init_params(torch.Generator().manual_seed(config.run.seed))
    params = {name: tensor.requires_grad_() for name, tensor in fresh.items()}
    stream = Stream(corpus.train, 3, 300, range(corpus.train.articles), seed=config.run.seed, repeat=True)
    place, hidden, tokens, sizes = stream.begin(), model.init_state(3, params["embedding"]), 0, []
    total = torch.zeros(())
    for _ in range(accumulate):
        segment, place = stream.next(place)
        assert segment is not None
        batch = to_batch(segment, params["embedding"])
        hidden = model.reset_state(detach(hidden), batch.starts_B, batch.mask_BT)
        # The default loss of any model, which stores the logits.
        nats, _, hidden = SequenceModel.loss(model, params, hidden, batch.inputs_BT, batch.targets_BT, batch.mask_BT)
        total, tokens = total + nats, tokens + segment.tokens
        sizes.append(segment.tokens)
    assert accumulate == 1 or len(set(sizes)) > 1, "batches of one size would show nothing"
    (total / tokens).backward()
    norm = torch.stack([param.grad.norm() for param in params.values() if param.grad is not None]).norm()
    assert log(config)[0]["norm"] == pytest.approx(float(norm), rel=1e-4)
    assert log(config)[0]["loss"] == pytest.approx(total.item() / tokens, rel=1e-5)
    rate = lr_at(0, 1, config.pretrain)
    Optimiser(params, config.pretrain).step(rate)
    for name, tensor in weights(config).items():
        # Adam's first step is a whole rate wherever the gradient is not nearly zero, so most must agree, not all.
        near = torch.isclose(tensor, params[name].detach(), rtol=0, atol=rate / 100)
        assert near.float().mean() > 0.99, name


def test_the_mean_gradient_is_clipped(tiny_corpus: Path, tmp_path: Path) -> None:
    options = {
        "optimizer": "nt-asgd",
        "lr": 1.0,
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "clip": 0.01,
        "epochs": 1e-6,
    }
    config = tiny_config(tiny_corpus, tmp_path, pretrain=options)
    pretrain(config, quiet=True)
    assert log(config)[0]["norm"] > 0.02
    model = LSTMLanguageModel(config.model, config.tokenizer.vocab_size)
    fresh = model.init_params(torch.Generator().manual_seed(config.run.seed))
    moved = torch.stack([(tensor - fresh[name]).norm() for name, tensor in weights(config).items()]).norm()
    assert float(moved) == pytest.approx(0.01, rel=1e-3)


def test_validation_equals_reading_in_one_lane(trained_run: Run) -> None:
    trained = load_model(trained_run.folder)
    valid = load_corpus(trained_run.config.corpus, trained_run.config.tokenizer).valid
    nats, tokens = validate(trained.model, trained.params, valid, 0, lanes=4, width=33)
    dynamic_model = DynamicModel(AutogradEngine(trained.model), trained.params, LEVEL_1, ())
    assert tokens == len(valid.ids_N)
    assert nats / tokens == pytest.approx(
        mean_nats(dynamic_model, read_in_order(valid, 50, range(valid.articles))), abs=1e-5
    )
    assert trained.card["valid_nats_per_token"] == pytest.approx(nats / tokens, abs=1e-5)


def test_validation_of_part_stops_early(trained_run: Run) -> None:
    trained = load_model(trained_run.folder)
    valid = load_corpus(trained_run.config.corpus, trained_run.config.tokenizer).valid
    _, tokens = validate(trained.model, trained.params, valid, 300, lanes=2, width=40)
    assert 300 <= tokens < 300 + 2 * 40


def test_divergence_is_reported(tiny_corpus: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_corpus, tmp_path, pretrain={**SHORT, "lr": 1e12, "clip": 0.0, "warmup_steps": 0})
    with pytest.raises(UserError, match="diverged"):
        pretrain(config, quiet=True)
    assert not (config.run.path / "model.json").exists()


def test_a_tracker_that_is_not_installed_is_named(tiny_corpus: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_corpus, tmp_path, run={"tracker": "no-such-tracker"})
    with pytest.raises(UserError, match="'no-such-tracker', which accelerate lacks; choose among .*tensorboard"):
        pretrain(config, quiet=True)
    config = tiny_config(tiny_corpus, tmp_path, run={"tracker": "comet_ml"})
    with pytest.raises(UserError, match="'comet_ml', which is not installed; pip install comet-ml"):
        pretrain(config, quiet=True)
    assert not listing(tmp_path)


def test_a_perplexity_that_overflows_is_null_and_the_model_is_there(tmp_path: Path) -> None:
    for number in range(12):
        text = "".join(chr(0x4E00 + (37 * number + i) % 3000) for i in range(500))
        (tmp_path / "texts").mkdir(exist_ok=True)
        (tmp_path / "texts" / f"{number}.txt").write_text(text + "\n", encoding="utf-8")
    config = tiny_config(tmp_path / "texts", tmp_path, pretrain={"epochs": 0.1})
    config = dataclasses.replace(config, tokenizer=dataclasses.replace(config.tokenizer, vocab_size=1400))
    assert pretrain(config, quiet=True)["valid_perplexity_per_word"] is None
    assert json.loads((config.run.path / "model.json").read_text())["valid_perplexity_per_word"] is None
