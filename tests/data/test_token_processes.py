"""Encoding in real processes: killed ones, full disks and memory."""

# ruff: noqa: F811 - fixtures of another file

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dynlm.data.token_store import tokenise
from dynlm.data.tokenizers.pieces import PieceTokenizer
from dynlm.errors import UserError
from tests.data.test_token_store import ARTICLES, own_cache, tokenizer  # noqa: F401 - fixtures

ROOT = Path(__file__).resolve().parents[2]


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
from tests.data.test_token_processes import ARTICLES, SlowTokenizer
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
