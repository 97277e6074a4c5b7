"""Freed memory is kept for the next tensors, where nobody has chosen otherwise."""

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="settings of glibc")

# Prints how often the system had to give a page: without the block, and within it.
COUNT = """
import resource
from contextlib import nullcontext
import torch
from fastad_kernels.memory import keeping_freed_memory

def faults(how):
    def use():
        tensors = [torch.ones(2**20) for _ in range(10)]
    with how:
        use()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(20):
            use()
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults(nullcontext()), faults(keeping_freed_memory()))
"""


def count_faults(monkeypatch, **settings):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    return map(int, done.stdout.split())


def test_memory_that_is_freed_is_there_for_the_next_tensors(monkeypatch):
    plain, kept = count_faults(monkeypatch)
    assert kept < plain / 10


def test_whoever_has_set_malloc_keeps_the_setting(monkeypatch):
    plain, kept = count_faults(monkeypatch, MALLOC_TRIM_THRESHOLD_="131072")
    assert kept > plain / 2
