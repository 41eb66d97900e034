"""Every option, in documented dataclasses: read alike from YAML, from dotted options and from Python.

``Config`` is what a run folder keeps. Checks that need two options name both.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from dynlm.errors import UserError

RULES = ("none", "sgd", "sgd+decay", "rms", "meta")
RESETS = ("stream", "article")
CACHES = ("none", "fixed", "learned")
FEATURES = ("fresh", "settling", "heading", "surprise", "steepness", "distance")
LARGEST = 10**12
"""No number among the options is larger; most have a smaller bound of their own."""
LARGEST_LANES = 10_000
LARGEST_SEGMENT = 100_000
LARGEST_WIDTH = 65_536
LARGEST_SEED = 2**32 - 1
LARGEST_WINDOW = 1_000_000
SMALLEST_FLATNESS, LARGEST_FLATNESS = 1e-6, 1e4
"""Tokens of a cache, whose features are all in memory."""
ORDERS = ("in order", "shuffled")
HUB_WIKITEXT = ("wikitext-2", "wikitext-2-raw", "wikitext-103", "wikitext-103-raw")


def one_of(option: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise UserError unless the option's value is one of ``allowed``."""
    if value not in allowed:
        raise UserError(f"{option} is {value!r}", do=f"choose one of {', '.join(allowed)}")


def within(option: str, value: float, low: float = 0, high: float = LARGEST) -> None:
    """Raise UserError unless the option's value is from ``low`` to ``high``; NaN and infinities never are."""
    if not low <= value <= min(high, LARGEST):
        bounds = f"at least {low:g}" if high >= LARGEST and value < low else f"from {low:g} to {high:g}"
        raise UserError(f"{option} is {_shortened(value)}", do=f"choose a value {bounds}")


def check_values(section: str, options: object) -> None:
    """Raise UserError, naming the option, where a number is below 0, over ``LARGEST`` or not finite, or text cannot be
    written as UTF-8. What a number may be more narrowly is for the section itself.
    """
    for name, value in vars(options).items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, int | float):
                within(f"{section}.{name}", one)
            elif isinstance(one, str) and not is_utf8(one):
                raise UserError(f"{section}.{name} is {_shortened(one)}", do="write text that UTF-8 has")


def is_utf8(text: str) -> bool:
    """Whether ``text`` can be written as UTF-8: it has no lone surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def plain_name(option: str, value: str) -> None:
    """Raise UserError unless the option's value, which names a file or folder, cannot lead out of where it is put."""
    if not value or value.startswith(".") or not value.isprintable() or set(value) & set("/\\:"):
        raise UserError(f"{option} is {value!r}", do="choose a plain name without slashes")


@dataclass
class CorpusConfig:
    """Where the articles come from and how they are split."""

    source: str = "stdlib"
    """stdlib (embedded), wikitext-2[-raw], wikitext-103[-raw], or a hub data set as owner/name."""
    path: str | None = None
    """A local file or folder; where it is set it is read in place of source."""
    format: str = "auto"
    """Format of local files: auto, wikitext, text (one file an article), jsonl or parquet."""
    subset: str | None = None
    """Configuration of a hub data set, such as 20231101.en."""
    text_field: str = "text"
    """Field with the text, in JSON lines, Parquet and hub data sets."""
    title_field: str = "title"
    """Field with the title, where there is one."""
    limit: int | None = None
    """Read at most this many articles of each split."""
    hold_out_every: int = 12
    """Of a source without valid and test splits, every n-th article goes to each."""
    meta_every: int = 20
    """Every n-th training article is kept from the LSTM, for meta-training."""
    num_proc: int = 1
    """Processes that turn text into tokens; the tokens are the same for any number."""

    def __post_init__(self) -> None:
        check_values("corpus", self)
        one_of("corpus.format", self.format, ("auto", "wikitext", "text", "jsonl", "parquet"))
        within("corpus.hold_out_every", self.hold_out_every, 3)
        within("corpus.meta_every", self.meta_every, 2)
        within("corpus.num_proc", self.num_proc, 1, 1024)
        if self.limit is not None:
            within("corpus.limit", self.limit, 1)


