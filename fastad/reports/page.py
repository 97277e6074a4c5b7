"""The page itself: one HTML file that brings along all it needs, and that nothing can reach out of.

Its policy lets the browser run the page's own two scripts, which it knows by their digests, and
fetch nothing at all.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from string import Template
from typing import Any

from fastad.base.errors import UserError
from fastad.base.extras import how_to_install
from fastad.base.provenance import __version__
from fastad.envs.family import TaskFamily
from fastad.evaluate.comparison import Family
from fastad.evaluate.comparison_families import families_of, family_key
from fastad.evaluate.comparison_figures import figures_of_family
from fastad.evaluate.comparison_style import METHOD_COLOURS, SOURCE_COLOURS, paler
from fastad.reports import charts, facts, pictures
from fastad.reports.headline import headline, lines_table
from fastad.reports.markup import Html, as_script, joined, tag
from fastad.reports.runs import Reported

GENERATOR = "fastad report"  # by which a report is known
SCRIPTS = ("charts.js", "scene.js", "replay.js")
LIGHTER = 0.42  # white in the colours of lines where the page is dark
MAX_MAPS = 4  # methods whose tasks are shown on maps


def plotly_script() -> str:
    """The library that draws the curves, as it comes with the plotly package.

    Raises:
        UserError: If plotly cannot be imported.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise UserError(
            f"reports need plotly, which cannot be imported ({error}); run: "
            f"{how_to_install('report')}"
        ) from error
    script: str = get_plotlyjs()
    return script


def build_page(
    runs: Sequence[Reported],
    *,
    envs: Mapping[str, TaskFamily | None],
    replays: Sequence[Mapping[str, Any]],
    notes: Sequence[str] = (),
    plotly: str,
) -> str:
    """The whole page.

    Args:
        runs: With a result each.
        envs: The family of tasks of each run, by its folder; None where it is not known.
        replays: Of runs: "title", "note", and what `Replay.to_json` gives as "replay".
        notes: What is missing, in sentences.
        plotly: See `plotly_script`.
    """
    drawn: list[charts.Chart] = []
    parts = [
        _Part.of(family, runs)
        for family in families_of([entry for shown in runs for entry in shown.entries])
    ]
    sections = [_family_section(part, envs, drawn) for part in parts]
    training = _training_section(parts, drawn)
    colours = {title: colour for part in parts for title, colour in part.by_title.items()}
    coloured = [{**replay, "colour": colours[replay["title"]]} for replay in replays]
    data = as_script(_finite({"charts": drawn, "replays": coloured}))
    own = "".join(_resource(name) for name in SCRIPTS)
    names = dict.fromkeys(part.family.env for part in parts)
    return Template(_resource("page.html")).substitute(
        title=tag("title", f"{', '.join(names)}: in-context learning"),
        generator=tag("meta", name="generator", content=f"{GENERATOR} {__version__}"),
        policy=tag("meta", http_equiv="Content-Security-Policy", content=_policy(plotly, own)),
        style=_palette() + _resource("page.css"),
        families=joined(*sections),
        notes=tag("ul", *(tag("li", note) for note in notes), class_="notes") if notes else "",
        replays=joined(*(tag("div", data_replay=place) for place, _ in enumerate(replays))),
        replays_hidden="" if replays else "hidden",
        training=training,
        facts=_facts_section(runs),
        version=tag("span", f"fastad {__version__}"),
        data=data,
        plotly=plotly,
        scripts=own,
    )


def is_report(text: str) -> bool:
    """Whether a file begins as a report of fastad does."""
    return f'<meta name="generator" content="{GENERATOR} ' in text


@dataclass(frozen=True)
class _Part:
    """One environment's part of the page.

    Attributes:
        family: What its figures are of.
        members: Its runs.
        figures: Of the family.
        colours: Of lines, by label.
        by_title: Of runs: that of their line.
    """

    family: Family
    members: list[Reported]
    figures: dict[str, Any]
    colours: dict[str, str]
    by_title: dict[str, str]

    @classmethod
    def of(cls, family: Family, runs: Sequence[Reported]) -> _Part:
        key = family_key(family)
        members = [shown for shown in runs if family_key(shown.results[0]) == key]
        figures = figures_of_family(family)
        colours = charts.colours_of(figures)
        by_title = {}
        for shown in members:
            label = shown.results[0].label
            # Lines of one label are told apart by their runs' names.
            by_title[shown.title] = colours.get(label) or colours[f"{label} ({shown.name})"]
        return cls(family, members, figures, colours, by_title)


