"""What "auto" takes on a CPU: measured once per operation and size, kept, and imposed."""

import dataclasses
import errno
import json
from itertools import chain, cycle, repeat

import pytest
import torch
from fastad_kernels import attention, native, projection, residual_mlp
from fastad_kernels.native import build, choices, measure, store, trial

from fastad.base.errors import UserError
from fastad.model.kernels import impose_kernels, resolve_kernels

RATIOS = {
    "attention 16": 1.5, "attention 64": 0.9, "projection 64": 0.98, "mlp 64": 0.97,
    "decode 16": 2.0,
}  # fmt: skip
CPU = torch.device("cpu")


@pytest.fixture
def measured(full_cache, monkeypatch):
    """Kernels that have never been measured; the list says how often they are."""
    (path,) = full_cache.glob("*.json")
    manifest = store.read_manifest(path)
    store.write_manifest(path, dataclasses.replace(manifest, ratios={}))
    calls = []

    def measure(library):
        calls.append(library)
        return RATIOS

    monkeypatch.setattr(trial, "measure", measure)
    return calls


def forget():
    for function in (build.built, choices._ratios, choices._rows):
        function.cache_clear()


@pytest.mark.parametrize(
    ("operation", "size", "expected"),
    [
        ("attention", 16, "native"),
        ("attention", 24, "native"),  # between 16 and 64, nearer to 16 by its logarithm
        ("attention", 48, "sdpa"),
        ("attention", 128, "sdpa"),
        ("projection", 64, "native"),  # a tie goes to the C++ kernels
        ("mlp", 64, "sdpa"),
        ("decode", 128, "native"),
    ],
)
def test_auto_takes_what_is_no_slower_at_the_nearest_size(measured, operation, size, expected):
    assert native.prefer(operation, size)[0] == expected


def test_a_choice_is_told_with_its_ratio_once(measured, caplog):
    x, weight = torch.zeros(1, 3, 1, 64), torch.zeros(64, 64)
    with caplog.at_level("INFO", logger="fastad_kernels.dispatch"):
        for _ in range(2):
            attention(x, x, x)
            projection(x, weight, weight[0])
            residual_mlp(x, weight[0], weight[0], weight, weight[0], weight, weight[0])
    assert [record.getMessage() for record in caplog.records] == [
        "attention on cpu with head dim 64: sdpa (the C++ kernels have 0.90 times PyTorch's speed "
        "here)",
        "projection on cpu with width 64: native (the C++ kernels have 0.98 times PyTorch's speed "
        "here)",
        "mlp on cpu with width 64: sdpa (the C++ kernels have 0.97 times PyTorch's speed here)",
    ]


def test_what_was_measured_is_kept_beside_the_library_and_not_measured_again(measured, full_cache):
    assert native.measured() == RATIOS
    forget()
    assert native.measured() == RATIOS
    assert len(measured) == 1
    (path,) = full_cache.glob("*.json")
    (where,) = json.loads(path.read_text())["ratios"]
    assert where.startswith(f"torch {torch.__version__} ")
    assert where.endswith(f", {torch.get_num_threads()} threads")


def test_another_number_of_threads_is_measured_by_itself(measured):
    native.measured()
    forget()
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        native.measured()
    finally:
        torch.set_num_threads(threads)
    forget()
    native.measured()
    assert len(measured) == 2


def test_what_another_process_has_just_measured_is_taken(measured, monkeypatch):
    build.built()

    def measure(library):
        pytest.fail("measured again")

    native.measured()
    choices._ratios.cache_clear()  # as another process, that has read the manifest before
    monkeypatch.setattr(trial, "measure", measure)
    assert native.measured() == RATIOS


def test_kernels_that_cannot_be_measured_are_taken_and_the_reason_said(measured, monkeypatch):
    def measure(library):
        raise native.NativeUnavailableError("the C++ kernels cannot be tried: no process")

    monkeypatch.setattr(trial, "measure", measure)
    name, reason = native.prefer("attention", 16)
    assert name == "native"
    assert reason.endswith("not measured: the C++ kernels cannot be tried: no process")


def test_a_cache_that_cannot_be_written_gives_what_others_measured(
    measured, full_cache, monkeypatch
):
    (path,) = full_cache.glob("*.json")
    manifest = store.read_manifest(path)
    others = {"torch 2.0, 64 threads": {"attention 16": 0.5}}
    store.write_manifest(path, dataclasses.replace(manifest, ratios=others))

    def lock(path):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(store, "lock", lock)
    assert native.prefer("attention", 16)[0] == "sdpa"
    assert native.prefer("mlp", 16)[0] == "native"
    assert not measured


