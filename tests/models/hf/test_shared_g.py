"""A learned rule that is shared by kind of tensor, and moved to other sizes of the model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers", reason="the extra dynlm[hf] is not installed")
pytest.importorskip("peft", reason="the extra dynlm[hf] is not installed")

from dynlm.cli.main import main
from dynlm.evaluation.score_file import read_scores
from dynlm.runtime.tensors import load_tensors
from tests.models.hf.pretrained import write_pretrained

Capture = pytest.CaptureFixture[str]
OPTIONS = ["--memory.segment", "16", "--tune.tokens", "100", "--tune.fewest_tokens", "50", "--tune.rounds", "0"]
OPTIONS += ["--tune.articles", "1-3", "--tune.statistics_tokens", "300"]
LEARN = "--metatrain.tokens 200 --metatrain.window 4 --metatrain.lr 0.1 --metatrain.pick_tokens 100".split()
G = ["--g.features", "[doc_age_20]", "--g.importance", "true", "--g.boundary_reset", "true"]
LORA = ["--memory.lora_rank", "2", "--memory.lora_factors", "AB"]
SIZES = {"small": {}, "deep": {"num_hidden_layers": 4}, "wide": {"hidden_size": 48, "intermediate_size": 80}}
KINDS = [f"self_attn.{each}_proj" for each in "qkvo"] + [f"mlp.{each}_proj" for each in ("gate", "up", "down")]
KINDS += ["input_layernorm", "post_attention_layernorm", "embed_tokens", "norm"]


@pytest.fixture(scope="module")
def runs(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of each size of llama, and one of another family; g is learned in the small one."""
    runs = tmp_path_factory.mktemp("runs")
    words = ["--run.folder", str(runs), "--run.cpu", "true", "--corpus.path", str(tiny_corpus)]
    for name, shape in {**SIZES, "other": {}}.items():
        family = "gpt2" if name == "other" else "llama"
        source = write_pretrained(runs / f"{name}-source", family, tiny_corpus, 5, **shape)
        more = ["--run.name", name, "--corpus.meta_every", "6", "--model.context", "48", "--model.stride", "24"]
        assert main(["adopt", str(source), *words, *more]) == 0
    for more in ([], LORA):
        assert main(["metatrain", str(runs / "small"), *OPTIONS, *LEARN, *G, *more]) == 0
    return runs


def answer(capsys: Capture, *words: object) -> dict[str, Any]:
    """Return what a command prints with ``--json``."""
    capsys.readouterr()
    assert main([*map(str, words), "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_phi_has_a_row_for_each_kind(runs: Path) -> None:
    phi, card = load_tensors(runs / "small" / "memory" / "meta-article.safetensors")
    assert sorted(card["kinds"]) == sorted(KINDS)
    assert card["g"]["sharing"] == "kind"  # by the configuration of pretrained models
    shapes = {key: tuple(tensor.shape) for key, tensor in phi.items()}
    parts = ("", ".depth", ".importance")
    rows = {f"{kind}{part}": (len(KINDS),) for kind in ("lr", "decay") for part in parts}
    gates = {f"{kind}.gates": (len(KINDS), 1) for kind in ("lr", "decay")}
    assert shapes == {**rows, **gates, "boundary_reset": (len(KINDS),)}
    assert phi["lr"].abs().min() > 0
    in_layers = [kind not in ("embed_tokens", "norm") for kind in card["kinds"]]
    assert (phi["lr.depth"] != 0).tolist() == in_layers  # a kind of one tensor has no slope to learn


def test_factors_of_low_rank_are_kinds_of_their_own(runs: Path) -> None:
    (path,) = (runs / "small" / "memory").glob("lora2-*/meta-article.safetensors")
    _, card = load_tensors(path)
    assert sorted(card["kinds"]) == sorted(f"{kind}.lora_{factor}" for kind in KINDS[:7] for factor in "AB")


@pytest.mark.parametrize("factors", [[], LORA], ids=["all weights", "LoRA"])
@pytest.mark.parametrize("size", ["deep", "wide"])
def test_g_is_moved_to_another_size(size: str, factors: list[str], runs: Path, tmp_path: Path, capsys: Capture) -> None:
    run = tmp_path / size
    shutil.copytree(runs / size, run)
    small = next((runs / "small" / "memory").glob(f"{'lora2-*/' if factors else ''}meta-article.safetensors"))
    taken = ["--metatrain.start", str(runs / "small"), "--metatrain.tokens", "0"]
    done = answer(capsys, "metatrain", run, *factors, *OPTIONS, *taken)
    phi, card = load_tensors(small)
    moved, own = load_tensors(run / small.relative_to(runs / "small"))
    assert moved.keys() == phi.keys() and all(torch.equal(moved[key], phi[key]) for key in phi)
    assert (own["start"], own["g"], own["kinds"]) == (card["start"], card["g"], card["kinds"])
    assert own["model"] != card["model"] == own["taken_from"]["model"] and own["taken_from"]["run"] == "small"
    assert own["tuned_on"] == card["tuned_on"] and done["kept"] == "start"
    assert len(own["tensors"]) != len(card["tensors"]) or size == "wide"
    words = ["score", run, *factors, "--memory.segment", "16", "--articles", "4"]
    files = [answer(capsys, *words, "--memory.rule", rule)["file"] for rule in ("none", "meta")]
    static, learned = (read_scores(Path(file)).nats for file in files)
    assert static.shape == learned.shape and (static != learned).mean() > 0.5
    if size == "deep" or factors:
        return
    again = answer(capsys, "metatrain", run, *factors, *OPTIONS, *taken[:2], *LEARN)
    assert again["tuning_nats_per_token"].keys() == {"start", "halfway", "learned"}
    assert len(again["tuned_on"]) == len(card["tuned_on"]) + 2


@pytest.mark.parametrize(
    ("run", "words", "what"),
    [
        ("other", [], r"g learned nothing for wte, which this model has"),
        ("deep", ["--memory.segment", "8"], r"it was learned on segments of 16 tokens, memory.segment is 8"),
        ("deep", ["--memory.g", "none"], r"no learned memory 'none' for reset 'article'"),
        ("deep", ["--memory.lora_rank", "3"], r"no learned memory 'meta' for reset 'article'"),
    ],
)
def test_a_g_that_does_not_fit_is_refused(run: str, words: list[str], what: str, runs: Path, capsys: Capture) -> None:
    capsys.readouterr()
    taken = ["--metatrain.start", str(runs / "small"), "--metatrain.tokens", "0"]
    assert main(["metatrain", str(runs / run), *OPTIONS, *taken, *words]) == 2
    said = capsys.readouterr().err
    assert what in said and said.strip().count("\n") == 0
    assert not list((runs / run / "memory").rglob("*-article.safetensors"))
