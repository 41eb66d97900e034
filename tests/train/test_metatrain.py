"""Meta-training: phi begins at the tuned rms rule, and what is kept never reads the tuning articles worse."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from dynlm.adapt.meta_gradient.learner import MetaGradient
from dynlm.adapt.options import LearnedRuleOptions
from dynlm.errors import UserError
from dynlm.models.lstm.model import Params
from dynlm.run.folder import load_model, load_tensors
from dynlm.run.memory_store import MemoryStore
from dynlm.run.opening import open_dynamic_model
from dynlm.train import metatrain as module
from dynlm.train.outer_loop import OuterLoop
from tests.tiny import Run, with_memory
from tests.trainings import metatrain, tune, tuning_stream

_OF_STATISTICS: list[dict[str, Any]] = [{"importance": True}, {"slow": True}, {"slow_rate": 0.1}]
_OF_STATISTICS += [{"features": ["doc_age_20", "grad_rms"]}]


def learned_card(run: Run, reset: str) -> dict[str, Any]:
    return json.loads((run.folder / "memory" / f"meta-{reset}.json").read_text())


def tuned_card(run: Run, reset: str) -> dict[str, Any]:
    return json.loads((run.folder / "memory" / "tuned.json").read_text())["rms"][reset]


def have_learned(log_rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let learning end with all log-rates so far from the start."""

    def learn(loop: OuterLoop, learners: dict[MetaGradient, float], *_: Any, **__: Any) -> dict[str, list[Params]]:
        (phi,) = (learner.params for learner in learners)
        return {"learned": [{**phi, "lr": torch.full_like(phi["lr"], log_rate)}]}

    monkeypatch.setattr(OuterLoop, "learn", learn)


@pytest.mark.parametrize("reset", ["stream", "article"])
def test_it_starts_at_the_tuned_rms_and_keeps_the_best_candidate(tuned_run: Run, reset: str) -> None:
    card, tuned = learned_card(tuned_run, reset), tuned_card(tuned_run, reset)
    nats = card["tuning_nats_per_token"]
    assert nats["start"] == pytest.approx(tuned["nats_per_token"], abs=1e-5)
    assert card["kept"] == ("learned" if nats["learned"] < nats["start"] else "start")
    assert nats[card["kept"]] <= nats["start"]
    # A learning rate and a decay of each tensor.
    assert card["parameters"] == 2 * len(card["tensors"]) and card["seconds"] > 0


def test_phi_stays_within_its_bound(tuned_copy: Run) -> None:
    config = with_memory(tuned_copy.config, rule="meta", g="all")
    g = LearnedRuleOptions(importance=True, features=["doc_age_20", "loss_delta"], boundary_reset=True, sharing="row")
    options = dataclasses.replace(config.metatrain, lr=0.3, bound=0.5)
    done = metatrain(tuned_copy.folder, dataclasses.replace(config, g=g, metatrain=options))
    log = [json.loads(line) for line in (tuned_copy.folder / "log.jsonl").read_text().splitlines()]
    windows = [line for line in log if line["event"] == "metatrain" and line["name"] == "all"]
    assert len(windows) >= 4
    assert all(line["nats_of_window"] > 0 for line in windows)
    parts = {"lr", "decay", "lr.importance", "decay.importance", "lr.gates", "decay.gates", "boundary_reset"}
    assert windows[-1]["phi"].keys() == parts
    for part in parts:
        values = torch.tensor([line["phi"][part] for line in windows])
        low, high = (0.0, 1.0) if part == "boundary_reset" else (-0.5, 0.5)
        assert values.abs().max() > 0
        assert values.min() >= low
        assert values.max() <= high
    tensors, _ = load_tensors(tuned_copy.folder / "memory" / "all-stream.safetensors")
    assert parts < tensors.keys()
    assert done["name"] == "all"


