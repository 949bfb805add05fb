"""Threads: as many as the machine has, asleep while they wait, and as they were afterwards."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from csr_st._io.openmp import patient_openmp
from csr_st._io.threads import _quota, available_cpus, resolve_threads

UNLIMITED = sys.maxsize


def write(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),  # one and a half
        ("0::/\n", {"cpu.max": "max 100000\n"}, UNLIMITED),
        ("0::/\n", {}, UNLIMITED),
        # A group of systemd; the one above it allows less.
        ("0::/a/b\n", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "800000 100000"}, 3),
        ("0::/docker/1f\n", {"cpu.max": "100000 100000"}, 1),  # not seen from within
        (
            "5:memory:/m\n4:cpu,cpuacct:/c\n",
            {
                "cpu,cpuacct/c/cpu.cfs_quota_us": "250000",
                "cpu,cpuacct/c/cpu.cfs_period_us": "50000",
            },
            5,
        ),
        ("4:cpu:/c\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "1"}, UNLIMITED),
        (None, {}, UNLIMITED),  # not Linux
        ("0::/\n", {"cpu.max": "nonsense"}, UNLIMITED),
    ],
)
def test_threads_are_within_the_quota_of_a_container(tmp_path, groups, files, expected):
    write(tmp_path / "tree", files)
    if groups is not None:
        write(tmp_path, {"groups": groups})
    assert _quota(tmp_path / "groups", tmp_path / "tree") == expected


def test_a_quota_limits_threads_and_torch_while_it_trains(monkeypatch, two_threads):
    monkeypatch.setattr("csr_st._io.threads._quota", lambda: 1)
    assert available_cpus() == resolve_threads(None) == 1
    assert resolve_threads(3) == 3  # as the caller wishes
    with patient_openmp():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == two_threads == 2


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield 2
    torch.set_num_threads(before)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads as Linux does")
def test_a_team_sleeps_beside_torch_as_long_as_it_works():
    # In a process of its own, as threads of other tests end at any time.
    script = """
import os, time, torch
from csr_st._io.openmp import patient_openmp
from csr_st._io.threads import available_cpus
torch.set_num_threads(available_cpus())
torch.ones(1_000_000).add_(1)
count = lambda: len(os.listdir("/proc/self/task"))
before = count()
with patient_openmp():
    during = count()
    used = time.process_time()
    time.sleep(0.5)
    used = time.process_time() - used
until = time.monotonic() + 10
while count() > before and time.monotonic() < until:
    time.sleep(0.01)
print(during - before, available_cpus(), count() - before, used < 0.2)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    added, cpus, left, asleep = done.stdout.split()
    assert int(added) == (int(cpus) + 1 if int(cpus) > 1 else 0)
    assert (left, asleep) == ("0", "True")


def test_threads_are_as_before_when_training_fails(two_threads):
    with pytest.raises(ZeroDivisionError), patient_openmp():
        raise ZeroDivisionError
    assert torch.get_num_threads() == two_threads
