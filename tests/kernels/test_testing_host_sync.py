"""Operations that would empty a GPU's queue are refused, all others pass."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from fastad_kernels.testing.host_sync import HostSyncError, forbid_host_sync

X = torch.arange(6.0)
MASK = X > 2
COUNTS = torch.tensor([1, 2])
EYE = torch.eye(2)

REFUSED = {
    "item": lambda: X[0].item(),
    "bool": lambda: bool(X[0] > 1),
    "if": lambda: 1 if MASK.any() else 2,
    "int": lambda: int(X[0]),
    "float": lambda: float(X[0]),
    "index": lambda: [1, 2, 3][COUNTS[0]],
    "tolist": lambda: X.tolist(),
    "numpy": lambda: X.numpy(),
    "array": lambda: __import__("numpy").asarray(X),
    "cpu": lambda: X.cpu(),
    "nonzero": lambda: X.nonzero(),
    "where with one argument": lambda: torch.where(MASK),
    "masked_select": lambda: X.masked_select(MASK),
    "mask as index": lambda: X[MASK],
    "mask as index beside others": lambda: EYE[torch.tensor([True, False]), 0],
    "assignment by mask": lambda: X.clone().__setitem__(MASK, X[:3]),
    "unique": lambda: X.unique(),
    "unique_consecutive": lambda: X.unique_consecutive(),
    "bincount": lambda: COUNTS.bincount(),
    "repeat_interleave": lambda: COUNTS.repeat_interleave(COUNTS),
    "equal": lambda: torch.equal(X, X),
    "allclose": lambda: torch.allclose(X, X),
    "is_nonzero": lambda: torch.is_nonzero(X[1]),
    "inverse": lambda: torch.linalg.inv(EYE),
    "torch.tensor of a number": lambda: torch.tensor(3.0),
    "torch.tensor of a list": lambda: torch.tensor([1, 2]),
    "as_tensor": lambda: torch.as_tensor([1, 2]),
    "new_tensor": lambda: X.new_tensor([1.0]),
    "list as index": lambda: X[[0, 2]],
    "synchronize": lambda: torch.cuda.synchronize(),
}

ALLOWED = {
    "arithmetic with numbers": lambda: X * 2 + 1,
    "matrix product": lambda: EYE @ EYE,
    "softmax": lambda: X.softmax(0),
    "attention": lambda: F.scaled_dot_product_attention(*[torch.ones(1, 2, 8, 16)] * 3),
    "slices": lambda: X[1:3],
    "positions as index": lambda: X[COUNTS],
    "assignment by positions": lambda: X.clone().__setitem__(COUNTS, X[:2]),
    "assignment of a number": lambda: X.clone().__setitem__(0, 3.0),
    "where": lambda: torch.where(MASK, X, 0.0),
    "masked_fill": lambda: X.masked_fill(MASK, 0.0),
    "repeat_interleave with size": lambda: COUNTS.repeat_interleave(COUNTS, output_size=3),
    "sort": lambda: X.sort(),
    "cast": lambda: X.to(torch.bfloat16),
    "copy": lambda: torch.empty(6).copy_(X),
    "random": lambda: torch.randint(0, 5, (1,)),
    "fill": lambda: torch.full((2,), 3.0),
    "as_tensor of a tensor": lambda: torch.as_tensor(X),
    "shapes": lambda: X.shape[0] + X.stride(0) + X.numel(),
    "backward": lambda: (torch.ones(3, requires_grad=True) ** 2).sum().backward(),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_is_refused(name):
    with pytest.raises(HostSyncError, match="makes the host wait"), forbid_host_sync():
        REFUSED[name]()


@pytest.mark.parametrize("name", list(ALLOWED))
def test_is_allowed(name):
    with forbid_host_sync():
        ALLOWED[name]()


def test_the_message_names_operation_and_reason():
    message = r"^index makes the host wait for the device: a mask as index is turned into"
    with pytest.raises(HostSyncError, match=message), forbid_host_sync():
        X[MASK]


def test_everything_is_as_before_afterwards():
    methods = torch.Tensor.tolist, torch.Tensor.cpu, torch.tensor
    with pytest.raises(HostSyncError), forbid_host_sync():
        X.tolist()
    assert (torch.Tensor.tolist, torch.Tensor.cpu, torch.tensor) == methods
    assert X[MASK].tolist() == [3.0, 4.0, 5.0]


@torch.library.custom_op("fastad_tests::add_and_look", mutates_args=("counter",))
def _add_and_look(x: torch.Tensor, counter: torch.Tensor, look: bool) -> torch.Tensor:
    counter += 1
    return x + int(x.sum()) if look else x + 1


def test_custom_operators_are_looked_into():
    counter = torch.zeros(1)
    with forbid_host_sync():
        out = _add_and_look(torch.ones(2), counter, False)
    assert out.tolist() == [2.0, 2.0]
    assert counter.tolist() == [1.0]
    with pytest.raises(HostSyncError, match="item"), forbid_host_sync():
        _add_and_look(torch.ones(2), counter, True)


# "meta" stands for a GPU: another device than the host.
TRANSFERS = {
    "to the host": lambda there: there.to("cpu"),
    "into a tensor of the host": lambda there: X.clone().copy_(there),
    "to the device": lambda there: X.to("meta"),
    "into a tensor of the device": lambda there: there.copy_(X),
    "to the device, not pinned": lambda there: X.to("meta", non_blocking=True),
}


@pytest.mark.parametrize("name", list(TRANSFERS))
def test_copies_between_host_and_device_are_refused(name):
    there = torch.empty(6, device="meta")
    message = r"values go to the host|memory that is not pinned is uploaded"
    with pytest.raises(HostSyncError, match=message), forbid_host_sync():
        TRANSFERS[name](there)


def test_copies_on_the_device_pass():
    there = torch.empty(6, device="meta")
    with forbid_host_sync():
        there.copy_(there.to(torch.float16))


_KERNEL = """
import torch, triton, triton.language as tl
from fastad_kernels.testing.host_sync import forbid_host_sync

@triton.jit
def _add_kernel(p_x, p_out, n, BLOCK: tl.constexpr):
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(p_out + index, tl.load(p_x + index, mask=index < n) + 1, mask=index < n)

with forbid_host_sync():
    out = torch.empty(10)
    _add_kernel[(2,)](torch.ones(10), out, 10, BLOCK=8)
print(out.tolist())
"""


def test_kernels_in_the_interpreter_pass(tmp_path):
    pytest.importorskip("triton")
    (tmp_path / "kernel.py").write_text(_KERNEL)
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(
        [sys.executable, "kernel.py"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert run.stdout.strip() == str([2.0] * 10), run.stderr
