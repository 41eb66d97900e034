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

from dynlm.data.articles import iter_articles, source_name, splits_with_articles
from dynlm.data.batch import to_batch
from dynlm.data.spool import content_of, spool
from dynlm.data.stream import Stream
from dynlm.data.token_store import tokenise
from dynlm.data.tokenised_split import TokenisedSplit
from dynlm.data.tokenizers.store import train_tokenizer
from dynlm.data.tokenizers.tokenizer import Tokenizer
from dynlm.errors import UserError
from dynlm.models.lstm.model import LSTMLanguageModel, Params, detached, restarted
from dynlm.models.lstm.regularisers import Regularisers
from dynlm.run import folder as run_folder
from dynlm.run.provenance import made_with, record_sitting, refuse_other_data
from dynlm.runtime.checkpoints import Checkpoints
from dynlm.runtime.distributed import Processes
from dynlm.runtime.files import exclusive
from dynlm.runtime.perplexity import perplexity
from dynlm.runtime.signals import StopRequest, stop_requests
from dynlm.train.config import Config
from dynlm.train.optimizers import Optimiser, first_broken, rate_at, update_to_weight
from dynlm.train.pretrain_state import Progress, checkpoints_of, finished, resume, save


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
    with spool(iter_articles(corpus, "train")) as train, spool(iter_articles(corpus, "valid")) as valid:
        tokenizer = train_tokenizer(config.tokenizer, train.texts(), train.fingerprint)
        read, held_out = (tokenise(texts, tokenizer, corpus.num_proc) for texts in (train, valid))
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


def pretrain(config: Config, quiet: bool = False) -> dict[str, Any]:
    """Train level 1 into the run's folder, resuming from its newest checkpoint.

    Returns what the model's card says of the training: steps, tokens, seconds and the whole validation split's loss.
    Raises UserError for a corpus that cannot be read, a run folder that was made with other options, or a training
    that diverges, or that another process trains, and Stopped, with a checkpoint saved, where it is asked to stop.
    """
    folder = run_folder.run_path(config.run)
    with exclusive(folder, "this run"):
        return _pretrain(folder, config, quiet)


def _pretrain(folder: Path, config: Config, quiet: bool) -> dict[str, Any]:
    _check_tracker(config.run.tracker)
    processes = Processes.start(config.run.cpu)
    accelerator = Accelerator(
        cpu=config.run.cpu,
        mixed_precision=config.run.precision,
        log_with=config.run.tracker,
        project_dir=folder,
    )
    if (card := finished(config, processes)) is not None:
        return card
    with processes.main_process_first():
        corpus = load_corpus(config)
    model = LSTMLanguageModel(config.model, corpus.tokenizer.size)
    set_seed(config.run.seed)
    if processes.is_main:
        refuse_other_data(folder, corpus.content)
    if config.run.tracker:
        accelerator.init_trackers("dynlm", config={"options": str(dataclasses.asdict(config))})
    checkpoints = checkpoints_of(config)
    with processes.in_step(config.run.patience) as in_step, stop_requests() as request:
        at = _train(config, accelerator, in_step, checkpoints, request, model, corpus, quiet)
    valid_nats, valid_tokens = validate(model, at.optimiser.current(), corpus.valid, 0)
    words = int(corpus.valid.words_N.sum(dtype="int64"))
    about = {
        "corpus": source_name(config.corpus),
        "steps": at.step,
        "tokens": at.place.tokens,
        "seconds": round(at.seconds, 1),
        "processes": processes.world,
        "valid_nats_per_token": valid_nats / valid_tokens,
        "valid_perplexity_per_word": perplexity(valid_nats, words),
    }
    if processes.is_main:
        run_folder.save_model(folder, model, at.optimiser.current(), corpus.tokenizer, about)
        run_folder.log_line(folder, event="pretrained", **about)
        checkpoints.drop()
    accelerator.end_training()
    return about


