import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fastad.acting.interact import Transition
from fastad.base.errors import UserError
from fastad.envs.swimming import uniform_in_disc
from fastad.envs.watermaze import Watermaze
from fastad.sources.eliminate import Eliminate
from fastad.sources.visited import Visited

SMALL = {"height": 16, "width": 24}


def learner(platform: tuple[float, float], **options: Any) -> Eliminate:
    """One that has seen nothing yet."""
    env = Watermaze(**SMALL, **options).make(torch.tensor([platform]), torch.Generator())
    return Eliminate(env, num_episodes=2, generator=torch.Generator().manual_seed(0))


def see(source: Eliminate, x: float, y: float, *, reward: float) -> None:
    """Let it end a step somewhere."""
    source._env._final_pose.copy_(torch.tensor([[x, y, 0.0]]))
    told = torch.tensor([reward])
    nothing = torch.zeros(1)
    source.observe(Transition(nothing, nothing, told, nothing, nothing, nothing), nothing)


def distances(source: Eliminate, x: float, y: float) -> Tensor:
    """Of all places from a point."""
    return (source._places - torch.tensor([x, y])).square().sum(dim=1).sqrt()


def test_a_reward_leaves_what_is_near_and_its_absence_what_is_not() -> None:
    source = learner((0.3, 0.0))
    assert source._possible.all()
    see(source, 0.0, 0.0, reward=0.0)
    # A place stands for what is within 0.07 / sqrt(3) = 0.0404 of it: all of that is on the
    # platform of radius 0.15 within 0.1096, and some of it within 0.1904.
    assert torch.equal(source._possible[0], distances(source, 0.0, 0.0) > 0.1096)
    see(source, 0.2, 0.0, reward=1.0)
    near = (distances(source, 0.2, 0.0) <= 0.1904) & (distances(source, 0.0, 0.0) > 0.1096)
    assert torch.equal(source._possible[0], near)


def test_the_place_nearest_to_the_platform_is_never_ruled_out(learn: Callable[..., Any]) -> None:
    tasks = uniform_in_disc(200, 0.8, torch.Generator().manual_seed(4))
    run = learn("watermaze", "eliminate", tasks=tasks, num_episodes=4, env_kwargs=SMALL)
    nearest = torch.cdist(tasks, run.source._places).argmin(dim=1)
    assert run.source._possible.gather(1, nearest[:, None]).all()


def test_it_finds_the_platform_within_episodes_and_stays(learn: Callable[..., Any]) -> None:
    tasks = uniform_in_disc(200, 0.8, torch.Generator().manual_seed(4))
    run = learn("watermaze", "eliminate", tasks=tasks, num_episodes=6, env_kwargs=SMALL)
    means, optimum = run.returns.mean(dim=0), run.env.optimal_return()
    assert 8 < means[0] < 22
    assert means[0] < means[1] < means[2]
    assert means[-1] > 0.95 * optimum.mean()
    assert (run.returns[:, -1] > 20).all()


def test_a_history_is_the_same_whatever_is_stored(learn: Callable[..., Any]) -> None:
    tasks = torch.tensor([[0.1, 0.2], [-0.5, 0.3]])
    posed, framed = (
        learn("watermaze", "eliminate", tasks=tasks, num_episodes=2, env_kwargs=SMALL | store)
        for store in ({"store": "pose"}, {"store": "frames"})
    )
    assert torch.equal(posed.history.policy, framed.history.policy)
    assert torch.equal(posed.history.reward, framed.history.reward)
    assert framed.history.observation.shape == (2, 100, 16, 24, 3)


def test_it_would_act_in_earlier_poses_by_what_it_knows_now() -> None:
    source = learner((0.5, 0.0))
    poses = torch.tensor([[[0.0, 0.0, 0.0], [0.5, 0.5, math.pi]]])
    none = torch.zeros((1, 2), dtype=torch.int64)
    see(source, 0.5, 0.0, reward=1.0)
    ahead, aside = source.would_act(Visited(poses, phase=none, episode_step=none))[0]
    forward, left = 0, 2  # at (0.5, 0.5), looking along -x, the platform is to the left
    assert ahead.argmax() == forward
    assert aside.argmax() == left


def test_it_cannot_look_back_at_frames() -> None:
    source = learner((0.5, 0.0), store="frames")
    none = torch.zeros((1, 1), dtype=torch.int64)
    with pytest.raises(UserError, match="use store='pose', or leave out final"):
        source.would_act(Visited(torch.zeros(1, 1, 16, 24, 3), phase=none, episode_step=none))


@pytest.mark.parametrize(
    ("options", "message"), [({"pitch": 0.5}, "pitch=0.5"), ({"detour": 0}, "detour=0")]
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    env = Watermaze(**SMALL).make(torch.zeros(1, 2), torch.Generator())
    with pytest.raises(UserError, match=message):
        Eliminate(env, num_episodes=2, generator=torch.Generator(), **options)