def test_a_run_is_told_what_it_takes_and_can_take_the_same_again(measured, compiled_kernels):
    sizes = {"width": 64, "head_dim": 16, "device": CPU}
    library = compiled_kernels.manifest.sha256[:12]
    row_by_row = {"projection": "native", "mlp": "sdpa", "embedding": "native"}
    expected = {"attention": "native", "decode": "native"} | row_by_row
    assert resolve_kernels("auto", **sizes) == expected | {"library": library}
    begun = dict.fromkeys(expected, "sdpa")
    impose_kernels(begun)
    assert resolve_kernels("auto", **sizes) == begun
    impose_kernels({})
    assert resolve_kernels("auto", **sizes) == expected | {"library": library}


def test_an_imposed_choice_decides_the_bits(measured):
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 300, 4, 16, generator=generator)
    by_name = {name: attention(q, q, q, impl=name) for name in ("native", "sdpa")}
    assert not torch.equal(by_name["native"], by_name["sdpa"])
    for name, expected in by_name.items():
        native.impose({"attention": name})
        assert torch.equal(attention(q, q, q), expected)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"precision": "bf16"}, ["sdpa"] * 4),
        ({"dropout": 0.5}, ["sdpa", "native", "native", "sdpa"]),
        ({"impl": "sdpa"}, ["sdpa"] * 4),
        ({"impl": "reference"}, ["reference", "reference", "sdpa", "sdpa"]),
        ({"impl": "native"}, ["native"] * 4),
        ({"impl": "flash"}, ["flash", "native", "sdpa", "sdpa"]),
    ],
)
def test_names_and_conditions_stand_before_measurements(measured, settings, expected):
    asked = {"impl": "auto", "width": 64, "head_dim": 16, "device": CPU} | settings
    chosen = resolve_kernels(asked.pop("impl"), **asked)
    assert [chosen[operation] for operation in ("attention", "decode", "projection", "mlp")] == (
        expected
    )


def test_what_cannot_be_imposed_is_refused_and_changes_nothing(measured, monkeypatch):
    native.impose({"mlp": "native"})
    with pytest.raises(UserError, match="mlp='triton' must be native or sdpa on a CPU"):
        impose_kernels({"attention": "sdpa", "mlp": "triton"})
    monkeypatch.setattr(build, "_why_unavailable", lambda: "no compiler")
    with pytest.raises(UserError, match="attention=native cannot be used here: no compiler"):
        impose_kernels({"attention": "native"})
    assert native.prefer("mlp", 64)[0] == "native"
    assert native.prefer("attention", 64)[0] == "sdpa"


def test_a_compiled_function_takes_the_same_choice_with_any_shape(measured):
    q = torch.randn(1, 20, 2, 64, generator=torch.Generator().manual_seed(0))

    def banded(x):
        return attention(x, x, x, window=5)

    torch.compiler.reset()
    compiled = torch.compile(banded, backend="aot_eager", fullgraph=True, dynamic=True)
    torch.testing.assert_close(compiled(q), banded(q))
    torch.testing.assert_close(compiled(q[:, :, :, :16]), banded(q[:, :, :, :16]))


@pytest.mark.parametrize(
    ("ours", "theirs", "ratio"),
    [
        # A neighbour slows all sweeps but one or two down, and each by another amount.
        (chain([9, 9, 2], repeat(9)), chain([5, 99, 99, 99, 3], repeat(99)), 1.5),
        (chain([9, 9, 6], repeat(9)), chain([8, 7, 7, 7, 3], repeat(7)), 0.5),
        # Ours were never left undisturbed, and quicker in nearly every turn.
        (repeat(4), chain([9, 9, 3], repeat(9)), 1.0),
        (chain([9, 2], repeat(9)), repeat(4), 1.0),
        (repeat(6), cycle([5, 8, 5]), 1.0),  # two of three turns are too few
        (repeat(2**17), repeat(2**16), 1.0),  # one sweep has no second turn
        (repeat(2**15), repeat(2**14), 0.5),
    ],
)
def test_the_least_time_of_each_side_counts_unless_the_turns_contradict(
    monkeypatch, ours, theirs, ratio
):
    times = {"ours": ours, "theirs": theirs}
    now = [0.0]

    def run(side):
        now[0] += next(times[side]) / 1024  # exact

    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(
        measure, "_cases",
        lambda: iter([("mlp 64", (lambda: run("ours"), lambda: run("theirs")))]),
    )  # fmt: skip
    assert measure.measure() == {"mlp 64": ratio}


@pytest.mark.parametrize(
    ("seconds", "sweeps"), [(128, 1), (16, 4), (0.5, 10), (0.125, 20), (2**-10, 100)]
)
def test_there_are_as_many_sweeps_as_there_is_time_for(monkeypatch, seconds, sweeps):
    calls, now = [], [0.0]

    def call():
        calls.append(True)
        now[0] += seconds / 2

    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(measure, "_cases", lambda: iter([("mlp 64", (call, call))]))
    assert measure.measure() == {"mlp 64": 1.0}
    assert len(calls) == 2 * sweeps
