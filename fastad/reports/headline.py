"""Whether a model learns in context, in a sentence and in a few figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fastad.evaluate.comparison import Family, Line
from fastad.evaluate.metrics import estimate_over_seeds
from fastad.reports.charts import DASHES
from fastad.reports.markup import Html, joined, tag

EACH = 30  # episodes up to which the last one is shown by itself, not the mean of the last tenth
SEEN = {
    "train": "tasks trained on",
    "validation": "validation tasks, never trained on",
    "test": "tasks never trained on",
}


@dataclass(frozen=True)
class Gain:
    """What the end returns beyond the first episode, task by task.

    Attributes:
        mean: Over tasks and seeds.
        interval: 95 %; None of a single task.
    """

    mean: float
    interval: tuple[float, float] | None

    @property
    def verdict(self) -> str:
        """Whether that is learning: only where chance alone does not explain it."""
        if self.interval is None:
            return "One task tells little"
        low, high = self.interval
        if low > 0:
            return "It learns in context"
        return "It gets worse in context" if high < 0 else "No learning in context is shown"


def gain_of(line: Line, family: Family) -> Gain:
    """By how much a line ends above its first episode."""
    gains = [
        end_of(line, seed, family) - line.tried[seed].task_returns[:, 0] for seed in line.tried
    ]
    found = estimate_over_seeds(gains, [tried.tasks for tried in line.tried.values()])
    interval = None if found.interval is None else (found.interval[0].item(),
                                                    found.interval[1].item())  # fmt: skip
    return Gain(float(found.mean), interval)


def end_of(line: Line, seed: int, family: Family) -> np.ndarray:
    """Every task's return at the end, (P,): in the last episode, or of many in the last tenth."""
    if family.num_episodes > EACH:
        return line.final(seed)
    last: np.ndarray = line.tried[seed].task_returns[:, -1]
    return last


def headline(family: Family, figures: dict[str, Any]) -> Html:
    """The sentence, and what it rests on."""
    line = family.reference or family.of_kind("method")[0]
    told = _figures(figures, line.label)
    gain = gain_of(line, family)
    first, last = told["first"]["mean"], _last(told, family)
    optimum = figures["optimal_return"]
    share = (
        f", {100 * last / optimum:.0f} % of the optimum"
        if optimum is not None and optimum > 0
        else ""
    )
    sentence = (
        f"{gain.verdict}: {first:.1f} in the first episode, {last:.1f} in the "
        f"{_end_words(told, family)}{share}."
    )
    rollouts, seeds = told["rollouts_per_task"], len(told["seeds"])
    options = ", ".join(f"{k}={v}" for k, v in figures["env_options"].items())
    where = [
        figures["env"] + (f" ({options})" if options else ""),
        f"{told['num_tasks']} {SEEN.get(figures['split'], figures['split'])}",
        f"{rollouts} rollout{'s' * (rollouts > 1)} each",
        f"{seeds} training seed{'s' * (seeds > 1)}",
        "frozen weights",
    ]
    gained = "no interval, of one task"
    if gain.interval is not None:
        low, high = gain.interval
        gained = f"95 % interval {low:.2f} to {high:.2f}, task by task"
    cards = [
        _card("first episode", f"{first:.2f}", _interval(told["first"])),
        _card(_end_words(told, family), f"{last:.2f}", _interval(_last_summary(told, family))),
        _card("gained in context", f"{gain.mean:+.2f}", gained),
    ]
    source = next((x for x in figures["lines"] if x["label"] == told["source"]), None)
    if source is not None:
        end = _last_summary(source, family)
        cards.append(_card("its source, at the end", f"{end['mean']:.2f}", _interval(end)))
    return joined(
        tag("p", " · ".join(where), class_="eyebrow"),
        tag("h2", sentence),
        tag("dl", *cards, class_="cards"),
    )


def lines_table(family: Family, figures: dict[str, Any], colours: dict[str, str]) -> Html:
    """Every line in figures; what names the curves of the chart as well."""
    optimum = figures["optimal_return"]
    rows = []
    for line in figures["lines"]:
        end = _last_summary(line, family)
        share = "-" if not optimum or optimum < 0 else f"{100 * end['mean'] / optimum:.0f} %"
        drawn = DASHES.get(line["kind"], "solid")
        dash = {"solid": "solid", "dot": "dotted"}.get(drawn, "dashed")
        style = f"border-color:var({colours[line['label']]});border-style:{dash}"
        swatch = tag("span", class_="swatch", aria_hidden="true", style=style)
        rows.append(
            tag("tr", tag("th", swatch, line["label"], scope="row"),
                tag("td", f"{line['first']['mean']:.2f}"), tag("td", f"{end['mean']:.2f}"),
                tag("td", _interval(end, "-")), tag("td", share))
        )  # fmt: skip
    many = family.num_episodes > EACH
    end_words = f"last {_final_count(figures['lines'][0])}" if many else "last episode"
    heads = ("", "first episode", end_words, "95 % interval", "of optimum")
    top = tag("tr", *(tag("th", h, scope="col") if h else tag("td") for h in heads))
    return tag(
        "div",
        tag("table", tag("caption", "Return of every line", class_="unseen"),
            tag("thead", top),
            tag("tbody", *rows)),
        class_="wide", tabindex="0", role="region", aria_label="Return of every line",
    )  # fmt: skip


def _figures(figures: dict[str, Any], label: str) -> dict[str, Any]:
    found: dict[str, Any] = next(line for line in figures["lines"] if line["label"] == label)
    return found


def _last_summary(told: dict[str, Any], family: Family) -> dict[str, Any]:
    """Mean and interval at the end of a line, plain."""
    if family.num_episodes > EACH:
        final: dict[str, Any] = told["final"]
        return final
    interval = told["interval"]
    return {
        "mean": told["returns"][-1],
        "interval": None if interval is None else [interval[0][-1], interval[1][-1]],
    }


def _last(told: dict[str, Any], family: Family) -> float:
    return float(_last_summary(told, family)["mean"])


def _final_count(told: dict[str, Any]) -> int:
    return int(told["final_episodes"])


def _end_words(told: dict[str, Any], family: Family) -> str:
    if family.num_episodes > EACH:
        return f"last {_final_count(told)} episodes"
    return f"{'last' if family.num_episodes > 1 else 'only'} episode"


def _interval(summary: dict[str, Any], missing: str = "no interval, of one task") -> str:
    interval = summary.get("interval")
    return missing if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}"


def _card(name: str, value: str, more: str) -> Html:
    return tag("div", tag("dt", name), tag("dd", tag("b", value), tag("span", more)))
