"""A dataset and a run that take a moment to make, and what tests do with them."""

from fastad.cli import main

ROOM = ["--env-options", "size=3", "episode_length=4"]
COLLECT = [*ROOM, "--num-histories", "24", "--num-episodes", "5", "--num-test-tasks", "2"]
MODEL = ["--width", "16", "--num-layers", "1", "--context", "12", "--threads", "1"]
SHORT = [*MODEL, "--updates", "6", "--checkpoint-every", "3", "--log-every", "1"]


def fails(capsys, *arguments):
    """The line with which a command refuses."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    complaint = capsys.readouterr().err.strip()
    assert "\n" not in complaint
    return complaint


def train(world, run, *options):
    """The arguments that train `run` on the dataset of `world`."""
    return ["train", world / "data", "--out", run, *SHORT, *options]
