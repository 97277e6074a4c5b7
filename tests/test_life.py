"""A whole demo, stopped again and again at random moments, ends as if it had never been stopped."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from fastad.training.checkpoint_folder import CHECKPOINT_FILES

# A preset that takes a second or two. The same number of threads in every process: sums are
# rounded in another order otherwise.
TINY = """
import sys
from dataclasses import replace
from fastad import presets
from fastad.cli import main
from fastad.model.config import ModelConfig
from fastad.training.settings import TrainSettings
room = presets.PRESETS["dark-room"]
collect = replace(
    room.collect, env_options=("size=3", "episode_length=6"), num_histories=48,
    num_train_tasks=5, num_test_tasks=2, num_episodes=20, shards=6,
)
settings = TrainSettings(updates=150, warmup_updates=5, log_every=5, checkpoint_every=40)
model = ModelConfig(width=16, num_layers=1, context=24, dropout=0.1)
presets.PRESETS["tiny"] = replace(
    room, collect=collect, train=replace(room.train, model=model, settings=settings),
)
sys.exit(main(["demo", "tiny", "--threads", "1", *sys.argv[1:]]))
"""


def start(out, *options):
    command = [sys.executable, "-c", TINY, "--out", str(out), *options]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs SIGTERM")
def test_a_demo_stopped_at_random_moments_ends_with_the_weights_of_an_unbroken_one(tmp_path):
    began = time.monotonic()
    whole = start(tmp_path / "whole")
    out, _ = whole.communicate(timeout=120)
    assert whole.returncode == 0, out
    seconds = time.monotonic() - began
    moments = random.Random(0)
    stops = 0
    for _ in range(2):
        process = start(tmp_path / "cut")
        time.sleep(moments.uniform(0.4, 0.9) * seconds)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=120)
        # Before Python has begun our command, SIGTERM does what it does to any program.
        assert process.returncode in (0, 143, -signal.SIGTERM), out
        if process.returncode == 143:
            stops += 1
            assert "go on with: fastad demo tiny --threads 1 --out" in out
    assert stops >= 1
    last = start(tmp_path / "cut")
    out, _ = last.communicate(timeout=120)
    assert last.returncode == 0, out
    names = set(CHECKPOINT_FILES) - {"state.json", "manifest.json"}  # they tell the time taken
    for name in names:
        one, other = (
            (tmp_path / run / "run" / "checkpoints" / "step-00000150" / name).read_bytes()
            for run in ("whole", "cut")
        )
        assert one == other, name
    for shard in sorted((tmp_path / "whole" / "data").glob("shard-*")):
        for column in shard.glob("*.npy"):
            twin = tmp_path / "cut" / "data" / shard.name / column.name
            assert twin.read_bytes() == column.read_bytes()
