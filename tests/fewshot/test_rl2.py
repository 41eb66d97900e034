"""RL^2: its loss beside a naive loop, its memory, training and resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dynlm.cli.main import main
from dynlm.errors import UserError
from dynlm.fewshot.control.environments import Environments
from dynlm.fewshot.control.randomness import Randomness
from dynlm.fewshot.control.rollout import Trajectories, rollout
from dynlm.fewshot.evaluate import score_episodes
from dynlm.fewshot.learners.learner import LEARNERS, Adapted, Learned
from dynlm.fewshot.learners.rl2 import RecurrentPolicy, Rl2
from dynlm.fewshot.options import EvaluateOptions, FewShotOptions, RunOptions, TrainOptions
from dynlm.fewshot.run_folder import load_learned
from dynlm.fewshot.tasks.bandit import Bandit
from dynlm.fewshot.tasks.source import SOURCES, seeded
from dynlm.fewshot.train import train
from dynlm.runtime.tensors import load_tensors
from dynlm.types import Params
from tests.fewshot.control.test_rollout import environments_of

SOURCES_TRIED = ("bandit", "tabular", "navigation")


def learner_of(environments: Environments, **options: Any) -> tuple[Rl2, Learned]:
    """Return an untrained learner whose head is large enough to matter."""
    options_class = LEARNERS["rl2"].Options
    learner = Rl2(options_class(**{"width": 6, **options}), environments.problem)
    learned = learner.initial(seeded(0))
    learned.meta["head.weight"] += torch.randn(learned.meta["head.weight"].shape, generator=seeded(1))
    return learner, Learned({name: tensor.requires_grad_() for name, tensor in learned.meta.items()}, learned.buffers)


def acted_in(environments: Environments, meta: Params) -> Trajectories:
    problem = environments.problem
    policy = RecurrentPolicy(problem, meta, interactions=meta["gru.input"].shape[1] > problem.seen_size)
    randomness = Randomness(seeded(5), environments.tasks)
    return rollout(environments, policy, randomness, environments.problem.episodes).trajectories


def naive_outputs(environments: Environments, meta: Params, acted: Trajectories) -> list[torch.Tensor]:
    """Return the outputs of each step (B, O), one step after another through all episodes, by torch's own cell."""
    weights = [meta[f"gru.{name}"] for name in ("input", "recurrent", "input_bias", "recurrent_bias")]
    hidden, outputs = torch.zeros(environments.tasks, weights[1].shape[1]), []
    problem, seen = environments.problem, acted.seen()
    inputs, observations = problem.encode(seen), seen.observations[:, :, 0]
    if weights[0].shape[1] > problem.seen_size:
        inputs = torch.cat([inputs, problem.encode_interactions(seen)], -1)
    heads = meta["head.weight"].split(hidden.shape[1])
    for x_TEF, observation_TD in zip(inputs, observations, strict=True):
        hidden = torch.gru_cell(x_TEF.flatten(0, 1), hidden, *weights)
        outputs.append(hidden @ heads[0] + meta["head.bias"])
        for number_T, head in zip(observation_TD.T, heads[1:], strict=False):
            outputs[-1] = outputs[-1] + number_T[:, None] * (hidden @ head)
    return outputs


@pytest.mark.parametrize("interactions", [False, True])
@pytest.mark.parametrize("source", SOURCES_TRIED)
def test_the_memory_lasts_for_all_episodes_and_begins_anew_with_each_task(source: str, interactions: bool) -> None:
    """What acted is the naive loop that begins with a state of zeros and never resets it."""
    environments = environments_of(source)
    _, learned = learner_of(environments, interactions=interactions)
    for _ in range(2):  # A second task begins with zeros again.
        acted = acted_in(environments, learned.meta)
        wanted = torch.stack(naive_outputs(environments, learned.meta, acted))
        torch.testing.assert_close(acted.records["outputs"], wanted, atol=1e-5, rtol=1e-5)
    # The first outputs of the second episode differ from those of the first, though no more is observed.
    begins = acted.records["outputs"][:: environments.problem.horizon]
    assert (begins[1:] - begins[0]).abs().amax(-1).min() > 1e-4


