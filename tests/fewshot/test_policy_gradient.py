"""Policy-gradient learners: the meta-gradient, counts of environment steps, and what each learner adapts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dynlm.fewshot.control.environments import ControlProblem
from dynlm.fewshot.control.networks import NetPolicy, PolicyNet, PolicyNetOptions
from dynlm.fewshot.control.randomness import Randomness
from dynlm.fewshot.control.rollout import nothing_seen
from dynlm.fewshot.inner_loop import Order
from dynlm.fewshot.learners.learner import LEARNERS, Learned, Scores
from dynlm.fewshot.learners.policy_gradient import OuterPolicyLearner, PolicyGradientLearner, Support
from dynlm.fewshot.learners.policy_gradient_maml import PolicyMaml
from dynlm.fewshot.tasks.navigation import NavigationEnvironments
from dynlm.fewshot.tasks.source import SOURCES, seeded
from tests.fewshot.control.test_rollout import environments_of
from tests.fewshot.enumerated_bandit import PAID, SHARES, enumerated, learner_with_policy

KINDS = [kind for kind in LEARNERS.names() if issubclass(LEARNERS[kind], PolicyGradientLearner)]
TRAINED = [kind for kind in KINDS if LEARNERS[kind].is_trained]


def learner_of(kind: str, problem: ControlProblem, **options: Any) -> PolicyGradientLearner:
    learner: PolicyGradientLearner = LEARNERS[kind](LEARNERS[kind].Options(**{"hidden": [8], **options}), problem)
    return learner


def trainable(learned: Learned) -> Learned:
    return Learned({name: tensor.requires_grad_() for name, tensor in learned.meta.items()}, learned.buffers)


def expected_return(learner: PolicyGradientLearner, weights: dict[str, Tensor]) -> Tensor:
    """Probability of each arm times what it pays, differentiable."""
    nothing = torch.zeros(1, 1, 0, dtype=torch.float64)
    return (learner.net.outputs(weights, nothing).softmax(-1)[0, 0] * PAID).sum()


def after_an_exact_step(learner: PolicyGradientLearner, weights: dict[str, Tensor]) -> Tensor:
    """Return J(theta + alpha * gradient of J(theta)), computed without any sample."""
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in weights.items()}
    grads = torch.autograd.grad(expected_return(learner, leaves), list(leaves.values()))
    rate = learner.options.inner_rate
    moved = {name: leaves[name] + rate * grad for name, grad in zip(leaves, grads, strict=True)}
    return expected_return(learner, moved).detach()


def meta_gradient(learner: PolicyMaml, learned: Learned, order: Order = Order.SECOND) -> dict[str, Tensor]:
    """Meta-gradient by the learner's own steps, on one copy of each outcome for each 1/16 of its probability.

    Adapted policies' episodes are those of the first policy, weighted by the ratio of probabilities.
    """
    experience = learner.experience(enumerated())
    start = learner.start(learned, 1, [])
    adapted = learner.inner_step(learned.meta, start, experience, 0, order)
    loss = learner.outer_loss([start, adapted], [experience])
    grads = torch.autograd.grad(-loss, list(learned.meta.values()))
    return dict(zip(learned.meta, grads, strict=True))


def finite_differences(learner: PolicyGradientLearner, learned: Learned) -> dict[str, Tensor]:
    found = {}
    for name, tensor in learned.meta.items():
        flat = torch.zeros(tensor.numel(), dtype=torch.float64)
        for index in range(tensor.numel()):
            ends = []
            for sign in (1, -1):
                moved = {key: value.detach().clone() for key, value in learned.meta.items()}
                moved[name].view(-1)[index] += sign * 1e-5
                ends.append(after_an_exact_step(learner, {key: value[None] for key, value in moved.items()}))
            flat[index] = (ends[0] - ends[1]) / 2e-5
        found[name] = flat.view(tensor.shape)
    return found


def flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


@pytest.mark.parametrize("surrogate", ["lvc", "dice"])
def test_the_meta_gradient_equals_finite_differences(surrogate: str) -> None:
    learner, learned = learner_with_policy(SHARES, surrogate=surrogate)
    wanted, found = finite_differences(learner, learned), meta_gradient(learner, learned)
    assert float(flat(wanted).abs().max()) > 0.05
    assert float((flat(found) - flat(wanted)).abs().max()) < 1e-6


@pytest.mark.parametrize(("surrogate", "order"), [("score", Order.SECOND), ("lvc", Order.FIRST)])
def test_cheaper_meta_gradients_are_others(surrogate: str, order: Order) -> None:
    learner, learned = learner_with_policy(SHARES, surrogate=surrogate)
    wanted, found = finite_differences(learner, learned), meta_gradient(learner, learned, order)
    assert float((flat(found) - flat(wanted)).abs().max()) > 1e-3


def test_networks_compute_the_densities_of_torchs_distributions() -> None:
    box = ControlProblem(3, 5, 2, action_size=2, low=-0.1, high=0.3)
    discrete = ControlProblem(3, 5, 2, num_actions=4)
    observations = torch.randn(2, 3, 5, 3, generator=seeded(1))
    for problem in (box, discrete):
        net = PolicyNet(PolicyNetOptions(hidden=[8], initial_std=0.7), problem)
        rows = [net.init_params(seeded(seed)) for seed in range(2)]
        weights = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        outputs = net.outputs(weights, observations.flatten(1, 2))
        if problem.num_actions:
            actions = torch.randint(4, (2, 3, 5), generator=seeded(2))
            wanted = torch.distributions.Categorical(logits=outputs).log_prob(actions.flatten(1))
        else:
            actions = torch.randn(2, 3, 5, 2, generator=seeded(2))
            normal = torch.distributions.Normal(outputs, torch.tensor(0.7))
            wanted = normal.log_prob((actions.flatten(1, 2) - 0.1) / 0.2).sum(-1)
        torch.testing.assert_close(net.log_probs(weights, observations, actions).flatten(1), wanted)


def test_recorded_log_probabilities_are_those_of_the_actions() -> None:
    for source in ("bandit", "tabular", "navigation"):
        environments = environments_of(source)
        learner = learner_of("policy-random", environments.problem)
        weights = learner.start(Learned({}, {}), 4, [seeded(task) for task in range(4)])
        acted = learner.act(weights, environments, Randomness(seeded(0), 4), 3)
        experience = learner.experience(acted)
        torch.testing.assert_close(
            learner.log_probs(weights, experience), experience.log_probs_TEH, rtol=1e-4, atol=1e-5
        )


def test_standard_deviations_have_a_floor() -> None:
    problem = ControlProblem(2, 5, 1, action_size=2)
    net = PolicyNet(PolicyNetOptions(hidden=[8], least_std=0.25), problem)
    weights = {name: tensor[None] for name, tensor in net.init_params(seeded(0)).items()}
    weights["log_std"] = torch.full((1, 2), -9.0)
    seen = nothing_seen(problem, 1, 20_000)
    acted = NetPolicy(net, weights).act(None, seen, Randomness(seeded(1), 1))
    assert float(acted.actions.std(1).mean()) == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("source", ["bandit", "tabular", "navigation"])
@pytest.mark.parametrize("kind", TRAINED)
def test_a_meta_step_counts_its_environment_steps(kind: str, source: str) -> None:
    sizes: dict[str, Any] = {"bandit": {"pulls": 6}, "tabular": {"horizon": 3, "episodes": 2}}.get(source, {})
    sizes = sizes or {"horizon": 4, "episodes": 5}
    tasks_of = SOURCES[source](SOURCES[source].Options(queries=3, **sizes))
    tasks, problem = tasks_of.batch("train", True, 4, seeded(0)), tasks_of.problem
    learner = learner_of(kind, problem)
    done = next(learner.meta_steps(trainable(learner.initial(seeded(0))), tasks, 0.0, seeded(1)))
    episodes = {"policy-pretrained": 3, "policy-reptile": problem.episodes, "guided": problem.episodes + 4}
    most = 4 * episodes.get(kind, problem.episodes + 3) * problem.horizon
    assert 0.7 * most < done.environment_steps <= most
    assert all(gradient.isfinite().all() for gradient in done.gradients.values())
    assert any(gradient.ne(0).any() for gradient in done.gradients.values())


def meta_trained(kind: str, steps: int, **options: Any) -> Scores:
    """Train on three goals far from each other, and return the scores on the same."""
    goals = torch.tensor([[0.5, 0.3], [-0.5, 0.4], [0.0, -0.5]])
    problem = ControlProblem(2, 12, 20, 30, action_size=2, low=-0.1, high=0.1)
    tasks = NavigationEnvironments(problem, {"goals": goals})
    learner = learner_of(kind, problem, **{"hidden": [20], "activation": "tanh", "inner_rate": 1.0, **options})
    learned = trainable(learner.initial(seeded(0)))
    outer = torch.optim.Adam(learned.meta.values(), lr=0.02)
    for step in range(steps):
        for done in learner.meta_steps(learned, tasks, 0.0, seeded(1, step)):
            for name, tensor in learned.meta.items():
                tensor.grad = done.gradients.get(name)
            outer.step()
    return learner.scores(learned, tasks, 1, [seeded(2, task) for task in range(3)])


@pytest.mark.parametrize("kind", ["policy-maml", "policy-fomaml", "guided"])
def test_training_makes_one_step_useful(kind: str) -> None:
    before = meta_trained(kind, 0).values_TJ.mean(0)
    after = meta_trained(kind, 60).values_TJ.mean(0)
    assert after[1] > before[1] + 1 and after[1] > after[0] + 1


def test_several_epochs_on_one_batch_learn_faster() -> None:
    one, several = (meta_trained("policy-maml", 15, epochs=epochs).values_TJ.mean(0) for epochs in (1, 4))
    assert several[1] > one[1]


@pytest.mark.parametrize("kind", ["policy-maml", "guided"])
def test_each_epoch_adapts_the_weights_as_they_are_then(kind: str) -> None:
    tasks = environments_of("navigation")
    learner = learner_of(kind, tasks.problem, epochs=2, inner_steps=2)
    learned = trainable(learner.initial(seeded(0)))
    steps = learner.meta_steps(learned, tasks, 0.0, seeded(1))
    first = next(steps)
    start = {name: tensor.detach().clone() for name, tensor in learned.meta.items()}
    with torch.no_grad():
        for name, tensor in learned.meta.items():
            tensor -= 0.01 * first.gradients[name]
    second = next(steps)
    assert second.loss < first.loss and second.environment_steps == 0 < first.environment_steps
    assert next(steps, None) is None
    # On unchanged weights a second epoch repeats the first, though actions were sampled only once.
    same = learner.meta_steps(trainable(Learned(start, {})), tasks, 0.0, seeded(1))
    one, other = next(same), next(same)
    assert one.loss == first.loss == other.loss
    for name, gradient in one.gradients.items():
        torch.testing.assert_close(other.gradients[name], gradient)


def test_the_multi_step_loss_is_the_mean_after_each_step() -> None:
    tasks = environments_of("navigation")
    learner = learner_of("policy-maml", tasks.problem, inner_steps=2, multi_step_loss=True)
    assert isinstance(learner, PolicyMaml)
    meta, randomness = trainable(learner.initial(seeded(0))).meta, Randomness(seeded(1), 4)
    states, support = [learner.start(Learned(meta, {}), 4, [])], []
    for step in range(2):
        acted = learner.act(states[-1], tasks, randomness, 3)
        support.append(Support(acted, learner.experience(acted)))
        states.append(learner.inner_step(meta, states[-1], support[-1].experience, step, Order.SECOND))
    collected, _, _ = learner.collect(states[-1], tasks, support, randomness)
    assert len(collected) == 2 and collected[0] is support[1].experience
    each = [learner.outer_loss([states[0], states[k]], [collected[k - 1]]) for k in (1, 2)]
    torch.testing.assert_close(learner.outer_loss(states, collected), (each[0] + each[1]) / 2)
    # Both batches were sampled by the policies that they are compared with.
    for weights, experience in zip(states[1:], collected, strict=True):
        torch.testing.assert_close(
            learner.log_probs(weights, experience), experience.log_probs_TEH, rtol=1e-4, atol=1e-4
        )


def test_learned_rates_are_meta_parameters() -> None:
    tasks = environments_of("navigation")
    learner = learner_of("policy-maml", tasks.problem, learned_rates=True, inner_rate=0.3)
    learned = trainable(learner.initial(seeded(0)))
    assert learned.meta["rate.log_std"].eq(0.3).all()
    done = next(learner.meta_steps(learned, tasks, 0.0, seeded(1)))
    assert done.gradients["rate.linear.1.weight"].ne(0).any()
    plain = learner_of("policy-maml", tasks.problem, inner_rate=0.3)
    same = next(plain.meta_steps(trainable(plain.initial(seeded(0))), tasks, 0.0, seeded(1)))
    torch.testing.assert_close(same.gradients["linear.0.weight"], done.gradients["linear.0.weight"])


def test_later_inner_steps_have_a_rate_of_their_own() -> None:
    tasks = environments_of("navigation")
    weights = []
    for factor in (1.0, 0.5):
        learner = learner_of("policy-maml", tasks.problem, later_rate_factor=factor)
        learned = learner.initial(seeded(0))
        states = learner.adapt(learned, tasks, 2, [seeded(2, task) for task in range(4)])
        weights.append([state.state["linear.0.weight"] for state in states])
    (start, first, second), (_, same, half) = weights
    assert torch.equal(first, same) and not torch.equal(start, first)
    torch.testing.assert_close(half - first, 0.5 * (second - first))


def test_pretraining_takes_no_inner_steps_and_reptile_moves_to_the_adapted_weights() -> None:
    tasks = environments_of("navigation")
    pretrained = learner_of("policy-pretrained", tasks.problem)
    assert isinstance(pretrained, OuterPolicyLearner) and pretrained.training_steps == 0
    learner = learner_of("policy-reptile", tasks.problem, inner_steps=2)
    learned = learner.initial(seeded(0))
    done = next(learner.meta_steps(learned, tasks, 0.0, seeded(1)))
    # The same numbers are drawn where an adaptation's generators are one for all tasks.
    weights, randomness = learner.start(learned, 4, []), Randomness(seeded(1), 4)
    for step in range(2):
        experience = learner.experience(learner.act(weights, tasks, randomness, tasks.problem.episodes))
        weights = learner.inner_step(learned.meta, weights, experience, step, Order.NONE)
    for name, gradient in done.gradients.items():
        torch.testing.assert_close(learned.meta[name] - gradient, weights[name].mean(0).detach())


def test_random_starts_depend_on_the_generator_of_each_task() -> None:
    tasks = environments_of("navigation", 2)
    learner = learner_of("policy-random", tasks.problem)
    starts = [
        next(learner.adapt(Learned({}, {}), tasks, 1, [seeded(seed, task) for task in range(2)])).state
        for seed in (1, 1, 2)
    ]
    weights = [start["linear.0.weight"] for start in starts]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0][0], weights[0][1])
