"""A stranger's run: weights, cards, what its memory learned; and score files, few-shot results and images."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from hypothesis import strategies as st
from PIL import Image

from dynlm.adapt.partners.cache import Cache
from dynlm.adapt.partners.cache_gate import Gate, gate_feature_names, initial_gate
from dynlm.data.tokenised_split import TokenisedSplit
from dynlm.evaluation.checks.protocol import nats_of
from dynlm.evaluation.compare import compare
from dynlm.evaluation.score_file import read_scores, write_scores
from dynlm.evaluation.tables import text_table
from dynlm.fewshot.results import EpisodeScores
from dynlm.fewshot.results import load_scores as load_fewshot
from dynlm.fewshot.results import write_scores as write_fewshot
from dynlm.fewshot.tasks.images import read_image
from dynlm.report.heatmap import HeatMap
from dynlm.report.page import report_page
from dynlm.run.folder import TrainedModel, load_model, load_tensors
from dynlm.run.memory_store import MemoryStore
from dynlm.run.opening import open_dynamic_model
from dynlm.runtime.checkpoints import Checkpoints
from tests.fuzz.cases import altered, as_json, damaged, damaged_json, fuzz, tried
from tests.synthetic_scores import synthetic_scores
from tests.tiny import Run, with_memory


class Kept:
    """A folder of small files: one case changes some, and all are put back."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.files = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}

    def __enter__(self) -> Kept:
        return self

    def __exit__(self, *_: object) -> None:
        for path, content in self.files.items():
            path.unlink(missing_ok=True)  # what is mapped stays as it is
            path.write_bytes(content)

    def change(self, path: Path, content: bytes) -> None:
        path.unlink()
        path.write_bytes(content)


def with_header(whole: bytes, header: bytes) -> bytes:
    """A safetensors file with another header, which begins with its length."""
    return len(header).to_bytes(8, "little") + header + whole[8 + int.from_bytes(whole[:8], "little") :]


def header_of(whole: bytes) -> Any:
    return json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])


def tensor_files(whole: bytes) -> st.SearchStrategy[bytes]:
    """The file damaged, or with a header that says something else."""
    return st.one_of(damaged(whole), altered(header_of(whole)).map(lambda header: with_header(whole, as_json(header))))


def small_tensors() -> bytes:
    place = io.BytesIO()
    tensors = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(3, dtype=torch.int64)}
    place.write(safetensors.torch.save(tensors, {"about": json.dumps({"model": "m", "step": 3})}))
    return place.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@fuzz("safetensors", content=tensor_files(small_tensors()) | st.binary(max_size=300))
def test_tensor_files(folder: Path, content: bytes) -> None:
    path = folder / "run" / "checkpoints" / "step-00000001.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    newest = tried(lambda: Checkpoints(path.parent).newest(quiet=True))
    for found in (tried(lambda: load_tensors(path)), newest and (newest.tensors, newest.state)):
        if found is not None:
            tensors, about = found
            assert isinstance(about, dict) and sum(tensor.nbytes for tensor in tensors.values()) <= len(content)


@pytest.fixture(scope="module")
def run(tuned_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Run, Kept]]:
    """A run with every kind of file that opening one reads, in a folder of its own."""
    place = shutil.copytree(tuned_run.folder, tmp_path_factory.mktemp("run") / "tiny")
    own = Run(place, tuned_run.config, tuned_run.corpus)
    memory, trained = with_memory(own.config, rule="rms").memory, load_model(place)
    MemoryStore(place, trained).save_fixed_cache(memory, {"window": 50, "inverse_temperature": 0.5, "share": 0.1})
    evidence_NK = torch.randn(9, len(gate_feature_names((0.5, 1.0))), generator=torch.Generator().manual_seed(0))
    gate = Gate(initial_gate((0.8, 0.1, 0.1), evidence_NK, 4, torch.Generator().manual_seed(0)))
    MemoryStore(place, trained).save_gated_cache(memory, Cache(50, (0.5, 1.0), gate), {})
    with Kept(place) as kept:
        yield own, kept


def read_by(run: Run, trained: TrainedModel, **memory: Any) -> None:
    """Open a model and read a few tokens by it."""
    dynamic_model = tried(lambda: open_dynamic_model(run.folder, trained, with_memory(run.config, **memory).memory))
    if dynamic_model is not None:
        nats_of(dynamic_model, TokenisedSplit.from_texts(["the town was good . \n"], trained.tokenizer), 5)


@fuzz("model cards", data=st.data())
def test_models_and_their_cards(run: tuple[Run, Kept], data: st.DataObject) -> None:
    own, kept = run
    name = data.draw(st.sampled_from(["model.json", "model.json", "model.safetensors"]))
    whole = kept.files[own.folder / name]
    content = data.draw(damaged_json(json.loads(whole)) if name == "model.json" else tensor_files(whole))
    with kept:
        kept.change(own.folder / name, content)
        trained = tried(lambda: load_model(own.folder))
        if trained is not None:
            read_by(own, trained, rule="none")


