"""Untrusted files cannot run code, lead out of their folder, or allocate memory by false claims."""

from __future__ import annotations

import ast
import io
import os
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dynlm.data.array_files import map_array
from dynlm.data.articles import load_articles
from dynlm.data.options import CorpusOptions
from dynlm.errors import UserError
from dynlm.fewshot.tasks.image_folder import ImageFolder
from dynlm.fewshot.tasks.images import class_folders
from dynlm.fewshot.tasks.omniglot import PARTS, Omniglot
from dynlm.report.fewshot_results import FILE, load_fewshot
from dynlm.run.folder import load_model
from dynlm.runtime.parsing import read_yaml
from dynlm.train.config import load_config
from tests.tiny import Run

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {
    *("pickle cPickle dill cloudpickle marshal shelve joblib".split()),
    *("eval exec compile __import__".split()),
    *("torch.load torch.save torch.jit torch.hub np.load np.save np.savez numpy.load".split()),
    *("yaml.load yaml.unsafe_load yaml.full_load yaml.UnsafeLoader yaml.Loader yaml.FullLoader".split()),
    *("os.system os.popen tarfile shutil.unpack_archive".split()),
}
"""Names of functions and modules that load or run more than data."""
METHODS = {"extract", "extractall"}


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
