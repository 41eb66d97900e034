"""Files of scores and examples, from which tables and figures are made. Does not import torch.

Legend: E tasks (episodes of labelled examples, or environments), J numbers of steps that were scored.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dynlm.errors import UserError
from dynlm.runtime.parsing import read_json, write_json

FORMAT = "dynlm few-shot scores 1"
_NORMAL_QUANTILE = 1.959964


@dataclass(frozen=True)
class EpisodeScores:
    """Each task's accuracy (0 to 1), mean squared error or return after some numbers of steps, and the protocol.

    A learner that adapts while acting has no steps: its columns are the returns of the task's episodes, in order.
    """

    protocol: dict[str, Any]
    steps: list[int]
    values_EJ: np.ndarray
    optimal_E: np.ndarray | None = None
    """The expected return of an episode under each task's best policy, where it is known."""

    @property
    def label(self) -> str:
        """The learner's name in tables and figures."""
        return str(self.protocol["label"])

    @property
    def is_accuracy(self) -> bool:
        """Whether the scores are accuracies, of which higher is better, or errors."""
        return bool(self.protocol["metric"] == "accuracy")

    @property
    def is_return(self) -> bool:
        """Whether the scores are returns."""
        return bool(self.protocol["metric"] == "return")

    @property
    def adapts_while_acting(self) -> bool:
        """Whether the columns are episodes, whose sum is the score, and not numbers of inner steps."""
        return bool(self.protocol.get("adapts") == "while acting")

    def total(self) -> tuple[float, float]:
        """Return (mean over tasks of the return, half-width of its 95 % interval).

        The return is that of all episodes of a task, or of one episode after the last inner step.
        """
        return interval(self.values_EJ.sum(1)) if self.adapts_while_acting else self.at()

    def optimal_total(self) -> float | None:
        """Return the mean over tasks of the expected return of the best policy, in as many episodes as ``total``."""
        if self.optimal_E is None:
            return None
        return float(self.optimal_E.mean()) * (len(self.steps) if self.adapts_while_acting else 1)

    def regret(self) -> np.ndarray | None:
        """Return (means, half-widths of 95 % intervals) of the regret at each of ``steps`` (2, J).

        The regret is the best policy's expected return minus the return, summed over episodes where the learner adapts
        while acting.
        """
        if self.optimal_E is None:
            return None
        gaps_EJ = self.optimal_E[:, None] - self.values_EJ
        gaps_EJ = gaps_EJ.cumsum(1) if self.adapts_while_acting else gaps_EJ
        return np.array([interval(gaps_E) for gaps_E in gaps_EJ.T]).T

    def at(self, step: int | None = None) -> tuple[float, float]:
        """Return (mean over episodes, half-width of its 95 % interval) after ``step`` steps, None for the last."""
        return interval(self.values_EJ[:, -1 if step is None else self.steps.index(step)])


def interval(values_E: np.ndarray) -> tuple[float, float]:
    """Return (mean, half-width of its 95 % normal interval) over episodes."""
    spread = float(np.std(values_E, ddof=1)) if len(values_E) > 1 else math.nan
    return float(np.mean(values_E)), _NORMAL_QUANTILE * spread / math.sqrt(len(values_E))


def write_scores(path: Path, scores: EpisodeScores) -> None:
    """Write a file of scores, atomically."""
    values = [[round(float(value), 7) for value in row] for row in scores.values_EJ]
    content = {"format": FORMAT, "protocol": scores.protocol, "steps": scores.steps, "values": values}
    if scores.optimal_E is not None:
        content["optimal"] = [round(float(value), 7) for value in scores.optimal_E]
    write_json(path, content)


def load_scores(path: Path) -> EpisodeScores:
    """Read a file of scores. Raises UserError where it is missing, truncated or something else."""
    content = read_json(path)
    try:
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}")
        values_EJ = np.asarray(content["values"], dtype=float)
        if values_EJ.ndim != 2 or values_EJ.shape[1] != len(content["steps"]) or not len(values_EJ):
            raise ValueError("its values do not fit its steps")
        for name in ("label", "metric", "task", "episodes"):
            content["protocol"][name]
        optimal_E = np.asarray(content["optimal"], dtype=float) if "optimal" in content else None
        if optimal_E is not None and optimal_E.shape != values_EJ.shape[:1]:
            raise ValueError("its optimal returns do not fit its values")
        return EpisodeScores(content["protocol"], [int(step) for step in content["steps"]], values_EJ, optimal_E)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"not few-shot scores ({error})", path, "run `dynlm fewshot evaluate` again") from error


def scores_of_runs(runs: Sequence[Path]) -> list[EpisodeScores]:
    """Load all scores of run folders, and single files. Raises UserError where a run has none.

    The same scores twice in a folder, as in the copy of a packed run, which has another name, are loaded once.
    """
    found: list[EpisodeScores] = []
    for run in runs:
        paths = [run] if run.is_file() else sorted((run / "scores").glob("*.json"))
        if not paths:
            raise UserError("no few-shot scores here", run, f"run `dynlm fewshot evaluate {run}` first")
        different: dict[tuple[str, bytes], EpisodeScores] = {}
        for one in map(load_scores, paths):
            protocol = json.dumps({**one.protocol, "run": None}, sort_keys=True)
            different[protocol, one.values_EJ.tobytes()] = one
        found += different.values()
    return found


def examples_of_runs(runs: Sequence[Path], kind: str) -> list[dict[str, Any]]:
    """Load the examples of a kind (curves or images) of some run folders, in their order."""
    paths = [path for run in runs if run.is_dir() for path in sorted((run / "examples").glob("*.json"))]
    return [content for content in map(read_json, paths) if content.get("kind") == kind]
