"""Runs that are killed again and again at random moments; the last one may end."""

import os
import random
import signal
import time

if not hasattr(os, "fork"):  # as on Windows
    import pytest

    pytest.skip("processes are killed in forks, which this system has not", allow_module_level=True)


def in_child(work):
    """Start ``work()`` in a process of its own; returns its process id."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        finally:  # a child that fails must not go on as its parent
            os._exit(1)
    return child


def kill_at_random(work, whole, kills, seed, after_kill=lambda: False):
    """Run ``whole()`` to its end, then ``work()``, killed ``kills`` times, and once to its end.

    The kills are spread over the time that ``whole`` takes. Returns how often a run was
    killed before its end, and after how many of those ``after_kill()`` held.
    """
    rng = random.Random(seed)
    begin = time.perf_counter()
    assert os.waitpid(in_child(whole), 0)[1] == 0
    seconds = time.perf_counter() - begin
    killed = noted = 0
    for _ in range(kills):
        child = in_child(work)
        time.sleep(rng.uniform(0, seconds / kills * 1.5))
        os.kill(child, signal.SIGKILL)
        died = os.WIFSIGNALED(os.waitpid(child, 0)[1])
        killed += died
        noted += died and after_kill()
    assert os.waitpid(in_child(work), 0)[1] == 0
    return killed, noted
