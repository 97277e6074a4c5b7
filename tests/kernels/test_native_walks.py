"""Episodes in worlds that are tables: the C++ kernel does what PyTorch's operations do."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from fastad_kernels import Walks, World, make_walks, native
from fastad_kernels.native.walks import NativeWalks

pytestmark = pytest.mark.skipif(
    native.why_unavailable() is not None, reason=str(native.why_unavailable())
)
NUM_CELLS, NUM_ACTIONS, NUM_FEATURES = 7, 3, 2


def make_world(num_walkers=5, num_phases=1, length=6, terminates=False, permuted=False):
    generator = torch.Generator().manual_seed(num_walkers + num_phases)

    def below(limit, *shape):
        return torch.randint(limit, shape, generator=generator)

    order = torch.rand(num_walkers, NUM_ACTIONS, generator=generator).argsort(dim=1)
    moves = torch.rand(NUM_CELLS, NUM_ACTIONS, generator=generator).argsort(dim=0)  # to all cells
    targets = below(NUM_CELLS, num_walkers, num_phases)
    if num_phases > 1:
        targets[:, -1] = -1  # all is collected then
    return World(
        moves, below(50, NUM_CELLS, NUM_FEATURES), targets,
        permutation=order if permuted else None, episode_length=length, terminates=terminates,
    )  # fmt: skip


def make_both(world, **options):
    plain, ours = (make_walks(world, impl=impl, **options) for impl in ("reference", "auto"))
    assert type(plain) is Walks
    assert type(ours) is not Walks
    return plain, ours


def draw(walks, generator, limit):
    return torch.randint(limit, (len(walks.world.targets),), generator=generator)


def assert_same_walks(world, *, lockstep=False, num_steps=80):
    """Also after a reset in the middle of an episode; returns what the steps gave."""
    plain, ours = make_both(world, lockstep=lockstep)
    generator = torch.Generator().manual_seed(0)
    given = []
    for step in range(num_steps):
        if step in (0, 33):
            start = draw(plain, generator, NUM_CELLS)
            assert torch.equal(ours.reset(start), plain.reset(start))
        action, start = (draw(plain, generator, n) for n in (NUM_ACTIONS, NUM_CELLS))
        results = ours.step(action, start), plain.step(action, start)
        for actual, expected in zip(*results, strict=True):
            assert actual.dtype == expected.dtype
            assert torch.equal(actual, expected)
        if world.targets.shape[1] > 1:
            assert torch.equal(ours.collected, plain.collected)
        final = [walked.final_observation for walked in results]
        assert torch.equal(ours.cell(final[0]), plain.cell(final[1]))
        seen = results[0].observation
        ended = (results[0].terminated | results[0].truncated).any()
        assert (seen is final[0]) == (not ended)
        assert torch.equal(world.observations[ours.cell(seen)], seen)
        assert ours.cell(seen.clone()) is None
        given.append(results[0])
    return given


@pytest.mark.parametrize("num_walkers", [1, 5, 700, 5000])
@pytest.mark.parametrize("permuted", [False, True])
@pytest.mark.parametrize(
    ("num_phases", "terminates"), [(1, False), (3, False), (2, False), (3, True)]
)
def test_the_kernel_walks_as_pytorch_does(num_walkers, permuted, num_phases, terminates):
    options = {"terminates": terminates, "permuted": permuted, "length": 12}
    world = make_world(num_walkers, num_phases, **options)
    given = assert_same_walks(world)

    if num_walkers > 1:  # one may have no luck
        assert any(walked.reward.any() for walked in given)
        assert any(walked.terminated.any() for walked in given) == terminates
    assert any(walked.truncated.any() for walked in given)


@pytest.mark.parametrize("length", [1, 6, 100])
def test_episodes_in_lockstep_are_the_same(length):
    assert_same_walks(make_world(length=length), lockstep=True)


def test_what_was_given_is_never_changed_and_belongs_to_whoever_got_it():
    _, ours = make_both(make_world(num_phases=3, terminates=True))
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        given = [ours.reset(draw(ours, generator, NUM_CELLS))]
        copies = [given[0].clone()]
        for _ in range(100):  # longer than memory is given at once
            action, start = (draw(ours, generator, n) for n in (NUM_ACTIONS, NUM_CELLS))
            walked = ours.step(action, start)
            given += [*walked, ours.cell(walked.final_observation), ours.cell(walked.observation)]
            copies += [x.clone() for x in given[-7:]]
    assert all(torch.equal(*pair) for pair in zip(given, copies, strict=True))
    walked.reward.clone().requires_grad_().square().sum().backward()
    walked.reward.add_(1)  # an inference tensor could not be, out here


def test_an_action_that_does_not_exist_moves_nobody():
    world = make_world()
    plain, ours = make_both(world)
    start, action = torch.zeros(5).long(), torch.tensor([0, 1, 2, 1, 0])
    for walks in (plain, ours):
        walks.reset(start)
        walks.step(action, start)
        for wrong in (-1, NUM_ACTIONS, 2**40):
            refused = action.clone()
            refused[3] = wrong
            with pytest.raises(IndexError):
                walks.step(refused, start)
    with pytest.raises(IndexError, match=r"1 of 5 walkers have an action not in 0\.\.2"):
        ours.step(refused, start)
    with pytest.raises(IndexError, match=r"begin in a cell not in 0\.\.6"):
        ours.step(action, start + NUM_CELLS)
    for actual, expected in zip(*(w.step(action, start) for w in (ours, plain)), strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("change", ["shape", "dtype", "device"])
def test_what_the_kernel_would_misread_is_refused(change):
    _, ours = make_both(make_world())
    start, action = torch.zeros(5).long(), torch.ones(5).long()
    wrong = {"shape": action[:4], "dtype": action.float(), "device": action.to("meta")}[change]
    for given in ((wrong, start), (action, wrong)):
        with pytest.raises(ValueError, match=r"must be integers of shape \(5,\) on the CPU"):
            ours.step(*given)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8, torch.bool])
def test_smaller_integers_are_taken_as_pytorch_takes_them(dtype):
    plain, ours = make_both(make_world())
    start, action = torch.zeros(5).long(), torch.tensor([0, 1, 1, 0, 1]).to(dtype)
    for actual, expected in zip(*(w.step(action, start) for w in (ours, plain)), strict=True):
        assert torch.equal(actual, expected)


def test_actions_may_lie_apart():
    plain, ours = make_both(make_world())
    start, action = torch.zeros(10).long()[::2], torch.arange(10)[::2] % 3
    for actual, expected in zip(*(w.step(action, start) for w in (ours, plain)), strict=True):
        assert torch.equal(actual, expected)


def test_tables_are_checked_and_may_lie_apart():
    world = make_world(permuted=True)
    spread = World(
        *(x.repeat_interleave(2, dim=1)[:, ::2] for x in world[:4]), world.episode_length, False
    )
    assert not spread.moves.is_contiguous()
    for given, expected in zip(assert_same_walks(spread), assert_same_walks(world), strict=True):
        assert torch.equal(given.final_observation, expected.final_observation)
    for name, value in (("moves", NUM_CELLS), ("moves", -1), ("permutation", NUM_ACTIONS)):
        table = getattr(world, name).clone()
        table[2, 1] = value
        with pytest.raises(IndexError, match=f"{name} has entries that are not in"):
            make_walks(world._replace(**{name: table}), impl="auto")
    for name, table in (
        ("observations", world.observations[1:]), ("targets", world.targets.int()),
        ("permutation", world.permutation[:, 1:]), ("moves", world.moves.to("meta")),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"must be \(S, A\), \(S, K\), \(N, P\) and \(N, A\)"):
            NativeWalks(world._replace(**{name: table}))


def test_a_start_that_is_no_cell_is_refused_and_nobody_has_moved():
    plain, ours = make_both(make_world())
    start, action = torch.tensor([3, 0, 1, 2, 6]), torch.zeros(5).long()
    for walks in (plain, ours):
        walks.reset(start)
        for wrong in (-1, NUM_CELLS, 10**12):
            with pytest.raises(IndexError):
                walks.reset(torch.full_like(start, wrong))
        assert torch.equal(walks.state[0], start)
    for actual, expected in zip(*(w.step(action, start) for w in (ours, plain)), strict=True):
        assert torch.equal(actual, expected)


def test_worlds_whose_payments_never_end_are_refused():
    world = make_world(num_phases=3)
    targets = world.targets.clone()
    targets[3, -1] = 0
    with pytest.raises(ValueError, match="the last of several targets must be -1"):
        make_walks(world._replace(targets=targets), impl="auto")
    for impl in ("reference", "auto"):
        with pytest.raises(ValueError, match="terminates=True ends episodes as the last of"):
            make_walks(make_world()._replace(terminates=True), impl=impl)


@pytest.mark.parametrize("action", [1, torch.tensor(1), torch.tensor([1])])
def test_one_action_for_all_is_taken_as_pytorch_takes_it(action):
    plain, ours = make_both(make_world())
    start = torch.zeros(5).long()
    for actual, expected in zip(*(w.step(action, start) for w in (ours, plain)), strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("impl", ["reference", "auto"])
def test_walks_begun_in_inference_mode_go_on_outside_of_it(impl):
    with torch.inference_mode():
        walks = make_walks(make_world(num_phases=3), impl=impl)
        start, action = torch.zeros(5).long(), torch.ones(5).long()
        walks.reset(start)
        walks.step(action, start)
    start, action = torch.zeros(5).long(), torch.ones(5).long()
    walks.step(action, start)
    walks.reset(start)


def test_a_default_device_does_not_matter():
    plain, ours = make_both(make_world())
    start, action = torch.zeros(5).long(), torch.ones(5).long()
    with torch.device("meta"):
        actual = ours.step(action, start)
    for one, other in zip(actual, plain.step(action, start), strict=True):
        assert torch.equal(one, other)


def test_threads_may_share_walks():
    """They take turns, in whatever order: nothing breaks, and all steps are counted."""
    world = make_world(num_walkers=300, length=10**6)
    walks = make_walks(world, impl="auto")
    action, start = torch.ones(300).long(), torch.zeros(300).long()
    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(lambda _: walks.step(action, start), range(2000)):
            pass
    assert (walks.state[1] == 2000).all()


def test_what_a_step_led_to_is_not_numbered_by_a_later_reset():
    _, ours = make_both(make_world(length=1))
    start, action = torch.tensor([3, 0, 1, 2, 6]), torch.zeros(5).long()
    seen = ours.step(action, start).observation
    assert torch.equal(ours.cell(seen), start)
    ours.reset(torch.zeros(5).long())
    assert ours.cell(seen) is None
