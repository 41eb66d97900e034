"""What the golden files are of: commands, and what of their answers is kept.

Every command stands as it is typed, so that the files outlive a change of everything behind the command line. RUN,
CORPUS and RUNS stand for their paths.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dynlm.cli.main import main
from dynlm.evaluation.score_file import read_scores

ROOT = Path(__file__).resolve().parents[2]
"""Commands run here: what they keep then names the corpus as this repository does."""
FOLDER = ROOT / "tests" / "golden"
PRETRAIN = (
    "pretrain --run.folder RUNS --run.name golden --run.cpu true --corpus.path CORPUS --corpus.meta_every 6 "
    "--tokenizer.vocab_size 330 --model.embedding 16 --model.hidden 20 --model.layers 2 --pretrain.epochs 6 "
    "--pretrain.lanes 4 --pretrain.segment 24 --pretrain.rate 0.02 --pretrain.warmup_steps 10 "
    "--pretrain.validate_every 50 --pretrain.validate_tokens 500 --regularisation.input 0.1 "
    "--regularisation.weight 0.1 "
    "--memory.segment 10 --tune.articles 1-3 --tune.tokens 350 --tune.statistics_tokens 1200 --tune.rounds 1 "
    "--tune.fewest_tokens 100 --metatrain.tokens 800 --metatrain.window 10 --metatrain.pick_tokens 350"
)
G = {
    "meta": "",
    "full": "--g.importance true --g.features [fresh,settling,heading,surprise,steepness,distance] --g.flush true "
    "--g.consolidation 0.5",
    "rows": "--g.level 2 --g.sharing row --g.momentum 0.3",
    "weights": "--g.sharing weight",
    "slow": "--g.slow true --g.flush true --g.consolidation 0.2",
    "lstm": "--g.kind lstm --g.hidden 2",
}
"""Learned rules by name, and the options that each is learned with, under the reset policy stream."""
TRAININGS = {
    "tune sgd": "tune RUN --memory.rule sgd",
    "tune sgd+decay": "tune RUN --memory.rule sgd+decay --memory.reset article",
    "tune rms": "tune RUN --memory.rule rms",
    "tune rms article": "tune RUN --memory.rule rms --memory.reset article",
    "tune cache": "tune RUN --memory.rule rms --memory.cache fixed",
    "metatrain gate": "metatrain RUN --memory.rule rms --memory.cache learned",
    **{f"metatrain {name}": f"metatrain RUN --memory.g {name} {options}" for name, options in G.items()},
    "metatrain article": "metatrain RUN --memory.reset article --metatrain.lanes 2",
    "finetune": "finetune RUN --memory.rule rms --finetune.tokens 800",
}
SCORES = {
    "none": "--memory.rule none",
    "sgd": "--memory.rule sgd",
    "sgd+decay": "--memory.rule sgd+decay --memory.reset article",
    "rms": "--memory.rule rms",
    "rms article": "--memory.rule rms --memory.reset article",
    "rms lanes": "--memory.rule rms --memory.reset article --memory.lanes 3",
    "rms shuffled": "--memory.rule rms --order shuffled --order_seed 3",
    "rms segments of 7": "--memory.rule rms --memory.segment 7",
    "rms bfloat16": "--memory.rule rms --memory.precision bfloat16",
    "rms unguarded": "--memory.rule rms --memory.guard false",
    "rms some tensors": "--memory.rule rms --memory.dynamic [embedding,output.bias]",
    "sgd wild": "--memory.rule sgd --memory.rate 1e6",
    "cache": "--memory.rule none --memory.cache fixed --memory.cache_window 50 --memory.cache_flatness [0.5] "
    "--memory.cache_share 0.1",
    "rms + cache": "--memory.rule rms --memory.cache fixed",
    "rms + gate": "--memory.rule rms --memory.cache learned",
    "rms no regret": "--memory.rule rms --memory.no_regret true",
    "rms + cache no regret": "--memory.rule rms --memory.cache fixed --memory.no_regret true",
    **{f"meta {name}": f"--memory.rule meta --memory.g {name}" for name in G},
    "meta article": "--memory.rule meta --memory.reset article",
}
"""Readings of the run's valid articles."""
FEWSHOT = {
    "maml": "--learner.kind maml",
    "fomaml": "--learner.kind fomaml",
    "anil": "--learner.kind anil",
    "meta-sgd": "--learner.kind meta-sgd",
    "maml++": "--learner.kind maml++",
    "reptile": "--learner.kind reptile --learner.inner_optimizer adam --train.optimizer sgd",
    "random": "--learner.kind random --train.steps 0",
    "lstm-reader": "--learner.kind lstm-reader --learner.reader_hidden 8",
    "lstm-optimiser": "--learner.kind lstm-optimiser --learner.reader_hidden 8",
}
"""Learners of cubic curves."""
STUDY = (
    "study --run.folder RUNS --run.name golden --run.cpu true --corpus.path CORPUS --corpus.meta_every 6 "
    "--tokenizer.vocab_size 330 --model.embedding 16 --model.hidden 20 --model.layers 2 --memory.segment 10 "
    "--tune.articles 1-3 --tune.fewest_tokens 100 --study.articles 4-6 --study.tune false --study.resamples 50"
)
_LEFT_OUT = {"seconds", "cost", "file", "run", "corpus", "date", "fingerprint", "model", "folder", "tuned_on"}
_LEFT_OUT |= {"content", "budget", "parameters", "texts", "word_gains", "tried", "tokens_read"}


