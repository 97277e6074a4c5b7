"""The trainer takes any method: here one without histories, which learns from what it does."""

import pytest
import torch
from gymnasium import spaces

from fastad.acting.interact import interact
from fastad.acting.steps import Steps
from fastad.envs.bandits import BernoulliBandit
from fastad.methods.base import Batch
from fastad.model.config import ModelConfig
from fastad.model.sequence_model import SequenceModel
from fastad.rollouts.agent import InContextAgent
from fastad.training.checkpoint_folder import list_checkpoints
from fastad.training.settings import TrainSettings
from fastad.training.trainer import train

NUM_ENVS, NUM_STEPS = 16, 10
ARMS = torch.tensor([[0.0, 1.0, 0.0]])  # the second always pays
SETTINGS = {"updates": 12, "log_every": 4, "warmup_updates": 2, "checkpoint_every": 4}


class Reinforce:
    """Williams 1992: makes likelier what paid, by rollouts of the very model that is trained."""

    needs: frozenset[str] = frozenset()
    follows_weights = True
    has_moments = False

    def __init__(self, model, seed=0):
        self.model, self.seed = model, seed

    def batch(self, step):
        generator = torch.Generator().manual_seed(1000 * self.seed + step)
        env = BernoulliBandit(num_arms=3).make(ARMS.expand(NUM_ENVS, -1), generator)
        memory = self.model.eval().make_memory(NUM_ENVS)
        agent = InContextAgent(memory, self.model.actions, NUM_ENVS, generator=generator)
        (block,) = interact(
            env, agent, num_steps=NUM_STEPS, block_steps=NUM_STEPS, generator=generator
        )
        none = self.model.actions.none.repeat(NUM_ENVS, 1)
        steps = Steps(
            block.observation,
            torch.cat([none, block.action[:, :-1]], dim=1),
            torch.cat([torch.zeros(NUM_ENVS, 1), block.reward[:, :-1]], dim=1),
            torch.ones(NUM_ENVS, NUM_STEPS, dtype=torch.bool),
            torch.zeros(NUM_ENVS, NUM_STEPS, dtype=torch.int64),
        )
        return Batch(steps, {"action": block.action, "reward": block.reward})

    def loss(self, output, batch):
        log_probs = output.policy.log_softmax(dim=-1)
        taken = log_probs.gather(-1, batch.targets["action"].unsqueeze(-1)).squeeze(-1)
        reward = batch.targets["reward"]
        return -(taken * reward).mean(), {"reward": reward.mean()}


def run(folder, log, **changes):
    torch.manual_seed(0)
    config = ModelConfig(width=16, num_heads=2, num_layers=1, context=NUM_STEPS, dropout=0.1)
    model = SequenceModel(config, spaces.Discrete(1), spaces.Discrete(3), 1)
    train(model, Reinforce(model), TrainSettings(**SETTINGS | changes), run=folder, log=log)
    return model.state_dict()


def test_it_learns_and_the_means_of_its_own_figures_are_logged(tmp_path):
    every = {1: {}, 4: {}}
    for log_every, rewards in every.items():

        def log(step, metrics, rewards=rewards):
            rewards[step] = metrics["reward"]

        run(tmp_path / str(log_every), log, log_every=log_every)
    assert every[1][12] > every[1][1] + 0.2
    means = {step: sum(every[1][step - k] for k in range(4)) / 4 for step in (4, 8, 12)}
    assert every[4] == pytest.approx(means)


def test_it_goes_on_exactly_where_it_was_stopped(tmp_path):
    whole = run(tmp_path / "whole", lambda step, metrics: None)

    def stop(step, metrics):
        if step == 8:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        run(tmp_path / "broken", stop)
    assert [path.name for path in list_checkpoints(tmp_path / "broken")] == ["step-00000004"]
    resumed = run(tmp_path / "broken", lambda step, metrics: None)
    for name, tensor in whole.items():
        assert torch.equal(resumed[name], tensor)
