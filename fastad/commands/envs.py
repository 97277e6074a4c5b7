"""`fastad envs`: the environments, their options, and who learns them."""

from __future__ import annotations

from dataclasses import dataclass


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
        "with options: fastad collect --env NAME --env-options KEY=VALUE ..."
    )


def _describe(name: str) -> None:
    from fastad.base.config import format_options
    from fastad.base.docs import field_texts, paragraphs, rows
    from fastad.envs.registry import env_options, family_class, gymnasium_id, make_family
    from fastad.sources.registry import sources_for

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
