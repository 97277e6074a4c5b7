"""What holds for every environment, whatever its dynamics."""

import copy

import numpy as np
import pytest
import torch
from fastad_kernels import native
from gymnasium import spaces
from torch.utils._python_dispatch import TorchDispatchMode

from fastad.base.errors import UserError
from fastad.envs.base import BatchedEnv, Rules, uniform_over
from fastad.envs.registry import ENVS, make_family

# With options, and one that is added by a test, as CONTRIBUTING.md says how.
NAMES = [*ENVS, "watermaze store=frames", "combination-lock"]
GRIDS = [name for name in NAMES if name.startswith("dark")]

pytestmark = pytest.mark.usefixtures("added")


# What asks for a tensor's values on the host, which would wait for a GPU.
HOST_READS = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "_to_copy", "scalar_tensor"}


class Operations(TorchDispatchMode):
    """Records which operations ran."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.__name__.startswith("_to_copy") and args[0].ndim:
            return function(*args, **(kwargs or {}))  # a change of dtype, on the device
        self.names.add(function.__name__.split(".")[0])
        return function(*args, **(kwargs or {}))


def build(name, num_envs=6, seed=1):
    name, *options = name.split()
    family = make_family(name, **dict(option.split("=") for option in options))
    generator = torch.Generator().manual_seed(seed)
    tasks = family.tasks()
    if tasks is None:
        rows = family.sample(num_envs, "train", generator)
    else:
        rows = tasks[torch.randint(len(tasks), (num_envs,), generator=generator)]
    return family.make(rows, generator)


def actions_for(env, num_steps, seed=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([env.actions.random(env.num_envs, generator) for _ in range(num_steps)])


@pytest.mark.parametrize("name", NAMES)
def test_observations_lie_in_the_observation_space(name):
    env = build(name)
    observations = [env.reset()]
    for action in actions_for(env, 60):
        observations += [env.step(action)[0], env.final_observation]

    for observation in observations:
        assert all(row in env.observation_space for row in observation.numpy())


@pytest.mark.parametrize("name", NAMES)
def test_step_returns_the_documented_types(name):
    env = build(name)
    env.reset()

    observation, reward, terminated, truncated = env.step(actions_for(env, 1)[0])

    space = env.observation_space
    numbers = torch.int64 if space.dtype == np.int64 else torch.from_numpy(space.sample()).dtype
    assert (observation.dtype, observation.shape) == (numbers, (6, *space.shape))
    assert (reward.dtype, reward.shape) == (torch.float32, (6,))
    assert (terminated.dtype, terminated.shape) == (torch.bool, (6,))
    assert (truncated.dtype, truncated.shape) == (torch.bool, (6,))


@pytest.mark.parametrize("name", NAMES)
def test_returned_tensors_are_not_changed_by_what_follows(name):
    env = build(name)
    returned = [env.reset()]
    for action in actions_for(env, 25):
        returned += [*env.step(action), env.final_observation]
    copies = [tensor.clone() for tensor in returned]

    env.reset()
    for action in actions_for(env, 25, seed=3):
        env.step(action)

    assert all(torch.equal(*pair) for pair in zip(returned, copies, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_changing_what_was_observed_does_not_change_the_environment(name):
    env, untouched = build(name), build(name)
    env.reset().fill_(1)
    untouched.reset()
    for action in actions_for(env, 25):
        results, expected = env.step(action), untouched.step(action)
        assert all(torch.equal(*pair) for pair in zip(results, expected, strict=True))
        observation, reward, _, truncated = results
        for tensor in (observation, reward, truncated, env.final_observation):
            tensor.fill_(1)


@pytest.mark.parametrize("name", NAMES)
def test_reset_and_step_never_wait_for_the_device(name, monkeypatch):
    monkeypatch.setattr(native, "why_unavailable", lambda: "as on a GPU")
    env = build(name)
    action = actions_for(env, 1)[0]

    with Operations() as operations:
        env.reset()
        env.step(action)

    assert operations.names
    assert not operations.names & HOST_READS


@pytest.mark.parametrize("name", NAMES)
def test_state_is_updated_in_place_so_that_a_captured_step_goes_on_from_it(name):
    env = build(name)
    env.untrack()
    parts = [part for part in (env, *vars(env).values()) if hasattr(part, "__dict__")]
    state = [
        (part, key, value.data_ptr())
        for part in parts for key, value in vars(part).items() if torch.is_tensor(value)
    ]  # fmt: skip
    assert state

    env.reset()
    env.step(actions_for(env, 1)[0])

    assert all(getattr(part, key).data_ptr() == address for part, key, address in state)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_episodes(name):
    runs = []
    for _ in range(2):
        env = build(name)
        runs.append([env.reset(), *(t for a in actions_for(env, 60) for t in env.step(a))])

    assert all(torch.equal(*pair) for pair in zip(*runs, strict=True))


@pytest.mark.parametrize("name", GRIDS)
def test_a_copy_goes_on_by_itself(name):
    env = build(name)
    early, *actions = actions_for(env, 60)
    env.step(early)
    twin = copy.deepcopy(env)
    before = [x.clone() for action in actions for x in twin.step(action)]
    after = [x for action in actions for x in env.step(action)]  # from where the copy was made
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


@pytest.mark.parametrize("name", GRIDS)
def test_where_episodes_are_is_kept_when_nobody_tracks_it_any_more(name):
    env, untracked = build(name), build(name)
    early, *actions = actions_for(env, 60)
    for one in (env, untracked):
        one.step(early)
    untracked.untrack()
    for action in actions:
        for actual, expected in zip(untracked.step(action), env.step(action), strict=True):
            assert torch.equal(actual, expected)


@pytest.mark.parametrize("name", NAMES)
def test_an_environment_begun_in_inference_mode_goes_on_outside_of_it(name):
    env = build(name)
    with torch.inference_mode():
        env.reset()
        env.step(actions_for(env, 1)[0])
    env.reset()
    for action in actions_for(env, 30):
        env.step(action)


@pytest.mark.parametrize("name", GRIDS)
def test_an_environment_that_is_only_asked_has_no_walks(name):
    env, like = build(name), build(name)
    observation, phase = like.reset(), torch.zeros(6).long()
    assert torch.equal(env.rules().state(observation), like.rules().state(observation))
    assert torch.equal(env.expert(observation, phase), like.expert(observation, phase))
    assert env.optimal_return() is not None
    assert "_walks" not in vars(env)


@pytest.mark.parametrize("name", GRIDS)
def test_transitions_agree_with_what_steps_do(name):
    env = build(name, num_envs=40)
    rules = env.rules()
    table = rules.transitions().expand(40, -1, -1)
    state = rules.state(env.reset())
    for action in actions_for(env, 60):
        observation = env.step(action)[0]
        end = rules.state(env.final_observation)
        assert torch.equal(end, table[torch.arange(40), state, action])
        state = rules.state(observation)


def test_observations_are_numbered_in_row_major_order():
    every = torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(4))
    rules = Rules.of(spaces.MultiDiscrete([2, 3, 4]))

    assert rules.num_states == 24
    assert rules.state(every.view(2, 12, 3)).flatten().tolist() == list(range(24))
    assert Rules.of(spaces.Discrete(3)).state(torch.tensor([2, 0])).tolist() == [2, 0]


@pytest.mark.parametrize(
    ("name", "phases"),
    [("dark-room", 1), ("dark-room-permuted", 1), ("dark-room-hard", 2), ("dark-key-to-door", 3)],
)
def test_phases_count_the_stages_of_reward(name, phases):
    assert build(name).rules().num_phases == phases


@pytest.mark.parametrize("name", NAMES)
def test_experts_give_distributions_over_actions_where_there_are_any(name):
    env = build(name)
    observation = env.reset()
    for action in actions_for(env, 10):
        policy = env.expert(observation)
        if name == "combination-lock":
            assert policy is None
            return
        assert policy.shape == (env.num_envs, env.actions.num_params)
        assert env.actions.defect(policy.numpy()).max() < 1e-6
        observation = env.step(action)[0]


@pytest.mark.parametrize("name", ENVS)
def test_every_family_of_the_paper_has_what_a_comparison_needs(name):
    env = build(name, num_envs=40)
    optimal, action = env.optimal_return(), actions_for(env, 3).transpose(0, 1)
    assert (optimal > 0).all()
    regret = env.regret(action)
    if not name.endswith("bandit"):
        assert regret is None
        return
    assert env.regret(env.expert(env.reset()).argmax(dim=1, keepdim=True)).abs().max() == 0
    torch.testing.assert_close(regret, 3 * optimal - env.tasks.gather(1, action).sum(dim=1))


class Unknown(BatchedEnv):
    """Tells nothing about itself that it need not."""

    def reset(self):
        return torch.zeros(self.num_envs, dtype=torch.int64)

    def step(self, action):
        never = torch.zeros(self.num_envs, dtype=torch.bool)
        return self.reset(), torch.zeros(self.num_envs), never, never


def test_what_an_environment_does_not_know_is_none():
    env = Unknown(make_family("dark-room"), torch.tensor([[3, 4]]), torch.Generator())
    observation = env.reset()

    assert env.optimal_return() is None
    assert env.expert(observation) is None
    assert env.rules() is None
    assert env.regret(observation[:, None]) is None
    assert env.render_text(observation, 0) == "0 in task [3, 4]\n"
    with pytest.raises(UserError, match="dark-room has no picture; use render_mode='ansi'"):
        env.render_picture(observation, 0)


def test_uniform_over_spreads_each_row_over_its_true_entries():
    chosen = torch.tensor([[True, False, True, False], [True, True, True, True]])
    expected = torch.tensor([[0.5, 0.0, 0.5, 0.0], [0.25, 0.25, 0.25, 0.25]])
    torch.testing.assert_close(uniform_over(chosen), expected)
