"""Compiling the C++ kernels: what is compiled, tried and kept, and what is said if it fails."""

import json
import os
import subprocess
import sys

import pytest
import torch
from fastad_kernels import attention
from fastad_kernels.native import attention_op, build, compiler, trial, why_unavailable

needs_compiler = pytest.mark.skipif(why_unavailable() is not None, reason=str(why_unavailable()))


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def attend(impl):
    q = torch.zeros(1, 3, 1, 16)
    return attention(q, q, q, impl=impl)


def test_without_a_compiler_auto_says_why_and_takes_pytorchs_kernels(
    empty_cache, tmp_path, monkeypatch, caplog
):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with caplog.at_level("INFO", logger="fastad_kernels"):
        attend("auto")
    (record,) = caplog.records
    said = "sdpa (the C++ kernels need a compiler, and none of g++, clang++, c++ is there"
    assert said in record.getMessage()
    with pytest.raises(ValueError, match=r"native' cannot be used here: .* apt install g\+\+"):
        attend("native")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('echo "x.cpp:1: error: no such thing" >&2; exit 1',
         "failed on the C.* error: no such thing; set CXX to another compiler"),
        ("exit 0", r"made nothing of the C\+\+ kernels; set CXX to another compiler"),
        ('for last; do :; done; echo > "$last"', "cannot be loaded"),
    ],
)  # fmt: skip
def test_a_compiler_that_fails_is_named_with_its_reason(
    empty_cache, tmp_path, monkeypatch, text, message
):
    monkeypatch.setenv("CXX", script(tmp_path / "compiler", text))
    monkeypatch.delenv("CXXFLAGS", raising=False)
    with pytest.raises(ValueError, match=message) as caught:
        attend("native")
    assert "\n" not in str(caught.value)
    assert not list(empty_cache.glob("*.so"))
    assert not list(empty_cache.glob("build-*"))


def test_a_named_compiler_that_is_not_there_is_named(empty_cache, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "CXX=no-such-compiler is not there" in str(build._why_unavailable())


def test_a_compiler_may_have_arguments_and_gets_the_users_flags(empty_cache, tmp_path, monkeypatch):
    log = tmp_path / "log"
    monkeypatch.setenv("CXX", f"{script(tmp_path / 'compiler', f'echo $@ >> {log}')} -a")
    monkeypatch.setenv("CXXFLAGS", "-mtune=generic -b")
    assert build._why_unavailable() is not None  # it compiled nothing
    called = log.read_text()
    assert called.startswith("-a -std=c++17")
    assert "-mtune=generic -b " in called
    # Every call compiles a source: nobody asked for its version.
    assert called.count("\n") == called.count("-mtune=generic -b -c ")


def test_when_one_source_fails_no_compiler_is_left_running(empty_cache, tmp_path, monkeypatch):
    text = (
        f'case "$*" in *attention.cpp*) while [ ! -e {tmp_path}/pid ]; do sleep 0.1; done\n'
        f'echo "error: no" >&2; exit 1;; esac\necho $$ > {tmp_path}/new; '
        f"mv {tmp_path}/new {tmp_path}/pid; exec sleep 600"
    )
    monkeypatch.setattr(compiler, "_processors", lambda: 2)
    monkeypatch.setenv("CXX", script(tmp_path / "compiler", text))
    assert "error: no" in build._why_unavailable()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.parametrize(
    "changed", ["CPU implementer\t: 0x42", "CPU variant\t: 0x1", "CPU part\t: 0xd40"]
)
def test_a_library_is_for_one_kind_of_arm_processor(tmp_path, changed):
    lines = [
        "Features\t: fp asimd",
        "CPU implementer\t: 0x41",
        "CPU variant\t: 0x3",
        "CPU part\t: 0xd0c",
    ]
    field = changed.partition("\t")[0]
    others = [changed if line.startswith(field) else line for line in lines]
    for name, content in (("one", lines), ("other", others)):
        (tmp_path / name).write_text("\n".join(content))
    one, other = (compiler._processor(tmp_path / name) for name in ("one", "other"))
    assert one != other


@pytest.mark.parametrize(
    ("machine", "flag"), [("x86_64", "-march=native"), ("aarch64", "-mcpu=native"), ("riscv64", "")]
)
def test_the_processor_is_named_as_its_compilers_take_it(monkeypatch, machine, flag):
    monkeypatch.setattr(compiler.platform, "machine", lambda: machine)
    tuning = [x for x in compiler.arguments() if x in ("-march=native", "-mcpu=native")]
    assert tuning == ([flag] if flag else [])


def test_a_compiler_that_cannot_be_started_is_a_reason_where_native_is_asked_for(
    empty_cache, monkeypatch
):
    def fork(*arguments, **keywords):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setenv("CXX", sys.executable)  # any program that is there
    monkeypatch.setattr(subprocess, "_fork_exec", fork)
    with pytest.raises(
        ValueError, match=r"cannot be compiled: .* Resource temporarily unavailable"
    ):
        attend("native")


@pytest.mark.slow  # compiles everything once more
@needs_compiler
def test_flags_that_break_the_kernels_are_refused_with_the_error_they_make(
    empty_cache, monkeypatch
):
    """-Ofast leaves out what infinity and NaN need: attention is wrong by 0.3, silently."""
    monkeypatch.setenv("CXXFLAGS", "-Ofast")
    with pytest.raises(ValueError, match=r"compute wrongly as compiled by .*-Ofast.*is off by"):
        attend("native")
    assert not list(empty_cache.glob("*.so"))
    (manifest,) = empty_cache.glob("*.json")
    assert "is off by" in json.loads(manifest.read_text())["refused"]
    for function in (build.library, build.built, build._why_unavailable):
        function.cache_clear()
    monkeypatch.setattr(compiler, "compile_kernels", lambda *_: pytest.fail("compiled again"))
    with pytest.raises(ValueError, match="compute wrongly"):
        attend("native")


def test_a_library_that_crashes_is_refused_and_takes_nobody_along(
    empty_cache, full_cache, monkeypatch
):
    """As one for another processor does, by SIGILL."""
    monkeypatch.setattr(sys, "executable", script(full_cache.parent / "python", "kill -ILL $$"))
    monkeypatch.setenv("CXXFLAGS", "-march=another")
    with pytest.raises(
        build.NativeUnavailableError, match=r"crash \(SIGILL\) when tried; .*-march=another"
    ):
        trial.prove(full_cache / "kernels.so")


def test_importing_the_package_compiles_nothing(tmp_path):
    code = "import fastad_kernels; import fastad.model.sequence_model"
    environment = {"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert not list(tmp_path.iterdir())


@needs_compiler
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


@needs_compiler
def test_dropout_and_other_dtypes_are_refused_by_name_and_left_to_others_by_auto():
    q = torch.zeros(1, 3, 1, 16)
    with pytest.raises(ValueError, match=r"dropout=0.5: impl='native' has none"):
        attention(q, q, q, dropout=0.5, impl="native")
    half = q.half()
    with pytest.raises(ValueError, match="native' computes in float32 on CPUs"):
        attention(half, half, half, impl="native")
    assert attention(q, q, q, dropout=0.5).shape == q.shape
    assert attention(half, half, half).dtype == torch.float16
