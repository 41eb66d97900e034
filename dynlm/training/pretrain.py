"""Level 1: training the static parameters theta_0.

Legend: B lanes, T tokens of a segment.

Gradients are of summed nats and divided once by the tokens they were summed over, so that accumulation and several
processes give the step that one batch with all their tokens would give.
"""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import set_seed
from torch import Tensor
from tqdm import tqdm

from dynlm.config import Config
from dynlm.corpus.articles import iter_articles, source_name, splits_with_articles
from dynlm.corpus.gathered import content_of, gathered
from dynlm.corpus.streams import Place, Stream
from dynlm.corpus.tokenizer import Tokenizer, train_tokenizer
from dynlm.corpus.tokens import TokenisedSplit, tokenise_gathered
from dynlm.errors import UserError
from dynlm.memory.batches import to_batch
from dynlm.model.lstm import Hidden, LSTMLanguageModel, Params, detached, restarted
from dynlm.model.regularisers import Regularisers
from dynlm.training import run_folder
from dynlm.training.optimisers import Optimiser, rate_at
from dynlm.training.provenance import made_with, record_sitting


@dataclass(frozen=True)
class Corpus:
    """What level-1 training reads: the tokenizer and two splits under it."""

    tokenizer: Tokenizer
    train: TokenisedSplit
    valid: TokenisedSplit
    content: dict[str, Any]
    """Articles and fingerprint of each split that the source has, those that training does not read too."""


def load_corpus(config: Config) -> Corpus:
    """Read the training and validation articles, training a tokenizer on the former (or taking it from the cache)."""
    corpus = config.corpus
    with gathered(iter_articles(corpus, "train")) as train, gathered(iter_articles(corpus, "valid")) as valid:
        tokenizer = train_tokenizer(config.tokenizer, train.texts(), train.fingerprint)
        read, held_out = (tokenise_gathered(texts, tokenizer, corpus.num_proc) for texts in (train, valid))
        content = {"train": train.content, "valid": valid.content}
    others = [split for split in splits_with_articles(corpus) if split not in content]
    content |= {split: content_of(iter_articles(corpus, split)) for split in others}
    return Corpus(tokenizer, read, held_out, content)


@torch.no_grad()
def validate(
    model: LSTMLanguageModel, params: Params, split: TokenisedSplit, tokens: int, lanes: int = 8, width: int = 128
) -> tuple[float, int]:
    """Level 1's sum of nats over the first ``tokens`` tokens or so (0: all) and the tokens read.

    Articles are independent at level 1, so reading several at once changes no loss but for rounding.
    """
    stream = Stream(split, lanes, width, range(split.articles))
    like = params["embedding"]
    place, hidden = stream.begin(), model.initial_hidden(lanes, like)
    nats = torch.zeros((), dtype=torch.float64, device=like.device)
    while True:
        segment, place = stream.next(place)
        if segment is None:
            break
        batch = to_batch(segment, like)
        hidden = restarted(hidden, batch.starts_B)
        total, _, hidden = model.loss(params, batch.inputs_BT, batch.targets_BT, batch.mask_BT, hidden)
        nats += total
        if tokens and place.tokens >= tokens:
            break
    return float(nats), place.tokens


@dataclass
class _Progress:
    """Where training stands; everything that a resumed run continues from."""

    place: Place
    hidden: Hidden
    step: int = 0
    seconds: float = 0.0


def pretrain(config: Config, quiet: bool = False) -> dict[str, Any]:
    """Train level 1 into the run's folder, resuming from its newest checkpoint.

    Returns what the model's card says of the training: steps, tokens, seconds and the whole validation split's loss.
    Raises UserError for a corpus that cannot be read, a run folder that was made with other options, or a training
    that diverges.
    """
    _check_tracker(config.run.tracker)
    accelerator = Accelerator(
        cpu=config.run.cpu,
        mixed_precision=config.run.precision,
        log_with=config.run.tracker,
        project_dir=run_folder.run_path(config),
    )
    folder = run_folder.run_path(config)
    _refuse_another_run(folder, config)
    with accelerator.main_process_first():
        corpus = load_corpus(config)
    model = LSTMLanguageModel(config.model, corpus.tokenizer.size)
    set_seed(config.run.seed)
    if accelerator.is_main_process:
        run_folder.save_config(folder, config)
        record_sitting(folder, corpus.content, made_with(accelerator.device))
        corpus.tokenizer.save(folder / "tokenizer")
    if config.run.tracker:
        accelerator.init_trackers("dynlm", config={"options": str(dataclasses.asdict(config))})
    card = _train(config, accelerator, folder, model, corpus, quiet)
    accelerator.end_training()
    return card


