"""What a model is told of the step before: the C++ kernel does what PyTorch's operations do."""

import itertools

import pytest
import torch
from fastad_kernels import Told, make_told, native

pytestmark = pytest.mark.skipif(
    native.why_unavailable() is not None, reason=str(native.why_unavailable())
)


def make_both(num_envs):
    """Environments that have not begun, as PyTorch and as the kernel see them."""
    return [
        make_told(
            torch.full((num_envs,), 5), torch.zeros(num_envs),
            torch.ones(num_envs, dtype=torch.bool), torch.zeros(num_envs, dtype=torch.int64),
            impl=impl,
        )
        for impl in ("reference", "auto")
    ]  # fmt: skip


def make_step(num_envs, seed):
    generator = torch.Generator().manual_seed(seed)
    ends = torch.rand((2, num_envs), generator=generator) < 0.2
    reward = torch.randn(num_envs, generator=generator)
    reward[0] = torch.nan
    return torch.randint(5, (num_envs,), generator=generator), reward, *ends


def assert_same(plain, ours):
    for name in ("action", "reward", "start", "step"):
        expected, actual = getattr(plain, name), getattr(ours, name)
        assert actual.dtype == expected.dtype
        torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("num_envs", [1, 3, 1000])
def test_the_kernel_tells_what_pytorch_does(num_envs):
    plain, ours = make_both(num_envs)
    assert type(plain) is Told
    assert type(ours) is not Told
    at = [getattr(ours, name).data_ptr() for name in ("action", "reward", "start", "step")]
    steps = set()
    for seed in range(50):
        for told in (plain, ours):
            told.take(*make_step(num_envs, seed))
        assert_same(plain, ours)
        steps |= set(ours.step.tolist())
    assert at == [getattr(ours, name).data_ptr() for name in ("action", "reward", "start", "step")]
    assert {0, 1, 2} <= steps


def test_what_is_told_may_be_what_is_given():
    plain, ours = make_both(7)
    for told in (plain, ours):
        _, _, terminated, truncated = make_step(7, 0)
        told.take(told.action, told.reward, terminated, truncated)
        told.take(told.action, told.reward, told.start, told.start)
    assert_same(plain, ours)


@pytest.mark.parametrize("field", range(4))
@pytest.mark.parametrize("change", ["spread", "another dtype", "one for all"])
def test_whatever_pytorch_can_take_is_taken(field, change):
    plain, ours = make_both(7)
    for told in (plain, ours):
        step = list(make_step(7, 1))
        if change == "spread":
            step[field] = step[field].repeat_interleave(2)[::2]
        elif change == "one for all":
            step[field] = step[field][1]
        else:
            step[field] = step[field].to(
                [torch.int32, torch.float64, torch.uint8, torch.uint8][field]
            )
        if change == "one for all" and field > 1:
            step[2] = step[3] = step[field].expand(7)
        told.take(*step)
    assert_same(plain, ours)


def test_a_step_of_other_environments_is_refused():
    steps = [make_step(6, 0), (*make_step(7, 0)[:2], *make_step(6, 0)[2:])]
    for told, step in itertools.product(make_both(7), steps):
        before = told.start.clone(), told.start.data_ptr()
        with pytest.raises(ValueError, match=r"truncated \(6,\) must be \(7,\)"):
            told.take(*step)
        assert torch.equal(told.start, before[0])
        assert told.start.data_ptr() == before[1]


@pytest.mark.parametrize("name", ["action", "reward", "start", "step"])
def test_what_a_kernel_knows_by_its_address_cannot_be_exchanged(name):
    for told in make_both(7):
        with pytest.raises(AttributeError):
            setattr(told, name, getattr(told, name).clone())


def test_the_kernel_is_for_numbered_actions_and_memory_without_gaps():
    shape = {"reward": torch.zeros(3), "start": torch.ones(3, dtype=torch.bool)}
    step = torch.zeros(3, dtype=torch.int64)
    moves = make_told(torch.zeros(3, 2), step=step, impl="auto", **shape)
    assert type(moves) is Told
    elsewhere = step.to("meta")
    for wrong in (step.repeat(2)[::2], torch.zeros(3), torch.zeros(4).long(), elsewhere):
        with pytest.raises(ValueError, match="contiguous, on the CPU, and int64"):
            make_told(torch.zeros(3, dtype=torch.int64), step=wrong, impl="auto", **shape)