MEMORIES: tuple[dict[str, Any], ...] = (
    {"rule": "rms"},
    {"rule": "sgd"},
    {"rule": "meta"},
    {"rule": "rms", "cache": "fixed"},
    {"rule": "rms", "cache": "learned"},
)


@fuzz("memory files", data=st.data())
def test_what_a_memory_learned(run: tuple[Run, Kept], data: st.DataObject) -> None:
    own, kept = run
    trained = load_model(own.folder)
    paths = sorted(path for path in kept.files if path.parent.name == "memory" and "article" not in path.name)
    paths = [path for path in paths if path.suffix == ".safetensors" or path.name in ("tuned.json", FIXED)]
    path = data.draw(st.sampled_from(paths))
    whole = kept.files[path]
    if path.suffix == ".json":
        content = data.draw(damaged_json(json.loads(whole)))
    elif data.draw(st.booleans()):
        header = header_of(whole)
        about = data.draw(altered(json.loads(header["__metadata__"]["about"])))
        header["__metadata__"]["about"] = json.dumps(about)
        content = with_header(whole, as_json(header))
    else:
        content = data.draw(tensor_files(whole))
    with kept:
        kept.change(path, content)
        for memory in MEMORIES:
            if path.name.startswith(("statistics", "tuned")) or memory["rule"] in path.name or "cache" in memory:
                read_by(own, trained, **memory)


FIXED = "cache-rms-stream.json"
VARIANTS = synthetic_scores(articles=2, tokens=60)


@pytest.fixture(scope="module")
def score_files(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Path]:
    place = tmp_path_factory.mktemp("scores")
    for index, variant in enumerate(VARIANTS):
        write_scores(place / f"{index}.parquet", variant)
    return sorted(place.iterdir())


def shown(paths: Sequence[Path]) -> None:
    """All that is made of score files, of those that can be read."""
    variants = [scores for path in paths if (scores := tried(lambda path=path: read_scores(path))) is not None]
    if len(variants) == 2:
        tried(lambda: text_table(compare(variants, resamples=5)))
        tried(lambda: HeatMap(*variants).page())
        tried(lambda: report_page(variants, resamples=5))


@fuzz("score files", data=st.data())
def test_score_files(score_files: Sequence[Path], data: st.DataObject) -> None:
    whole = score_files[1].read_bytes()
    content = data.draw(damaged(whole))
    try:
        score_files[1].unlink()
        score_files[1].write_bytes(content)
        shown(score_files)
    finally:
        score_files[1].unlink()
        score_files[1].write_bytes(whole)


@fuzz("protocols", data=st.data())
def test_protocols_of_score_files(score_files: Sequence[Path], data: st.DataObject) -> None:
    whole = score_files[1].read_bytes()
    table = pq.read_table(score_files[1])
    protocol = data.draw(damaged_json({**VARIANTS[1].protocol, "format": 1}))
    columns = {name: table.column(name) for name in table.column_names}
    if data.draw(st.booleans()):
        name = data.draw(st.sampled_from(table.column_names))
        kind = data.draw(st.sampled_from([pa.int64(), pa.float64(), pa.string(), pa.binary(), pa.list_(pa.int8())]))
        some = {
            "article": 7,
            "position": -1,
            "segment": 2**40,
            "token": -9,
            "surface": b"\xff<b>",
            "words": 99,
            "nats": -3.0,
        }
        columns[name] = data.draw(
            st.sampled_from(
                [pa.array([some[name]] * len(table)), pa.array([None] * len(table), kind), table.column(name).slice(1)]
            )
        )
    try:
        if len({len(column) for column in columns.values()}) == 1:
            pq.write_table(pa.table(columns).replace_schema_metadata({b"dynlm": protocol}), score_files[1])
            shown(score_files)
    finally:
        score_files[1].unlink()
        score_files[1].write_bytes(whole)


@fuzz("few-shot files", data=st.data())
def test_fewshot_results(folder: Path, data: st.DataObject) -> None:
    path = folder / "scores.json"
    protocol = {"label": "MAML", "metric": "accuracy", "task": "omniglot", "episodes": 2}
    write_fewshot(path, EpisodeScores(protocol, [0, 1], np.array([[0.2, 0.9], [0.3, 1.0]])))
    path.write_bytes(data.draw(damaged_json(json.loads(path.read_text()))))
    found = tried(lambda: load_fewshot(path))
    if found is not None:
        assert len(found.at()) == 2 and isinstance(found.label, str)


def image(kind: str) -> bytes:
    made = io.BytesIO()
    Image.fromarray(np.arange(108, dtype=np.uint8).reshape(6, 6, 3)).save(made, kind)
    return made.getvalue()


@fuzz(
    "images",
    content=st.sampled_from([image(kind) for kind in ("PNG", "JPEG", "BMP", "GIF", "WEBP")]).flatmap(damaged)
    | st.binary(max_size=100),
    colour=st.booleans(),
)
def test_images(content: bytes, colour: bool) -> None:
    found = tried(lambda: read_image(io.BytesIO(content), "here", 8, colour))
    assert found is None or found.shape == (8, 8, 3 if colour else 1)
