"""Dictionaries for Stable-Baselines3's networks, with images of any size in them."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

pytest.importorskip("stable_baselines3")
from fastad.sources.sb3_parts import Parts, has_small_images

VIEW = spaces.Box(0, 255, (7, 7, 3), np.uint8)
PICTURE = spaces.Box(0, 255, (40, 48, 3), np.uint8)


def test_an_image_too_small_for_convolutions_is_a_vector_of_mean_0_and_deviation_1():
    space = spaces.Dict({"agent.view": VIEW, "at": spaces.Discrete(4)})
    assert has_small_images(space)
    parts = Parts(space)
    assert parts.features_dim == 147 + 4
    view = torch.zeros(1, 7, 7, 3)
    view[:, :3] = 10 / 255  # codes of a few, as SB3 scales pixels
    features = parts({"agent.view": view, "at": torch.eye(4)[[2]]})[0]
    assert features[147:].tolist() == [0.0, 0.0, 1.0, 0.0]
    assert features[:147].mean().item() == pytest.approx(0.0, abs=1e-5)
    assert features[:147].std(correction=0).item() == pytest.approx(1.0, abs=0.05)


def test_large_images_have_convolutions_as_ever():
    large = spaces.Dict({"picture": spaces.Box(0, 255, (3, 40, 48), np.uint8)})
    assert not has_small_images(large)
    assert Parts(large, cnn_output_dim=32).features_dim == 32
    assert not has_small_images(VIEW)  # no Dict: a policy of vectors flattens it by itself


def test_ppo_can_be_made_for_a_dict_with_a_small_image():
    from fastad.envs.registry import make_family
    from fastad.sources.registry import make_source

    pytest.importorskip("minigrid")
    family = make_family(
        "gym:minigrid:MiniGrid-Empty-5x5-v0", tasks="seeds", observe="image,direction",
        episode_length=12,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    env = family.make(family.sample(1, "train", generator), generator)
    source = make_source("sb3:PPO", env, num_episodes=2, generator=generator, n_steps=8,
                         batch_size=4, n_epochs=1)  # fmt: skip
    blocks = source.run(env, num_steps=24, block_steps=24, generator=generator)
    (history,) = (block for block in blocks if block.reward.shape[1] > 0)
    assert history.policy.shape == (1, 24, 7)
    torch.testing.assert_close(history.policy.sum(-1), torch.ones(1, 24))
