"""The address checker finds planted faults, and counts bytes exactly."""

import pytest
import torch

pytest.importorskip("triton")

import triton
import triton.language as tl
from fastad_kernels.testing.addresses import OutOfBoundsError, RaceError, check_addresses
from triton.tools.tensor_descriptor import TensorDescriptor


@triton.jit
def _copy_kernel(p_in, p_out, n, BLOCK: tl.constexpr, CHECKED: tl.constexpr, STEP: tl.constexpr):
    index = tl.program_id(0) * STEP + tl.arange(0, BLOCK)
    inside = index < n if CHECKED else index < index + 1
    tl.store(p_out + index, tl.load(p_in + index, mask=inside), mask=inside)


@triton.jit
def _shift_kernel(p_x, n, BLOCK: tl.constexpr):
    # Each program writes its block and reads one element of its neighbour's.
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    b_x = tl.load(p_x + index + 1, mask=index + 1 < n, other=0.0)
    tl.store(p_x + index, b_x, mask=index < n)


@triton.jit
def _nested_read(p_x, offset):
    return tl.load(p_x + offset)


@triton.jit
def _nested_kernel(p_in, p_out, offset):
    tl.store(p_out, _nested_read(p_in, offset))


@triton.jit
def _collision_kernel(p_in, p_out, BLOCK: tl.constexpr):
    index = tl.arange(0, BLOCK)
    tl.store(p_out + index // 2, tl.load(p_in + index))


@triton.jit
def _write_then_read_kernel(p_x, p_out, BLOCK: tl.constexpr, BARRIER: tl.constexpr):
    index = tl.arange(0, BLOCK)
    tl.store(p_x + index, index.to(tl.float32))
    if BARRIER:
        tl.debug_barrier()
    tl.store(p_out + index, tl.load(p_x + BLOCK - 1 - index))


@triton.jit
def _row_sum_kernel(p_x, p_out, stride, COLUMNS: tl.constexpr, REPEATS: tl.constexpr):
    row = tl.program_id(0)
    index = tl.arange(0, COLUMNS)
    total = 0.0
    for _ in range(REPEATS):
        total += tl.sum(tl.load(p_x + row * stride + index).to(tl.float32))
    tl.store(p_out + row, total)


@triton.jit
def _shared_row_kernel(p_x, p_out, COLUMNS: tl.constexpr):
    index = tl.arange(0, COLUMNS)
    tl.store(p_out + tl.program_id(0), tl.sum(tl.load(p_x + index)))


@triton.jit
def _descriptor_kernel(source, p_out, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    first = tl.program_id(0) * ROWS
    b_x = source.load([first, 0])
    row, column = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    tl.store(p_out + (first + row)[:, None] * COLUMNS + column[None, :], b_x)


@triton.jit
def _atomic_kernel(p_out, offset):
    tl.atomic_add(p_out + offset, 1.0)


@pytest.fixture(autouse=True)
def _needs_interpreter():
    if not hasattr(_copy_kernel, "rewrite"):
        pytest.skip("TRITON_INTERPRET=1 was not set before this module was imported")


def test_a_read_past_the_end_is_named_and_not_carried_out():
    source, out = torch.ones(10), torch.zeros(16)
    message = (
        r"program \(1, 0, 0\) reads out of bounds at 6 of 8 addresses; "
        r"the first is byte 40 of the storage of p_in \(40 bytes\)"
    )
    with pytest.raises(OutOfBoundsError, match=message), check_addresses():
        _copy_kernel[(2,)](source, out, 10, BLOCK=8, CHECKED=False, STEP=8)
    assert out.tolist() == [1.0] * 8 + [0.0] * 8


def test_a_write_past_the_end_is_named():
    whole = torch.zeros(32)
    message = r"program \(1, 0, 0\) writes out of bounds at 6 of 8 addresses; .*byte 40 of .*p_out"
    with pytest.raises(OutOfBoundsError, match=message), check_addresses():
        _copy_kernel[(2,)](torch.ones(16), whole[:10], 16, BLOCK=8, CHECKED=False, STEP=8)
    assert whole[10:].tolist() == [0.0] * 22  # though they belong to the same allocation


def test_the_gap_between_the_rows_of_a_view_is_out_of_bounds():
    x = torch.ones(4, 8)[:, :6]
    out = torch.zeros(4)
    with pytest.raises(OutOfBoundsError, match="reads out of bounds at 2 of 8"), check_addresses():
        _row_sum_kernel[(4,)](x, out, 8, COLUMNS=8, REPEATS=1)


def test_an_address_before_the_tensor_is_out_of_bounds():
    with pytest.raises(OutOfBoundsError, match="reads out of bounds"), check_addresses():
        _nested_kernel[(1,)](torch.ones(8)[4:], torch.zeros(1), -1)


def test_faults_inside_a_called_function_keep_their_type():
    with (
        pytest.raises(OutOfBoundsError, match=r"byte 400 of .* p_in"),
        check_addresses(),
    ):
        _nested_kernel[(1,)](torch.ones(8), torch.zeros(1), 100)


def test_masked_lanes_may_point_anywhere():
    out = torch.zeros(10)
    with check_addresses():
        _copy_kernel[(2,)](torch.ones(10), out, 10, BLOCK=8, CHECKED=True, STEP=8)
    assert out.tolist() == [1.0] * 10


def test_two_programs_that_write_one_element_race():
    message = r"write/write race between programs \(0, 0, 0\) and \(1, 0, 0\) on 4 elements"
    with pytest.raises(RaceError, match=message), check_addresses():
        _copy_kernel[(2,)](torch.ones(12), torch.zeros(12), 12, BLOCK=8, CHECKED=True, STEP=4)


def test_a_program_that_reads_what_another_writes_races_in_either_order():
    # The interpreter runs program 0 first, so it reads the old value and gets away with it.
    message = r"read/write race between programs \(0, 0, 0\) and \(1, 0, 0\) on 1 elements"
    with pytest.raises(RaceError, match=message), check_addresses():
        _shift_kernel[(2,)](torch.arange(16.0), 16, BLOCK=8)


def test_one_store_with_two_values_for_an_element_is_refused():
    with (
        pytest.raises(RaceError, match="stores two values at once to byte 0"),
        check_addresses(),
    ):
        _collision_kernel[(1,)](torch.arange(8.0), torch.zeros(4), BLOCK=8)
    with check_addresses():  # equal values do no harm
        _collision_kernel[(1,)](torch.ones(8), torch.zeros(4), BLOCK=8)


def test_reading_back_what_was_stored_needs_a_barrier():
    x, out = torch.zeros(8), torch.zeros(8)
    with pytest.raises(RaceError, match="read after write race"), check_addresses():
        _write_then_read_kernel[(1,)](x, out, BLOCK=8, BARRIER=False)
    with check_addresses():
        _write_then_read_kernel[(1,)](x, out, BLOCK=8, BARRIER=True)
    assert out.tolist() == [7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0]


def test_separate_launches_do_not_race():
    out = torch.zeros(8)
    with check_addresses() as report:
        for _ in range(2):
            _copy_kernel[(1,)](torch.ones(8), out, 8, BLOCK=8, CHECKED=True, STEP=8)
    assert [launch.kernel for launch in report.launches] == ["_copy_kernel"] * 2


def test_bytes_are_counted_in_all_per_program_and_once():
    x, out = torch.ones(4, 16, dtype=torch.bfloat16), torch.zeros(4)
    with check_addresses() as report:
        _row_sum_kernel[(4,)](x, out, 16, COLUMNS=16, REPEATS=3)
    (launch,) = report.launches
    assert launch.grid == (4, 1, 1)
    read, written = launch.traffic["p_x"].read, launch.traffic["p_out"].written
    assert (read.total, read.per_program, read.unique) == (4 * 16 * 2 * 3, 128, 128)
    assert (written.total, written.per_program, written.unique) == (16, 16, 16)
    assert (launch.read_bytes, launch.written_bytes) == (128, 16)


def test_bytes_that_every_program_reads_are_unique_once():
    with check_addresses() as report:
        _shared_row_kernel[(5,)](torch.ones(16), torch.zeros(5), COLUMNS=16)
    read = report.launches[0].traffic["p_x"].read
    assert (read.per_program, read.unique) == (5 * 64, 64)


def test_tensors_of_one_storage_are_counted_together():
    storage = torch.zeros(32)
    with check_addresses() as report:
        _copy_kernel[(1,)](storage[:16], storage[16:], 16, BLOCK=16, CHECKED=True, STEP=16)
    traffic = report.launches[0].traffic["p_in+p_out"]
    assert (traffic.read.unique, traffic.written.unique) == (64, 64)


def test_descriptor_loads_are_seen():
    x, out = torch.arange(40.0).reshape(10, 4), torch.zeros(12, 4)
    with check_addresses() as report:
        _descriptor_kernel[(3,)](TensorDescriptor.from_tensor(x, [4, 4]), out, ROWS=4, COLUMNS=4)
    # The last block reaches over the end: padded, not read.
    assert report.launches[0].traffic["source"].read.unique == 160
    assert torch.equal(out[:10], x)


def test_atomics_may_meet_but_not_leave_the_tensor():
    out = torch.zeros(2)
    with check_addresses():
        _atomic_kernel[(3,)](out, 1)
    assert out.tolist() == [0.0, 3.0]
    with pytest.raises(OutOfBoundsError), check_addresses():
        _atomic_kernel[(1,)](out, 2)


def test_the_interpreter_is_as_before_afterwards():
    builder = triton.runtime.interpreter.InterpreterBuilder
    before = dict(vars(builder))
    with pytest.raises(ZeroDivisionError), check_addresses():
        raise ZeroDivisionError
    assert vars(builder) == before
