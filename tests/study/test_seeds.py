"""Studies over seeds of base models and of meta-training, interrupted and resumed; runs that do not fit are refused."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from dynlm.evaluation.compare import compare
from dynlm.evaluation.score_file import read_scores
from dynlm.runtime.tensors import load_tensors
from dynlm.study import pages, reading
from dynlm.study.frame import load_study
from dynlm.study.options import StudyConfig, StudyOptions
from dynlm.study.variants import seeded_variants, variants_of
from dynlm.train.config import load_config
from tests.study.test_run import Capture, changed, output_of, study_file
from tests.tiny import Run, listing

VARIANTS: list[dict[str, Any]] = [
    {"name": "level 1", "memory": {"rule": "none"}},
    {"name": "gated", "memory": {"rule": "none", "cache": "learned"}},
    {"name": "rms", "memory": {"rule": "rms"}},
    {"name": "g", "memory": {"rule": "meta", "g": "meta"}, "over": "rms"},
    {"name": "given", "memory": {"rule": "sgd", "lr": 0.1}},
]
SEEDS = {"base_seeds": [0, 1], "meta_seeds": [0, 3], "seeded": ["gated", "g"]}
READ_LATER = [
    *(f"seeds/base-0-meta-3/scores/{name}.parquet" for name in ("gated-article", "g-article")),
    *(f"seeds/base-1/scores/{name}.parquet" for name in ("level-1", "gated-article", "rms-article", "g-article")),
    *(f"seeds/base-1-meta-3/scores/{name}.parquet" for name in ("gated-article", "g-article")),
]


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies without pictures, which take most of their time."""
    monkeypatch.setattr(pages, "plot_run", lambda *_: [])


def options(made: Run, folder: Path, **study: Any) -> Path:
    chosen = {"variants": VARIANTS, "resets": ["article"], "pairs": [], "baselines": ["level 1", "rms"], **study}
    return study_file(folder, made, **chosen)


