"""Untrusted files cannot run code, lead out of their folder, or allocate memory by false claims."""

from __future__ import annotations

import ast
import bz2
import gzip
import io
import itertools
import json
import lzma
import os
import pickle
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from dynlm.data.array_files import array_writer, map_array
from dynlm.data.articles import load_articles
from dynlm.data.options import CorpusOptions
from dynlm.errors import UserError
from dynlm.evaluation.score_file import read_scores, write_scores
from dynlm.fewshot.tasks.image_folder import ImageFolder
from dynlm.fewshot.tasks.images import class_folders, read_image
from dynlm.fewshot.tasks.omniglot import PARTS, Omniglot
from dynlm.report.fewshot_results import FILE, load_fewshot
from dynlm.run.folder import load_model, load_tensors
from dynlm.runtime.parsing import read_json, read_yaml
from dynlm.train.config import load_config
from tests.synthetic_scores import synthetic_scores
from tests.tiny import Run

ROOT = Path(__file__).resolve().parents[1]
TENFOLD = "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in itertools.pairwise("abcdefgh"))
"""Each line expands to ten times the last."""
FORBIDDEN = {
    *("pickle cPickle dill cloudpickle marshal shelve joblib".split()),
    *("eval exec compile __import__".split()),
    *("torch.load torch.save torch.jit torch.hub np.load np.save np.savez numpy.load".split()),
    *("yaml.load yaml.unsafe_load yaml.full_load yaml.UnsafeLoader yaml.Loader yaml.FullLoader".split()),
    *("os.system os.popen tarfile shutil.unpack_archive".split()),
}
"""Names of functions and modules that load or run more than data."""
METHODS = {"extract", "extractall"}


# --- No file runs code -----------------------------------------------------------------------------------------------


