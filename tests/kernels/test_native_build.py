"""Compiling the C++ kernels: where they are kept, and what is said if it cannot be done."""

import subprocess
import sys

import pytest
import torch
from fastad_kernels import attention, dispatch
from fastad_kernels.native import attention_op, build


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """A user without compiled kernels; nothing that is found out here is remembered."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for function in (build.library, build._why_unavailable, dispatch._log_choice):
        function.cache_clear()
    yield tmp_path
    for function in (build.library, build._why_unavailable, dispatch._log_choice):
        function.cache_clear()


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_kernels_are_compiled_once_and_found_again(fresh, monkeypatch):
    if build._why_unavailable() is not None:
        pytest.skip(build._why_unavailable())
    (compiled,) = (fresh / "fastad").iterdir()
    build.library.cache_clear()
    monkeypatch.setattr(build, "_compile", lambda *arguments: pytest.fail("compiled again"))
    assert build.library()._name == str(compiled)


def test_without_a_compiler_auto_says_why_and_takes_pytorchs_kernels(fresh, monkeypatch, caplog):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(fresh))
    q = torch.zeros(1, 3, 1, 16)
    with caplog.at_level("INFO", logger="fastad_kernels"):
        attention(q, q, q)
    (record,) = caplog.records
    assert "sdpa (the C++ kernels need a compiler, and g++ is not there" in record.getMessage()
    with pytest.raises(ValueError, match=r"native' cannot be used here: .* apt install g\+\+"):
        attention(q, q, q, impl="native")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('test "$1" = --version || { echo "x.cpp:1: error: no such thing" >&2; exit 1; }',
         "failed on the C.* error: no such thing"),
        ('test "$1" = --version || for last; do :; done; test "$1" = --version || echo > "$last"',
         "cannot be loaded"),
    ],
)  # fmt: skip
def test_a_compiler_that_fails_is_named_with_its_reason(fresh, monkeypatch, text, message):
    monkeypatch.setenv("CXX", script(fresh / "compiler", text))
    q = torch.zeros(1, 3, 1, 16)
    with pytest.raises(ValueError, match=message):
        attention(q, q, q, impl="native")
    assert not list((fresh / "fastad").glob("tmp*"))


def test_a_named_compiler_that_is_not_there_is_named(fresh, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "CXX=no-such-compiler is not there" in str(build._why_unavailable())


def test_a_compiler_may_have_arguments_and_gets_the_users_flags(fresh, monkeypatch):
    monkeypatch.setenv(
        "CXX", f"{script(fresh / 'compiler', 'echo $@ >> ' + str(fresh / 'log'))} -a"
    )
    monkeypatch.setenv("CXXFLAGS", "-mtune=generic -b")
    assert build._why_unavailable() is not None  # it compiled nothing
    called = (fresh / "log").read_text()
    assert called.startswith("-a --version\n-a -std=c++17")
    assert "-mtune=generic -b " in called


def test_a_disk_that_is_full_is_a_reason_and_no_crash(fresh, monkeypatch):
    def mkstemp(**keywords):
        raise OSError("No space left on device")

    monkeypatch.setattr(build.tempfile, "mkstemp", mkstemp)
    assert "cannot be compiled: No space left" in str(build._why_unavailable())


def test_a_home_that_cannot_be_written_is_no_obstacle(fresh, monkeypatch):
    blocked = fresh / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    folder = build._cache_folder()
    assert folder.is_dir()
    assert blocked not in folder.parents


def test_importing_the_package_compiles_nothing(tmp_path):
    code = "import fastad_kernels; import fastad.model.transformer"
    environment = {"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(build._why_unavailable() is not None, reason="no C++ compiler")
@pytest.mark.parametrize("packed", [False, True])
def test_the_operators_are_registered_as_pytorch_wants(packed):
    generator = torch.Generator().manual_seed(0)
    shape = (12,) if packed else (2, 12)
    q, k, v = (
        torch.randn(*shape, heads, 16, generator=generator).requires_grad_() for heads in (4, 2, 2)
    )
    ends = torch.tensor([0, 5, 12], dtype=torch.int32) if packed else None
    slopes = torch.ones(4)
    torch.library.opcheck(attention_op, (q, k, v, ends, ends, slopes, 5, True, 0.25))


def test_dropout_and_other_dtypes_are_refused_by_name_and_left_to_others_by_auto():
    q = torch.zeros(1, 3, 1, 16)
    with pytest.raises(ValueError, match=r"dropout=0.5: impl='native' has none"):
        attention(q, q, q, dropout=0.5, impl="native")
    half = q.half()
    with pytest.raises(ValueError, match="native' computes in float32 on CPUs"):
        attention(half, half, half, impl="native")
    assert attention(q, q, q, dropout=0.5).shape == q.shape
    assert attention(half, half, half).dtype == torch.float16
