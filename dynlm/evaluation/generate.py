"""Text from a model that has read a prompt, and learned from it if its rule learns."""

from __future__ import annotations

from pathlib import Path

import torch

from dynlm.config import Config
from dynlm.corpus.streams import read_in_order
from dynlm.corpus.tokens import split_of_text
from dynlm.errors import UserError
from dynlm.memory.unroll import unroll
from dynlm.training.memory_folder import open_reader
from dynlm.training.processes import Processes
from dynlm.training.run_folder import load_model


@torch.no_grad()
def generate(folder: Path, config: Config, prompt: str, tokens: int, temperature: float = 0.8, top: int = 40) -> str:
    """Read ``prompt`` as an article's opening by ``config.memory``, then sample ``tokens`` tokens that follow it.

    Each is drawn from the ``top`` likeliest (0: all) at ``temperature`` (0: always the likeliest), from the run's
    seed. What is generated is not learned from, and a mixture's weights stay those of the prompt's end. Raises
    UserError for options out of their range.
    """
    if tokens < 1 or temperature < 0 or top < 0:
        raise UserError("generate needs tokens of at least 1, and temperature and top of at least 0")
    if config.memory.cache != "none":
        raise UserError("generate has no cache", do="leave out --memory.cache")
    trained = load_model(folder, Processes.start(config.run.cpu).device)
    reader = open_reader(folder, trained, config.memory)
    memory = reader.fresh_memory()
    text = split_of_text(prompt, trained.tokenizer)
    last = trained.tokenizer.start
    if len(text.ids_N):
        for read in unroll(reader, read_in_order(text, config.memory.segment, [0])):
            memory = read.memory
        last = int(text.ids_N[-1])
    params = {**trained.params, **memory.of_lane(0)}
    device = params["embedding"].device
    generator = torch.Generator(device).manual_seed(config.run.seed)
    hidden, hedge, generated = memory.hidden, memory.hedge, []
    for _ in range(tokens):
        token_11 = torch.tensor([[last]], device=device)
        logits_BTV, hidden = reader.model.logits(params, token_11, hidden)
        if hedge is not None:
            level_1_BTV, beside = reader.model.logits(trained.params, token_11, hedge.hidden)
            logits_BTV, hedge = hedge.log_mixture(level_1_BTV, logits_BTV), hedge._replace(hidden=beside)
        last = _draw(logits_BTV[0, 0], temperature, top, generator)
        generated.append(last)
    return trained.tokenizer.decode(generated)


def _draw(logits_V: torch.Tensor, temperature: float, top: int, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits_V.argmax())
    if top and top < len(logits_V):
        values, places = logits_V.topk(top)
        return int(places[torch.multinomial((values / temperature).softmax(-1), 1, generator=generator)])
    return int(torch.multinomial((logits_V / temperature).softmax(-1), 1, generator=generator))
