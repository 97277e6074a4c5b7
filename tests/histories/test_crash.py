import os
import random
import subprocess
import sys
import time

import numpy as np
import pytest

import fastad
from fastad.base.errors import UserError
from fastad.histories.reader import HistoryDataset
from fastad.histories.writer import create_dataset

NUM_HISTORIES, NUM_STEPS, EPISODE = 6, 400, 4

# Writes both shards in blocks of three steps, over and over, until it is killed.
SCRIPT = f"""
import sys
import numpy as np
from fastad.acting.interact import Transition
from fastad.histories.reader import load_info
from fastad.histories.meta import shard_range
from fastad.histories.writer import ShardWriter
path = sys.argv[1]
info = load_info(path)
print("ready", flush=True)
while True:
    for index in range(info.num_shards):
        histories = np.array(shard_range(info, index))[:, None]
        ids = histories[:, 0]
        with ShardWriter(path, info, index, task_ids=ids, learner_ids=ids) as w:
            for first in range(0, {NUM_STEPS}, 3):
                step = np.arange(first, min(first + 3, {NUM_STEPS}))[None, :]
                action = (histories + step) % 5
                ends = (step + 1) % {EPISODE} == 0
                ends = np.broadcast_to(ends, action.shape)
                observation = np.stack(np.broadcast_arrays(histories % 9, step % 9), -1)
                probs = np.eye(5)[action]
                reward = 1000.0 * histories + step
                w.append(Transition(observation, action, reward, ends & False, ends, probs))
"""


def check_against_source(path):
    """The steps that the reader sees, all equal to the source's; 0 if it says there are none."""
    try:
        dataset = HistoryDataset(path)
    except UserError as error:
        if "no step is committed yet" in str(error):
            return 0
        raise
    for history, number in enumerate(dataset.history_ids):
        length = int(dataset.lengths[history])
        steps, time_step = dataset.read(history, 0, length), np.arange(length)
        np.testing.assert_array_equal(steps["reward"], 1000.0 * number + time_step)
        np.testing.assert_array_equal(steps["action"], (number + time_step) % 5)
        np.testing.assert_array_equal(steps["observation"][:, 1], time_step % 9)
        np.testing.assert_array_equal(steps["policy"].argmax(-1), steps["action"])
    return int(dataset.lengths.sum())


@pytest.mark.slow  # tests/faults kills at file operations in every run
@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_writer_killed_at_any_moment_leaves_only_valid_steps(tmp_path, make_info):
    info = make_info(
        num_histories=NUM_HISTORIES, num_train=NUM_HISTORIES, num_test=0, num_steps=NUM_STEPS
    )
    create_dataset(tmp_path, info, np.arange(NUM_HISTORIES)[:, None])
    root = os.path.dirname(os.path.dirname(fastad.__file__))
    environment = {**os.environ, "PYTHONPATH": root, "OPENBLAS_NUM_THREADS": "1"}
    moments = random.Random(0)
    seen = []
    for _ in range(6):
        command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as writer:
            try:
                assert writer.stdout.readline() == b"ready\n"
                deadline = time.monotonic() + moments.uniform(0.0, 0.4)
                while time.monotonic() < deadline:
                    check_against_source(tmp_path)  # a reader beside a living writer
            finally:
                writer.kill()
        seen.append(check_against_source(tmp_path))
    assert max(seen) > 0
