import pytest

import fastad.base.progress
from fastad.base.progress import Bar, progress, reporting


def test_off_a_terminal_a_line_of_pairs_sums_it_up(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(100, "steps", "collect", completed=20) as work:
        work.advance(30)
        work.advance(50, loss=0.123456, shard=3)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("collect steps=100 total=100 steps_per_second=")
    assert line.endswith(" loss=0.1235 shard=3")


def test_lines_keep_their_distance(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(fastad.base.progress.time, "monotonic", lambda: now)
    with progress(60, "steps", "train", completed=10, interval=5.0) as work:
        for _ in range(12):
            now += 1.0
            work.advance(4)
    lines = capsys.readouterr().out.splitlines()
    # After 5 and 10 seconds, and at the end; earlier units are not of this run's doing.
    assert lines == [
        "train steps=30 total=60 steps_per_second=4 left=0:00:08",
        "train steps=50 total=60 steps_per_second=4 left=0:00:02",
        "train steps=58 total=60 steps_per_second=4 left=0:00:00",
    ]


def test_rate_and_time_left_are_those_of_now(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """100 units at 10 a second, then a neighbour comes and leaves a tenth of that."""
    now = 0.0
    monkeypatch.setattr(fastad.base.progress.time, "monotonic", lambda: now)
    with progress(4000, "steps", "train", interval=30.0) as work:
        for _ in range(10):
            now += 1.0
            work.advance(10)
        for _ in range(20):
            now += 1.0
            work.advance(1)
        assert work.rate == 1.0
    (line,) = capsys.readouterr().out.splitlines()
    assert line == "train steps=120 total=4000 steps_per_second=1 left=1:04:40"


def test_a_long_evaluation_leaves_the_rate_of_the_updates(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(fastad.base.progress.time, "monotonic", lambda: now)
    with progress(100, "updates", "train", interval=0.0) as work:
        now = 10.0
        work.update(20)
        now = 70.0
        work.update(20, eval_last=0.5)
    assert capsys.readouterr().out.splitlines() == [
        "train updates=20 total=100 updates_per_second=2 left=0:00:40",
        "train updates=20 total=100 updates_per_second=2 left=0:00:40 eval_last=0.5",
    ]


def test_nothing_done_leaves_an_unknown_time(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(10, "steps", "train") as work:
        assert work.seconds_left is None
        work.update(0)
    assert capsys.readouterr().out.endswith(" left=-:--:--\n")


def test_update_sets_the_count(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(10, "updates", "train") as work:
        work.update(7)
        work.update(8)
    assert capsys.readouterr().out.startswith("train updates=8 total=10 ")


def test_a_line_is_written_when_the_work_fails(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        with progress(10, "updates", "train") as work:
            work.advance(1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert capsys.readouterr().out.startswith("train updates=1 total=10 ")


def test_on_a_terminal_it_is_a_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with progress(10, "updates", "train") as work:
        assert isinstance(work, Bar)
        work.advance(10, loss=0.5)
    assert "100%" in capsys.readouterr().out


def test_what_is_reported_first_was_there_before(capsys):
    with reporting("steps", "collect") as report:
        report(40, 100)
        report(100, 100)
    assert capsys.readouterr().out.startswith("collect steps=100 total=100 steps_per_second=")


def test_of_a_work_that_was_done_before_nothing_is_shown_but_that(capsys):
    with reporting("steps", "collect") as report:
        report(100, 100)
    assert capsys.readouterr().out == "collect steps=100 total=100: already complete\n"


def test_figures_of_a_work_that_was_done_before_are_shown_all_the_same(capsys):
    with reporting("updates", "train", interval=0.0) as report:
        report(6, 6)
        report(6, 6, eval_last=0.5)
    assert capsys.readouterr().out.splitlines()[1].endswith("eval_last=0.5")