@dataclass
class TokenizerConfig:
    """How text becomes tokens."""

    kind: str = "bpe"
    """bpe or unigram (SentencePiece, any text round-trips), or word (white space; for figures of the literature)."""
    vocab_size: int = 4000
    """Number of pieces; a word vocabulary keeps at most this many types, 0 keeps all."""
    character_coverage: float = 0.9995
    """Share of the characters met in training that get a piece; the others are spelt in bytes."""
    training_characters: int = 50_000_000
    """Pieces are learned from the first articles with so many characters; word vocabularies from all of them."""

    def __post_init__(self) -> None:
        check_values("tokenizer", self)
        one_of("tokenizer.kind", self.kind, ("bpe", "unigram", "word"))
        within("tokenizer.character_coverage", self.character_coverage, 0.9, 1.0)
        within("tokenizer.training_characters", self.training_characters, 1)
        within("tokenizer.vocab_size", self.vocab_size, 0 if self.kind == "word" else 300, 1_000_000)


@dataclass
class ModelConfig:
    """The shape of the LSTM."""

    embedding: int = 192
    """Width of the token embedding (and of the last layer where the embeddings are tied)."""
    hidden: int = 192
    """Width of the layers before the last."""
    layers: int = 1
    """Number of LSTM layers."""
    tied: bool = True
    """Whether the output layer shares the embedding's weights."""

    def __post_init__(self) -> None:
        check_values("model", self)
        for name in ("embedding", "hidden"):
            within(f"model.{name}", getattr(self, name), 1, LARGEST_WIDTH)
        within("model.layers", self.layers, 1, 100)


@dataclass
class RegularisationConfig:
    """The AWD-LSTM's regularisers (Merity et al. 2018); 0 switches one off."""

    embedding: float = 0.0
    """Embedding dropout: probability that a type's whole row is zero in a batch."""
    input: float = 0.0
    """Variational dropout on the embedded tokens."""
    between: float = 0.0
    """Variational dropout between layers."""
    output: float = 0.0
    """Variational dropout before the softmax."""
    weight: float = 0.0
    """Weight drop on the hidden-to-hidden matrices."""
    activation: float = 0.0
    """Weight of the L2 penalty on the (dropped) outputs."""
    temporal_activation: float = 0.0
    """Weight of the L2 penalty on the outputs' change from step to step."""

    def __post_init__(self) -> None:
        check_values("regularisation", self)
        for name in ("embedding", "input", "between", "output", "weight"):
            within(f"regularisation.{name}", getattr(self, name), 0.0, 0.99)
        for name in ("activation", "temporal_activation"):
            within(f"regularisation.{name}", getattr(self, name), 0.0)


