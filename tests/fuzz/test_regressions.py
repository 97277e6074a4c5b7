"""What fuzzers found once, and a first few of the inputs that they begin with."""

import random
from contextlib import suppress
from pathlib import Path

import pytest

from tests.fuzz.harness import BrokenPromiseError, Samples, limited, make_samples, timed, watched
from tests.fuzz.mutations import PLANTED
from tests.fuzz.targets import TARGETS

REGRESSIONS = Path(__file__).parent / "regressions"
CHANGES = 6  # of each target


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    make_samples(folder)
    return folder


@pytest.mark.parametrize("target", TARGETS)
def test_every_file_of_the_samples_loads_as_it_is(folder, target):
    samples = Samples(folder, target)
    assert samples.names
    assert all(samples.run(data) for data in samples.inputs())


@pytest.mark.parametrize(
    "file", sorted(REGRESSIONS.glob("*/*")), ids=lambda file: f"{file.parent.name}-{file.name}"
)
def test_what_was_found_is_loaded_or_refused(folder, file):
    samples = Samples(folder, file.parent.name)
    data = file.read_bytes()
    assert data.partition(b"\n")[0].split()[0].decode() in samples.names
    with limited(), timed():
        samples.run(data)


@pytest.mark.parametrize("target", TARGETS)
def test_files_changed_in_their_form_are_loaded_or_refused(folder, target):
    samples, rng = Samples(folder, target), random.Random(0)
    inputs, read = samples.inputs(), 0
    while read < CHANGES:
        data = samples.mutate(rng.choice(inputs), rng)
        if data is not None:
            with limited(), timed():
                samples.run(data)
            read += 1


def test_the_watch_sees_what_is_forbidden(tmp_path):
    with pytest.raises(BrokenPromiseError, match="written"), watched():
        (tmp_path / "file").write_text("")
    with pytest.raises(BrokenPromiseError, match="imported"), watched():
        __import__(PLANTED)
    # As within a loader that catches everything.
    with pytest.raises(BrokenPromiseError, match="written"), watched(), suppress(Exception):
        (tmp_path / "file").write_text("")
    with pytest.raises(MemoryError), limited():
        bytearray(2**29)