def _train(
    config: Config,
    accelerator: Accelerator,
    processes: Processes,
    checkpoints: Checkpoints,
    request: StopRequest,
    model: LSTMLanguageModel,
    corpus: Corpus,
    quiet: bool,
) -> Progress:
    options, device, folder, world = config.pretrain, processes.device, run_folder.run_path(config.run), processes.world
    fresh = model.initial_params(torch.Generator().manual_seed(config.run.seed))
    params = {name: tensor.to(device).requires_grad_() for name, tensor in fresh.items()}
    optimiser = Optimiser(params, options)
    # The same in every process.
    generator = torch.Generator(device).manual_seed(config.run.seed + 1)
    regularisers = Regularisers(config.regularisation, generator, processes.rank, processes.world)
    if options.lanes % processes.world:
        raise UserError(
            f"pretrain.lanes is {options.lanes}", do=f"choose a multiple of the {processes.world} processes"
        )
    stream = Stream(
        corpus.train,
        options.lanes,
        options.segment,
        range(corpus.train.articles),
        seed=config.run.seed,
        repeat=True,
        rank=processes.rank,
        world=world,
    )
    goal = max(1, round(options.epochs * len(corpus.train.ids_N)))
    nothing = torch.zeros((), device=device)
    hidden = model.initial_hidden(stream.local_lanes, params["embedding"])
    at = Progress(params, optimiser, stream.begin(), hidden, nothing)
    resumed = resume(checkpoints, at, generator, processes)
    if processes.is_main:
        # Written once the checkpoint is taken up: they are of the model that is trained.
        record_sitting(folder, corpus.content, made_with(device))
        corpus.tokenizer.save(folder / "tokenizer")
        run_folder.save_config(folder, config)
    if resumed and processes.is_main:
        run_folder.log_line(folder, event="resumed", step=at.step, checkpoint=resumed.name)
    bar = tqdm(
        total=goal,
        initial=at.place.tokens,
        unit="tok",
        unit_scale=True,
        desc="pretrain",
        disable=quiet or not processes.is_main,
    )
    begun = time.monotonic() - at.seconds
    # Batches shrink a little where articles end, so the number of steps is foreseen from the tokens, not counted.
    while at.place.tokens < goal:
        rate = rate_at(
            at.step, _steps_foreseen(at, goal, options.lanes * options.segment * options.accumulate), options
        )
        before = at.place.tokens
        nats = _accumulate(model, stream, at, regularisers, accelerator, options.accumulate)
        tokens = at.place.tokens - before
        norm = _mean_gradients(params, tokens, options.clip, processes)
        if not math.isfinite(norm):
            # Before the step: no checkpoint ever holds what it would make of the weights.
            where = f"step {at.step + 1}, {first_broken(params)}"
            raise UserError(f"training diverged: the gradient's norm is {norm}", where, "lower pretrain.rate")
        logs = (at.step + 1) % options.log_every == 0 or at.place.tokens >= goal
        stepped_from = {name: tensor.detach().clone() for name, tensor in params.items()} if logs else {}
        optimiser.step(rate)
        at.step += 1
        at.seconds = time.monotonic() - begun
        at.window_nats, at.window_tokens = at.window_nats + nats, at.window_tokens + tokens
        bar.update(tokens)
        last = at.place.tokens >= goal
        if logs:
            loss = float(processes.reduce(at.window_nats)) / at.window_tokens
            if not math.isfinite(loss):
                raise UserError("training diverged: the loss is not finite", f"step {at.step}", "lower pretrain.rate")
            bar.set_postfix(nats=f"{loss:.3f}", rate=f"{rate:.1e}", refresh=False)
            line = {"loss": loss, "norm": norm, "rate": rate, "tokens": at.place.tokens, "seconds": at.seconds}
            line |= {f"update/{name}": ratio for name, ratio in update_to_weight(params, stepped_from).items()}
            _log(accelerator, folder, config, at.step, line)
            at.window_nats, at.window_tokens = nothing, 0
        if at.step % options.validate_every == 0:
            valid_nats, valid_tokens = validate(model, optimiser.current(), corpus.valid, options.validate_tokens)
            begins = optimiser.after_validation(valid_nats / valid_tokens)
            _log(accelerator, folder, config, at.step, {"valid": valid_nats / valid_tokens, "averaging": begins})
        stopping = processes.any(request.asked)
        # The last one too: what is measured after training may fail, and is not worth training again.
        if stopping or last or at.step % options.checkpoint_every == 0:
            path = save(checkpoints, at, generator, processes)
            if stopping:
                request.stop(path)
    bar.close()
    return at


def _steps_foreseen(at: Progress, goal: int, tokens_a_step: int) -> int:
    if at.step == 0:
        return math.ceil(goal / tokens_a_step)
    return math.ceil(at.step * goal / at.place.tokens)


def _accumulate(
    model: LSTMLanguageModel,
    stream: Stream,
    at: Progress,
    regularisers: Regularisers,
    accelerator: Accelerator,
    batches: int,
) -> Tensor:
    """Add the gradients of the next batches' summed nats to the parameters; returns this process's nats."""
    nats = torch.zeros((), device=accelerator.device)
    for _ in range(batches):
        before = at.place.tokens
        segment, at.place = stream.next(at.place)
        assert segment is not None, "a repeating stream has no end"
        batch = to_batch(segment, at.params["embedding"])
        hidden = restarted(at.hidden, batch.starts_B)
        with accelerator.autocast():
            # Penalties are means over the lanes: this process's share of those of all is as large as the others'.
            tokens = (at.place.tokens - before) / stream.world
            total, nats_BT, hidden = model.loss(
                at.params, batch.inputs_BT, batch.targets_BT, batch.mask_BT, hidden, regularisers, tokens
            )
        total.backward()
        at.hidden = detached(hidden)
        nats += (nats_BT * batch.mask_BT).sum()
    return nats


def _mean_gradients(params: Params, tokens: int, clip: float, processes: Processes) -> float:
    """Sum the gradients over processes, divide them once by all tokens, clip; returns the norm before clipping.

    Where that is no number they are not clipped: it would spread to all of them.
    """
    tensors, gradients = list(params.values()), list[Tensor]()
    for tensor in tensors:
        assert tensor.grad is not None
        tensor.grad = processes.reduce(tensor.grad)
        tensor.grad /= tokens
        gradients.append(tensor.grad)
    total = torch.nn.utils.get_total_norm(gradients)
    norm = float(total)
    if math.isfinite(norm):
        torch.nn.utils.clip_grads_with_norm_(tensors, clip if clip else math.inf, total)
    return norm


def _log(accelerator: Accelerator, folder: Path, config: Config, step: int, fields: dict[str, Any]) -> None:
    if accelerator.is_main_process:
        run_folder.log_line(folder, event="step", step=step, **fields)
    if config.run.tracker:
        accelerator.log(fields, step=step)


def _check_tracker(tracker: str | None) -> None:
    installed = sorted(str(name) for name in get_available_trackers())
    if tracker is not None and tracker not in installed:
        raise UserError(
            f"run.tracker is {tracker!r}, which is not installed", do=f"choose among {', '.join(installed) or 'none'}"
        )