@pytest.mark.parametrize("interactions", [False, True])
@pytest.mark.parametrize("source", SOURCES_TRIED)
def test_the_gradient_equals_that_of_a_naive_loop(source: str, interactions: bool) -> None:
    environments = environments_of(source, tasks=3)
    learner, learned = learner_of(environments, ratio_clip=0.05, value_weight=0.3, interactions=interactions)
    batch, _ = learner.batch(learned, acted_in(environments, learned.meta))
    acted = acted_in(environments, learned.meta)
    # Parameters that have moved since, so that ratios differ from 1 and some are clipped.
    meta = {name: (t + 0.05 * torch.randn(t.shape, generator=seeded(7))).detach() for name, t in learned.meta.items()}
    meta = {name: tensor.requires_grad_() for name, tensor in meta.items()}
    total, count, clipped = torch.zeros(()), 0, 0
    for step, outputs_BO in enumerate(naive_outputs(environments, meta, acted)):
        for task in range(environments.tasks):
            if not acted.valid_NTE[step, task, 0]:
                continue
            outputs, action = outputs_BO[task, :-1], acted.actions_NTE[step, task, 0]
            if environments.problem.num_actions:
                distribution: Any = torch.distributions.Categorical(logits=outputs)
                log_prob, entropy = distribution.log_prob(action), distribution.entropy()
            else:
                distribution = torch.distributions.Normal(0.1 * outputs, 0.1 * meta["log_std"].exp())
                log_prob = (distribution.log_prob(action) + torch.tensor(0.1).log()).sum()
                entropy = (distribution.entropy() - torch.tensor(0.1).log()).sum()
            ratio, advantage = (log_prob - batch.log_probs_NB[step, task]).exp(), batch.advantages_NB[step, task]
            gain = min(ratio * advantage, ratio.clamp(0.95, 1.05) * advantage)
            clipped += int(gain < ratio * advantage)
            total = total - gain - 0.2 * entropy
            total = total + 0.3 * (outputs_BO[task, -1] - batch.targets_NB[step, task]) ** 2
            count += 1
    loss = learner.loss(meta, batch, 0.2)
    assert clipped and loss.item() == pytest.approx((total / count).item(), rel=1e-4)
    for ours, naive in zip(*(torch.autograd.grad(x, list(meta.values())) for x in (loss, total / count)), strict=True):
        torch.testing.assert_close(ours, naive, atol=1e-5, rtol=1e-3)


def test_targets_are_standardised_and_advantages_normalised() -> None:
    environments = environments_of("tabular", tasks=200)
    learner, learned = learner_of(environments, gae_lambda=1.0)
    batch, buffers = learner.batch(learned, acted_in(environments, learned.meta))
    assert batch.targets_NB.mean(1).abs().max() < 1e-4 and batch.targets_NB.std() == pytest.approx(1, abs=0.05)
    assert batch.advantages_NB.mean().abs() < 1e-5 and batch.advantages_NB.std() == pytest.approx(1, abs=0.01)
    assert buffers["return_count"] == 1
    # The running scale of later batches changes slowly.
    running = {"return_scale": torch.tensor(9.0), "return_count": torch.tensor(99.0)}
    _, later = learner.batch(Learned(learned.meta, running), acted_in(environments, learned.meta))
    assert float(later["return_scale"]) == pytest.approx(0.95 * 9 + 0.05 * float(buffers["return_scale"]), rel=1e-4)


def test_each_pass_over_each_part_is_one_step_and_counts_no_environment_step_twice() -> None:
    environments = environments_of("bandit", tasks=10)
    learner, learned = learner_of(environments, epochs=3, minibatches=4)
    steps = list(learner.meta_steps(learned, environments, 0.0, seeded(0)))
    assert len(steps) == 12 and sum(step.environment_steps for step in steps) == 10 * 6
    assert len({step.score for step in steps}) == 1
    parts = [learner.batch(learned, acted_in(environments, learned.meta))[0].part(index, 4) for index in range(4)]
    assert [part.valid_NB.shape[1] for part in parts] == [3, 3, 2, 2]
    few = list(learner.meta_steps(learned, environments[:2], 0.0, seeded(0)))
    assert len(few) == 6, "no minibatch is empty"


def options_in(folder: Path, name: str, **sections: dict[str, Any]) -> FewShotOptions:
    learner = {"width": 16, "epochs": 2, "minibatches": 2, "gae_lambda": 0.9, "entropy": 0.01}
    learner |= sections.get("learner", {})
    training = {"steps": 9, "tasks": 20, "log_every": 4, "checkpoint_every": 3, "average": 0.9, "clip": 1.0}
    return FewShotOptions(
        RunOptions(name, str(folder)),
        Bandit.Options(arms=3, pulls=10),
        LEARNERS["rl2"].Options(**learner),
        TrainOptions(**{**training, **sections.get("train", {})}),
        EvaluateOptions(episodes=2000, at_once=1000, shown_tasks=1),
    )