def figures_of(answer: Any) -> Any:
    """The numbers of a command's answer, whatever holds them; not how long it took, nor whose it is."""
    if isinstance(answer, Mapping):
        kept = {key: figures_of(value) for key, value in answer.items() if key not in _LEFT_OUT}
        return {key: value for key, value in kept.items() if value not in (None, {}, [])}
    if isinstance(answer, list):
        return [kept for value in answer if (kept := figures_of(value)) not in (None, {}, [])]
    return answer if isinstance(answer, int | float) else None


class Golden:
    """A run that is worked on in ``runs``, with the golden corpus."""

    def __init__(self, runs: Path):
        self.runs = runs
        self.named = {
            "RUNS": str(runs),
            "RUN": str(runs / "golden"),
            "CORPUS": str((FOLDER / "corpus").relative_to(ROOT)),
        }

    def answer(self, command: str) -> Any:
        """What ``command`` prints with ``--json``."""
        words = [self.named.get(word, word) for word in command.split()]
        return json.loads(_output_of([*words, "--json"]))

    def nats(self, options: str) -> np.ndarray:
        """The nats of the tokens of a reading."""
        answer = self.answer(f"score RUN --corpus.path CORPUS --split valid --force {options}")
        return read_scores(Path(answer["file"])).nats

    def trainings(self) -> dict[str, Any]:
        """The figures of everything that is trained, in a run that is made for it."""
        done = {"pretrain": figures_of(self.answer(PRETRAIN))}
        return done | {name: figures_of(self.answer(command)) for name, command in TRAININGS.items()}

    def fewshot(self) -> dict[str, Any]:
        """Every learner's figures on new curves."""
        done = {}
        for name, options in FEWSHOT.items():
            place = f"--run.folder RUNS --run.name {name}"
            steps = "" if "--train.steps" in options else "--train.steps 6"
            self.answer(
                f"fewshot train {place} --task.source cubic --learner.hidden [8] --learner.inner_steps 2 "
                f"--train.tasks 3 {steps} --evaluate.episodes 20 {options}"
            )
            done[name] = figures_of(self.answer(f"fewshot evaluate {self.runs / name}")["steps"])
        return done


def copied(runs: Path) -> Golden:
    """A copy of the golden run, to be read with."""
    shutil.copytree(FOLDER / "run", runs / "golden")
    return Golden(runs)


def _output_of(words: list[str]) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = main(words)
    assert code == 0, words
    return said.getvalue()
