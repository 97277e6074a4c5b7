import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastad.base.errors import UserError
from fastad.envs.bandits import AdversarialBandit, BernoulliBandit, GaussianBandit


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pull(env, arm, num_pulls):
    """Rewards (num_pulls, N) of always pulling `arm`."""
    action = torch.full((env.num_envs,), arm)
    return torch.stack([env.step(action)[1] for _ in range(num_pulls)])


def adversarial(num_tasks=4000, split="train", **kwargs):
    return AdversarialBandit(**kwargs).sample(num_tasks, split, generator())


def test_every_pull_ends_an_episode():
    env = BernoulliBandit(num_arms=3).make(torch.rand(4, 3), generator())
    observation = env.reset()

    next_observation, _, terminated, truncated = env.step(torch.zeros(4, dtype=torch.int64))

    assert env.episode_length == 1
    assert observation.tolist() == next_observation.tolist() == [0, 0, 0, 0]
    assert env.final_observation.tolist() == [0, 0, 0, 0]
    assert terminated.tolist() == [True] * 4
    assert truncated.tolist() == [False] * 4


def test_bernoulli_arms_with_certain_rewards_pay_exactly_these():
    env = BernoulliBandit(num_arms=2).make(torch.tensor([[0.0, 1.0]]), generator())

    assert pull(env, 0, 200).sum() == 0
    assert pull(env, 1, 200).sum() == 200


def test_bernoulli_rewards_have_the_mean_of_the_arm_that_was_pulled():
    env = BernoulliBandit(num_arms=2).make(torch.tensor([[0.2, 0.7]] * 2000), generator())

    rewards = pull(env, 1, 50)

    # 100,000 pulls: the standard error is 0.0014.
    assert rewards.unique().tolist() == [0.0, 1.0]
    assert rewards.mean().item() == pytest.approx(0.7, abs=0.007)


def test_gaussian_rewards_have_mean_and_standard_deviation():
    env = GaussianBandit(num_arms=2).make(torch.tensor([[0.2, 0.7]] * 2000), generator())

    rewards = pull(env, 0, 50)

    assert rewards.mean().item() == pytest.approx(0.2, abs=0.005)
    assert rewards.std().item() == pytest.approx(0.3, abs=0.005)


def test_gaussian_without_deviation_pays_its_means():
    means = torch.tensor([[-1.5, 2.0]])
    env = GaussianBandit(num_arms=2, reward_std=0.0).make(means, generator())

    assert pull(env, 1, 2).tolist() == [[2.0], [2.0]]


def test_the_optimum_is_the_best_mean():
    means = torch.tensor([[0.1, 0.9, 0.3], [0.5, 0.2, 0.4]])
    env = BernoulliBandit(num_arms=3).make(means, generator())

    assert torch.equal(env.optimal_return(), torch.tensor([0.9, 0.5]))


@pytest.mark.parametrize("family", [BernoulliBandit, GaussianBandit])
def test_means_are_uniform_in_both_splits(family):
    for split in ("train", "test"):
        means = family(num_arms=4).sample(5000, split, generator())

        assert means.shape == (5000, 4)
        assert means.mean().item() == pytest.approx(1 / 2, abs=0.01)
        assert means.var().item() == pytest.approx(1 / 12, abs=0.005)


def test_variant_a_favours_odd_arms_in_95_percent_of_training_tasks():
    means = adversarial()
    odd_favoured = (means[:, 1::2] >= 0.5).all(dim=1) & (means[:, 0::2] < 0.5).all(dim=1)
    even_favoured = (means[:, 0::2] >= 0.5).all(dim=1) & (means[:, 1::2] < 0.5).all(dim=1)

    assert (odd_favoured | even_favoured).all()
    assert odd_favoured.float().mean().item() == pytest.approx(0.95, abs=0.015)


def test_variant_a_favours_even_arms_in_95_percent_of_test_tasks():
    means = adversarial(split="test")

    even_favoured = (means[:, 0::2] >= 0.5).all(dim=1) & (means[:, 1::2] < 0.5).all(dim=1)

    assert even_favoured.float().mean().item() == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize(("split", "favoured"), [("train", 1), ("test", 0)])
def test_variant_b_scales_uniform_means(split, favoured):
    means = adversarial(split=split, variant="b")

    good, bad = means[:, favoured::2], means[:, 1 - favoured :: 2]
    assert good.mean().item() == pytest.approx(0.475, abs=0.01)
    assert good.max() <= 0.95
    assert bad.mean().item() == pytest.approx(0.025, abs=0.001)
    assert bad.max() <= 0.05


@pytest.mark.parametrize(("split", "favoured"), [("train", 1), ("test", 0)])
def test_variant_c_separates_good_from_bad_arms(split, favoured):
    means = adversarial(split=split, variant="c")

    good, bad = means[:, favoured::2], means[:, 1 - favoured :: 2]
    assert good.min() >= 0.9
    assert good.mean().item() == pytest.approx(0.95, abs=0.005)
    assert bad.max() <= 0.1
    assert bad.mean().item() == pytest.approx(0.05, abs=0.005)


@given(
    variant=st.sampled_from(["a", "b", "c"]),
    split=st.sampled_from(["train", "test"]),
    num_arms=st.integers(2, 25),
)
def test_adversarial_means_are_probabilities_of_a_possible_bandit(variant, split, num_arms):
    tasks = adversarial(20, split, variant=variant, num_arms=num_arms)

    AdversarialBandit(num_arms=num_arms, variant=variant).make(tasks, generator())
    assert tasks.shape == (20, num_arms)


def test_families_of_bandits_cannot_list_their_tasks():
    assert BernoulliBandit(num_arms=5).tasks() is None


def test_experts_pull_the_best_arms():
    means = torch.tensor([[0.1, 0.9, 0.3], [0.5, 0.2, 0.5]])
    env = BernoulliBandit(num_arms=3).make(means, generator())

    assert env.expert(env.reset()).tolist() == [[0.0, 1.0, 0.0], [0.5, 0.0, 0.5]]


def test_regret_is_the_expected_reward_missed_by_all_pulls():
    env = BernoulliBandit(num_arms=2).make(torch.tensor([[0.2, 0.9], [0.5, 0.1]]), generator())

    regret = env.regret(torch.tensor([[0, 1, 1], [1, 1, 0]]))

    torch.testing.assert_close(regret, torch.tensor([0.7, 0.8]))


def test_impossible_means_are_refused_with_their_place():
    with pytest.raises(UserError, match=r"tasks\[1\] gives arm 0 the mean 1\.5"):
        BernoulliBandit(num_arms=2).make(torch.tensor([[0.1, 0.2], [1.5, 0.2]]), generator())
    with pytest.raises(UserError, match="must be finite"):
        GaussianBandit(num_arms=2).make(torch.tensor([[float("nan"), 0.2]]), generator())


def test_impossible_arguments_are_refused():
    with pytest.raises(UserError, match="do not fit num_arms=10"):
        BernoulliBandit().make(torch.rand(2, 3), generator())
    with pytest.raises(UserError, match="num_arms=1 is not possible"):
        BernoulliBandit(num_arms=1).make(torch.rand(2, 1), generator())
    with pytest.raises(UserError, match=r"reward_std=-0\.1 is not possible"):
        GaussianBandit(reward_std=-0.1).make(torch.rand(2, 10), generator())
    with pytest.raises(UserError, match="unknown variant 'd'"):
        AdversarialBandit(variant="d").make(torch.rand(2, 10), generator())