@dataclass
class PretrainConfig:
    """Level-1 training."""

    epochs: float = 3.0
    """Passes over the training tokens."""
    lanes: int = 16
    """Articles read side by side in a batch, over all processes."""
    segment: int = 64
    """Tokens of each lane between two truncations of the gradient."""
    accumulate: int = 1
    """Batches whose gradients are summed before a step."""
    optimizer: str = "adamw"
    """adamw (warm-up, then cosine decay) or nt-asgd (constant rate, averaging once validation stalls)."""
    rate: float = 3e-3
    """Peak learning rate."""
    final_rate: float = 0.01
    """The cosine's end, as a share of the peak."""
    warmup_steps: int = 200
    """Steps of linear warm-up."""
    weight_decay: float = 0.01
    """Decoupled weight decay."""
    clip: float = 1.0
    """Largest norm of the gradient of the mean nats per token; 0 does not clip."""
    validate_every: int = 500
    """Steps between validations."""
    validate_tokens: int = 20000
    """Tokens of the validation split read at each; 0 reads all."""
    patience: int = 5
    """nt-asgd: validations without improvement before averaging begins."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    log_every: int = 50
    """Steps between lines of the log."""

    def __post_init__(self) -> None:
        check_values("pretrain", self)
        one_of("pretrain.optimizer", self.optimizer, ("adamw", "nt-asgd"))
        within("pretrain.epochs", self.epochs, 0, 1_000_000)
        within("pretrain.lanes", self.lanes, 1, LARGEST_LANES)
        within("pretrain.segment", self.segment, 1, LARGEST_SEGMENT)
        for name in ("accumulate", "validate_every", "checkpoint_every", "log_every", "patience"):
            within(f"pretrain.{name}", getattr(self, name), 1)
        for name in ("rate", "final_rate", "warmup_steps", "weight_decay", "clip", "validate_tokens"):
            within(f"pretrain.{name}", getattr(self, name), 0)


@dataclass
class MemoryConfig:
    """The medium-term memory: which weights move, by which rule, and when they start afresh."""

    rule: str = "rms"
    """none (level 1), sgd, sgd+decay, rms (Krause et al. 2018) or meta (the learned g, started at rms)."""
    g: str = "meta"
    """rule meta: the name that g was learned under (see the options of g)."""
    reset: str = "stream"
    """stream: the dynamic weights run through the whole text; article: they start afresh with each article."""
    segment: int = 20
    """Tokens read between two updates."""
    lanes: int = 1
    """Articles read side by side, each with weights of its own; several need reset article, or no rule and no cache."""
    dynamic: list[str] = field(default_factory=lambda: ["*"])
    """Patterns of the tensors that move (see dynlm compare --json or the run's model.json for their names)."""
    rate: float | None = None
    """Learning rate eta; unset: the tuned one of the run."""
    pull: float | None = None
    """Pull lambda toward the static parameters; unset: the tuned one of the run."""
    epsilon: float | None = None
    """rms: what is added to the root mean square of the gradients; unset: the tuned one of the run."""
    precision: str = "float32"
    """Type of matrix products' operands: float32, or bfloat16 (weights, updates and losses stay float32)."""

    cache: str = "none"
    """none, fixed (Grave et al. 2017) or learned (a gate decides on the cache's share, token by token)."""
    cache_window: int | None = None
    """Tokens that the cache holds; unset: the tuned number of the run."""
    cache_flatness: list[float] | None = None
    """What likeness is multiplied by: one number, or with a gate several; unset: tuned (for a gate: around that)."""
    cache_share: float | None = None
    """A fixed cache's share of the prediction; unset: the tuned one of the run."""
    no_regret: bool = False
    """Mix a rule that learns with level 1, token by token by fixed share; what level 1 gains is lost by no more than
    about switch_share / 2 nats a token. It takes level 1's reading beside the rule's."""
    switch_share: float = 1e-3
    """no_regret: the weight shared out evenly after each token; 0.001 costs up to 0.0005 nats a token, and 7.6 nats for
    each time that the better reader changes."""
    track: bool = False
    """Write into the score file how far the dynamic weights are from the static ones, for the report's curves, and how
    large updates were beside the weights."""
    guard: bool = True
    """Take no update that is no finite number or over ten times as large as its tensor, and go back to static weights
    where a segment costs 30 nats a token more than chance; the score file counts both (dynlm.adapt.update_filter)."""
    capture: bool = True
    """On a GPU: record a segment's kernels once and replay them (CUDA graphs) instead of starting them one by one."""
    kernels: str = "torch"
    """torch, or native: C++ compiled on first use, for a CPU (needs g++ and pip install dynlm[native])."""

    def __post_init__(self) -> None:
        check_values("memory", self)
        one_of("memory.rule", self.rule, RULES)
        one_of("memory.reset", self.reset, RESETS)
        plain_name("memory.g", self.g)
        within("memory.segment", self.segment, 1, LARGEST_SEGMENT)
        within("memory.lanes", self.lanes, 1, LARGEST_LANES)
        if self.lanes > 1 and (self.rule, self.cache) != ("none", "none") and self.reset == "stream":
            raise UserError(
                f"memory.lanes is {self.lanes}, but under memory.reset 'stream' each article is read after the last",
                do="choose --memory.reset article, or --memory.lanes 1",
            )
        self._check_cache()
        within("memory.switch_share", self.switch_share, 1e-9, 1)
        one_of("memory.kernels", self.kernels, ("torch", "native"))
        if self.kernels == "native" and self.precision != "float32":
            raise UserError(
                f"memory.kernels is 'native', whose products are not in memory.precision {self.precision!r}",
                do="choose --memory.precision float32, or --memory.kernels torch",
            )
        one_of("memory.precision", self.precision, ("float32", "bfloat16"))
        for name in ("rate", "pull"):
            if (value := getattr(self, name)) is not None:
                within(f"memory.{name}", value, 0)
        if self.epsilon is not None:
            within("memory.epsilon", self.epsilon, 1e-12)
        if not self.dynamic:
            raise UserError("memory.dynamic is empty", do="name at least one tensor, or choose --memory.rule none")

    def _check_cache(self) -> None:
        one_of("memory.cache", self.cache, CACHES)
        if self.cache_window is not None:
            within("memory.cache_window", self.cache_window, 1, LARGEST_WINDOW)
        if self.cache_share is not None:
            within("memory.cache_share", self.cache_share, 0, 0.99)
        for flatness in self.cache_flatness or ():
            within("memory.cache_flatness", flatness, SMALLEST_FLATNESS, LARGEST_FLATNESS)
        if self.cache_flatness is not None and not self.cache_flatness:
            raise UserError("memory.cache_flatness is empty", do="name a number, or leave it out")
        if self.cache == "fixed" and len(self.cache_flatness or [1]) > 1:
            raise UserError(
                "memory.cache_flatness has several numbers", do="name one, or choose --memory.cache learned"
            )


@dataclass
class TuneConfig:
    """The search for the hand-made rules' rates, on articles that no figure is reported on."""

    split: str = "valid"
    """Split whose articles are read."""
    articles: str = "1-30"
    """Which of its articles, counted from 1."""
    tokens: int = 40000
    """Tokens read for each setting; 0 reads all of them."""
    statistics_tokens: int = 40000
    """Training tokens read for the gradient statistics R."""
    rounds: int = 2
    """Passes of the coordinate search over rate, pull and epsilon."""
    fewest_tokens: int = 2000
    """Of the tuning articles: rates found on fewer may make reading worse, and are refused."""

    def __post_init__(self) -> None:
        check_values("tune", self)
        one_of("tune.split", self.split, ("train", "valid", "test"))
        within("tune.rounds", self.rounds, 0, 1000)
        within("tune.statistics_tokens", self.statistics_tokens, 1)


@dataclass
class MetatrainConfig:
    """Meta-training of g's parameters phi, on training articles that the LSTM has not seen."""

    tokens: int = 100000
    """Tokens read; the articles are read again from the first when they end."""
    lanes: int = 1
    """Articles read side by side, over all processes; each lane has weights of its own."""
    window: int = 50
    """Segments of all lanes whose meta-gradients are averaged for one step of phi."""
    rate: float = 0.02
    """Adam's learning rate for the logarithms of the rates."""
    bound: float = 2.0
    """Largest distance of a log-rate from its start, in nats."""
    average: float = 0.98
    """Decay of the Polyak average of phi."""
    pick_tokens: int = 40000
    """Tokens of the tuning articles that decide between the start and what was learned; 0 reads all of them."""
    checkpoint_every: int = 20
    """Windows between checkpoints."""

    def __post_init__(self) -> None:
        check_values("metatrain", self)
        for name in ("tokens", "rate", "bound", "pick_tokens"):
            within(f"metatrain.{name}", getattr(self, name), 0)
        within("metatrain.window", self.window, 1, LARGEST_SEGMENT)
        within("metatrain.checkpoint_every", self.checkpoint_every, 1)
        within("metatrain.lanes", self.lanes, 1, LARGEST_LANES)
        within("metatrain.average", self.average, 0, 0.9999)


@dataclass
class GConfig:
    """What the learned rule g may look at and move; it starts at the tuned rms rule whatever it may."""

    kind: str = "rates"
    """rates, by the options below; lstm: the LSTM meta-learner (Ravi & Larochelle 2017), a gate state for every weight:
    a comparison, which reads some thirty times slower than rms."""
    hidden: int = 4
    """kind lstm: width of its state."""
    level: int = 3
    """3: the static parameters pull back; 2: they do not (a flush then goes to the slow weights of consolidation)."""
    sharing: str = "tensor"
    """Which weights share a rate and a pull: those of a tensor, of a row, or none (weight)."""
    importance: bool = False
    """Rates and pulls go with a power, learned for each tensor, of each weight's Fisher importance."""
    features: list[str] = field(default_factory=list)
    """What gates of rates and pulls look at: fresh, settling, heading, surprise, steepness, distance."""
    flush: bool = False
    """Each tensor goes a learned share of the way home when an article begins (matters for memory.reset stream)."""
    consolidation: float = 0.0
    """Share of what an article taught that is taken into home at its end; with g.slow it is where learning starts."""
    slow: bool = False
    """Two time scales: each tensor's consolidation is learned, and how far what earlier articles left fades at an
    article's end (matters for memory.reset stream)."""
    momentum: float = 0.0
    """Decay of the running sum of gradients that steps are by; not learned."""

    def __post_init__(self) -> None:
        check_values("g", self)
        one_of("g.kind", self.kind, ("rates", "lstm"))
        within("g.hidden", self.hidden, 1, 1024)
        if self.kind == "lstm":
            plain = vars(GConfig())
            for name, value in vars(self).items():
                if name not in ("kind", "hidden") and value != plain[name]:
                    raise UserError(f"g.{name} does not go with g.kind 'lstm'", do="leave it out")
        if self.level not in (2, 3):
            raise UserError(f"g.level is {self.level}", do="choose 2 or 3")
        one_of("g.sharing", self.sharing, ("tensor", "row", "weight"))
        for feature in self.features:
            one_of("g.features", feature, FEATURES)
        if self.level == 2 and self.flush and not self.consolidation:
            raise UserError(
                "g.level is 2, which nothing takes back to the static parameters, and g.flush would",
                do="choose g.level 3, or give it slow weights of its own to go back to with g.consolidation",
            )
        within("g.consolidation", self.consolidation, 0, 1)
        within("g.momentum", self.momentum, 0, 0.99)


@dataclass
class FinetuneConfig:
    """Training the static parameters further by what they cost while memory.rule moves the weights away from them."""

    name: str | None = None
    """The new run, beside the one that it starts from; unset: RUN-finetuned-RULE."""
    split: str = "train"
    """Articles that are read: train, or meta, those kept from the LSTM."""
    tokens: int = 200000
    """Tokens read; the articles are read again from the first when they end."""
    lanes: int = 4
    """Articles read side by side, over all processes; each lane has weights of its own."""
    window: int = 32
    """Segments of all lanes whose gradients are averaged for one step."""
    rate: float = 1e-4
    """Adam's learning rate for the static parameters."""
    average: float = 0.98
    """Decay of their Polyak average."""
    phi: bool = False
    """memory.rule meta: learn g's phi in the same reading, by metatrain's rate and bound."""
    pick_rule: str | None = None
    """Rule that reads the tuning articles to choose between start, halfway and end; unset: memory.rule."""
    pick_tokens: int = 40000
    """Tokens of the tuning articles that it reads; 0 reads all of them."""
    tune: bool = False
    """Gather R and tune rms anew for the new run; false takes over those of the run that it starts from."""

    def __post_init__(self) -> None:
        check_values("finetune", self)
        one_of("finetune.split", self.split, ("train", "meta"))
        if self.name is not None and (not self.name or "/" in self.name or self.name.startswith(".")):
            raise UserError(f"finetune.name is {self.name!r}", do="choose a plain folder name")
        if self.pick_rule is not None:
            one_of("finetune.pick_rule", self.pick_rule, RULES)
        for name in ("tokens", "rate", "pick_tokens"):
            within(f"finetune.{name}", getattr(self, name), 0)
        within("finetune.window", self.window, 1, LARGEST_SEGMENT)
        within("finetune.lanes", self.lanes, 1, LARGEST_LANES)
        within("finetune.average", self.average, 0, 0.9999)


@dataclass
class RunConfig:
    """The run's folder and what it runs on."""

    name: str = "demo"
    """The run's name: its folder is runs/NAME."""
    folder: str = "runs"
    """Folder of all runs."""
    seed: int = 0
    """Seed of every random number."""
    precision: str = "no"
    """accelerate's mixed precision: no or bf16."""
    cpu: bool = False
    """Stay on the CPU even where there is a GPU."""
    checkpoint_seconds: float = 60.0
    """Seconds of a scoring between two checkpoints; one that takes less writes none. 0: after each segment."""
    tracker: str | None = None
    """A tracker of accelerate's that is installed: tensorboard, wandb or trackio."""
    checkpoints_kept: int = 2
    """How many of the newest checkpoints stay while work is under way; when it is done, none does."""
    patience: float = 50.0
    """Several processes: seconds that one may be behind in training before the others take it for dead and end."""

    def __post_init__(self) -> None:
        check_values("run", self)
        one_of("run.precision", self.precision, ("no", "bf16"))
        within("run.seed", self.seed, 0, LARGEST_SEED)
        within("run.checkpoint_seconds", self.checkpoint_seconds, 0)
        plain_name("run.name", self.name)
        within("run.checkpoints_kept", self.checkpoints_kept, 1)
        within("run.patience", self.patience, 1)


@dataclass
class Config:
    """All of a run's options; ``runs/NAME/config.yaml`` keeps them."""

    run: RunConfig = field(default_factory=RunConfig)
    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    regularisation: RegularisationConfig = field(default_factory=RegularisationConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    tune: TuneConfig = field(default_factory=TuneConfig)
    g: GConfig = field(default_factory=GConfig)
    metatrain: MetatrainConfig = field(default_factory=MetatrainConfig)
    finetune: FinetuneConfig = field(default_factory=FinetuneConfig)


CHANGE_NOTHING = frozenset({"corpus.num_proc", "pretrain.checkpoint_every", "metatrain.checkpoint_every"})
"""Options of how a result is come to, not of what it is: work that was stopped goes on whatever they are."""


def fingerprint_options(config: Config, *sections: str) -> dict[str, Any]:
    """The options of these sections that decide on a result, by their full names."""
    options = {f"{name}.{option}": value for name in sections for option, value in vars(getattr(config, name)).items()}
    return {name: value for name, value in options.items() if name not in CHANGE_NOTHING}


def article_range(text: str | None, count: int, option: str = "articles") -> list[int]:
    """The articles that ``text`` names, as sorted indices from 0 into ``count`` articles, each once.

    ``"31-60"``, ``"7"``, with an open end ``"31-"`` or ``"-30"``, or several of these with commas between them; None or
    ``"all"`` is all. Raises UserError where the text is no such list, a range ends before it begins, or one reaches
    past the last article.
    """
    if text is None or text == "all":
        return list(range(count))
    told = f"{option} is {_shortened(text)}"
    chosen: set[int] = set()
    for part in text.split(","):
        if (found := _RANGE.fullmatch(part)) is None or part in ("", "-"):
            raise UserError(told, do="write FIRST-LAST counted from 1, several with commas between them, or all")
        first, dash, last = found.groups()
        # Digits by the thousand are no number of an article, and Python refuses to convert them.
        low, high = (int(end.lstrip("0")[:20] or 0) if end else None for end in (first, last))
        low = 1 if low is None else low
        high = (count if dash else low) if high is None else high
        if not 1 <= low <= count or high > count:
            raise UserError(f"{told} but there are {count} articles", do=f"choose within 1-{count}")
        if high < low:
            raise UserError(f"{told}, which ends before it begins", do="write the lower number first")
        chosen.update(range(low - 1, high))
    return sorted(chosen)


_RANGE = re.compile(r"([0-9]*)(-?)([0-9]*)")
_Section = TypeVar("_Section")
_Options = TypeVar("_Options")


def options_of(kind: type[_Options], content: object) -> _Options:
    """A dataclass of sections from a file's content. Raises UserError, naming the option, as ``section_of`` does."""
    if not isinstance(content, dict):
        raise UserError(f"the whole is {_shortened(content)}", do="write sections of options")
    sections = get_type_hints(kind)
    if unknown := [name for name in content if name not in sections]:
        raise UserError(f"there is no section {_shortened(unknown[0])}", do="take it out")
    return kind(**{name: section_of(name, sections[name], values) for name, values in content.items()})


def section_of(section: str, kind: type[_Section], values: object) -> _Section:
    """One section's options, read from a file: like ``kind(**values)``, but every value has to be of its option's type.

    Raises UserError, naming the option, where one is unknown, of another type, or refused by the section itself.
    """
    if not isinstance(values, dict):
        raise UserError(f"{section} is {_shortened(values)}", do="write options and their values")
    hints = get_type_hints(kind)
    for name, value in values.items():
        if name not in hints:
            raise UserError(f"{section} has no option {_shortened(name)}", do="take it out")
        if not is_of(value, hints[name]):
            wanted = getattr(hints[name], "__name__", str(hints[name]))
            raise UserError(f"{section}.{name} is {_shortened(value)}", do=f"write {wanted}")
    return kind(**values)


def is_of(value: object, hint: Any) -> bool:
    """Whether a value of a file can be an option of this type; a whole number may stand for a float."""
    kind, arguments = get_origin(hint) or hint, get_args(hint)
    if kind is Any:
        return True
    if kind in (Union, UnionType):
        return any(is_of(value, one) for one in arguments)
    if kind is list:
        return isinstance(value, list) and all(is_of(one, arguments[0]) for one in value)
    if kind is dict:
        return isinstance(value, dict)
    if isinstance(value, bool):
        return kind is bool
    if kind is float and isinstance(value, int):
        return abs(value) < 2**1023
    return isinstance(value, kind) and (not isinstance(value, str) or is_utf8(value))


def _shortened(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python does not write out whole numbers of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:60]}..."
