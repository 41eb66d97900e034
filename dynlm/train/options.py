"""Options of training: level 1, tuning, meta-training and fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dynlm.adapt.rules.registry import RULES
from dynlm.runtime.validation import LARGEST_LANES, LARGEST_SEED, LARGEST_SEGMENT, Section, bounded, plain_name


@dataclass
class PretrainOptions(Section):
    """Level-1 training."""

    SECTION = "pretrain"
    COMMON = "epochs lanes segment optimizer lr"

    epochs: float = bounded(3.0, 0, 1_000_000)
    """Passes over the training tokens."""
    lanes: int = bounded(16, 1, LARGEST_LANES)
    """Articles read side by side in a batch, over all processes."""
    segment: int = bounded(64, 1, LARGEST_SEGMENT)
    """Tokens of each lane between two truncations of the gradient."""
    accumulate: int = bounded(1, 1)
    """Batches whose gradients are summed before a step."""
    optimizer: Literal["adamw", "nt-asgd"] = "adamw"
    """adamw: warm-up, then cosine decay; nt-asgd: constant rate, averaging once validation stalls."""
    lr: float = bounded(3e-3)
    """Peak learning rate."""
    final_lr: float = bounded(0.01)
    """Final learning rate of the cosine, as a share of the peak."""
    warmup_steps: int = bounded(200)
    """Steps of linear warm-up."""
    weight_decay: float = bounded(0.01)
    """Decoupled weight decay."""
    clip: float = bounded(1.0)
    """Largest norm of the gradient of the mean nats per token; 0 does not clip."""
    validate_every: int = bounded(500, 1)
    """Steps between validations."""
    validate_tokens: int = bounded(20000)
    """Tokens of the validation split read at each; 0 reads all."""
    patience: int = bounded(5, 1)
    """nt-asgd: validations without improvement before averaging begins."""
    checkpoint_every: int = bounded(500, 1, affects_result=False)
    """Steps between checkpoints."""
    log_every: int = bounded(50, 1)
    """Steps between lines of the log."""


@dataclass
class TuneOptions(Section):
    """The search for the constants of rules and caches, on articles that no figure is reported on."""

    SECTION = "tune"
    COMMON = "split articles tokens"

    split: Literal["train", "valid", "test"] = "valid"
    """Split whose articles are read."""
    articles: str = "1-30"
    """Which of its articles, counted from 1."""
    tokens: int = bounded(40000)
    """Tokens read for each setting, at most; 0 reads all of them."""
    search: Literal["race", "full"] = bounded("race", omit_default=True)
    """race: a setting stops reading as soon as it is clearly worse than the best so far; full: each reads all tokens,
    which takes about three times as long."""
    statistics_tokens: int = bounded(40000, 1)
    """Training tokens read for the gradient statistics R."""
    rounds: int = bounded(2, 0, 1000)
    """Passes of the coordinate search over a rule's constants."""
    fewest_tokens: int = bounded(2000)
    """Refuse to tune on fewer tokens: such constants may make reading worse."""


@dataclass
class MetatrainOptions(Section):
    """Meta-training of g's parameters phi, on training articles that the language model has not seen."""

    SECTION = "metatrain"
    COMMON = "tokens lanes window lr"

    tokens: int = bounded(100000)
    """Tokens read; the articles are read again from the first when they end. 0: nothing is learned."""
    texts: list[str] | None = bounded(None, omit_default=True)
    """Further texts to learn on, such as [docs:torch, code:torch, FOLDER], each as corpus.source or corpus.path takes
    it. Their articles, without valid and test, alternate with the run's own, in equal shares of the tokens; their valid
    articles help to choose between what was learned and its start."""
    turn: int = bounded(0, omit_default=True)
    """With further texts: tokens read of one, in whole articles, before the next one's turn; 0: one article. What a
    memory keeps of an article (memory.reset stream) helps only where articles of one kind follow each other."""
    start: str | None = bounded(None, omit_default=True)
    """Folder of another run: start at the g that it learned under the same name, with the options of that one, in place
    of a tuned rule. With tokens 0 it is taken as it is."""
    lanes: int = bounded(1, 1, LARGEST_LANES)
    """Articles read side by side, over all processes; each lane has weights of its own."""
    window: int = bounded(50, 1, LARGEST_SEGMENT)
    """Segments of all lanes whose meta-gradients are averaged for one step of phi."""
    lr: float = bounded(0.02)
    """Adam's learning rate for the logarithms of the learning rates."""
    bound: float = bounded(2.0)
    """Largest distance of a log learning rate from its start, in nats."""
    average: float = bounded(0.98, 0, 0.9999)
    """Decay of the Polyak average of phi."""
    pick_tokens: int = bounded(40000)
    """Tokens of the tuning articles that decide between the start and what was learned; 0 reads all of them."""
    seed: int | None = bounded(None, 0, LARGEST_SEED, omit_default=True)
    """Seed of what is learned: the order of the articles, a gate's start and batches; unset: run.seed. The base model,
    R and tuned rates do not depend on it."""
    checkpoint_every: int = bounded(20, 1, affects_result=False)
    """Windows between checkpoints."""

    def seed_or(self, otherwise: int) -> int:
        """Return the seed of what is learned, ``otherwise`` (run.seed) where it is unset."""
        return otherwise if self.seed is None else self.seed


@dataclass
class FinetuneOptions(Section):
    """Training the static parameters further, by the loss that remains when memory.rule adapts them while reading."""

    SECTION = "finetune"
    COMMON = "name tokens lr pick_rule"

    name: str | None = None
    """The new run, beside the one that it starts from; unset: RUN-finetuned-RULE."""
    split: Literal["train", "meta"] = "train"
    """Articles that are read; meta: those kept from level-1 training."""
    tokens: int = bounded(200000)
    """Tokens read; the articles are read again from the first when they end."""
    lanes: int = bounded(4, 1, LARGEST_LANES)
    """Articles read side by side, over all processes; each lane has weights of its own."""
    window: int = bounded(32, 1, LARGEST_SEGMENT)
    """Segments of all lanes whose gradients are averaged for one step."""
    lr: float = bounded(1e-4)
    """Adam's learning rate for the static parameters."""
    average: float = bounded(0.98, 0, 0.9999)
    """Decay of their Polyak average."""
    phi: bool = False
    """memory.rule meta: learn g's phi in the same pass, with metatrain's learning rate and bound."""
    pick_rule: str | None = None
    """Rule that reads the tuning articles to choose between start, halfway and end; unset: memory.rule."""
    pick_tokens: int = bounded(40000)
    """Tokens of the tuning articles that it reads; 0 reads all of them."""
    tune: bool = False
    """Recompute R and tune rms for the new run; false takes over those of the run that it starts from."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name is not None:
            plain_name("finetune.name", self.name)
        if self.pick_rule is not None:
            RULES[self.pick_rule]
