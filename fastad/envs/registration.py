"""The Gymnasium ids. Everything is given as strings, so that registering does not need torch."""

import gymnasium

# Gymnasium's id, and the name in `fastad.envs.registry.ENVS`.
GYMNASIUM_IDS = {
    "fastad/BernoulliBandit-v0": "bernoulli-bandit",
    "fastad/GaussianBandit-v0": "gaussian-bandit",
    "fastad/AdversarialBandit-v0": "adversarial-bandit",
    "fastad/DarkRoom-v0": "dark-room",
    "fastad/DarkRoomHard-v0": "dark-room-hard",
    "fastad/DarkRoomPermuted-v0": "dark-room-permuted",
    "fastad/DarkKeyToDoor-v0": "dark-key-to-door",
}


def register_envs() -> None:
    """Make every environment known to `gymnasium.make` and `make_vec`; repeating it is harmless."""
    for gymnasium_id, name in GYMNASIUM_IDS.items():
        if gymnasium_id not in gymnasium.registry:
            gymnasium.register(
                gymnasium_id,
                entry_point="fastad.envs.gym_out:GymEnv",
                vector_entry_point="fastad.envs.gym_out:GymVectorEnv",
                kwargs={"env": name},
            )