@pytest.mark.parametrize("reset", ["stream", "article"])
def test_the_lstm_rule_learns_its_gates(reset: str, tuned_copy: Run) -> None:
    config = with_memory(tuned_copy.config, rule="meta", g="lstm", reset=reset)
    options = dataclasses.replace(config.metatrain, lanes=2)
    config = dataclasses.replace(config, g=LearnedRuleOptions(kind="lstm", hidden=2), metatrain=options)
    done = metatrain(tuned_copy.folder, config)
    nats = done["tuning_nats_per_token"]
    assert nats["start"] == pytest.approx(tuned_card(tuned_copy, reset)["nats_per_token"], abs=1e-5)
    assert nats["learned"] != nats["halfway"] != nats["start"]
    assert nats[done["kept"]] == min(nats.values())
    phi, _ = load_tensors(tuned_copy.folder / "memory" / f"lstm-{reset}.safetensors")
    assert phi["gates.bias"].shape == (8,)
    trained = load_model(tuned_copy.folder)
    stream = tuning_stream(tuned_copy.folder, config, 350)
    read = module.mean_nats(open_dynamic_model(tuned_copy.folder, trained, config.memory), stream)
    assert read == pytest.approx(nats[done["kept"]], rel=1e-9)


def test_the_lstm_rule_refuses_options_of_learned_rates() -> None:
    with pytest.raises(UserError, match="g.boundary_reset True does not go with g.kind 'lstm'; .*reset false$"):
        LearnedRuleOptions(kind="lstm", boundary_reset=True)
    with pytest.raises(UserError, match="g.sharing 'kind' does not go with g.kind 'lstm'; choose --g.sharing tensor$"):
        LearnedRuleOptions(kind="lstm", sharing="kind")  # as the configuration of pretrained models has it


def test_phi_is_saved_as_tensors_and_as_json(tuned_run: Run) -> None:
    tensors, about = load_tensors(tuned_run.folder / "memory" / "meta-stream.safetensors")
    card, start = learned_card(tuned_run, "stream"), tuned_card(tuned_run, "stream")
    assert {name: value for name, value in card.items() if name != "phi"} == about
    assert tensors.keys() == {"lr", "decay"}
    for number, told in enumerate(card["phi"].values()):
        assert told["alpha"] == pytest.approx(start["lr"] * math.exp(float(tensors["lr"][number])))
        assert told["lambda"] == pytest.approx(start["decay"] * math.exp(float(tensors["decay"][number])))


