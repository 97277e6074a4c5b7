"""Sources by name, and their construction from what a user wrote."""

import inspect
from typing import Any

import torch

from fastad.base.errors import UserError, unknown
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
    """The source class called `name`.

    Raises:
        UserError: If there is none; the message proposes the nearest name.
    """
    if name not in SOURCES:
        raise unknown("source", name, SOURCES)
    return SOURCES[name]


def source_options(name: str) -> dict[str, Any]:
    """The keyword arguments of the source called `name`, with their defaults."""
    parameters = inspect.signature(source_class(name)).parameters
    return {
        key: parameter.default
        for key, parameter in parameters.items()
        if key not in ("env", "num_episodes", "generator")
    }


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
        name: A key of `SOURCES`.
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
        fitting = ", ".join(key for key, other in SOURCES.items() if other.fits(env))
        raise UserError(
            f"source {name!r} cannot learn env {env.family.name!r}; choose one of: {fitting}"
        )
    valid = source_options(name)
    for option in kwargs:
        if option not in valid:
            if not valid:
                raise UserError(f"source {name!r} has no options; remove {option!r}")
            raise unknown(f"option of {name}", option, valid)
    return source(env, num_episodes=num_episodes, generator=generator, **kwargs)


def sources_for(env: str, **options: Any) -> dict[str, str]:
    """The sources that can learn the environment called `env`, and what each is told by default.

    Args:
        env: Its name.
        **options: Of it.

    Raises:
        UserError: If there is no such environment.
    """
    generator, family = torch.Generator(), make_family(env, **options)
    tasks = family.tasks()
    some = family.sample(1, "train", generator) if tasks is None else tasks[:1]
    made = family.make(some, generator)
    fitting = [name for name, source in SOURCES.items() if source.fits(made)]
    return {
        name: make_source(name, made, num_episodes=1, generator=generator).knows for name in fitting
    }
