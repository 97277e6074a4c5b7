"""Blocks of what environments lived through, in step and each at its own."""

import torch

from fastad.acting.lived import Lived


def mask(*rows):
    return torch.tensor(rows, dtype=torch.bool)


def run(waits, num_steps, block_steps):
    """Blocks of the numbers of steps, 0, 1, ...; how many were kept after each; and who was idle.

    Args:
        waits: Which environments wait in which steps: None, or a mask.
    """
    lived, step, found = Lived(num_steps), 0, []
    for _ in range(0, num_steps, block_steps):
        idle_ones = []
        while not lived.have(block_steps):
            idle = lived.idle(waits.get(step))
            idle_ones.append([] if idle is None else idle.nonzero()[:, 0].tolist())
            lived.add([torch.tensor([step, 100 + step])], idle)
            step += 1
        (field,) = lived.take(block_steps)
        found.append((field.tolist(), len(lived.steps), idle_ones))
    return found


def test_in_step_blocks_are_the_steps_one_after_another():
    assert run({}, 4, 2) == [
        ([[0, 1], [100, 101]], 0, [[], []]),
        ([[2, 3], [102, 103]], 0, [[], []]),
    ]


def test_who_waits_gets_its_own_next_steps_and_nobody_keeps_what_all_have_taken():
    # The second waits in steps 1, 2 and 3, so the first is ahead by three steps, and done first.
    assert run({step: mask(0, 1) for step in (1, 2, 3)}, 6, 2) == [
        ([[0, 1], [100, 104]], 3, [[], [1], [1], [1], []]),
        ([[2, 3], [105, 106]], 3, [[], [0]]),  # from step 4 on, which the first has yet to give
        ([[4, 5], [107, 108]], 0, [[0], [0]]),
    ]


def test_all_may_be_idle_one_waiting_and_one_done():
    assert run({1: mask(0, 1), 2: mask(0, 1)}, 2, 2) == [
        ([[0, 1], [100, 103]], 0, [[], [1], [0, 1], [0]]),
    ]
