"""A short turn of `make faults`: a few kills and flips of bits, at moments and places of a seed."""

import random

import pytest

from tests.faults import flips, kills


@pytest.mark.timeout(600)
def test_killed_collections_and_trainings_end_as_unbroken_ones(tmp_path):
    for name, tally in kills.run(6, 1, tmp_path).items():
        assert tally.survived, f"{name}: {tally.losses}"
        assert tally.kills == 6


@pytest.mark.timeout(600)
def test_no_flipped_bit_of_a_dataset_or_a_run_is_silent(tmp_path):
    for name, tally in flips.run(20, 1, tmp_path).items():
        assert tally.flips == 20
        assert not tally.silent, name


def test_a_flip_that_nothing_notices_is_counted_as_silent(tmp_path, monkeypatch):
    """The bench itself: a check that always says yes must look bad."""
    (tmp_path / "file").write_bytes(b"content")
    monkeypatch.setattr(flips, "is_intact", lambda folder: True)
    tally = flips.flip(tmp_path, 3, random.Random(0))
    assert len(tally.silent) == 3
    assert (tmp_path / "file").read_bytes() == b"content"
