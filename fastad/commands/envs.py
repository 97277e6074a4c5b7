"""`fastad envs`: the environments, their options, and who learns them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class EnvsConfig:
    """List the environments with their options and defaults, or describe one."""

    name: str | None = None
    """Which to describe (default: list all)."""


def run_envs(config: EnvsConfig) -> None:
    """Print what there is to know.

    Raises:
        UserError: If there is no such environment.
    """
    from fastad.base.config import format_options
    from fastad.base.docs import rows, summary
    from fastad.envs.registry import ENVS, env_options, family_class

    if config.name is not None:
        _describe(config.name)
        return
    for name in ENVS:
        options = " ".join(format_options(env_options(name)))
        print(f"{name}: {summary(family_class(name))}\n{rows({'options': options})}")
    print(
        "\none of them: fastad envs NAME\n"
        "with options: fastad collect --env NAME --env-options KEY=VALUE ...\n"
        "any of Gymnasium: fastad envs gym:ID; your own: fastad envs package.module:callable"
    )


def _describe(name: str) -> None:
    from fastad.base.config import format_options
    from fastad.base.docs import field_texts, paragraphs, rows
    from fastad.envs.registry import (
        env_options,
        family_class,
        gymnasium_id,
        is_outside,
        make_family,
    )
    from fastad.sources.registry import sources_for

    if is_outside(name):
        _describe_outside(name)
        return
    kind, family, options = family_class(name), make_family(name), env_options(name)
    spec, tasks, texts = family.spec(), family.tasks(), field_texts(kind)
    defaults = format_options(options)
    exactly = "exactly" if spec.fixed_length else "at most"
    facts = {
        "tasks": "any number, drawn" if tasks is None else f"{len(tasks):,}",
        "episodes": f"{exactly} {spec.episode_length} steps",
        "observations": str(spec.observation_space),
        **({} if spec.shown_space is None else {"shown": f"{spec.shown_space}, drawn of them"}),
        "actions": str(spec.action_space),
        "sources": ", ".join(sources_for(name)),
        "Gymnasium": gymnasium_id(name),
    }
    print(f"{name}: {paragraphs(kind)}\n\noptions, with their defaults (--env-options):")
    print(rows({given: texts[key] for key, given in zip(options, defaults, strict=True)}))
    print(f"\nby default:\n{rows(facts)}")


def _describe_outside(name: str) -> None:
    """What is known of an environment from outside, and how to begin with it."""
    from fastad.base.config import format_options
    from fastad.base.docs import argument_texts, paragraphs, rows
    from fastad.base.errors import UserError
    from fastad.envs.gym_in import OPTIONS, Gym
    from fastad.sources.registry import sources_for

    family, texts = Gym(name), argument_texts(Gym)
    needed = {}
    try:
        length = f"at most {family.episode_length} steps"
    except UserError:
        length = "of any length; say after how many steps they end, with episode_length"
        needed = {"episode_length": 200}
    facts = {
        "episodes": length,
        "observations": str(family.observations.space),
        "actions": str(family.actions.space),
        "sources": ", ".join(sources_for(name, **needed)),
        "arguments": _listed(family.maker.parameters()),
        "attributes": _listed(family.maker.attributes()),
    }
    example = "".join(f" {given}" for given in format_options(needed))
    print(f"{name}: {paragraphs(Gym)}\n\noptions, with their defaults (--env-kwargs):")
    named = zip(OPTIONS, format_options(OPTIONS), strict=True)
    print(rows({given: texts[key] for key, given in named}))
    print(f"\nby default:\n{rows({key: value for key, value in facts.items() if value})}")
    print(f"\nfor example: fastad collect --env {name} --env-kwargs{example} {family.hint()}")


def _listed(defaults: dict[str, Any]) -> str:
    """Names with the plain values that they have by default."""
    plain = (bool, int, float, str, type(None))
    shown = (f"{k}={v!r}" if isinstance(v, plain) else k for k, v in defaults.items())
    return " ".join(shown)
