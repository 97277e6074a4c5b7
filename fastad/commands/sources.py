"""`fastad sources`: the sources, their options, what they learn, and what they are told."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

NOTHING = "nothing beyond what it experiences"


@dataclass(frozen=True)
class SourcesConfig:
    """List the sources with their options and defaults, or describe one.

    What a source is told beyond what it experiences stands beside all its results.
    """

    name: str | None = None
    """Which to describe (default: list all)."""


def run_sources(config: SourcesConfig) -> None:
    """Print what there is to know.

    Raises:
        UserError: If there is no such source.
    """
    from fastad.base.config import format_options
    from fastad.base.docs import argument_texts, paragraphs, rows, summary
    from fastad.sources.registry import SOURCES, source_class, source_options

    if config.name is not None:
        kind, options = source_class(config.name), source_options(config.name)
        # Of Stable-Baselines3's classes, what their own docstrings say of their options.
        texts = argument_texts(getattr(kind, "algorithm", kind)) | argument_texts(kind)
        defaults = format_options(options)
        print(f"{config.name}: {paragraphs(kind)}\n\noptions, with their defaults:")
        print(
            rows({given: texts.get(key, "") for key, given in zip(options, defaults, strict=True)})
        )
        print(f"\nlearns, and is told by default:\n{rows(_told([config.name])[config.name])}")
        return
    told = _told(SOURCES)
    for name, kind in SOURCES.items():
        facts = {
            "options": " ".join(format_options(source_options(name))) or "none",
            "learns": ", ".join(told[name]),
            "knows": _in_short(list(told[name].values())),
        }
        print(f"{name}: {summary(kind)}\n{rows(facts)}")
    print(
        "\none of them: fastad sources NAME\n"
        "with options: fastad collect --source NAME --source-options KEY=VALUE ...\n"
        "of Stable-Baselines3: fastad sources sb3:PPO (A2C, DQN, SAC, TD3, DDPG), or any like them "
        "by its place, sb3:package.module:Class"
    )


def _told(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """For each source the environments that it learns, and what it is told of each."""
    from fastad.envs.registry import ENVS
    from fastad.sources.registry import sources_for

    learners = {env: sources_for(env, names) for env in ENVS}
    return {
        name: {env: found[name] or NOTHING for env, found in learners.items() if name in found}
        for name in names
    }


def _in_short(told: list[str]) -> str:
    """What a source is told of every environment, and what of some."""
    facts = dict.fromkeys(fact for text in told for fact in text.split("; ") if fact != NOTHING)
    always = [fact for fact in facts if all(fact in text.split("; ") for text in told)]
    sometimes = [fact for fact in facts if fact not in always]
    parts = always + ([f"by environment: {'; '.join(sometimes)}"] if sometimes else [])
    return "; ".join(parts) or NOTHING
