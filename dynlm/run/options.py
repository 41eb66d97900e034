"""Options of the run: its folder, its device, its seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dynlm.runtime.validation import LARGEST_SEED, Section, bounded, plain_name

ELSEWHERE = "choose another --run.name or remove the folder"
"""What to do about a folder that holds another run."""


@dataclass
class RunOptions(Section):
    """The run's folder and the device."""

    SECTION = "run"
    COMMON = "name seed cpu"

    name: str = "demo"
    """The run's name: its folder is runs/NAME."""
    folder: str = "runs"
    """Folder of all runs."""
    seed: int = bounded(0, 0, LARGEST_SEED)
    """Seed of every random number."""
    precision: Literal["no", "bf16"] = "no"
    """accelerate's mixed precision."""
    cpu: bool = False
    """Stay on the CPU even if there is a GPU."""
    checkpoint_seconds: float = bounded(60.0)
    """Seconds between two checkpoints of a scoring; a shorter one writes none. 0: after each segment."""
    tracker: str | None = None
    """An installed tracker that accelerate supports: tensorboard, wandb or trackio."""
    checkpoints_kept: int = bounded(2, 1)
    """Number of newest checkpoints kept while work is under way; none are kept when it is done."""
    patience: float = bounded(50.0, 1)
    """Several processes: seconds that one may lag in training before the others end with an error."""

    @property
    def path(self) -> Path:
        """The run's folder."""
        return Path(self.folder) / self.name

    def __post_init__(self) -> None:
        super().__post_init__()
        plain_name("run.name", self.name)