def _train(
    config: Config, accelerator: Accelerator, folder: Path, model: LSTMLanguageModel, corpus: Corpus, quiet: bool
) -> dict[str, Any]:
    options, device = config.pretrain, accelerator.device
    fresh = model.initial_params(torch.Generator().manual_seed(config.run.seed))
    params = {name: tensor.to(device).requires_grad_() for name, tensor in fresh.items()}
    generator = torch.Generator(device).manual_seed(config.run.seed + 1 + accelerator.process_index)
    regularisers = Regularisers(config.regularisation, generator)
    optimiser = Optimiser(params, options)
    world = accelerator.num_processes
    if options.lanes % world:
        raise UserError(f"pretrain.lanes is {options.lanes}", do=f"choose a multiple of the {world} processes")
    stream = Stream(
        corpus.train,
        options.lanes,
        options.segment,
        range(corpus.train.articles),
        seed=config.run.seed,
        repeat=True,
        rank=accelerator.process_index,
        world=world,
    )
    goal = max(1, round(options.epochs * len(corpus.train.ids_N)))
    at = _Progress(stream.begin(), model.initial_hidden(options.lanes // world, params["embedding"]))
    _resume(folder, params, optimiser, generator, at)
    bar = tqdm(
        total=goal,
        initial=at.place.tokens,
        unit="tok",
        unit_scale=True,
        desc="pretrain",
        disable=quiet or not accelerator.is_main_process,
    )
    begun, window_nats, window_tokens = time.monotonic() - at.seconds, torch.zeros((), device=device), 0
    # Batches shrink a little where articles end, so the number of steps is foreseen from the tokens, not counted.
    while at.place.tokens < goal:
        rate = rate_at(
            at.step, _steps_foreseen(at, goal, options.lanes * options.segment * options.accumulate), options
        )
        before = at.place.tokens
        nats = _accumulate(model, params, stream, at, regularisers, accelerator, options.accumulate)
        tokens = at.place.tokens - before
        norm = _mean_gradients(params, tokens, options.clip, accelerator)
        if not math.isfinite(norm):
            # Before the step: no checkpoint ever holds what it would make of the weights.
            where = f"step {at.step + 1}, {_first_broken(params)}"
            raise UserError(f"training diverged: the gradient's norm is {norm}", where, "lower pretrain.rate")
        logs = (at.step + 1) % options.log_every == 0 or at.place.tokens >= goal
        stepped_from = {name: tensor.detach().clone() for name, tensor in params.items()} if logs else {}
        optimiser.step(rate)
        at.step += 1
        at.seconds = time.monotonic() - begun
        window_nats, window_tokens = window_nats + nats, window_tokens + tokens
        bar.update(tokens)
        last = at.place.tokens >= goal
        if logs:
            loss = float(accelerator.reduce(window_nats, "sum")) / window_tokens
            if not math.isfinite(loss):
                raise UserError("training diverged: the loss is not finite", f"step {at.step}", "lower pretrain.rate")
            bar.set_postfix(nats=f"{loss:.3f}", rate=f"{rate:.1e}", refresh=False)
            line = {"loss": loss, "norm": norm, "rate": rate, "tokens": at.place.tokens, "seconds": at.seconds}
            line |= {f"update/{name}": ratio for name, ratio in _update_to_weight(params, stepped_from).items()}
            _log(accelerator, folder, config, at.step, line)
            window_nats, window_tokens = torch.zeros((), device=device), 0
        if at.step % options.validate_every == 0:
            valid_nats, valid_tokens = validate(model, optimiser.current(), corpus.valid, options.validate_tokens)
            begins = optimiser.after_validation(valid_nats / valid_tokens)
            _log(accelerator, folder, config, at.step, {"valid": valid_nats / valid_tokens, "averaging": begins})
        if at.step % options.checkpoint_every == 0 and not last and accelerator.is_main_process:
            _checkpoint(folder, params, optimiser, generator, at)
    bar.close()
    valid_nats, valid_tokens = validate(model, optimiser.current(), corpus.valid, 0)
    words = int(corpus.valid.words_N.sum(dtype="int64"))
    about = {
        "corpus": source_name(config.corpus),
        "steps": at.step,
        "tokens": at.place.tokens,
        "seconds": round(at.seconds, 1),
        "processes": world,
        "valid_nats_per_token": valid_nats / valid_tokens,
        "valid_perplexity_per_word": math.exp(valid_nats / words),
    }
    if accelerator.is_main_process:
        run_folder.save_model(folder, model, optimiser.current(), corpus.tokenizer, about)
        run_folder.drop_checkpoints(folder)
        run_folder.log_line(folder, event="pretrained", **about)
    return about


def _first_broken(params: Params) -> str:
    """The first tensor whose gradient is no number, or too large for one."""
    broken = [name for name, tensor in params.items() if tensor.grad is not None and not tensor.grad.isfinite().all()]
    return broken[0] if broken else "all tensors together"


def _update_to_weight(params: Params, before: Params) -> dict[str, float]:
    """|update| / |weights| of each tensor's last step."""
    return {
        name: float((params[name].detach() - tensor).norm() / tensor.norm().clamp(min=1e-30))
        for name, tensor in before.items()
    }


def _steps_foreseen(at: _Progress, goal: int, tokens_a_step: int) -> int:
    if at.step == 0:
        return math.ceil(goal / tokens_a_step)
    return math.ceil(at.step * goal / at.place.tokens)


def _accumulate(
    model: LSTMLanguageModel,
    params: Params,
    stream: Stream,
    at: _Progress,
    regularisers: Regularisers,
    accelerator: Accelerator,
    batches: int,
) -> Tensor:
    """Add the gradients of the next batches' summed nats to ``params``; returns this process's nats."""
    nats = torch.zeros((), device=accelerator.device)
    for _ in range(batches):
        segment, at.place = stream.next(at.place)
        assert segment is not None, "a repeating stream has no end"
        batch = to_batch(segment, params["embedding"])
        hidden = restarted(at.hidden, batch.starts_B)
        with accelerator.autocast():
            total, nats_BT, hidden = model.loss(
                params, batch.inputs_BT, batch.targets_BT, batch.mask_BT, hidden, regularisers
            )
        total.backward()
        at.hidden = detached(hidden)
        nats += (nats_BT * batch.mask_BT).sum()
    return nats


def _mean_gradients(params: Params, tokens: int, clip: float, accelerator: Accelerator) -> float:
    """Sum the gradients over processes, divide them once by all tokens, clip; returns the norm before clipping."""
    tensors = list(params.values())
    for tensor in tensors:
        assert tensor.grad is not None
        if accelerator.num_processes > 1:
            tensor.grad = accelerator.reduce(tensor.grad, "sum")
        tensor.grad /= tokens
    norm = torch.nn.utils.clip_grad_norm_(tensors, clip if clip else math.inf)
    return float(norm)


def _log(accelerator: Accelerator, folder: Path, config: Config, step: int, fields: dict[str, Any]) -> None:
    if accelerator.is_main_process:
        run_folder.log_line(folder, event="step", step=step, **fields)
    if config.run.tracker:
        accelerator.log(fields, step=step)


def _checkpoint(folder: Path, params: Params, optimiser: Optimiser, generator: torch.Generator, at: _Progress) -> None:
    tensors, state = optimiser.state()
    tensors |= {f"params/{name}": tensor for name, tensor in params.items()}
    tensors["generator"] = generator.get_state()
    for index, (h, c) in enumerate(at.hidden):
        tensors[f"hidden/{index}/h"], tensors[f"hidden/{index}/c"] = h, c
    state |= {"place": at.place.to_dict(), "step": at.step, "seconds": at.seconds, "layers": len(at.hidden)}
    run_folder.save_checkpoint(folder, at.step, tensors, state)


def _resume(folder: Path, params: Params, optimiser: Optimiser, generator: torch.Generator, at: _Progress) -> None:
    found = run_folder.newest_checkpoint(folder)
    if found is None:
        return
    tensors, state = found
    with torch.no_grad():
        for name, tensor in params.items():
            tensor.copy_(tensors[f"params/{name}"])
    optimiser.load_state(tensors, state)
    generator.set_state(tensors["generator"])
    device = params["embedding"].device
    at.hidden = tuple(
        (tensors[f"hidden/{i}/h"].to(device), tensors[f"hidden/{i}/c"].to(device)) for i in range(state["layers"])
    )
    at.place, at.step, at.seconds = Place.from_dict(state["place"]), state["step"], state["seconds"]


def _check_tracker(tracker: str | None) -> None:
    installed = sorted(str(name) for name in get_available_trackers())
    if tracker is not None and tracker not in installed:
        raise UserError(
            f"run.tracker is {tracker!r}, which is not installed", do=f"choose among {', '.join(installed) or 'none'}"
        )


def _refuse_another_run(folder: Path, config: Config) -> None:
    """A run folder is continued with the options it was begun with, and never trained over."""
    if (folder / "model.json").exists():
        raise UserError("this run is trained already", folder, "choose another --run.name or remove the folder")
    if (folder / "config.yaml").exists():
        earlier = run_folder.load_config(folder)
        if earlier.run.seed != config.run.seed:
            raise UserError(
                f"this run was begun with run.seed {earlier.run.seed}, not {config.run.seed}",
                folder,
                "choose another --run.name or remove the folder",
            )
        for section in ("corpus", "tokenizer", "model", "regularisation", "pretrain"):
            for name, value in vars(getattr(config, section)).items():
                if (before := getattr(getattr(earlier, section), name)) != value and name != "num_proc":
                    raise UserError(
                        f"this run was begun with {section}.{name} {before!r}, not {value!r}",
                        folder,
                        "choose another --run.name or remove the folder",
                    )