def names_in(tree: ast.AST) -> Iterator[str]:
    """Yield every dotted name that a module imports or uses."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (part.name for part in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{part.name}" for part in node.names)
        elif isinstance(node, ast.Attribute):
            yield ast.unparse(node)
        elif isinstance(node, ast.Name):
            yield node.id


def unpacks_in_memory(tree: ast.AST) -> set[str]:
    """Return the names of functions that hand what they unpack to writers of a factory, and write no file."""
    calls: dict[bool, set[str]] = {True: set(), False: set()}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            calls[any(word.arg == "factory" for word in node.keywords)].add(ast.unparse(node.func))
    return calls[True] - calls[False]


def loads_code(source: str) -> list[str]:
    tree = ast.parse(source)
    found = set(names_in(tree)) - unpacks_in_memory(tree)
    return sorted(
        name
        for name in found
        if name in FORBIDDEN or name.partition(".")[0] in FORBIDDEN or name.split(".")[-1] in METHODS
    )


@pytest.mark.parametrize("path", sorted((ROOT / "dynlm").rglob("*.py")), ids=lambda path: path.stem)
def test_no_module_uses_functions_that_can_run_code(path: Path) -> None:
    assert loads_code(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from torch import load as pickle",
        "torch.load(x)",
        "np.load(f)",
        "yaml.load(s)",
        "z.extractall()",
        "z.extractall(factory=f); z.extractall()",
    ],
)
def test_forbidden_names_are_found(source: str) -> None:
    assert loads_code(source)


class Harmful:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def test_pickles_in_place_of_other_files_are_rejected_unloaded(run_copy: Run, tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    harm = pickle.dumps(Harmful(trace))
    for name in ("model.safetensors", "model.json", "config.yaml", "tokenizer/tokenizer.model"):
        path = run_copy.folder / name
        whole = path.read_bytes()
        path.write_bytes(harm)
        with pytest.raises(UserError, match=path.name.partition(".")[0]):
            load_config(run_copy.folder)
            load_model(run_copy.folder)
        path.write_bytes(whole)
    np.save(tmp_path / "ids.npy", np.array([Harmful(trace)], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="damaged"):
        map_array(tmp_path / "ids.npy", np.int32)
    (tmp_path / "a.yaml").write_text(f"run: !!python/object/apply:os.system ['touch {trace}']\n")
    with pytest.raises(UserError, match=r"a\.yaml"):
        read_yaml(tmp_path / "a.yaml")
    assert not trace.exists()


# --- No path leads out of its folder --------------------------------------------------------------------------------


def test_links_must_stay_inside_a_corpus(tmp_path: Path) -> None:
    corpus, secret = tmp_path / "corpus", tmp_path / "secret.txt"
    corpus.mkdir()
    secret.write_text("a secret")
    (corpus / "a.txt").write_text("text")
    (corpus / "b.txt").symlink_to("a.txt")
    config = CorpusOptions(path=str(corpus), hold_out_every=9)
    assert [one.text for one in load_articles(config, "train+meta")] == ["text", "text"]
    (tmp_path / "link").symlink_to(corpus)  # The folder that the user names may be a link.
    assert len(load_articles(CorpusOptions(path=str(tmp_path / "link"), hold_out_every=9), "train+meta")) == 2
    for target in (secret, Path("../secret.txt")):
        (corpus / "c.txt").unlink(missing_ok=True)
        (corpus / "c.txt").symlink_to(target)
        with pytest.raises(UserError, match=r"c\.txt: leads out of"):
            load_articles(config, "train+meta")
    (corpus / "c.txt").unlink()
    (tmp_path / "elsewhere").mkdir()
    secret.rename(tmp_path / "elsewhere" / "secret.txt")
    (corpus / "folder").symlink_to(tmp_path / "elsewhere")
    try:
        texts = [one.text for one in load_articles(config, "train+meta")]
    except UserError as error:
        assert "leads out of" in str(error)
    else:
        assert "a secret" not in texts


def test_names_in_archives_are_not_used_as_paths(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.txt.zip", "w") as archive:
        archive.writestr("../../escaped.txt", "text of it")
    before = sorted(tmp_path.rglob("*"))
    (article,) = load_articles(CorpusOptions(path=str(tmp_path / "a.txt.zip")), "train+meta")
    assert (article.title, article.text) == ("a", "text of it")
    assert sorted(tmp_path.rglob("*")) == before
    assert not (tmp_path.parent.parent / "escaped.txt").exists()


def png(width: int = 4) -> bytes:
    made = io.BytesIO()
    Image.new("L", (width, width)).save(made, "PNG")
    return made.getvalue()


def omniglot(folder: Path, names: tuple[str, ...]) -> Omniglot.Options:
    folder.mkdir()
    for part in PARTS:
        with zipfile.ZipFile(folder / f"{part}.zip", "w") as archive:
            for name in names:
                archive.writestr(name, png())
    return Omniglot.Options(path=str(folder), size=8)


def test_paths_in_omniglot_archives_are_not_written_to(tmp_path: Path) -> None:
    config = omniglot(tmp_path / "o", ("../../../evil/x.png", "/abs/y.png"))
    splits = Omniglot.load_splits(config)
    assert sorted(splits["train"].names) == ["../../../evil", "/abs"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o"]
    assert len(list((tmp_path / "o").iterdir())) == 2


def test_images_outside_their_folder_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "images" / "one").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(png())
    (tmp_path / "images" / "one" / "a.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(UserError, match=r"a\.png: leads out of"):
        class_folders(tmp_path / "images")
    (tmp_path / "images" / "one" / "a.png").unlink()
    (tmp_path / "images" / "train.csv").write_text("filename,label\n../secret.png,one\n")
    with pytest.raises(UserError, match=r"secret\.png: leads out of"):
        ImageFolder.load_splits(ImageFolder.Options(path=str(tmp_path / "images")))
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "p.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "few" / FILE).write_text('{"title": "T", "pictures": [{"file": "p.png"}]}')
    with pytest.raises(UserError, match=r"p\.png: leads out of"):
        load_fewshot(tmp_path / "few")


# --- Claimed sizes are checked before allocation -----------------------------------------------------------------


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
