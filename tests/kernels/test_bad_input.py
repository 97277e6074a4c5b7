"""What users can get wrong in `attention` and `attention_varlen`: each error names what and why."""

import importlib.util
import math

import pytest
import torch
from fastad_kernels import attention, attention_varlen, dispatch

BOTH = [
    ({"v": ("shape", 6, 2, 16)}, "must have the same shape"),
    ({"k": ("shape", 5, 2, 8), "v": ("shape", 5, 2, 8)}, "differ in batch or head dim"),
    ({"k": ("shape", 5, 3, 16), "v": ("shape", 5, 3, 16)}, "4 query heads do not divide into 3"),
    ({"k": ("shape", 5, 0, 16), "v": ("shape", 5, 0, 16)}, "heads and head dim must not be 0"),
    ({"q": ("dtype", torch.float64)}, "give one dtype"),
    ({"k": ("dtype", torch.float16)}, "give one dtype"),
    ({"q": ("dtype", torch.int32)}, "q has dtype torch.int32; it must be one of float16"),
    ({"q": ("device", "meta")}, "q, k, v are on meta, cpu, cpu; give one device"),
    ({"window": 0}, "window=0 must be at least 1"),
    ({"window": -3}, "window=-3 must be at least 1"),
    ({"window": 2.5}, "window=2.5 must be an integer"),
    ({"scale": 0.0}, "scale=0.0 must be positive"),
    ({"scale": -1.0}, "scale=-1.0 must be positive"),
    ({"scale": math.inf}, "scale=inf must be positive and finite"),
    ({"scale": math.nan}, "scale=nan must be positive and finite"),
    ({"dropout": 1.0}, r"dropout=1.0 must be in \[0, 1\)"),
    ({"dropout": -0.1}, r"dropout=-0.1 must be in \[0, 1\)"),
    ({"dropout": 0.999}, "dropout=0.999 rounds to 256/256"),
    ({"dropout": 0.1, "dropout_seed": torch.tensor([1], dtype=torch.int32)}, "must be int64"),
    ({"dropout": 0.1, "dropout_seed": torch.tensor([1, 2])}, "with one element"),
    ({"dropout": 0.1, "dropout_seed": torch.zeros(1, dtype=torch.int64, device="meta")},
     "dropout_seed is on meta; q is on cpu"),
    ({"dropout": 0.1, "dropout_seed": torch.tensor([1]), "impl": "sdpa"},
     "fastad_kernels.sdpa draws from PyTorch's generator"),
    ({"alibi_slopes": torch.ones(3)}, r"alibi_slopes \(3,\) must be \(4,\)"),
    ({"alibi_slopes": torch.ones(4, 1)}, r"alibi_slopes \(4, 1\) must be \(4,\)"),
    ({"alibi_slopes": torch.ones(4, dtype=torch.int64)}, "it must be floating point"),
    ({"alibi_slopes": torch.ones(4, device="meta")}, "alibi_slopes is on meta; q is on cpu"),
    ({"alibi_slopes": torch.ones(4, requires_grad=True)}, "alibi_slopes requires a gradient"),
    ({"impl": "cuda"}, "impl='cuda' must be one of auto, triton, native, sdpa, flash, reference"),
]  # fmt: skip


def _changed(arguments, changes, *, batch):
    for name, change in changes.items():
        if not (isinstance(change, tuple) and change[0] in ("shape", "dtype", "device")):
            arguments[name] = change
        elif change[0] == "shape":
            arguments[name] = torch.zeros(*batch, *change[1:])
        else:
            arguments[name] = arguments[name].to(change[1])
    return arguments


def dense(**changes):
    shapes = {"q": (2, 5, 4, 16), "k": (2, 5, 2, 16), "v": (2, 5, 2, 16)}
    arguments = {name: torch.zeros(shape) for name, shape in shapes.items()}
    return attention(**_changed(arguments, changes, batch=(2,)))


def packed(**changes):
    shapes = {"q": (5, 4, 16), "k": (5, 2, 16), "v": (5, 2, 16)}
    arguments = {name: torch.zeros(shape) for name, shape in shapes.items()}
    for name in "qk":
        arguments[f"cu_seqlens_{name}"] = torch.tensor([0, 2, 5], dtype=torch.int32)
        arguments[f"max_seqlen_{name}"] = 3
    return attention_varlen(**_changed(arguments, changes, batch=()))


