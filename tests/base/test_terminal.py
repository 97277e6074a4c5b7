"""Curves in a line of text."""

import io

import pytest
from rich.console import Console

from fastad.base.terminal import FINE, curve_text, sparkline


@pytest.mark.parametrize(
    ("values", "width", "curve"),
    [
        ([0, 7], 60, "▁█"),
        ([0, 1, 2, 3, 4, 5, 6, 7], 60, FINE),
        ([0, 0, 7, 7], 2, "▁█"),
        ([3, 3, 3], 60, "▁▁▁"),
    ],
)
def test_a_curve_runs_from_its_lowest_to_its_highest_value(values, width, curve):
    assert sparkline(values, width=width) == curve


def test_a_terminal_without_blocks_gets_plain_characters():
    plain = Console(file=io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert curve_text(plain, [0.0, 0.5, 1.0]).plain == "0 _+@ 1"
