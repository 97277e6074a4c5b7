"""A result as a table on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastad.methods.registry import label as name_of

if TYPE_CHECKING:
    from rich.table import Table

    from fastad.evaluate.result import Result

PLAIN = name_of("ad", "policy")  # goes without saying
MARKS = [factor * 10**power for power in range(7) for factor in (1, 2, 5)]  # of long rows


def print_table(result: Result) -> None:
    """Print the returns of some episodes with intervals, beside the source, chance and optimum."""
    from rich.console import Console

    figures = result.figures()
    source, trained = figures["source_returns"], result.trained_until
    console = Console()
    console.print(_returns_table(result, figures))
    if trained is not None and result.num_episodes > trained:
        prompted = ", the prompt's included" if result.prompt else ""
        shown = _episodes(trained + result.prompt_episodes)
        print(f"training windows showed {shown}{prompted}; those beyond are marked *")
    if figures["minus_source"]:
        console.print(_differences_table(figures))
    if result.num_tasks == 1:
        print("one task: it has no interval")
    # The source runs longer than the context when only every k-th of its episodes is shown.
    if len(source) > result.num_episodes:
        print(f"source's last episode ({len(source)}): {source[-1]:.2f}")
    print(f"random {_number(figures['random_return'])}, optimal {_number(result.optimal_return)}")
    if result.label != PLAIN:
        print(f"the model: {result.label}")
    if result.source_knows:
        print(f"the source {result.source} knows {result.source_knows}")
    played = figures.get("source_episodes_per_episode", 1)
    if played > 1:
        print(f"the source plays {played} episodes for each that is shown: it has {played} actors")
    if result.source_action_noise:
        print(f"the source acts with {result.source_action_noise:.0%} random actions")
    if "regret" in figures:
        print(f"regret over {result.num_episodes} pulls: {_regret_line(figures)}")
    for name, label in (("cached", "with the KV cache"), ("uncached", "without it")):
        speed = figures.get(f"steps_per_second_{name}")
        if speed is not None:
            print(f"{speed:,.0f} steps/s {label}")


def shown_episodes(count: int) -> list[int]:
    """Episodes 1, 2, 5, 10 and so on up to the last, counted from 1."""
    return [mark for mark in MARKS if mark < count] + [count]


def _episodes(count: int) -> str:
    return "1 episode" if count == 1 else f"{count} episodes"


def _source_columns(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """Headings of the source's columns, and the suffix of their figures."""
    if not figures["source_action_noise"]:
        return [(figures["source"], "")]
    noise = f"{figures['source_action_noise']:.0%}"
    return [
        (f"{figures['source']},\n{noise} random", ""),
        (f"{figures['source']},\nno noise", "_clean"),
    ]


def _returns_table(result: Result, figures: dict[str, Any]) -> Table:
    returns, interval, optimal = (figures[k] for k in ("returns", "interval", "optimal_return"))
    columns = _source_columns(figures)
    headings = ["episode", "return", "95 % interval", "of optimum"]
    table = _table(result.conditions, [*headings, *(name for name, _ in columns)])
    trained = len(returns) if result.trained_until is None else result.trained_until
    for episode in shown_episodes(len(returns)):
        i = episode - 1
        sources = [figures[f"source_returns{suffix}"] for _, suffix in columns]
        table.add_row(
            f"{episode}*" if episode > trained else str(episode),
            f"{returns[i]:.2f}",
            _range(interval, i),
            f"{100 * returns[i] / optimal:.1f} %" if optimal is not None and optimal > 0 else "-",
            *(f"{source[i]:.2f}" if i < len(source) else "-" for source in sources),
        )
    return table


def _differences_table(figures: dict[str, Any]) -> Table:
    columns = _source_columns(figures)
    title = "return minus the source's, task by task, with 95 % intervals"
    table = _table(title, ["episode", *(f"minus {name}" for name, _ in columns)])
    differences = [figures[f"minus_source{suffix}"] for _, suffix in columns]
    for episode in shown_episodes(len(differences[0]["mean"])):
        i = episode - 1
        table.add_row(
            str(episode),
            *(f"{d['mean'][i]:+.2f} ({_range(d['interval'], i)})" for d in differences),
        )
    return table


def _table(title: str, headings: list[str]) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", header_style="bold")
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _range(interval: Any, index: int) -> str:
    """An interval of one figure, from (2, ...)."""
    return "-" if interval is None else f"{interval[0][index]:.2f} to {interval[1][index]:.2f}"


def _regret_line(figures: dict[str, Any]) -> str:
    """Regret with its interval, beside the source's and that of chance."""
    labels = {"source_regret": "source", "random_regret": "random"}
    if "ucb1_regret" in figures:
        labels["ucb1_regret"] = "UCB1"
    if figures["source_action_noise"]:
        labels["source_regret_clean"] = "source without its noise"
    parts = [_with_interval(figures, "regret")]
    parts += [f"{label} {_with_interval(figures, name)}" for name, label in labels.items()]
    difference = figures.get("minus_source_regret")
    if difference and difference["interval"]:
        low, high = difference["interval"]
        parts.append(f"minus the source's {difference['mean']:+.2f} ({low:.2f} to {high:.2f})")
    return ", ".join(parts)


def _with_interval(figures: dict[str, Any], name: str) -> str:
    interval = figures.get(f"{name}_interval")
    shown = f" ({interval[0]:.2f} to {interval[1]:.2f})" if interval else ""
    return _number(figures.get(name)) + shown


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
