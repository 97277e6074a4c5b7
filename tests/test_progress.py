import pytest

import fastad.progress
from fastad.progress import Bar, progress


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
    monkeypatch.setattr(fastad.progress.time, "monotonic", lambda: now)
    with progress(60, "steps", "train", completed=10, interval=5.0) as work:
        for _ in range(12):
            now += 1.0
            work.advance(4)
    lines = capsys.readouterr().out.splitlines()
    # After 5 and 10 seconds, and at the end; earlier units are not of this run's doing.
    assert lines == [
        "train steps=30 total=60 steps_per_second=4",
        "train steps=50 total=60 steps_per_second=4",
        "train steps=58 total=60 steps_per_second=4",
    ]


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