def _family_section(
    part: _Part, envs: Mapping[str, TaskFamily | None], drawn: list[charts.Chart]
) -> Html:
    """Headline, curves and tasks of one environment."""
    family, members, figures, colours = part.family, part.members, part.figures, part.colours
    until = min(
        (r.trained_until for m in members for r in m.results[:1] if r.trained_until is not None),
        default=None,
    )
    chart = _place(charts.returns_chart(family, figures, until), drawn)
    curves = pictures.curves_of(family, colours)
    optima, env = pictures.optima_of(family), envs[str(members[0].run.path)]
    trained = members[0].run.train_tasks
    maps = [
        one
        for curve in [curve for curve in curves if curve.is_method][:MAX_MAPS]
        for one in pictures.task_maps(env, curve, optima, trained)
    ]
    knows = [tag("p", facts.PRIVILEGED, " ", told, class_="quiet") for told in family.knows]
    where = tag("section", tag("h3", "Where it learns"), tag("div", *maps, class_="maps"))
    return tag(
        "section",
        headline(family, figures),
        tag("div", tag("h3", "Return per episode"), chart,
            lines_table(family, figures, colours), *knows, facts.missing(members), class_="panel"),
        where if maps else None,
        tag("section", tag("h3", "Every task"),
            tag("p", "Return per episode, all to the same scale, of many episodes in means over "
                "some; the figure is where the curve ends, the dashes are the optimum.",
                class_="quiet"),
            pictures.small_multiples(env, curves, optima)),
    )  # fmt: skip


def _training_section(parts: Sequence[_Part], drawn: list[charts.Chart]) -> Html:
    placed = [
        _place(chart, drawn)
        for part in parts
        for chart in charts.training_charts(
            part.members, part.by_title, part.family.env if len(parts) > 1 else ""
        )
    ]
    return tag("div", *placed, class_="charts")


def _facts_section(runs: Sequence[Reported]) -> Html:
    return joined(
        tag("h3", "What is privileged"), facts.privileged(runs),
        tag("h3", "Runs"), facts.runs_table(runs),
        tag("h3", "Configuration"), facts.settings_table(runs),
        tag("h3", "Data"), facts.data_table(runs),
        tag("details", tag("summary", "Versions"), facts.versions_table(runs)),
    )  # fmt: skip


def _place(chart: charts.Chart, drawn: list[charts.Chart]) -> Html:
    drawn.append(chart)
    height = f"height:{chart['layout']['height']}px"
    return tag("div", class_="chart", data_chart=len(drawn) - 1, role="img",
               aria_label=chart["label"], style=height)  # fmt: skip


def _palette() -> str:
    """Colours of lines by name, for light pages and for dark ones."""
    light = {
        f"--{kind}-{place}": colour
        for kind, palette in (("method", METHOD_COLOURS), ("source", SOURCE_COLOURS))
        for place, colour in enumerate(palette)
    }
    dark = {name: paler(colour, LIGHTER) for name, colour in light.items()}
    dark |= {f"--source-{place}": colour for place, colour in enumerate(("#e8e6e1", "#a3a3a3"))}
    return (
        f":root{{{_declared(light)}}}"
        f"@media (prefers-color-scheme: dark){{:root{{{_declared(dark)}}}}}\n"
    )


def _declared(values: Mapping[str, str]) -> str:
    return "".join(f"{name}:{value};" for name, value in values.items())


def _policy(*scripts: str) -> str:
    digests = (
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts
    )
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _resource(name: str) -> str:
    return files("fastad.reports").joinpath(name).read_text(encoding="utf-8")


def _finite(value: Any) -> Any:
    """Plain values in which what is no number is nothing: JSON has none such."""
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
