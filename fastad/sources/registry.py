"""Sources by name, and their construction from what a user wrote."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from fastad.base.errors import UserError, unknown
from fastad.base.trust import names_within
from fastad.envs.base import BatchedEnv
from fastad.envs.registry import make_family
from fastad.sources.actor_critic import ActorCritic
from fastad.sources.bandits import UCB1, EpsilonGreedy, Thompson
from fastad.sources.base import Source
from fastad.sources.eliminate import Eliminate
from fastad.sources.expert import Expert, Noise
from fastad.sources.frontier import Frontier
from fastad.sources.neural.a2c import A2C
from fastad.sources.neural.a3c import A3C
from fastad.sources.neural.dqn import DQN
from fastad.sources.q_learning import QLearning
from fastad.sources.random import Random
from fastad.sources.sb3 import stable_baselines
from fastad.sources.sb3_models import PREFIX, algorithm_names
from fastad.sources.ucbvi import UCBVI

SOURCES: dict[str, type[Source]] = {
    source.name: source
    for source in (
        *(UCB1, EpsilonGreedy, Thompson),
        *(QLearning, ActorCritic, UCBVI, Frontier),
        *(A2C, A3C, DQN),
        *(Eliminate, Expert, Noise, Random),
    )
}

# What a dataset.json of the time when it named only the options given means by the others, where
# their defaults have changed since.
FORMER_DEFAULTS: dict[str, dict[str, Any]] = {
    ActorCritic.name: {"critic_rate": 0.2, "entropy": 0.01, "initial_value": 0.0}
}


def source_class(name: str) -> type[Source]:
    """The source class called `name`, a key of `SOURCES` or one of Stable-Baselines3's, "sb3:PPO".

    Raises:
        UserError: If there is none; the message proposes the nearest name.
    """
    if name.startswith(PREFIX):
        return stable_baselines(name)
    if name not in SOURCES:
        raise unknown("source", name, SOURCES)
    return SOURCES[name]


def is_at_hand(name: str) -> bool:
    """Whether there is a source called `name`: histories may be of a model's, or of anything."""
    try:
        source_class(name)
    except UserError:
        return False
    return True


def is_own_class(name: str) -> bool:
    """Whether a source's name leads to a class from anywhere, as "sb3:package.module:Class"."""
    return name.startswith(PREFIX) and ":" in name.removeprefix(PREFIX)


def code_within(name: str, kwargs: Mapping[str, Any]) -> list[str]:
    """What a source and its options name of other code, as "module:NAME"."""
    if not name.startswith(PREFIX):
        return []
    return [*([name] if is_own_class(name) else []), *names_within(dict(kwargs))]


def source_options(name: str) -> dict[str, Any]:
    """The keyword arguments of the source called `name`, with their defaults."""
    return source_class(name).options()


def make_source(
    name: str,
    env: BatchedEnv,
    *,
    num_episodes: int,
    generator: torch.Generator,
    **kwargs: Any,
) -> Source:
    """Build the source called `name`, one fresh learner per environment.

    Args:
        name: See `source_class`.
        env: What the learners will act in.
        num_episodes: The length of the histories, for schedules.
        generator: The only source of randomness, on the environment's device.
        **kwargs: The source's own keyword arguments, see `source_options`.

    Raises:
        UserError: If the name, an option or its value is not possible, or the source cannot
            learn this environment's tasks; the message says which sources can.
    """
    source = source_class(name)
    if not source.fits(env):
        of_kin = algorithm_names() if name.startswith(PREFIX) else []
        fitting = [key for key in (*of_kin, *SOURCES) if source_class(key).fits(env)]
        reason = f" and its actions in {env.action_space}" if of_kin else ""
        raise UserError(
            f"source {name!r} cannot learn env {env.family.name!r}{reason}; choose one of: "
            f"{', '.join(fitting)}"
        )
    valid = source_options(name)
    for option in kwargs:
        if option not in valid:
            if not valid:
                raise UserError(f"source {name!r} has no options; remove {option!r}")
            raise unknown(f"option of {name}", option, valid)
    return source(env, num_episodes=num_episodes, generator=generator, **kwargs)


def sources_for(env: str, names: Iterable[str] = SOURCES, /, **options: Any) -> dict[str, str]:
    """The sources that can learn the environment called `env`, and what each is told by default.

    Args:
        env: Its name.
        names: Of the sources to choose from.
        **options: Of the environment.

    Raises:
        UserError: If there is no such environment or source.
    """
    generator, family = torch.Generator(), make_family(env, **options)
    tasks = family.tasks()
    some = family.sample(1, "train", generator) if tasks is None else tasks[:1]
    made = family.make(some, generator)
    fitting = [name for name in names if source_class(name).fits(made)]
    return {
        name: make_source(name, made, num_episodes=1, generator=generator).knows for name in fitting
    }