@pytest.mark.parametrize("call", [dense, packed])
@pytest.mark.parametrize(("changes", "message"), BOTH)
def test_bad_arguments_are_named(call, changes, message):
    call()
    with pytest.raises(ValueError, match=message):
        call(**changes)


def test_dense_tensors_have_four_dimensions():
    with pytest.raises(ValueError, match=r"q has shape \(5, 4, 16\); it must be \(B, T, H, D\)"):
        dense(q=torch.zeros(5, 4, 16))


def test_batch_sizes_agree():
    with pytest.raises(ValueError, match="differ in batch or head dim"):
        dense(q=torch.zeros(3, 5, 4, 16))


def test_packed_tensors_have_three_dimensions():
    with pytest.raises(
        ValueError, match=r"k has shape \(1, 5, 2, 16\); it must be \(total, H, D\)"
    ):
        packed(k=torch.zeros(1, 5, 2, 16))


def int32(*values):
    return torch.tensor(values, dtype=torch.int32)


@pytest.mark.parametrize("name", ["q", "k"])
@pytest.mark.parametrize(
    ("cu_seqlens", "message"),
    [
        (torch.tensor([0, 2, 5]), "cu_seqlens_{} has dtype torch.int64; it must be int32"),
        (int32(0, 2, 5).view(1, 3), r"cu_seqlens_{} has shape \(1, 3\)"),
        (int32(5), r"cu_seqlens_{} has shape \(1,\); it must be \(num_seqs \+ 1,\)"),
        (int32(1, 2, 5), "cu_seqlens_{} starts at 1; it must start at 0"),
        (int32(0, 3, 2, 5), "cu_seqlens_{} must not descend; it goes down by 1"),
        (int32(0, 2, 4), "cu_seqlens_{} ends at 4; {} has 5 tokens"),
        (int32(0, 1, 5), "max_seqlen_{}=3 is below the longest sequence, 4"),
        (int32(0, 1, 2, 5), "must have the same shape"),
        (torch.zeros(3, dtype=torch.int32, device="meta"), "cu_seqlens_{} is on meta"),
    ],
)
def test_bad_cu_seqlens_are_named(name, cu_seqlens, message):
    with pytest.raises(ValueError, match=message.format(name, name)):
        packed(**{f"cu_seqlens_{name}": cu_seqlens})


@pytest.mark.parametrize("length", [-1, 2.0])
def test_longest_lengths_are_whole_numbers(length):
    with pytest.raises(ValueError, match=f"max_seqlen_q={length} must be an integer"):
        packed(max_seqlen_q=length)


@pytest.mark.parametrize("call", [dense, packed])
def test_triton_takes_four_head_dims(call):
    batch = (2,) if call is dense else ()
    shapes = {name: torch.zeros(*batch, 5, 4, 24) for name in "qkv"}
    with pytest.raises(ValueError, match="q has head dim 24; impl='triton' takes 16, 32, 64, 128"):
        call(**shapes, impl="triton")


@pytest.mark.parametrize("call", [dense, packed])
@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_triton_needs_the_last_dimension_contiguous(call, name):
    pytest.importorskip("triton")
    batch = (2,) if call is dense else ()
    heads = 4 if name == "q" else 2
    spread = torch.zeros(*batch, 5, heads, 32)[..., ::2]
    with pytest.raises(ValueError, match=f"{name} has stride 2 along its last dimension"):
        call(**{name: spread}, impl="triton")


def test_triton_says_that_it_is_not_installed(monkeypatch):
    monkeypatch.setattr(dispatch, "TRITON_IS_INSTALLED", False)
    with pytest.raises(ValueError, match="needs the package triton, which is not installed"):
        dense(impl="triton")


def test_triton_on_a_cpu_asks_for_the_interpreter(monkeypatch):
    pytest.importorskip("triton")
    kernels = importlib.import_module("fastad_kernels.triton")
    monkeypatch.setattr(kernels, "INTERPRETED", False)
    with pytest.raises(ValueError, match="with TRITON_INTERPRET=1 set before"):
        dense(impl="triton")
