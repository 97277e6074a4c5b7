"""Returns over several steps, as they follow from what was remembered."""

from collections.abc import Sequence

import pytest
import torch

from fastad.sources.neural.replay import Replay, Sample


def remember(num_steps: int, *, capacity: int, ends: Sequence[int] = (), terminal: bool) -> Replay:
    """Two learners: step t is seen as t, pays 10 t and leads to t + 1; the second has 100 more."""
    replay = Replay(2, capacity, 1, torch.float32, torch.device("cpu"))
    learners = torch.tensor([0.0, 100.0])
    for step in range(num_steps):
        seen = (learners + step)[:, None]
        ended = torch.tensor([step in ends] * 2)
        terminated = ended if terminal else torch.zeros_like(ended)
        replay.write(
            seen, torch.tensor([step, step + 1]), 10 * seen[:, 0], terminated, ended, seen + 1
        )
    return replay


def by_step(sample: Sample) -> dict[int, tuple[float, float, float]]:
    """Reward, discount and what followed, of the first learner by what it saw."""
    rows = zip(
        sample.seen[0, :, 0].tolist(),
        sample.reward[0].tolist(),
        sample.discount[0].tolist(),
        sample.following[0, :, 0].tolist(),
        strict=True,
    )
    return {int(seen): tuple(pytest.approx(v) for v in values) for seen, *values in rows}


def draw(replay: Replay, num_steps: int) -> Sample:
    return replay.sample(500, num_steps, 0.5, torch.Generator().manual_seed(0))


def test_returns_discount_the_rewards_of_the_next_steps() -> None:
    sample = draw(remember(6, capacity=10, terminal=True), 3)
    # 10 (t + (t + 1) / 2 + (t + 2) / 4) = 17.5 t + 10.
    assert by_step(sample) == {t: (17.5 * t + 10, 0.125, t + 3) for t in range(4)}
    # The second learner's are its own.
    assert torch.equal(sample.action[1], (sample.seen[1, :, 0] - 100).long() + 1)
    torch.testing.assert_close(sample.following[1, :, 0], sample.seen[1, :, 0] + 3)


@pytest.mark.parametrize("terminal", [True, False])
def test_returns_stop_where_the_episode_ends(terminal: bool) -> None:
    found = by_step(draw(remember(6, capacity=10, ends=[2], terminal=terminal), 3))
    # From 1: 10 + 20 / 2, over two steps to 3; from 2: 20 over one. Terminated, nothing follows.
    left = 0.0 if terminal else 1.0
    assert found[0] == (10.0, 0.125 * left, 3.0)
    assert found[1] == (20.0, 0.25 * left, 3.0)
    assert found[2] == (20.0, 0.5 * left, 3.0)
    assert found[3] == (62.5, 0.125, 6.0)


def test_a_full_ring_forgets_the_oldest_and_joins_its_ends() -> None:
    # Steps 3 to 7 are left; windows of two begin at 3 to 6, across the ring's seam too.
    found = by_step(draw(remember(8, capacity=5, terminal=True), 2))
    assert found == {t: (15.0 * t + 5, 0.25, t + 2) for t in range(3, 7)}
