"""Cells of a study: the same variants on one base model, with one seed of meta-training.

STUDY/scores/                           all variants, on the run itself, with the first seed of meta-training
STUDY/seeds/base-B/scores/              the same on the base model of seed B
STUDY/seeds/base-B-meta-M/scores/       what is learned with seed M on the base model of seed B
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dynlm.run.run import Run
from dynlm.study.variants import Variant

SEEDS = "seeds"


@dataclass(frozen=True)
class Cell:
    """One base model and one seed of meta-training (None: the variants' own); ``first``: of the base model, of both."""

    run: Run
    base_seed: int
    meta_seed: int | None
    is_first_base: bool = True
    is_first_meta: bool = True

    @property
    def is_first(self) -> bool:
        """Whether its figures are those of the study's main table."""
        return self.is_first_base and self.is_first_meta

    @property
    def prefix(self) -> str:
        """What messages about it begin with; nothing for the first."""
        meta = "" if self.meta_seed is None else f", meta seed {self.meta_seed}"
        return "" if self.is_first else f"base seed {self.base_seed}{meta}: "

    def variant(self, variant: Variant) -> Variant:
        """Return the variant with what it learns learned from this seed."""
        return variant if self.meta_seed is None else variant.with_meta_seed(self.meta_seed, self.base_seed)

    def folder(self, study: Path, variant: Variant) -> Path:
        """Return the folder that the scores of a variant are in: the same for all seeds that do not matter to it."""
        if variant.is_learned and not self.is_first_meta:
            return study / SEEDS / f"base-{self.base_seed}-meta-{self.meta_seed}"
        return study if self.is_first_base else study / SEEDS / f"base-{self.base_seed}"
