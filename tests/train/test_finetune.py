"""Fine-tuning theta_0 while a rule reads: its gradients, what the lanes keep, and the run that comes of it."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from dynlm.adapt.dynamic_model import DynamicModel
from dynlm.adapt.loop import mean_nats, read_segment
from dynlm.adapt.meta_gradient.learner import StaticGradients
from dynlm.adapt.options import LearnedRuleOptions
from dynlm.data.stream import Stream
from dynlm.errors import UserError
from dynlm.models.autograd_engine import AutogradEngine
from dynlm.run.folder import load_model, load_tensors
from dynlm.run.memory_store import MemoryStore
from dynlm.run.opening import open_dynamic_model
from dynlm.train.config import Config
from dynlm.train.options import FinetuneOptions
from tests.adapt.readings import MODEL, NAMES, rule, static_params, stream, text
from tests.tiny import Run, listing, with_memory
from tests.trainings import finetune, metatrain, tuning_stream


def mean_nats_of(static: dict[str, torch.Tensor], reading: DynamicModel, shift: dict[str, torch.Tensor]) -> float:
    """Sum of the segments' mean nats where every theta_t is ``shift`` away from where ``reading`` had it."""
    source, total = stream(), 0.0
    memory, place = reading.fresh_memory(), source.begin()
    while True:
        segment, place = source.next(place)
        if segment is None:
            return total
        at = memory.copy()
        shifted = at._replace(params={name: tensor + shift[name] for name, tensor in at.params.items()})
        moved = {name: static[name] + shift[name] for name in static}
        nats_BT, _ = read_segment(dataclasses.replace(reading, static=moved), shifted, segment)
        total += float(nats_BT[torch.from_numpy(segment.mask_BT)].mean())
        _, memory = read_segment(reading, memory, segment)


@pytest.mark.parametrize("name", ["none", "rms"])
def test_the_gradient_is_that_of_shifting_theta_0_and_every_theta_t(name: str) -> None:
    static = static_params()
    made = rule(name)
    reading = DynamicModel(AutogradEngine(MODEL), static, made, NAMES)
    gradients, source = StaticGradients(static), stream()
    memory, place = reading.fresh_memory(), source.begin()
    while True:
        segment, place = source.next(place)
        if segment is None:
            break
        _, memory = read_segment(reading, memory, segment, gradients)
    summed, generator = gradients.gradients(), torch.Generator().manual_seed(1)
    for tensor in NAMES:
        way = {each: torch.zeros_like(value) for each, value in static.items()}
        way[tensor] = torch.randn(static[tensor].shape, generator=generator, dtype=torch.float64)
        step = 1e-5
        up, down = (mean_nats_of(static, reading, {n: sign * step * w for n, w in way.items()}) for sign in (1, -1))
        told = float((summed[tensor] * way[tensor]).sum())
        assert told == pytest.approx((up - down) / (2 * step), rel=1e-5, abs=1e-8)


def test_gradients_of_lanes_add_up() -> None:
    static, split = static_params(), text((20, 20, 20))

    def summed(lanes: int, articles: list[int]) -> dict[str, torch.Tensor]:
        reading, gradients = DynamicModel(AutogradEngine(MODEL), static, rule("rms"), NAMES), StaticGradients(static)
        source = Stream(split, lanes, 5, articles)
        memory, place = reading.fresh_memory(lanes), source.begin()
        for _ in range(4):
            segment, place = source.next(place)
            assert segment is not None
            _, memory = read_segment(reading, memory, segment, gradients)
        return gradients.gradients()

    together, alone = summed(3, [0, 1, 2]), [summed(1, [article]) for article in range(3)]
    for name, tensor in together.items():
        torch.testing.assert_close(tensor, sum(each[name] for each in alone), rtol=1e-10, atol=1e-13)


def test_lane_weights_shift_with_theta_0() -> None:
    static = static_params()
    reading = DynamicModel(AutogradEngine(MODEL), static, rule("g"), NAMES)
    memory, source = reading.fresh_memory(), stream()
    segment, _ = source.next(source.begin())
    assert segment is not None
    _, memory = read_segment(reading, memory, segment)
    away = {name: memory.params[name][0] - static[name] for name in NAMES}
    gradients = StaticGradients(static)
    gradients.gradients()
    for tensor in static.values():
        tensor += 0.5
    for _ in range(2):  # The second time nothing has moved.
        assert gradients.update(reading, memory) is reading
        for name in NAMES:
            torch.testing.assert_close(memory.params[name][0] - static[name], away[name])
            torch.testing.assert_close(memory.rule.slots["anchor"][name][0], static[name])


def tuned_finetune(run: Run, memory: dict[str, Any], **options: Any) -> tuple[Config, dict[str, Any]]:
    defaults: dict[str, Any] = {"tokens": 1200, "window": 8, "lanes": 2, "lr": 1e-3, "pick_tokens": 350}
    config = dataclasses.replace(with_memory(run.config, **memory), finetune=FinetuneOptions(**defaults | options))
    return config, finetune(run.folder, config)


