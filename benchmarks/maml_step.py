"""One MAML meta-step beside `torch.func` and the packages `higher` and `torchopt`: cubic, 25 tasks, 5 inner steps.

    pip install dynlm[benchmarks]
    python -m benchmarks.maml_step [--seconds 20] [--json]

All are given the same network, start and episodes, and must give the same meta-loss and the same second-order
meta-gradient before they are timed side by side in one process. The packages are used as in their examples, with a
loop over tasks; `torch.func` as in its own example of MAML, with `vmap` over tasks and `grad` inside it. A package that
is not installed is left out. Run nothing else on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from benchmarks.machine import side_by_side
from dynlm.fewshot.learners.learner import Learned
from dynlm.fewshot.learners.maml import Maml
from dynlm.fewshot.tasks.regression import Cubic
from dynlm.fewshot.tasks.source import Episodes, EpisodeShape, seeded
from dynlm.types import Params

TASKS, STEPS, RATE = 25, 5, 0.01
WIDTHS = (1, 40, 40, 1)

Gradients = tuple[float, list[Tensor]]
"""A meta-loss, and its gradient in all parameters, in the order of ``Perceptron.shapes``."""


def dynlm_step(episodes: Episodes, start: Params) -> Callable[[], Gradients]:
    """One meta-step of ``dynlm.fewshot``."""
    learner = Maml(Maml.Options(inner_rate=RATE, inner_steps=STEPS), Cubic.problem)
    meta = {name: tensor.clone().requires_grad_() for name, tensor in start.items()}
    generator = seeded(0)

    def step() -> Gradients:
        done = learner.meta_step(Learned(meta, {}), episodes, 1.0, generator)
        return done.loss, [done.gradients[name] for name in meta]

    return step


def module_of(start: Params) -> nn.Sequential:
    """The same network as a module, for the packages that take one."""
    layers: list[nn.Module] = []
    for index, (wide_in, wide_out) in enumerate(itertools.pairwise(WIDTHS)):
        linear = nn.Linear(wide_in, wide_out)
        with torch.no_grad():
            linear.weight.copy_(start[f"linear.{index}.weight"].T)
            linear.bias.copy_(start[f"linear.{index}.bias"])
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _gradients(module: nn.Module) -> list[Tensor]:
    found = []
    for parameter in module.parameters():
        assert parameter.grad is not None
        found.append(parameter.grad.T if parameter.dim() > 1 else parameter.grad)
    return found


def vmap_step(episodes: Episodes, start: Params) -> Callable[[], Gradients]:
    """One meta-step by `vmap` over tasks of inner steps by `torch.func.grad`, as in PyTorch's example of MAML."""
    module = module_of(start)
    parameters: Params = dict(module.named_parameters())
    (support_inputs, support_targets), (query_inputs, query_targets) = episodes

    def loss(weights: Params, inputs_N: Tensor, targets_N: Tensor) -> Tensor:
        return F.mse_loss(functional_call(module, weights, (inputs_N,)), targets_N)

    def query_loss(*examples: Tensor) -> Tensor:
        weights = parameters
        for _ in range(STEPS):
            gradients = grad(loss)(weights, *examples[:2])
            weights = {name: weights[name] - RATE * gradients[name] for name in weights}
        return loss(weights, *examples[2:])

    def step() -> Gradients:
        module.zero_grad()
        total = vmap(query_loss)(support_inputs, support_targets, query_inputs, query_targets).mean()
        total.backward()
        return float(total.detach()), _gradients(module)

    return step