@pytest.mark.usefixtures("undrawn")
def test_a_study_over_seeds_is_interrupted_and_resumes(
    run_copy: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    config, folder = options(run_copy, tmp_path, **SEEDS), run_copy.folder
    place, sibling = folder / "study", folder.parent / "tiny-seed-1"
    score, read = reading.score, list[Path]()

    def stopped(*arguments: Any, **named: Any) -> Any:
        if len(read) == 9:
            raise KeyboardInterrupt
        done = score(*arguments, **named)
        read.append(done[0])
        return done

    with monkeypatch.context() as patch:
        patch.setattr(reading, "score", stopped)
        assert "stopped" in output_of(capsys, 130, "--config", config)
    assert [str(path.relative_to(place)) for path in read[5:]] == READ_LATER[:4]
    # The tables of the first seeds are there already.
    first = json.loads((place / "table.json").read_text())
    assert len(first["readings"]) == 5 and not (place / "seeds.json").exists()
    before = {**changed(place / "scores"), **changed(place / "seeds"), **changed(folder / "memory")}
    before |= {path: at for path, at in changed(sibling).items() if path.suffix == ".safetensors"}

    answer = json.loads(output_of(capsys, 0, "--config", config, "--json"))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert json.loads((place / "table.json").read_text()) == first
    assert sorted(str(path.relative_to(place)) for path in (place / "seeds").rglob("*.parquet")) == sorted(READ_LATER)
    _check_what_differs(folder, sibling)
    _check_tables(place, answer)


def _check_what_differs(folder: Path, sibling: Path) -> None:
    """The base models differ in their seed alone; what is learned differs with its seed, what is tuned does not."""
    own, other = load_config(folder), load_config(sibling)
    assert (other.run.seed, other.run.name) == (1, "tiny-seed-1")
    assert dataclasses.replace(other, run=own.run) == own
    assert (folder / "model.safetensors").read_bytes() != (sibling / "model.safetensors").read_bytes()
    kept = {path.name for path in (folder / "memory").glob("*.safetensors")}
    names = ("statistics", "meta-article", "meta-seed-3-article", "gated-cache-none-article")
    assert kept == {f"{name}.safetensors" for name in (*names, "gated-cache-none-seed-3-article")}
    # On the other base model seed 1 would be the run's own.
    assert {path.name for path in (sibling / "memory").glob("meta-*.safetensors")} == {
        "meta-seed-0-article.safetensors",
        "meta-seed-3-article.safetensors",
    }
    for name in ("meta{}-article", "gated-cache-none{}-article"):
        files = (folder / "memory" / f"{name.format(seed)}.safetensors" for seed in ("", "-seed-3"))
        (first, _), (second, _) = (load_tensors(file) for file in files)
        assert first.keys() == second.keys() and any((first[key] != second[key]).any() for key in first)


def _check_tables(place: Path, answer: dict[str, Any]) -> None:
    """Means, ranges and gains are those of the score files."""
    found = json.loads((place / "seeds.json").read_text())
    assert answer["over_seeds"] == found
    rows = {row["variant"]: row for row in found["rows"]}
    # One that is not named, and that no gain is over, is read with the first seeds alone.
    assert list(rows) == ["level 1", "gated", "rms", "g"]
    assert [(row["base_models"], row["meta_seeds"]) for row in rows.values()] == [(2, None), (2, 2), (2, None), (2, 2)]

    def scores(name: str, *cells: str) -> list[Any]:
        return [read_scores(place / cell / "scores" / f"{name}.parquet") for cell in cells]

    cells = ("", "seeds/base-0-meta-3", "seeds/base-1", "seeds/base-1-meta-3")
    own, over = scores("g-article", *cells), scores("rms-article", "", "", *["seeds/base-1"] * 2)
    nats = [float(each.nats.sum(dtype="float64")) / len(each) for each in own]
    spread = {"mean": sum(nats) / 4, "lowest": min(nats), "highest": max(nats)}
    assert rows["g"]["nats_per_token"] == pytest.approx(spread) and len({*nats}) == 4
    pairs = [compare(pair, 0, 50, 0).variants[1].gain for pair in zip(over, own, strict=True)]
    gains = [gain.nats for gain in pairs if gain is not None]
    assert [cell["gains"]["rms"] for cell in rows["g"]["cells"]] == [cell["own"] for cell in rows["g"]["cells"]]
    assert [cell["own"] for cell in rows["g"]["cells"]] == pytest.approx(gains)
    assert [(cell["base_seed"], cell["meta_seed"]) for cell in rows["g"]["cells"]] == [(0, 0), (0, 3), (1, 0), (1, 3)]
    gain = rows["g"]["own_gain"]
    assert (gain["mean"], gain["lowest"], gain["highest"]) == pytest.approx((sum(gains) / 4, min(gains), max(gains)))
    assert gain["first"] == vars(pairs[0]) and gain["first"]["low"] <= gain["first"]["nats"]
    assert rows["rms"]["gains"][1] == {"over": "rms", "mean": None, "lowest": None, "highest": None, "first": None}

    record = [*csv.DictReader((place / "seeds.csv").open())][-1]
    assert float(record["gain_over_own_mean"]) == gain["mean"] and record["own_baseline"] == "rms"
    assert float(record["nats_per_token_highest"]) == rows["g"]["nats_per_token"]["highest"]
    cells = load_study(place.parent, table="cells").query("variant == 'g'")
    assert cells["nats_per_token"].tolist() == [cell["nats"] for cell in rows["g"]["cells"]]
    assert cells["gain_over_own"].tolist() == [cell["own"] for cell in rows["g"]["cells"]]
    assert [*zip(cells["base_seed"], cells["meta_seed"], strict=True)] == [(0, 0), (0, 3), (1, 0), (1, 3)]
    last = load_study(place.parent, table="seeds").iloc[-1]
    assert (last.variant, last.meta_seeds, last.gain_over_own_mean) == ("g", 2, gain["mean"])
    table, page = (place / "seeds.md").read_text(), (place / "README.md").read_text()
    assert (
        table in page and found["statement"] in page and f"({gain['lowest']:+.4f} to {gain['highest']:+.4f})" in table
    )


@pytest.mark.usefixtures("undrawn")
def test_tables_over_seeds_go_with_the_seeds(tuned_copy: Run, tmp_path: Path, capsys: Capture) -> None:
    variants = [each for each in VARIANTS if each["name"] in ("level 1", "given")]
    config = options(tuned_copy, tmp_path, variants=variants, base_seeds=[0, 1], baselines=["level 1"])
    place, sibling = tuned_copy.folder / "study", tuned_copy.folder.parent / "tiny-seed-1"
    assert "no base model of seed 1" in output_of(capsys, 2, "--config", config, "--study.tune", "false")
    # The weights of the run's own seed stand for another base model: their figures are the same.
    shutil.copytree(tuned_copy.folder, sibling)
    made = load_config(sibling)
    content = dataclasses.asdict(dataclasses.replace(made, run=made.run.replace(seed=1, name="tiny-seed-1")))
    (sibling / "config.yaml").write_text(yaml.safe_dump(content))
    output_of(capsys, 0, "--config", config, "--study.tune", "false")
    found = json.loads((place / "seeds.json").read_text())["rows"]
    assert all(row["nats_per_token"]["lowest"] == row["nats_per_token"]["highest"] for row in found)
    output_of(capsys, 0, "--config", config, "--study.base_seeds", "[0]")
    assert not list(place.glob("seeds.*")) and "Over seeds" not in (place / "README.md").read_text()
    # A run of that name that was made with other options is none of the study's.
    content["pretrain"]["lr"] = 0.5
    (sibling / "config.yaml").write_text(yaml.safe_dump(content))
    assert "begun with pretrain.lr 0.5, not 0.02" in output_of(capsys, 2, "--config", config)


REFUSED = [
    (
        ["--study.base_seeds", "[1,0]"],
        "study.base_seeds begins with 1, and run.seed is 0; name",
    ),
    (["--study.base_seeds", "[0,0]"], "study.base_seeds is [0, 0]"),
    (["--study.meta_seeds", "[]"], "study.meta_seeds is empty"),
    (["--study.base_seeds", "[0,-1]"], "study.base_seeds is -1"),
    (
        ["--study.base_seeds", "[5,0]", "--run.seed", "5"],
        "trained with run.seed 0, not 5; give --run.seed 0",
    ),
    (["--study.seeded", "[sgd]"], "study.seeded names 'sgd'"),
]


@pytest.mark.parametrize("arguments, message", REFUSED, ids=[message for _, message in REFUSED])
def test_seeds_that_cannot_be_are_refused(
    arguments: list[str], message: str, trained_run: Run, tmp_path: Path, capsys: Capture
) -> None:
    before = listing(trained_run.folder.parent)
    assert message in output_of(capsys, 2, "--config", options(trained_run, tmp_path), *arguments)
    assert listing(trained_run.folder.parent) == before


def test_variants_that_gains_are_over_are_read_with_all_seeds_too() -> None:
    def names(seeded: list[str] | None) -> list[str]:
        chosen = StudyConfig(variants=[*VARIANTS, {"name": "other", "run": "x"}], baselines=["level 1"], seeded=seeded)
        asked = StudyOptions(study=chosen)
        return [each.name for each in seeded_variants(variants_of(asked), chosen)]

    assert names(None) == [each["name"] for each in VARIANTS]
    assert names(["g"]) == ["level 1", "rms", "g"]
    assert names([]) == ["level 1"]


def test_only_what_is_learned_has_a_name_for_its_seed() -> None:
    variants = variants_of(StudyOptions(study=StudyConfig(variants=VARIANTS, baselines=[])))
    seeded = [each.with_meta_seed(3, 0) for each in variants]
    assert [(each.memory.g, each.memory.gate, each.metatrain.seed) for each in seeded] == [
        ("meta", None, None),
        ("meta", "seed-3", 3),
        ("meta", None, None),
        ("meta-seed-3", None, 3),
        ("meta", None, None),
    ]
    assert [each.with_meta_seed(3, 3) for each in variants] == variants