@pytest.mark.parametrize("rule_name", ["none", "rms"])
def test_the_new_run_reads_as_the_picked_candidate(rule_name: str, tuned_copy: Run) -> None:
    before = listing(tuned_copy.folder)
    config, done = tuned_finetune(tuned_copy, {"rule": rule_name}, pick_rule="rms")
    assert {**listing(tuned_copy.folder), "log.jsonl": b""} == {**before, "log.jsonl": b""}
    target = Path(done["run"])
    assert target.name == f"tiny-finetuned-{rule_name}"
    nats = done["tuning_nats_per_token"]
    assert nats.keys() == {"start", "halfway", "learned"}
    assert nats[done["kept"]] == min(nats.values())
    # The tiny LSTM is far from trained: reading more articles helps under either rule.
    assert done["kept"] != "start"
    new, old = load_model(target), load_model(tuned_copy.folder)
    assert new.fingerprint != old.fingerprint == done["finetuned_from"]["model"]
    theirs = MemoryStore(tuned_copy.folder, old)
    assert MemoryStore(target, new).load_tuned("rms", "stream") == theirs.load_tuned("rms", "stream")
    told, origin = (json.loads((each / "provenance.json").read_text()) for each in (target, tuned_copy.folder))
    assert told["data"] == origin["data"] and len(told["sittings"]) == 1
    rms = config.memory.replace(rule="rms")
    read = mean_nats(open_dynamic_model(target, new, rms), tuning_stream(target, config, 350))
    assert read == pytest.approx(nats[done["kept"]], rel=1e-12)
    with pytest.raises(UserError, match="there already"):
        finetune(tuned_copy.folder, config)


def test_zero_rates_give_plain_training(tuned_copy: Run) -> None:
    """A rule whose rates are zero moves no weights: theta_0 is trained as by rule none."""
    trained = []
    for name, memory in (("a", {"rule": "none"}), ("b", {"rule": "rms", "lr": 0.0, "decay": 0.0})):
        _, done = tuned_finetune(tuned_copy, memory, name=name, lanes=1, pick_rule="none")
        trained.append((load_tensors(Path(done["run"]) / "model.safetensors")[0], done["tuning_nats_per_token"]))
    (plain, plain_nats), (still, still_nats) = trained
    for name, tensor in plain.items():
        torch.testing.assert_close(still[name], tensor, rtol=1e-4, atol=1e-5)
    assert still_nats == pytest.approx(plain_nats, rel=1e-4)


def test_rms_is_tuned_again_on_request(tuned_copy: Run) -> None:
    _, done = tuned_finetune(tuned_copy, {"rule": "rms"}, tune=True)
    new, old = load_model(Path(done["run"])), load_model(tuned_copy.folder)
    mine, theirs = MemoryStore(Path(done["run"]), new), MemoryStore(tuned_copy.folder, old)
    computed, before = mine.load_statistics(), theirs.load_statistics()
    assert computed is not None and before is not None
    assert not torch.equal(computed[0].rms["embedding"], before[0].rms["embedding"])
    assert mine.load_tuned("rms", "stream") != theirs.load_tuned("rms", "stream")


def test_phi_is_learned_with_theta_0(tuned_copy: Run) -> None:
    config = with_memory(tuned_copy.config, rule="meta", g="gated")
    g = LearnedRuleOptions(features=["doc_age_20", "weight_distance"], boundary_reset=True)
    metatrain(tuned_copy.folder, dataclasses.replace(config, g=g))
    start, about = load_tensors(tuned_copy.folder / "memory" / "gated-stream.safetensors")
    for learns in (False, True):
        memory = {"rule": "meta", "g": "gated"}
        config, done = tuned_finetune(tuned_copy, memory, name=f"phi-{learns}", phi=learns)
        target = Path(done["run"])
        phi, told = load_tensors(target / "memory" / "gated-stream.safetensors")
        assert {**told, "model": about["model"]} == about
        assert done["kept"] != "start"
        assert any(not torch.equal(phi[key], start[key]) for key in start) == learns
        new = load_model(target)
        read = mean_nats(open_dynamic_model(target, new, config.memory), tuning_stream(target, config, 350))
        assert read == pytest.approx(done["tuning_nats_per_token"][done["kept"]], rel=1e-6)


def test_theta_0_is_trained_with_the_lstm_rule_too(tuned_copy: Run) -> None:
    config = with_memory(tuned_copy.config, rule="meta", g="lstm")
    metatrain(tuned_copy.folder, dataclasses.replace(config, g=LearnedRuleOptions(kind="lstm", hidden=2)))
    config, done = tuned_finetune(tuned_copy, {"rule": "meta", "g": "lstm"})
    assert done["kept"] != "start"
    with pytest.raises(UserError, match="g of kind lstm"):
        tuned_finetune(tuned_copy, {"rule": "meta", "g": "lstm"}, phi=True, name="other")


def test_a_diverged_candidate_is_not_kept(tuned_copy: Run) -> None:
    _, done = tuned_finetune(tuned_copy, {"rule": "rms"}, lr=1e12)
    assert done["kept"] == "start"
    assert not math.isfinite(done["tuning_nats_per_token"]["learned"]) or (
        done["tuning_nats_per_token"]["learned"] > done["tuning_nats_per_token"]["start"]
    )
    assert load_model(Path(done["run"])).fingerprint == load_model(tuned_copy.folder).fingerprint
    lines = [json.loads(line) for line in (Path(done["run"]) / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["event"] == "finetuned"


@pytest.mark.parametrize(
    ("memory", "options", "said"),
    [
        ({"rule": "rms", "cache": "fixed"}, {}, "memory.cache"),
        ({"rule": "rms"}, {"phi": True}, "finetune.phi"),
        ({"rule": "meta"}, {"tune": True}, "finetune.tune"),
        ({"rule": "rms"}, {"pick_rule": "meta"}, "finetune.pick_rule"),
        ({"rule": "meta", "g": "other"}, {}, "no learned memory 'other'"),
    ],
)
def test_impossible_combinations_are_refused_before_writing(
    memory: dict[str, Any], options: dict[str, Any], said: str, tuned_copy: Run
) -> None:
    before = listing(tuned_copy.folder.parent)
    with pytest.raises(UserError, match=said):
        tuned_finetune(tuned_copy, memory, **options)
    assert listing(tuned_copy.folder.parent) == before
