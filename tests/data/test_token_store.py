"""Token arrays: exact surfaces, a cache keyed by content, and memory use independent of the corpus size."""

import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dynlm.data.options import TokenizerOptions
from dynlm.data.sources.source import Article
from dynlm.data.token_store import tokenise
from dynlm.data.tokenised_split import TokenisedSplit
from dynlm.data.tokenizers.pieces import PieceTokenizer
from dynlm.errors import UserError
from tests.tiny import listing

ROOT = Path(__file__).resolve().parents[2]

ARTICLES = [
    Article("Harbour", " = Harbour = \n The ships come in at dawn . \n", "a:1"),
    Article("Brücke", " = Brücke = \n Über die Brücke \u2581 gehen . \n", "a:3"),
    Article("Code", "def f(x):\n    return x\n", "b"),
]


@pytest.fixture(scope="module")
def tokenizer():
    return PieceTokenizer.train(TokenizerOptions("bpe", 320, 0.99), [article.text for article in ARTICLES] * 3)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DYNLM_CACHE", str(tmp_path))


def test_articles_are_encoded_once(tokenizer, monkeypatch):
    first = tokenise(ARTICLES, tokenizer)
    monkeypatch.setattr(PieceTokenizer, "encode", None)
    again = tokenise(ARTICLES, tokenizer)
    assert again.fingerprint == first.fingerprint
    assert again.ids_N.tolist() == first.ids_N.tolist()
    with pytest.raises(TypeError):
        tokenise(ARTICLES[:2], tokenizer)


def change(index, **fields):
    return [*ARTICLES[:index], dataclasses.replace(ARTICLES[index], **fields), *ARTICLES[index + 1 :]]


@pytest.mark.parametrize(
    "changed",
    [
        change(1, text=ARTICLES[1].text.replace("gehen", "gahen")),
        change(1, title="Brucke"),
        [Article("", ARTICLES[0].text + "a", ""), *ARTICLES[1:]],
        [ARTICLES[1], ARTICLES[0], ARTICLES[2]],
        ARTICLES[:2],
    ],
)
def test_a_changed_corpus_is_encoded_anew(tokenizer, changed):
    first = tokenise(ARTICLES, tokenizer)
    split = tokenise(changed, tokenizer)
    assert list(split.titles) == [article.title for article in changed]
    assert [tokenizer.decode(split.article(a)) for a in range(split.articles)] == [a.text for a in changed]
    assert tokenise(ARTICLES, tokenizer).fingerprint == first.fingerprint


def test_a_moved_corpus_is_found_in_the_cache(tokenizer, monkeypatch):
    tokenise(ARTICLES, tokenizer)
    monkeypatch.setattr(PieceTokenizer, "encode", None)
    tokenise((dataclasses.replace(article, where="elsewhere") for article in ARTICLES), tokenizer)


def test_article_boundaries_are_part_of_the_fingerprint(tokenizer):
    one = tokenise([Article("", "abc", ""), Article("", "cd", "")], tokenizer)
    other = tokenise([Article("", "ab", ""), Article("", "ccd", "")], tokenizer)
    assert one.fingerprint != other.fingerprint
    assert (one.text_starts.tolist(), other.text_starts.tolist()) == ([0, 3, 5], [0, 2, 5])


@pytest.mark.parametrize("chunk", [1, 150, 1 << 20])
def test_files_do_not_depend_on_processes_or_chunks(tokenizer, tmp_path, monkeypatch, chunk):
    monkeypatch.setattr("dynlm.data.spool.CHUNK_BYTES", chunk)
    articles = [Article(f"{n}", f"{n} {article.text}", "") for n in range(3) for article in ARTICLES]
    written = []
    for num_proc in (1, 2, 3):
        monkeypatch.setenv("DYNLM_CACHE", str(tmp_path / f"{num_proc}"))
        split = tokenise(iter(articles), tokenizer, num_proc)
        assert [tokenizer.decode(split.article(a)) for a in range(split.articles)] == [a.text for a in articles]
        written.append(listing(tmp_path / f"{num_proc}"))
    monkeypatch.setattr("dynlm.data.spool.CHUNK_BYTES", 1 << 20)
    monkeypatch.setenv("DYNLM_CACHE", str(tmp_path / "one"))
    tokenise(articles, tokenizer)
    assert written == [listing(tmp_path / "one")] * 3


