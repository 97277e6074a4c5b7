"""What made the runs: settings, data, versions, and who was told what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastad.histories.labels import label_words
from fastad.reports.markup import Html, joined, tag
from fastad.reports.runs import Reported, control_command

PRIVILEGED = tag("span", "privileged", class_="chip")
MAX_TEXT = 200  # of a value


def privileged_rows(runs: Sequence[Reported]) -> list[tuple[str, str]]:
    """Who was told more than it experiences, and what."""
    rows: dict[tuple[str, str], None] = {}
    for shown in runs:
        info = shown.run.dataset_info
        for result in shown.results[:1]:
            _, *told = result.label.split(", ")
            if told:
                rows[result.label.split(", ")[0], ", ".join(told)] = None
            if result.source_knows:
                rows[f"the source {result.source}", f"knows {result.source_knows}"] = None
        if not shown.results and info.source_knows:
            rows[f"the source {info.source}", f"knows {info.source_knows}"] = None
        for words in label_words(info):
            rows["stored with the histories", words] = None
    return list(rows)


def privileged(runs: Sequence[Reported]) -> Html:
    """The same as a list; what replays show besides stands last."""
    items = [
        tag("li", PRIVILEGED, " ", tag("b", who), f": {what}")
        for who, what in privileged_rows(runs)
    ]
    items.append(
        tag("li", PRIVILEGED, " ", tag("b", "in the replays"), ": goals, other marks and means of "
            "arms are drawn for you; no model and no source sees them unless it is said above")
    )  # fmt: skip
    return tag("ul", *items, class_="told")


def settings_table(runs: Sequence[Reported]) -> Html:
    """The configurations side by side; where they differ comes first."""
    columns = {shown.title: _flat(shown.run.config) for shown in runs}
    names = list(dict.fromkeys(name for told in columns.values() for name in told))
    values = {name: [_text(told.get(name)) for told in columns.values()] for name in names}
    differing = [name for name in names if len(set(values[name])) > 1]
    alike = [name for name in names if name not in differing]
    parts: list[Html | None] = []
    if differing:
        parts.append(tag("p", "Where the runs differ:", class_="quiet"))
        rows = [(name, *values[name]) for name in differing]
        parts.append(table("Settings in which the runs differ", ("", *columns), rows))
    shared = table("Settings", ("", "value"), [(name, values[name][0]) for name in alike])
    parts.append(tag("details", tag("summary", f"{len(alike)} settings"
                                    + (" that all share" if len(columns) > 1 else "")),
                     shared))  # fmt: skip
    return joined(*parts)


def data_table(runs: Sequence[Reported]) -> Html:
    """What the datasets hold, one column each."""
    columns: dict[str, list[tuple[str, str, bool]]] = {}
    for shown in runs:
        rows = _data_rows(shown)
        if rows not in columns.values():
            place = str(shown.run.config.get("data", shown.name))
            columns[f"{place} ({shown.title})" if place in columns else place] = rows
    names = list(dict.fromkeys(row[0] for rows in columns.values() for row in rows))
    flags = {row[0]: row[2] for rows in columns.values() for row in rows}
    by_name = [{row[0]: row[1] for row in rows} for rows in columns.values()]
    cells: list[tuple[Any, ...]] = [
        (joined(name, " ", PRIVILEGED) if flags[name] else name,
         *(told.get(name, "") for told in by_name))
        for name in names
    ]  # fmt: skip
    return table("The data", ("", *columns), cells)


def _data_rows(shown: Reported) -> list[tuple[str, str, bool]]:
    """Name, value, and whether that is privileged."""
    info = shown.run.dataset_info
    knows = shown.results[0].source_knows if shown.results else info.source_knows
    rows: list[tuple[str, str, bool]] = [
        ("environment", _call(info.env, info.env_kwargs), False),
        ("source", _call(info.source, info.source_kwargs), False),
        ("the source knows", knows or "only what it experiences", bool(knows)),
        ("tasks", f"{info.num_train:,} train, {info.num_validation:,} validation, "
                  f"{info.num_test:,} test", False),
        ("held out", info.holdout, False),
        ("histories", f"{info.num_histories:,} of {info.num_steps:,} steps", False),
        ("episodes", f"{'exactly' if info.fixed_length else 'at most'} {info.episode_length:,} "
                     "steps", False),
        ("random actions", f"{info.action_noise:.0%} (labels: {info.noise_labels})"
                           if info.action_noise else "none", False),
    ]  # fmt: skip
    labels: list[tuple[str, str, bool]] = [
        ("labels", words, "privileged" in words) for words in label_words(info)
    ]
    return [*rows, *labels, ("seed", str(info.seed), False)]


def versions_table(runs: Sequence[Reported]) -> Html:
    """What trained each run, and what rolled it out."""
    columns: dict[str, dict[str, Any]] = {}
    for shown in runs:
        for words, made_by in (
            ("trained", shown.run.made_by),
            ("rolled out", shown.results[0].versions if shown.results else None),
        ):
            if made_by is not None and made_by not in columns.values():
                columns[f"{shown.title}: {words}"] = dict(made_by)
    told = {name: _flat(made_by) for name, made_by in columns.items()}
    names = list(dict.fromkeys(name for values in told.values() for name in values))
    rows = [(name, *(_text(values.get(name)) for values in told.values())) for name in names]
    return table("Versions", ("", *told), rows)


def runs_table(runs: Sequence[Reported]) -> Html:
    """Where the runs lie and how far they are, and what may be tried with them."""
    rows = []
    for shown in runs:
        run = shown.run
        rows.append(
            (shown.title, tag("code", str(run.path)),
             f"{run.updates:,} of {_text(run.config['settings'].get('updates'))}",
             f"{run.train_seconds:,.0f} s",
             ", ".join(result.control for result in shown.results[1:]) or "none")
        )  # fmt: skip
    heads = ("run", "folder", "updates", "trained in", "controls")
    return table("The runs", heads, rows)


def missing(runs: Sequence[Reported]) -> Html | None:
    """How to see what is not on the page: a control of the first run, if there is none."""
    if not runs or any(shown.results[1:] for shown in runs):
        return None
    command = control_command(runs[0].run)
    return tag("p", "No control is here: with rewards hidden, learning in context must vanish. "
               "Add one, then make this page again: ", tag("code", command),
               class_="quiet")  # fmt: skip


def table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> Html:
    """A table that scrolls by itself where it is too wide, by keyboard too."""
    head = tag("tr", *(tag("th", h, scope="col") if h else tag("td") for h in heads))
    body = [
        tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:]))
        for row in rows
    ]
    return tag(
        "div",
        tag("table", tag("caption", caption, class_="unseen"), tag("thead", head),
            tag("tbody", *body), class_="facts"),
        class_="wide", tabindex="0", role="region", aria_label=caption,
    )  # fmt: skip


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings, each by its path."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _text(value: Any) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"


def _call(name: str, options: dict[str, Any]) -> str:
    told = ", ".join(f"{key}={_text(value)}" for key, value in options.items())
    return f"{name} ({told})" if told else name
