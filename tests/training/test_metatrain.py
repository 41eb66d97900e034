"""Meta-training: phi begins at the tuned rms rule, and what is kept never reads the tuning articles worse."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from dynlm.errors import UserError
from dynlm.memory.rules import Rates
from dynlm.training import metatrain as module
from dynlm.training.memory_folder import load_learned
from dynlm.training.metatrain import metatrain
from dynlm.training.run_folder import load_model, load_tensors
from tests.tiny import Run, with_memory


def learned_card(run: Run, reset: str) -> dict[str, Any]:
    return json.loads((run.folder / "memory" / f"meta-{reset}.json").read_text())


def tuned_card(run: Run, reset: str) -> dict[str, Any]:
    return json.loads((run.folder / "memory" / "tuned.json").read_text())["rms"][reset]


def have_learned(rates: Rates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_learn", lambda *arguments: dict.fromkeys(arguments[5], rates))


@pytest.mark.parametrize("reset", ["stream", "article"])
def test_it_starts_at_the_tuned_rms_and_keeps_the_better(tuned_run: Run, reset: str) -> None:
    card, tuned = learned_card(tuned_run, reset), tuned_card(tuned_run, reset)
    nats = card["tuning_nats_per_token"]
    assert nats["start"] == pytest.approx(tuned["nats_per_token"], abs=1e-5)
    assert card["kept"] == ("learned" if nats["learned"] < nats["start"] else "start")
    assert nats[card["kept"]] <= nats["start"]


def test_phi_moves_within_its_bound(tuned_run: Run) -> None:
    log = [json.loads(line) for line in (tuned_run.folder / "log.jsonl").read_text().splitlines()]
    windows = [line for line in log if line["event"] == "metatrain" and line["reset"] == "stream"]
    tuned = tuned_card(tuned_run, "stream")
    origin = (math.log(tuned["rate"]), math.log(tuned["pull"]))
    assert len(windows) >= 4
    assert all(line["nats_of_window"] > 0 for line in windows)
    moves = [abs(row[k] - origin[k]) for line in windows for row in line["phi"] for k in range(2)]
    assert 0 < max(moves) <= tuned_run.config.metatrain.bound + 1e-9


def test_phi_is_kept_as_tensors_and_as_readable_json(tuned_run: Run) -> None:
    tensors, about = load_tensors(tuned_run.folder / "memory" / "meta-stream.safetensors")
    card = learned_card(tuned_run, "stream")
    assert {name: value for name, value in card.items() if name != "rates"} == about
    assert {f"{kind}/{name}" for name in card["rates"] for kind in ("alpha", "pull")} == tensors.keys()
    for name, rates in card["rates"].items():
        assert float(tensors[f"alpha/{name}"]) == rates["alpha"]
        assert float(tensors[f"pull/{name}"]) == rates["pull"]


def test_more_articles_than_were_tuned_on_may_pick(tuned_copy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """``metatrain.pick_tokens`` 0 reads all that ``tune.articles`` names, not the few that tuning read of them."""
    seen: list[list[int]] = []
    whole = module.mean_nats
    monkeypatch.setattr(
        module, "mean_nats", lambda reader, stream: (seen.append(list(stream.order)), whole(reader, stream))[1]
    )
    have_learned(Rates(0.001, 0.001), monkeypatch)
    config = with_memory(tuned_copy.config, rule="meta")
    picking = dataclasses.replace(config, metatrain=dataclasses.replace(config.metatrain, pick_tokens=0))
    metatrain(tuned_copy.folder, picking, quiet=True)
    metatrain(tuned_copy.folder, config, quiet=True)
    tuned_on = [index - 1 for index in tuned_card(tuned_copy, "stream")["articles"]]
    assert seen == [[0, 1, 2], [0, 1, 2], tuned_on, tuned_on]
    assert len(tuned_on) < 3


@pytest.mark.parametrize("rates", [Rates(5.0, 1e-6), Rates(math.inf, 1.0)])
def test_a_phi_that_reads_worse_is_not_kept(rates: Rates, tuned_copy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    have_learned(rates, monkeypatch)
    done = metatrain(tuned_copy.folder, with_memory(tuned_copy.config, rule="meta"), quiet=True)
    tuned = tuned_card(tuned_copy, "stream")
    assert done["kept"] == "start"
    assert done["rates"]["embedding"] == {"alpha": tuned["rate"], "pull": pytest.approx(tuned["pull"])}
    assert learned_card(tuned_copy, "stream")["rates"] == done["rates"]


def test_a_phi_that_reads_better_is_kept(tuned_copy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned = tuned_card(tuned_copy, "stream")
    path = tuned_copy.folder / "memory" / "tuned.json"
    content = json.loads(path.read_text())
    content["rms"]["stream"]["rate"] = 1e-9
    path.write_text(json.dumps(content))
    have_learned(Rates(tuned["rate"], tuned["pull"]), monkeypatch)
    done = metatrain(tuned_copy.folder, with_memory(tuned_copy.config, rule="meta"), quiet=True)
    assert done["kept"] == "learned"
    learned = load_learned(tuned_copy.folder, "stream", load_model(tuned_copy.folder))
    assert learned is not None
    assert set(learned[0].values()) == {Rates(tuned["rate"], tuned["pull"])}


def test_another_segment_than_tuned_is_refused(tuned_copy: Run) -> None:
    before = sorted(Path(tuned_copy.folder).rglob("*"))
    with pytest.raises(UserError, match=r"tuned\.json: rms was tuned on segments of 20 tokens, memory\.segment is 7"):
        metatrain(tuned_copy.folder, with_memory(tuned_copy.config, rule="meta", segment=7), quiet=True)
    assert sorted(Path(tuned_copy.folder).rglob("*")) == before


def test_lanes_learn_from_the_same_articles(tuned_copy: Run) -> None:
    """Several lanes see as many tokens, in another order, and move phi the same way."""
    config = with_memory(tuned_copy.config, rule="meta", reset="article")
    lanes = dataclasses.replace(config, metatrain=dataclasses.replace(config.metatrain, lanes=3))
    metatrain(tuned_copy.folder, lanes, quiet=True)
    log = [json.loads(line) for line in (tuned_copy.folder / "log.jsonl").read_text().splitlines()]
    last = [line for line in log if line["event"] == "metatrain" and line["reset"] == "article"][-1]
    assert last["tokens"] >= config.metatrain.tokens
    origin = (math.log(tuned_card(tuned_copy, "article")["rate"]), math.log(tuned_card(tuned_copy, "article")["pull"]))
    assert max(abs(row[k] - origin[k]) for row in last["phi"] for k in range(2)) > 0
