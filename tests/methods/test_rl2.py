"""RL^2 on a probe with a known optimum: of two arms one always pays, and nobody says which."""

import math

import pytest
import torch

from fastad.base.errors import UserError
from fastad.envs.bandits import BernoulliBandit
from fastad.envs.point_mass import PointMass
from fastad.methods.rl2 import RL2, advantages
from fastad.methods.rl2_config import RL2Config
from fastad.model.config import ModelConfig
from fastad.rollouts.engine import rollout
from fastad.training.checkpoint_folder import list_checkpoints
from fastad.training.settings import TrainSettings
from fastad.training.trainer import train

ARMS = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
PULLS = 6
SETTINGS = {"optimizer": "adamw", "learning_rate": 0.02, "warmup_updates": 2, "log_every": 4}


def make_method(entropy=0.02, **model):
    torch.manual_seed(0)
    method = RL2(
        BernoulliBandit(num_arms=2), ARMS, num_steps=PULLS, batch_size=64, seed=0,
        config=RL2Config(gamma=0.9, entropy=entropy),
    )  # fmt: skip
    return method, method.build_model(ModelConfig(**{"trunk": "gru", "width": 16} | model))


def run(folder, log=lambda step, metrics: None, *, updates, **changes):
    method, model = make_method()
    settings = TrainSettings(**SETTINGS | {"updates": updates} | changes)
    train(model, method, settings, run=folder, log=log)
    return model


def test_advantages_are_those_of_the_whole_trial():
    reward, value = torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([[0.5, 1.0, 0.5]])
    # Errors 1 + .5 - .5 = 1, 0 + .25 - 1 = -.75, 2 - .5 = 1.5; each then takes half of half.
    expected = [1 - 0.75 / 4 + 1.5 / 16, -0.75 + 1.5 / 4, 1.5]
    assert advantages(reward, value, gamma=0.5, gae_lambda=0.5)[0].tolist() == expected
    # Monte Carlo: rewards to come less the value. 1 + 0 + 2 / 4, 0 + 2 / 2, 2.
    monte_carlo = advantages(reward, value, gamma=0.5, gae_lambda=1.0)
    assert (monte_carlo + value)[0].tolist() == [1.5, 1.0, 2.0]


@torch.no_grad()
def test_a_batch_is_what_the_model_did_on_every_task_alike():
    method, model = make_method()
    batch = method.batch(3)
    action, reward = batch.targets["action"], batch.targets["reward"]
    assert action.shape == reward.shape == (64, PULLS)
    assert (batch.steps.previous_action[:, 0] == 2).all()
    assert torch.equal(batch.steps.previous_action[:, 1:], action[:, :-1])
    assert torch.equal(batch.steps.previous_reward[:, 1:], reward[:, :-1])
    good = torch.where(reward == 1, action, 1 - action)
    assert (good == good[:, :1]).all()  # one task in all of a trial
    assert int(good[:, 0].sum()) == 32
    # Pure: again the same; another update, seed or weight gives another.
    assert torch.equal(method.batch(3).targets["action"], action)
    assert not torch.equal(method.batch(4).targets["action"], action)
    model.heads.policy.bias += torch.tensor([5.0, 0.0])
    assert not torch.equal(method.batch(3).targets["action"], action)


def test_it_learns_to_exploit_what_the_first_pull_tells(tmp_path):
    model = run(tmp_path, updates=60)
    generator = torch.Generator().manual_seed(1)
    env = BernoulliBandit(num_arms=2).make(ARMS.repeat(100, 1), generator)
    returns = rollout(model, env, num_episodes=2 * PULLS, generator=generator).returns.mean(dim=0)
    assert 0.4 < returns[0] < 0.6  # nobody can know
    assert returns[1:].min() > 0.9  # in the second half too, beyond what trials showed


def test_it_goes_on_exactly_where_it_was_stopped(tmp_path):
    whole = run(tmp_path / "whole", updates=8)

    def stop(step, metrics):
        if step == 8:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        run(tmp_path / "broken", stop, updates=8, checkpoint_every=3)
    assert list_checkpoints(tmp_path / "broken")[-1].name == "step-00000006"
    resumed = run(tmp_path / "broken", updates=8, checkpoint_every=3)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor)


def test_a_transformer_learns_so_too(tmp_path):
    sizes = {"trunk": "transformer", "num_heads": 2, "num_layers": 1, "context": PULLS}
    method, model = make_method(entropy=0.05, **sizes)
    rewards = []
    settings = TrainSettings(**SETTINGS | {"updates": 60, "learning_rate": 5e-3})
    train(model, method, settings, run=tmp_path, log=lambda step, m: rewards.append(m["reward"]))
    assert rewards[0] < 0.6 < 0.8 < rewards[-1]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"gamma": 1.5}, r"gamma=1.5 must be in \[0, 1\]"),
        ({"gae_lambda": -0.1}, r"gae_lambda=-0.1 must be in \[0, 1\]"),
        ({"entropy": -1.0}, "entropy=-1.0 must be at least 0"),
        ({"value_weight": float("nan")}, "value_weight=nan must be at least 0"),
    ],
)
def test_impossible_settings_are_refused_by_name(setting, message):
    with pytest.raises(UserError, match=message):
        RL2Config(**setting)


def test_continuous_actions_are_reinforced_from_scaled_observations():
    """One update in the plane of point mass: what was drawn is what is made likelier."""
    family = PointMass(episode_length=4)
    tasks = family.sample(3, "train", torch.Generator().manual_seed(0))
    method = RL2(family, tasks, num_steps=8, batch_size=6, seed=0, config=RL2Config())
    torch.manual_seed(0)
    model = method.build_model(ModelConfig(trunk="gru", num_layers=1, width=16))
    scale = model.encoder.observation.scale
    assert not torch.equal(scale.std, torch.ones(2))
    batch = method.batch(0)
    assert batch.targets["action"].shape == (6, 8, 2)
    assert batch.steps.previous_action[:, 0].isnan().all()
    model.train()
    loss, figures = method.loss(model(batch.steps), batch)
    loss.backward()
    assert model.heads.policy.weight.grad.abs().sum() > 0
    # Of two Gaussians with deviations near 1, in halves of a box from -1 to 1.
    assert figures["entropy"].item() == pytest.approx(math.log(2 * math.pi * math.e), abs=0.2)
    again = method.batch(0)
    assert torch.equal(again.targets["action"], batch.targets["action"])