def higher_step(episodes: Episodes, start: Params) -> Callable[[], Gradients]:
    """One meta-step as `higher`'s own MAML example takes it."""
    import higher

    module = module_of(start)
    optimiser = torch.optim.SGD(module.parameters(), lr=RATE)
    support, query = episodes

    def step() -> Gradients:
        module.zero_grad()
        total = 0.0
        for task in range(TASKS):
            with higher.innerloop_ctx(module, optimiser, copy_initial_weights=False) as (inner, inner_optimiser):
                for _ in range(STEPS):
                    inner_optimiser.step(F.mse_loss(inner(support.inputs[task]), support.targets[task]))
                loss = F.mse_loss(inner(query.inputs[task]), query.targets[task]) / TASKS
                loss.backward()
                total += float(loss.detach())
        return total, _gradients(module)

    return step


def torchopt_step(episodes: Episodes, start: Params) -> Callable[[], Gradients]:
    """One meta-step as `torchopt`'s own MAML example takes it."""
    import torchopt

    module = module_of(start)
    inner_optimiser = torchopt.MetaSGD(module, lr=RATE)
    support, query = episodes

    def step() -> Gradients:
        module.zero_grad()
        total = 0.0
        begun = torchopt.extract_state_dict(module, by="reference", detach_buffers=True)
        begun_optimiser = torchopt.extract_state_dict(inner_optimiser, by="reference")
        losses = []
        for task in range(TASKS):
            for _ in range(STEPS):
                inner_optimiser.step(F.mse_loss(module(support.inputs[task]), support.targets[task]))
            losses.append(F.mse_loss(module(query.inputs[task]), query.targets[task]))
            torchopt.recover_state_dict(module, begun)
            torchopt.recover_state_dict(inner_optimiser, begun_optimiser)
        loss = torch.stack(losses).mean()
        loss.backward()
        total = float(loss.detach())
        return total, _gradients(module)

    return step


MAKERS = {"dynlm": dynlm_step, "vmap": vmap_step, "higher": higher_step, "torchopt": torchopt_step}
PACKAGES = ("higher", "torchopt")


def installed() -> tuple[str, ...]:
    """Return the names of ``MAKERS`` that can be measured."""
    return tuple(name for name in MAKERS if name not in PACKAGES or importlib.util.find_spec(name))


def measure(seconds: float = 20.0, threads: int = 1) -> dict[str, float]:
    """Median milliseconds of a meta-step of each that is installed, and how many times as fast dynlm's is.

    Raises ValueError where their losses or gradients differ by more than rounding. One thread is the fastest for
    tensors as small as these, for all of them.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        episodes = Cubic(Cubic.Options()).sample("train", EpisodeShape(1, 40, 80), TASKS, seeded(0, 1))
        start = Maml(Maml.Options(), Cubic.problem).initial(seeded(0)).meta
        calls = {name: MAKERS[name](episodes, start) for name in installed()}
        answers = {name: call() for name, call in calls.items()}
        loss, gradients = answers["dynlm"]
        for name, (other, others) in answers.items():
            same = all(torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in zip(gradients, others, strict=True))
            if not math.isclose(loss, other, rel_tol=1e-5) or not same:
                raise ValueError(f"{name} gives another meta-step: loss {other}, dynlm's {loss}")
        medians = side_by_side(calls, seconds)
    finally:
        torch.set_num_threads(before)
    result = {"meta_loss": loss, "threads": float(threads)}
    for name, median in medians.items():
        result[f"{name}_ms"] = round(1000 * median, 2)
        if name != "dynlm":
            result[f"times_as_fast_as_{name}"] = round(median / medians["dynlm"], 2)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = measure(options.seconds, options.threads)
    if options.json:
        print(json.dumps(result))
        return
    print(f"meta-loss {result['meta_loss']:.6f}, the same by all; {options.threads} thread(s)")
    for name in MAKERS:
        if f"{name}_ms" not in result:
            print(f"  {name:10} not installed: pip install dynlm[benchmarks]")
            continue
        ratio = f", {result[f'times_as_fast_as_{name}']:.1f} times dynlm's" if name != "dynlm" else ""
        print(f"  {name:10}{result[f'{name}_ms']:8.1f} ms{ratio}")


if __name__ == "__main__":
    main()