class KillingTokenizer(PieceTokenizer):
    """Kills the process that encodes with it, unless that has started the others."""

    def encode(self, text):
        if multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode(text)

    def __reduce__(self):
        return KillingTokenizer, (self.config, self.model)


def test_a_killed_worker_is_a_user_error(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("dynlm.data.spool.CHUNK_BYTES", 1)
    with pytest.raises(UserError, match=r"corpus\.num_proc: a process .* was killed"):
        tokenise(4 * ARTICLES, KillingTokenizer(tokenizer.config, tokenizer.model), num_proc=2)
    assert not list((tmp_path / "tokens").iterdir())


def test_a_failing_source_leaves_no_files(tokenizer, tmp_path):
    def broken():
        yield from ARTICLES[:2]
        raise UserError("broken", "c:1")

    with pytest.raises(UserError, match="c:1"):
        tokenise(broken(), tokenizer)
    assert not list((tmp_path / "tokens").iterdir())
    assert tokenise(ARTICLES, tokenizer).articles == 3


def test_interrupted_encoding_leaves_no_files(tokenizer, tmp_path, monkeypatch):
    def interrupted(self, text):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PieceTokenizer, "encode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tokenise(ARTICLES, tokenizer)
    assert not list((tmp_path / "tokens").iterdir())
    assert tokenise(ARTICLES, tokenizer).articles == 3


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of file sizes")
@pytest.mark.parametrize("limit", [60_000, 200_000])  # Of a file: reached by the text, or by the tokens.
def test_a_full_disk_is_a_user_error_and_leaves_no_files(tokenizer, tmp_path, limit):
    tokenizer.save(tmp_path / "tokenizer")
    code = """
import resource, sys
from pathlib import Path
from dynlm.data.sources.source import Article
from dynlm.data.tokenizers.store import load_tokenizer
from dynlm.data.token_store import tokenise
from dynlm.errors import UserError
made = load_tokenizer(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    tokenise([Article("a", "x" * 100_000, "")], made)
except UserError as error:
    print(error)
"""
    output = child(code, tmp_path / "tokenizer", limit).stdout
    assert f"{tmp_path / 'tokens'}" in output
    assert "cannot write" in output
    assert not list((tmp_path / "tokens").iterdir())


def child(code, *arguments):
    """Run ``code`` in another process with the same cache folder."""
    return subprocess.run(child_command(code, *arguments), env=child_environment(), capture_output=True, text=True)


def child_command(code, *arguments):
    return [sys.executable, "-c", code, *map(str, arguments)]


def child_environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


def test_a_killed_process_leaves_no_cache_entry(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer")
    code = """
import os, signal, sys
from pathlib import Path
from dynlm.data import token_store as tokens
from dynlm.data.tokenizers.store import load_tokenizer
from tests.data.test_token_store import ARTICLES
# The last moment before the folder is renamed.
tokens.commit_dir = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
tokens.tokenise(ARTICLES, load_tokenizer(Path(sys.argv[1])))
"""
    assert child(code, tmp_path / "tokenizer").returncode == -signal.SIGKILL
    left = list((tmp_path / "tokens").iterdir())
    assert left
    assert all(folder.name.startswith(".aside-") for folder in left)
    split = tokenise(ARTICLES, tokenizer)
    assert b"".join(split.surfaces(2)).decode() == ARTICLES[2].text


class SlowTokenizer(KillingTokenizer):
    """Does not return; a worker writes its process id to the cache folder."""

    def encode(self, text):
        if multiprocessing.parent_process() is not None:
            Path(os.environ["DYNLM_CACHE"], f"{os.getpid()}.pid").touch()
        time.sleep(60)

    def __reduce__(self):
        return SlowTokenizer, (self.config, self.model)


def wait_until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_end_with_their_parent(tokenizer, tmp_path):
    def alive(process):
        try:
            return Path("/proc", process, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    tokenizer.save(tmp_path / "tokenizer")
    code = """
import sys
from pathlib import Path
from dynlm.data import spool
from dynlm.data import token_store as tokens
from dynlm.data.tokenizers.store import load_tokenizer
from tests.data.test_token_store import ARTICLES, SlowTokenizer
spool.CHUNK_BYTES = 1
made = load_tokenizer(Path(sys.argv[1]))
tokens.tokenise(5 * ARTICLES, SlowTokenizer(made.config, made.model), num_proc=3)
"""
    parent = subprocess.Popen(child_command(code, tmp_path / "tokenizer"), env=child_environment())
    pools = wait_until(lambda: (found := [path.stem for path in tmp_path.glob("*.pid")])[1:] and found)
    parent.kill()
    parent.wait()
    assert str(parent.pid) not in pools
    wait_until(lambda: not any(map(alive, pools)))


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
@pytest.mark.parametrize("num_proc", [1, 2])
def test_memory_does_not_grow_with_the_corpus(tokenizer, tmp_path, num_proc):
    tokenizer.save(tmp_path / "tokenizer")
    code = """
import resource, sys
from pathlib import Path
from dynlm.data.sources.source import Article
from dynlm.data.tokenizers.store import load_tokenizer
from dynlm.data.token_store import tokenise
text = "The ships come in at dawn . " * 1000
peak = lambda: max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
articles, num_proc = int(sys.argv[2]), int(sys.argv[3])
tokenise((Article(f"{n}", f"{n} {text}", "") for n in range(articles)), load_tokenizer(Path(sys.argv[1])), num_proc)
print(peak() / 1024)
"""
    few, many = (float(child(code, tmp_path / "tokenizer", n, num_proc).stdout) for n in (400, 1150))
    # 750 articles are 19 MiB of text, and their tokens are more.
    assert many - few < 6


@pytest.mark.parametrize("num_proc", [1, 2])
def test_short_articles_are_left_out_with_a_warning(tokenizer, monkeypatch, capsys, num_proc):
    monkeypatch.setattr("dynlm.data.spool.CHUNK_BYTES", 1)
    dots = [Article(f"Dot {n}", "\n", f"c:{n}") for n in range(3)]
    whole = tokenise(ARTICLES, tokenizer)
    assert capsys.readouterr().err == ""
    for _ in range(2):  # Encoded, then loaded from the cache.
        split = tokenise([dots[0], *ARTICLES[:1], dots[1], *ARTICLES[1:], dots[2]], tokenizer, num_proc)
        err = capsys.readouterr().err
        assert "left out 3 article(s)" in err and err.endswith("the first at c:0\n") and err.count("\n") == 1
        assert list(split.titles) == list(whole.titles)
        assert split.fingerprint == whole.fingerprint
        for name in ("ids_N", "lengths_N", "words_N", "text", "starts", "text_starts", "headings"):
            assert np.array_equal(getattr(split, name), getattr(whole, name)), name


def test_the_first_articles_of_a_chunk_may_be_short(tokenizer):
    dot = Article("Dot", "\n", "c:0")
    split, whole = tokenise([dot, *ARTICLES, dot], tokenizer), tokenise(ARTICLES, tokenizer)
    assert np.array_equal(split.headings, whole.headings) and split.fingerprint == whole.fingerprint


def test_a_corpus_of_short_articles_is_rejected_and_not_cached(tokenizer, tmp_path):
    with pytest.raises(UserError, match=r"^c:6: each of its 2 article"):
        tokenise([Article("Dot", "\n", "c:6"), Article("Empty", "", "c:7")], tokenizer)
    with pytest.raises(UserError, match="no articles"):
        tokenise([], tokenizer)
    assert not list(tmp_path.rglob("*.npy"))


def end_of_line(split, article):
    """Return the token of an article that has its first end of line."""
    return next(number for number, surface in enumerate(split.surfaces(article)) if b"\n" in surface)


def test_a_split_from_texts_equals_the_tokenised_articles(tokenizer):
    split = tokenise(ARTICLES, tokenizer)
    assert TokenisedSplit.from_texts([ARTICLES[1].text], tokenizer).ids_N.tolist() == split.article(1).tolist()
    assert len(TokenisedSplit.from_texts([""], tokenizer).ids_N) == 0
