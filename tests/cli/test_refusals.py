"""Bad input is refused in one line, and nothing is left half-written."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from dynlm.cli.main import main
from dynlm.data.options import TokenizerOptions
from tests.cli.commands import Capture, answer, answer_json, refused, tiny_options
from tests.tiny import Run, article, listing, write_corpus


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def damaged(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda corpus: write(corpus / name, change((corpus / name).read_bytes()))


def one_token_article(corpus: Path) -> None:
    shutil.rmtree(corpus)
    corpus.mkdir()
    rng = np.random.default_rng(0)
    good = [{"title": f"Good {k}", "text": article(rng, 10)} for k in range(12)]
    write(corpus / "train.jsonl", b"".join(json.dumps(record).encode() + b"\n" for record in good))
    write(corpus / "valid.jsonl", b'{"title": "Dot", "text": "."}\n')


BAD_CORPORA: list[tuple[str, Callable[[Path], None], list[str]]] = [
    ("missing folder", shutil.rmtree, ["no such file or folder"]),
    ("empty folder", lambda corpus: [path.unlink() for path in corpus.iterdir()], ["no "]),  # type: ignore[arg-type, return-value]
    ("empty train", damaged("train.txt", lambda _: b""), ["no articles", "train"]),
    ("empty valid", damaged("valid.txt", lambda _: b""), ["no articles", "valid"]),
    ("blank valid", damaged("valid.txt", lambda _: b" \n \n"), ["no articles", "valid"]),
    ("no UTF-8", damaged("train.txt", lambda b: b[:500] + b"\xff" + b[500:]), ["train.txt:", "byte 500 (0xff)"]),
    ("NUL", damaged("valid.txt", lambda b: b[:600] + b"\0" + b[600:]), ["valid.txt:", "NUL character at byte 600"]),
    ("long line", damaged("train.txt", lambda b: b + b"word " * (17 * 2**18)), ["train.txt:", "longer than 16 MiB"]),
    ("one token", one_token_article, ["valid.jsonl", "fewer than 2 tokens"]),
]


@pytest.mark.parametrize("damage, said", [pytest.param(d, s, id=name) for name, d, s in BAD_CORPORA])
def test_a_bad_corpus_is_refused_by_its_place(
    damage: Callable[[Path], None],
    said: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    damage(corpus)
    monkeypatch.setenv("DYNLM_CACHE", str(tmp_path / "cache"))
    line = refused(capsys, "pretrain", *tiny_options(corpus, tmp_path / "runs", tmp_path))
    assert str(corpus) in line
    assert all(part in line for part in said), line
    assert not (tmp_path / "runs").exists()
    assert not hidden_files(tmp_path)


def hidden_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if path.is_file()]


def test_a_line_of_50_mb_does_not_fill_the_memory(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "book.txt"
    with path.open("wb") as file:
        file.truncate(50 * 2**20)
    assert "book.txt:1" in refused(capsys, "corpus", "--corpus.path", path)


BAD_OPTIONS: list[tuple[list[str], list[str]]] = [
    (["sing"], ["no command 'sing'"]),
    (["pretrain", "--pretrain.depth", "3"], ["pretrain.depth"]),
    (["pretrain", "--pretrain.lanes", "many"], ["pretrain.lanes"]),
    (["pretrain", "--pretrain.lanes", "0"], ["pretrain.lanes is 0"]),
    (["pretrain", "--tokenizer.kind", "letters"], ["tokenizer.kind is 'letters'"]),
    (["pretrain", "--config", "no-such.yaml"], ["no-such.yaml"]),
    (["pretrain", "--run.name", "../elsewhere"], ["run.name"]),
    (["corpus", "--corpus.source", "library"], ["corpus.source is 'library'"]),
    (["tune"], ["required: RUN"]),
    (["tune", "no-such-run"], ["no-such-run: no such run"]),
    (["compare", "no-such.parquet"], ["no-such.parquet"]),
    (["heatmap", "no-such.parquet"], ["no-such.parquet"]),
    (["compare"], ["required: FILE"]),
]


@pytest.mark.parametrize("arguments, said", BAD_OPTIONS, ids=lambda value: " ".join(value) if value else "")
def test_bad_options_are_refused(
    arguments: list[str], said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    line = refused(capsys, *arguments)
    assert all(part in line for part in said), line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content, said",
    [
        ("pretrain:\n  lane: 3\n", "lane"),
        ("prtrain:\n  lanes: 3\n", "prtrain"),
        ("run: [\n", "tiny.yaml"),
        ("3\n", "tiny.yaml"),
    ],
)
def test_an_unknown_key_of_a_config_file_is_refused(content: str, said: str, tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(content)
    for options in (["--config", path], [f"--config={path}", "--run.name", "other"]):
        line = refused(capsys, "pretrain", *options)
        assert said in line and str(path) in line


def cut(path: Path, share: float = 0.5) -> None:
    """Cut a file short within a line: YAML that ends with one is whole."""
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)].rstrip(b"\n"))


@pytest.mark.parametrize("verb", ["score", "tune", "metatrain", "finetune", "generate", "check"])
@pytest.mark.parametrize("name", ["model.safetensors", "model.json", "tokenizer/tokenizer.model", "config.yaml"])
def test_a_run_cut_short_is_refused_by_every_verb(verb: str, name: str, tuned_copy: Run, capsys: Capture) -> None:
    cut(tuned_copy.folder / name)
    before = listing(tuned_copy.folder)
    assert name.partition("/")[0] in refused(capsys, verb, tuned_copy.folder)
    assert listing(tuned_copy.folder) == before


def test_where_no_checkpoint_is_whole_training_begins_anew(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    from dynlm.train import pretrain_loop

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    options = tiny_options(tiny_corpus, tmp_path / "runs", tmp_path)
    options += ["--pretrain.checkpoint_every", "2", "--pretrain.validate_every", "3"]
    with monkeypatch.context() as patch:
        patch.setattr(pretrain_loop, "validate", stopped)
        assert main(["pretrain", *options]) == 130
    assert "goes on from the newest checkpoint" in capsys.readouterr().err
    checkpoint = tmp_path / "runs" / "tiny" / "checkpoints" / "step-00000002.safetensors"
    cut(checkpoint, 0.9)
    assert answer(capsys, "pretrain", *options)
    log = (tmp_path / "runs" / "tiny" / "log.jsonl").read_text()
    assert '"resumed"' not in log and '"pretrained"' in log


def test_a_tokenizer_that_does_not_fit_is_refused(tuned_copy: Run, capsys: Capture) -> None:
    from dynlm.data.tokenizers.pieces import PieceTokenizer

    shutil.rmtree(tuned_copy.folder / "tokenizer")
    other = PieceTokenizer.train(TokenizerOptions(vocab_size=330), ["colourless green ideas sleep furiously\n" * 9])
    other.save(tuned_copy.folder / "tokenizer")
    before = listing(tuned_copy.folder)
    line = refused(capsys, "score", tuned_copy.folder)
    assert "tokenizer (330 tokens" in line and "does not fit the model" in line
    assert listing(tuned_copy.folder) == before


def test_a_corpus_that_moved_away_is_refused(tuned_copy: Run, tmp_path: Path, capsys: Capture) -> None:
    before = listing(tuned_copy.folder)
    assert "gone: no such file or folder" in refused(
        capsys, "score", tuned_copy.folder, "--corpus.path", tmp_path / "gone"
    )
    assert "no split 'dev'" in refused(capsys, "score", tuned_copy.folder, "--split", "dev")
    assert listing(tuned_copy.folder) == before


def test_a_score_file_cut_short_is_refused(tuned_copy: Run, capsys: Capture) -> None:
    scored = answer_json(capsys, "score", tuned_copy.folder, "--memory.rule", "none", "--articles", "1")
    cut(Path(scored["file"]), 0.8)
    before = listing(tuned_copy.folder)
    for verb in ("compare", "plot", "heatmap"):
        assert scored["file"] in refused(capsys, verb, scored["file"])
    assert listing(tuned_copy.folder) == before


def test_a_prompt_that_is_no_text_is_refused(tuned_run: Run, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    assert "--prompt" in refused(capsys, "generate", tuned_run.folder, "--prompt", "caf\udce9")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9"), "utf-8"))
    assert "standard input" in refused(capsys, "generate", tuned_run.folder, "--prompt", "-")


VERBS_THAT_WRITE: dict[str, list[str]] = {
    "pretrain": [],
    "tune": ["--memory.rule", "rms"],
    "metatrain": [],
    "finetune": ["--memory.rule", "rms", "--finetune.tokens", "200"],
    "score": ["--memory.rule", "none"],
}


def what_writes(verb: str, run: Run, tmp_path: Path) -> list[str]:
    if verb == "pretrain":
        return [verb, *tiny_options(run.corpus, run.folder.parent, tmp_path), "--run.name", "other"]
    return [verb, str(run.folder), *VERBS_THAT_WRITE[verb]]


@pytest.mark.parametrize("verb", VERBS_THAT_WRITE)
def test_a_full_disk_is_said_and_nothing_is_half_written(
    verb: str, tuned_copy: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    before = listing(tuned_copy.folder.parent)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    arguments = what_writes(verb, tuned_copy, tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    line = refused(capsys, *arguments)
    assert "No space left on device; free some space" in line
    after = listing(tuned_copy.folder.parent)
    del before["tiny/log.jsonl"], after["tiny/log.jsonl"]  # What was measured till then stays in the log.
    assert after == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for little more than a run."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    done = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=96k", "dynlm-tests", str(folder)], capture_output=True
    )
    if not done or done.returncode:
        pytest.skip("may not mount a small file system here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full(tiny_corpus: Path, small_disk: Path, tmp_path: Path, capsys: Capture) -> None:
    """The weights, and then the token arrays, are larger than what room there is."""
    options = tiny_options(tiny_corpus, small_disk, tmp_path)
    line = refused(capsys, "pretrain", *options)
    assert "free some space" in line
    assert str(small_disk) in line
    assert not hidden_files(small_disk)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DYNLM_CACHE", str(small_disk / "cache"))
        line = refused(capsys, "pretrain", *tiny_options(tiny_corpus, tmp_path / "runs", tmp_path))
    assert "free some space" in line
    assert not hidden_files(small_disk)
    assert not (tmp_path / "runs").exists()
