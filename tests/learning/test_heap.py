"""Freed memory is kept while a training lasts, and given back afterwards."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

MEASURE = """
import resource
import torch
from bigdecon.learning.heap import freed_memory_kept

PIECE = 12 * 2**20

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(PIECE)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

plain = faults()
with freed_memory_kept():
    faults()  # the heap grows
    kept = faults()
    held = resident()
print(plain, kept, held - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only the GNU C library can be told")
def test_no_page_is_faulted_twice_and_none_is_kept_for_good() -> None:
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    plain, kept, given_back = (int(word) for word in done.stdout.split())
    assert plain > 10_000
    assert kept < plain / 20
    assert given_back > 20 * 2**20
