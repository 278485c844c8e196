"""Freed memory is kept where glibc manages it, unless the user manages it himself."""

import os
import subprocess
import sys

import pytest

from mmseg_tr import cpu
from mmseg_tr.cpu import keep_freed_memory, multiplies_bfloat16

# pages touched for the first time while 48 MB are asked for and freed again ten times
FAULTS = """
import resource, torch
from mmseg_tr import cpu
from mmseg_tr.cpu import keep_freed_memory, multiplies_bfloat16
kept = {keep}
for _ in range(20):  # until a hole is there that no small block breaks up
    torch.zeros(12 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.zeros(12 << 20)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: str, **variables: str) -> tuple[str, int]:
    known = {key: value for key, value in os.environ.items() if not key.startswith(('MALLOC_', 'GLIBC_TUNABLES'))}
    done = subprocess.run(
        [sys.executable, '-c', FAULTS.format(keep=keep)],
        env=known | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    kept, count = done.stdout.split()
    return kept, int(count)


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='the allocator is that of glibc')
def test_freed_memory_is_not_touched_anew():
    (_, before), (kept, after) = faults('None'), faults('keep_freed_memory()')
    assert kept == 'True'
    assert after < before / 5


def test_what_users_set_themselves_stays(monkeypatch):
    monkeypatch.setenv('GLIBC_TUNABLES', 'glibc.malloc.mmap_threshold=1048576')
    assert keep_freed_memory() is False
    monkeypatch.delenv('GLIBC_TUNABLES')
    monkeypatch.setenv('MALLOC_TRIM_THRESHOLD_', '100000')
    assert keep_freed_memory() is False


@pytest.mark.parametrize(
    ('listed', 'has'),
    [
        ('flags\t: avx2 avx512f\nflags\t: avx2 avx512f\n', False),
        ('flags\t: avx512f avx512_bf16\n', True),
        ('flags\t: amx_bf16 amx_tile\n', True),
        ('Features\t: asimd bf16\n', True),
        ('processor\t: 0\n', True),  # nothing is listed
    ],
)
def test_a_cpu_that_multiplies_bfloat16_is_recognised(tmp_path, monkeypatch, listed, has):
    (tmp_path / 'cpuinfo').write_text(listed)
    monkeypatch.setattr(cpu, 'CPUINFO', tmp_path / 'cpuinfo')
    assert multiplies_bfloat16() is has
    monkeypatch.setattr(cpu, 'CPUINFO', tmp_path / 'gone')
    assert multiplies_bfloat16()
