"""Pack a trained learner as a read-only folder, and check one: its files, that it opens, and that it learns."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dynlm.errors import UserError
from dynlm.fewshot.evaluate import score_episodes
from dynlm.fewshot.results import load_scores
from dynlm.fewshot.run_folder import load_learned, load_run_options
from dynlm.run.folder import save_config
from dynlm.run.locate import packed_folder
from dynlm.run.provenance import made_with
from dynlm.runtime.checksums import check_checksums, listed_files, write_checksums
from dynlm.runtime.files import check_regular
from dynlm.runtime.parsing import read_json, write_json
from dynlm.runtime.tensors import load_tensors, save_tensors
from dynlm.runtime.text import printable
from dynlm.runtime.verdict import Verdict

_EPISODES = 4
"""New tasks that are learned to check a learner."""


@dataclass(frozen=True)
class LearnerCheck(Verdict):
    """What checking a packed learner found: ``broken`` is what does not hold.

    ``score`` is that of a few new tasks, None where they need data that was not given.
    """

    path: Path
    files: int
    score: float | None = None
    broken: list[str] = field(default_factory=list)

    def to_text(self) -> str:
        """Return a line with the verdict, and one for each entry of ``broken``."""
        tasks = "no tasks, which need data" if self.score is None else f"{_EPISODES} tasks: {self.score:.4g}"
        return "\n".join(self.lines(printable(str(self.path)), f"{self.files} files, {tasks}"))


def is_learner(folder: Path) -> bool:
    """Return whether ``folder`` holds a trained learner."""
    return (folder / "learner.json").is_file()


def pack_learner(folder: Path, target: Path, replace: bool = False) -> dict[str, Any]:
    """Pack the trained run ``folder`` into ``target``: tensors, card, options and scores, which have no data in them.

    With ``replace`` a packed learner in ``target`` is replaced. Returns what was written. Raises UserError where the
    run is not trained, and where ``target`` holds something else.
    """
    options = load_run_options(folder)
    if not is_learner(folder):
        raise UserError("no trained learner in this run folder", folder, "run `dynlm fewshot train` to its end first")
    with packed_folder(folder, target, replace) as staged:
        task = _without_folders(dataclasses.asdict(options.task))
        content = {**dataclasses.asdict(options), "task": task}
        content["run"] |= {"name": target.resolve().name, "folder": "runs/fewshot"}
        content["train"] = _without_folders(content["train"])
        save_config(staged, content)
        tensors, about = load_tensors(folder / "learner.safetensors")
        save_tensors(staged / "learner.safetensors", tensors, about)
        card = read_json(folder / "learner.json")
        write_json(staged / "learner.json", {**_without_folders(card), "packed": made_with()})
        for path in sorted((folder / "scores").glob("*.json")):
            check_regular(path)
            load_scores(path)
            write_json(staged / "scores" / path.name, _without_folders(read_json(path)))
        write_checksums(staged)
        sizes = [path.stat().st_size for path in staged.rglob("*") if path.is_file()]
    return {"folder": str(target), "files": len(sizes), "bytes": sum(sizes)}


def check_packed_learner(folder: Path) -> LearnerCheck:
    """Check the packed learner in ``folder``; a few new tasks are learned where they need no data of this machine."""
    result = LearnerCheck(folder, len(listed_files(folder)), broken=check_checksums(folder))
    if not result.holds:
        return result
    try:
        options = load_run_options(folder)
        if getattr(options.task, "path", None) is not None:
            return result
        source, learner = options.create()
        learned, _ = load_learned(folder, learner)
        few = dataclasses.replace(options.evaluate, episodes=_EPISODES, at_once=_EPISODES)
        score = score_episodes(learner, learned, source, dataclasses.replace(options, evaluate=few)).at()[0]
    except UserError as error:
        return dataclasses.replace(result, broken=[str(error)])
    broken = [] if math.isfinite(score) else [f"new tasks have a score of {score}"]
    return dataclasses.replace(result, score=score, broken=broken)


def _without_folders(value: Any) -> Any:
    """Return a JSON value with paths of this machine replaced by their last component."""
    if isinstance(value, dict):
        return {name: _without_folders(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_folders(item) for item in value]
    is_path = isinstance(value, str) and (value.startswith("~") or Path(value).is_absolute())
    return Path(value).name if is_path else value
