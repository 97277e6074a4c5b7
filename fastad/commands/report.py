"""`fastad report`: one page on runs, for a browser."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fastad.commands.compare import watch_work
from fastad.report_config import ReportConfig


def run_report(config: ReportConfig) -> Path:
    """Make the page, and say where it is."""
    from fastad.api.report import report

    page = report(config.runs, replace(config, open=False), watch=watch_work)
    print(f"report: {page} ({page.stat().st_size / 1e6:.1f} MB)")
    if config.open:
        import webbrowser

        webbrowser.open(page.resolve().as_uri())
    return page