def test_a_resumed_training_equals_a_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, broken = options_in(tmp_path, "whole"), options_in(tmp_path, "broken")
    card = train(whole, quiet=True)
    assert card["environment_steps"] == 9 * 20 * 10 and card["steps"] == 9
    loss, calls = Rl2.loss, []

    def interrupted(self, *arguments):  # type: ignore[no-untyped-def]
        calls.append(arguments)
        if len(calls) == 4 * 7 + 2:  # in the middle of the eighth meta-step
            raise KeyboardInterrupt
        return loss(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Rl2, "loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(broken, quiet=True)
    assert max((tmp_path / "broken" / "checkpoints").iterdir()).name == "step-00000006.safetensors"
    train(broken, quiet=True)
    one, other = (load_tensors(tmp_path / name / "learner.safetensors")[0] for name in ("whole", "broken"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_short_training_beats_random_actions(tmp_path: Path) -> None:
    """Three arms and ten pulls: random actions have 5, the best arm has 7.5."""
    training = {"steps": 60, "tasks": 400, "rate": 0.02, "final_rate": 0.1}
    options = options_in(tmp_path, "one", train={**training, "average": 0.0}, learner={"epochs": 4})
    train(options, quiet=True)
    source, learner = options.create()
    learned, _ = load_learned(options.run.path, learner)
    mean, half = score_episodes(learner, learned, source, options).total()
    assert mean - half > 5.6
    learner.options.test_actions = "most-probable"
    assert learner.protocol()["test_actions"] == "most-probable"
    assert score_episodes(learner, learned, source, options).total()[0] > 5.6


def test_a_continuous_policy_learns(tmp_path: Path) -> None:
    """Navigation in five steps: the return of random actions is about -2."""
    means = []
    for name, steps in (("before", 0), ("after", 50)):
        one = options_in(tmp_path, name, train={"tasks": 300, "rate": 0.02, "average": 0.0, "steps": steps})
        one.task = SOURCES["navigation"].Options(horizon=5, episodes=4)
        train(one, quiet=True)
        source, learner = one.create()
        learned, _ = load_learned(one.run.path, learner)
        means.append(score_episodes(learner, learned, source, one).total())
    assert means[1][0] - means[1][1] > means[0][0] + means[0][1]


def test_most_probable_actions_are_the_same_every_time() -> None:
    environments = environments_of("bandit")
    learner, learned = learner_of(environments, test_actions="most-probable")
    policy = learner.policy(learned, Adapted({}, environments, 0))
    with torch.no_grad():
        acted = rollout(environments, policy, Randomness(seeded(0), 4), 1, copies=50).trajectories
    assert len(set(acted.actions_NTE[0].flatten().tolist())) == 1


@pytest.mark.parametrize(
    "options, said",
    [
        ({"task.source": "cubic"}, "learner.kind 'rl2' acts in environments, and task.source 'cubic' has none"),
        ({"task.source": "bandit", "learner.discount": 1.5}, "learner.discount is 1.5"),
        ({"task.source": "bandit", "learner.epochs": 0}, "learner.epochs is 0"),
        ({"task.source": "bandit", "task.pulls": 0}, "task.pulls is 0"),
        ({"task.source": "bandit", "learner.test_actions": "best"}, "learner.test_actions"),
        ({"task.source": "bandit", "learner.inner_steps": 3, "learner.confidence": 1}, "does not use it"),
    ],
)
def test_what_does_not_fit_is_one_line(
    options: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"--{name}={value}" for name, value in {"learner.kind": "rl2", "run.folder": tmp_path, **options}.items()]
    assert main(["fewshot", "train", *words]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "warning" not in line]
    assert len(errors) == 1 and said in errors[0] and not list(tmp_path.iterdir())


def test_a_learner_of_other_sizes_is_refused(tmp_path: Path) -> None:
    options = options_in(tmp_path, "one")
    train(options, quiet=True)
    other = options_in(tmp_path, "one", learner={"width": 8})
    with pytest.raises(UserError, match="these options need"):
        load_learned(options.run.path, other.create()[1])
