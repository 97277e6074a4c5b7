"""The verb `report`: one page on runs; what they have not been tried on yet is rolled out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastad.api import rollout
from fastad.api.compare import Watch, unwatching
from fastad.base.config import with_settings
from fastad.base.device import choose_device
from fastad.base.errors import UserError
from fastad.base.outputs import check_output, write_text
from fastad.evaluate.kept_results import keep_result
from fastad.report_config import ReportConfig
from fastad.reports.page import build_page, is_report, plotly_script
from fastad.reports.replay import record
from fastad.reports.runs import Reported, find_runs, reported, titled
from fastad.training.run import Run
from fastad.training.run_files import ROLLOUTS

MAX_BYTES = 10_000_000  # of a page


def report(
    runs: Run | str | Path | Sequence[Run | str | Path],
    config: ReportConfig | None = None,
    *,
    watch: Watch = unwatching,
    **settings: Any,
) -> Path:
    """Show runs on one page, a file that any browser opens, without a network.

    >>> import fastad
    >>> page = fastad.report("runs/room", replays=1)
    >>> str(page)
    'runs/room-report.html'

    Args:
        runs: Runs, their folders, or folders that hold some.
        config: What to show; the defaults if left out.
        watch: Shows how far the parts of the work are.
        **settings: Fields of `ReportConfig` that shall differ from `config`.

    Returns:
        The page.

    Raises:
        UserError: For runs that cannot be shown, or a page that cannot be written; nothing has
            been written then, but results that their runs keep.
    """
    config = with_settings(config or ReportConfig(), settings, "fastad.report")
    places = [runs] if isinstance(runs, Run | str | Path) else list(runs)
    choose_device(config.device, config.threads)
    plotly = plotly_script()
    found = find_runs(places)
    first = places[0].path if isinstance(places[0], Run) else Path(places[0])
    out = config.out or first.resolve().with_name(f"{first.resolve().name}-report.html")
    if config.out is None and not first.is_absolute():
        out = first.parent / out.name
    check_place(out, overwrite=config.overwrite)
    shown = titled([_with_result(one, config, watch) for one in reported(found, config.split)])
    replays, notes = _replays(shown, config, watch)
    envs = {str(one.run.path): one.run.dataset_info.family(one.run.path) for one in shown}
    page = build_page(shown, envs=envs, replays=replays, notes=notes, plotly=plotly)
    if len(page.encode()) > MAX_BYTES:
        raise UserError(
            f"replays={config.replays} of {len(shown)} runs make a page of more than "
            f"{MAX_BYTES:,} bytes; ask for fewer, or name fewer runs"
        )
    write_text(out, page)
    return out


def check_place(out: Path, *, overwrite: bool) -> None:
    """Refuse a place where no page can be written, or where something else lies.

    Raises:
        UserError: If so.
    """
    check_output("out", out, suffixes=(".html",))
    if not out.exists():
        return
    if not overwrite:
        raise UserError(f"out={out} is there already; replace it with --overwrite, or name another")
    with out.open("rb") as stream:
        begins = stream.read(4096).decode(errors="replace")
    if not is_report(begins):
        raise UserError(f"out={out} is no report of fastad, and is not replaced; name another file")


def _with_result(shown: Reported, config: ReportConfig, watch: Watch) -> Reported:
    """The run with a result: one that it keeps, or one that it keeps from now on."""
    if shown.results:
        return shown
    with watch("steps", f"rollout {shown.name}, seed {shown.run.seed}") as told:
        result = rollout(
            shown.run, progress=told, seed=config.seed, split=config.split, device=config.device,
            threads=config.threads,
        )  # fmt: skip
    keep_result(shown.run.path / ROLLOUTS, result)
    return replace(shown, results=(result,))


def _replays(
    shown: Sequence[Reported], config: ReportConfig, watch: Watch
) -> tuple[list[dict[str, Any]], list[str]]:
    """Of the first run of every name; what cannot be replayed is said."""
    replays: list[dict[str, Any]] = []
    notes: list[str] = []
    if config.replays == 0:
        return [], ["No replays were asked for."]
    done: set[str] = set()
    for one in shown:
        if one.name in done:
            continue
        done.add(one.name)
        main = one.results[0]
        with watch("replays", f"replay {one.name}, seed {one.run.seed}") as told:
            told(0, config.replays)
            try:
                replay = record(
                    one.run.path, rollouts=config.replays, device=config.device,
                    threads=config.threads, seed=config.seed, split=config.split,
                    episodes=main.num_episodes, context=main.asked.get("context"),
                )  # fmt: skip
            except UserError as error:
                notes.append(f"{one.title} cannot be replayed: {error}")
                continue
            told(config.replays, config.replays)
        note = "" if replay.scene is None else "Drawn in green: privileged, no model sees it."
        replays.append({"title": one.title, "note": note, "replay": replay.to_json()})
    return replays, notes