def test_candidates_may_be_compared_on_more_articles_than_were_tuned_on(
    tuned_copy: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``metatrain.pick_tokens`` 0 reads all that ``tune.articles`` names, not the few that tuning read of them."""
    seen: list[list[int]] = []
    whole = module.mean_nats
    monkeypatch.setattr(
        module,
        "mean_nats",
        lambda dynamic_model, stream: (seen.append(list(stream.order)), whole(dynamic_model, stream))[1],
    )
    have_learned(-1.0, monkeypatch)
    config = with_memory(tuned_copy.config, rule="meta")
    picking = dataclasses.replace(config, metatrain=dataclasses.replace(config.metatrain, pick_tokens=0))
    metatrain(tuned_copy.folder, picking)
    metatrain(tuned_copy.folder, config)
    tuned_on = [index - 1 for index in tuned_card(tuned_copy, "stream")["articles"]]
    assert seen == [[0, 1, 2], [0, 1, 2], tuned_on, tuned_on]
    assert len(tuned_on) < 3


@pytest.mark.parametrize("log_rate", [8.0, math.inf])
def test_a_phi_that_reads_worse_is_not_kept(log_rate: float, tuned_copy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    have_learned(log_rate, monkeypatch)
    done = metatrain(tuned_copy.folder, with_memory(tuned_copy.config, rule="meta"))
    tuned = tuned_card(tuned_copy, "stream")
    assert done["kept"] == "start"
    assert done["phi"]["embedding"]["alpha"] == pytest.approx(tuned["lr"])
    assert learned_card(tuned_copy, "stream")["phi"] == done["phi"]


def test_a_phi_that_reads_better_is_kept(tuned_copy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned = tuned_card(tuned_copy, "stream")
    path = tuned_copy.folder / "memory" / "tuned.json"
    content = json.loads(path.read_text())
    content["rms"]["stream"]["lr"] = 1e-9
    path.write_text(json.dumps(content))
    have_learned(math.log(tuned["lr"] / 1e-9), monkeypatch)
    done = metatrain(tuned_copy.folder, with_memory(tuned_copy.config, rule="meta"))
    assert done["kept"] == "learned"
    assert done["phi"]["output.bias"]["alpha"] == pytest.approx(tuned["lr"])
    learned = MemoryStore(tuned_copy.folder, load_model(tuned_copy.folder)).load_learned("meta", "stream")
    assert learned is not None
    assert set(learned[0]["lr"].tolist()) == {math.log(tuned["lr"] / 1e-9)}


def test_statistics_are_needed_by_what_is_made_of_them() -> None:
    needs = [{}, {"kind": "lstm"}, *({"base": "adam", **more} for more in _OF_STATISTICS)]
    assert all(LearnedRuleOptions(**options).needs_statistics for options in needs)
    assert not LearnedRuleOptions(base="adam", sharing="row", features=["doc_age_20"]).needs_statistics


def test_g_starts_at_the_tuned_adam(tuned_copy: Run) -> None:
    """Constants of Adam that are not searched for are those that it was tuned with; R is not looked at."""
    (tuned_copy.folder / "memory" / "statistics.safetensors").unlink()
    config = with_memory(tuned_copy.config, rule="adam", reset="article", beta1=0.7, decay=0.01)
    meta = with_memory(tuned_copy.config, rule="meta", g="adam", reset="article")
    meta = dataclasses.replace(meta, g=LearnedRuleOptions(base="adam", features=["doc_age_20"]))
    with pytest.raises(UserError, match="g.base adam was not tuned for reset 'article'") as refused:
        metatrain(tuned_copy.folder, meta)
    assert f"dynlm tune {tuned_copy.folder} --memory.rule adam --memory.reset article" in str(refused.value)
    tuned = tune(tuned_copy.folder, config)
    done = metatrain(tuned_copy.folder, meta)
    nats = done["tuning_nats_per_token"]
    assert done["start"] == {"lr": tuned["lr"], "decay": 0.01, "beta1": 0.7, "beta2": 0.99}
    assert nats["start"] == pytest.approx(tuned["nats_per_token"], abs=1e-5)
    assert nats["learned"] != nats["start"]
    read = open_dynamic_model(tuned_copy.folder, load_model(tuned_copy.folder), meta.memory)
    stream = tuning_stream(tuned_copy.folder, meta, 350)
    assert module.mean_nats(read, stream) == pytest.approx(nats[done["kept"]], rel=1e-9)
    assert not (tuned_copy.folder / "memory" / "statistics.safetensors").exists()


def test_g_takes_no_momentum_beside_that_of_adam() -> None:
    with pytest.raises(UserError, match="g.momentum does not go with g.base 'adam'"):
        LearnedRuleOptions(base="adam", momentum=0.5)


def test_another_segment_than_tuned_is_refused(tuned_copy: Run) -> None:
    before = sorted(Path(tuned_copy.folder).rglob("*"))
    with pytest.raises(UserError, match=r"tuned\.json: rms was tuned on segments of 20 tokens, memory\.segment is 7"):
        metatrain(tuned_copy.folder, with_memory(tuned_copy.config, rule="meta", segment=7))
    assert sorted(Path(tuned_copy.folder).rglob("*")) == before


def test_several_lanes_learn_from_the_same_articles(tuned_copy: Run) -> None:
    """Several lanes see as many tokens, in another order, and move phi the same way."""
    config = with_memory(tuned_copy.config, rule="meta", reset="article")
    lanes = dataclasses.replace(config, metatrain=dataclasses.replace(config.metatrain, lanes=3))
    metatrain(tuned_copy.folder, lanes)
    log = [json.loads(line) for line in (tuned_copy.folder / "log.jsonl").read_text().splitlines()]
    last = [line for line in log if line["event"] == "metatrain" and line["reset"] == "article"][-1]
    assert last["tokens"] >= config.metatrain.tokens
    assert max(map(abs, last["phi"]["lr"] + last["phi"]["decay"])) > 0
