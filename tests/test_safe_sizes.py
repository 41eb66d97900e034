"""Sizes that untrusted files claim are checked before anything is allocated."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import json
import lzma
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from dynlm.data.array_files import array_writer, map_array
from dynlm.errors import UserError
from dynlm.evaluation.score_file import read_scores, write_scores
from dynlm.fewshot.tasks.images import read_image
from dynlm.fewshot.tasks.omniglot import PARTS, Omniglot
from dynlm.run.folder import load_model, load_tensors
from dynlm.runtime.parsing import read_json, read_yaml
from tests.synthetic_scores import synthetic_scores
from tests.test_safe_files import ROOT, omniglot
from tests.tiny import Run

TENFOLD = "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in itertools.pairwise("abcdefgh"))
"""Each line expands to ten times the last."""


def test_false_sizes_in_a_model_card_are_rejected(run_copy: Run) -> None:
    path = run_copy.folder / "model.json"
    whole = json.loads(path.read_text())
    claims = [
        {"vocabulary": 10**9},
        {"vocabulary": 10**40},
        {"vocabulary": float("nan")},
        {"model": {**whole["model"], "embedding": 900_000}},
        {"model": {**whole["model"], "layers": 10**12}},
        {"model": {**whole["model"], "hidden": 10**12}},
    ]
    for claim in claims:
        path.write_text(json.dumps({**whole, **claim}))
        with pytest.raises(UserError, match="model"):
            load_model(run_copy.folder)


def test_false_sizes_in_a_tensor_header_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for shape, end in (([10**6, 10**6], 4 * 10**12), ([10**6, 10**6], 8), ([2**62, 4], 0), ([-1], 4)):
        header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
        with pytest.raises(UserError, match=r"a\.safetensors"):
            load_tensors(path)
    path.write_bytes((2**60).to_bytes(8, "little") + b"{}")
    with pytest.raises(UserError, match="not a whole safetensors file"):
        load_tensors(path)


def test_a_false_size_in_a_cached_array_is_rejected(tmp_path: Path) -> None:
    with array_writer(tmp_path / "a.npy", np.int32) as append:
        append(np.arange(4))
    whole = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(whole.replace(b"(4,), }         ", b"(4000000000000,)"[:16].ljust(16)))
    with pytest.raises(UserError, match="damaged"):
        map_array(tmp_path / "a.npy", np.int32)


def test_a_small_score_file_that_claims_many_rows_is_rejected_unread(tmp_path: Path) -> None:
    scores = synthetic_scores(articles=1, tokens=60)[0]
    write_scores(tmp_path / "a.parquet", scores)
    schema = pq.read_schema(tmp_path / "a.parquet")
    rows = 3_000_000
    zeros = np.zeros(rows, dtype=np.int32)
    surface = pa.DictionaryArray.from_arrays(pa.array(zeros), pa.array([b"a"]))
    columns = {name: pa.array(zeros).cast(schema.field(name).type) for name in schema.names if name != "surface"}
    bomb = pa.table({**columns, "surface": surface}).replace_schema_metadata(schema.metadata)
    pq.write_table(bomb, tmp_path / "bomb.parquet", compression="zstd")
    assert (tmp_path / "bomb.parquet").stat().st_size < 200_000
    with pytest.raises(UserError, match=r"bomb\.parquet: claims 3,000,000 rows, more than its size allows"):
        read_scores(tmp_path / "bomb.parquet")


def test_a_long_text_shared_by_many_rows_is_rejected(tmp_path: Path) -> None:
    scores = synthetic_scores(articles=1, tokens=3000)[0]
    write_scores(tmp_path / "a.parquet", scores)
    table = pq.read_table(tmp_path / "a.parquet")
    zeros = pa.array(np.zeros(len(table), dtype=np.int32))
    table = table.drop_columns("surface").append_column(
        "surface", pa.DictionaryArray.from_arrays(zeros, pa.array([b"a" * 1_000_000]))
    )
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd")
    with pytest.raises(UserError, match="bytes of text, more than its size allows"):
        read_scores(tmp_path / "a.parquet")


def test_huge_images_are_rejected_before_decoding() -> None:
    ihdr = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    chunk = len(ihdr).to_bytes(4, "big") + b"IHDR" + ihdr + zlib.crc32(b"IHDR" + ihdr).to_bytes(4, "big")
    bomb = b"\x89PNG\r\n\x1a\n" + chunk + bytes(100)
    with pytest.raises(UserError, match="a broken image"):
        read_image(io.BytesIO(bomb), "here", 8, False)


def test_other_image_formats_start_no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow hands PostScript to Ghostscript."""
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    with pytest.raises(UserError, match="a broken image"):
        read_image(io.BytesIO(script), "here", 8, False)


def test_a_zip_member_larger_than_an_image_is_not_read(tmp_path: Path) -> None:
    config = omniglot(tmp_path / "o", ("a/b.png",))
    with zipfile.ZipFile(tmp_path / "o" / f"{PARTS[0]}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/b.png", bytes(70 * 2**20))
    with pytest.raises(UserError, match=r"a/b\.png claims 73,400,320 bytes"):
        Omniglot(config)


def bombs(folder: Path) -> Iterator[Path]:
    """Write files of a few KiB that each decompress to a line of 64 MiB."""
    content = b"a" * (64 * 2**20)
    for ending, pack in ((".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)):
        (folder / f"a.txt{ending}").write_bytes(pack(content))
        yield folder / f"a.txt{ending}"
    with zipfile.ZipFile(folder / "a.txt.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", content)
    yield folder / "a.txt.zip"
    (folder / "a.txt.zst").write_bytes(pa.compress(content, codec="zstd", asbytes=True))
    yield folder / "a.txt.zst"


def test_compressed_files_are_decompressed_by_at_most_a_line(tmp_path: Path) -> None:
    """Measures the memory of another process: a whole bomb takes 64 MiB and more."""
    code = """
import resource, sys
from dynlm.data.sources.lines import text_lines
from dynlm.errors import UserError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in map(__import__("pathlib").Path, sys.argv[1:]):
    try:
        next(text_lines(path))
        sys.exit(f"{path} was read")
    except UserError as error:
        assert "longer than 16 MiB" in str(error), error
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    paths = [str(path) for path in bombs(tmp_path)]
    assert sum(Path(path).stat().st_size for path in paths) < 200_000
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 60


def test_oversized_json_and_yaml_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with path.open("wb") as file:
        file.truncate(300 * 2**20)
    with pytest.raises(UserError, match="larger than 256 MiB"):
        read_json(path)
    path.write_text("[" * 100_000)
    with pytest.raises(UserError, match="nested too deep"):
        read_json(path)
    path = tmp_path / "a.yaml"
    for content, says in (
        ("a: &a [*a]\n", "an alias of what holds it"),
        ("a: &a [x, x, x, x, x, x, x, x, x, x]\n" + TENFOLD, "too long"),
        ("[" * 30 + "]" * 30, "nested too deep"),
        ("a: " + "x" * 2**20, "larger than 1 MiB"),
    ):
        path.write_text(content)
        with pytest.raises(UserError, match=says):
            read_yaml(path)
    path.write_text("a: &a [x]\nb: [*a, *a]\n")
    assert read_yaml(path) == {"a": ["x"], "b": [["x"], ["x"]]}
    path.write_text(yaml.safe_dump({"run": {"name": "x"}}))
    assert read_yaml(path) == {"run": {"name": "x"}}
