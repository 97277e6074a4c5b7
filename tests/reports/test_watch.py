import io
import threading

import pytest
from rich.console import Console

from fastad import Result, collect, rollout, train
from fastad.base.errors import UserError
from fastad.cli import main
from fastad.reports.watch import Watch


def terminal(**options):
    return Console(
        file=io.StringIO(), force_terminal=True, width=100, height=30, color_system=None,
        legacy_windows=False, **options,
    )  # fmt: skip


def played(prepared, console):
    with Watch(prepared.tasks, prepared.episodes, speed=1e6, console=console) as watch:
        prepared.act(on_block=watch)
    return console.file.getvalue(), watch.frame


def test_a_room_is_played_to_its_last_step(prepared_on):
    prepared = prepared_on("dark-room", episodes=2, size=5, episode_length=6)
    text, frame = played(prepared, terminal())
    returns = prepared.act().result.returns
    assert frame.returns == returns[0].tolist()
    assert "episode 1 of 2, step 1" in text
    assert "episode 2 of 2, step 6" in text
    assert "goal (0, 0); the model is not told" in text
    assert text.count("@") >= 12
    assert "G" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor is back


@pytest.mark.parametrize(
    ("name", "seen"),
    [("gaussian-bandit", "pulls, mean"), ("watermaze", "o"), ("point-mass", "from"),
     ("gym:CartPole-v1", "step 1")],
)  # fmt: skip
def test_what_else_there_is_to_see(name, seen, prepared_on):
    options = {
        "gaussian-bandit": {"num_arms": 4},
        "watermaze": {"episode_length": 4, "height": 8, "width": 8},
        "point-mass": {"episode_length": 4},
        "gym:CartPole-v1": {"tasks": {"length": [0.3, 0.9]}, "episode_length": 12},
    }[name]
    text, frame = played(prepared_on(name, episodes=2, **options), terminal())
    assert seen in text
    assert len(frame.returns) == 2


def test_an_exception_ends_the_playing_at_once_and_shows_the_cursor_again(prepared_on):
    prepared, console = prepared_on("dark-room", size=5, episode_length=6), terminal()
    threads = threading.active_count()

    def stopped():
        with Watch(prepared.tasks, 2, speed=0.001, console=console) as watch:
            prepared.act(on_block=watch)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert threading.active_count() == threads
    text = console.file.getvalue()
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h")


def test_where_there_is_no_terminal_watching_is_refused(prepared_on):
    tasks = prepared_on("dark-room", size=5, episode_length=6).tasks
    with pytest.raises(UserError, match="watch=True draws in a terminal"):
        Watch(tasks, 2, speed=10, console=Console(file=io.StringIO()))


def test_the_command_plays_and_then_shows_its_table(tmp_path, monkeypatch, capsys):
    data, run = str(tmp_path / "data"), str(tmp_path / "run")
    collect(
        out=data, num_histories=24, num_episodes=5, num_test_tasks=2,
        env_options={"size": 3, "episode_length": 4},
    )  # fmt: skip
    train(data=data, out=run, updates=1, width=16, context=12)
    words = ["rollout", run, "--episodes", "2", "--plot", str(tmp_path / "x.png")]
    assert main([*words, "--watch"]) == 2  # a test's output is no terminal
    assert "--watch" in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()
    monkeypatch.setenv("TTY_COMPATIBLE", "1")  # of rich: as in a terminal
    assert main([*words, "--watch", "--watch-speed", "1e6"]) == 0
    watched = capsys.readouterr().out
    assert "episode 2 of 2, step 4" in watched
    assert watched.count("\x1b[?25l") == watched.count("\x1b[?25h") == 1
    assert watched.index("95 %") > watched.index("episode 2 of 2, step 4")
    (kept,) = (tmp_path / "run/rollouts").glob("*.json")
    unwatched = rollout(run, episodes=2)
    assert (Result.load(kept).returns == unwatched.returns).all()
