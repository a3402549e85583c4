"""What the web process asks of the kernel."""

from __future__ import annotations

import ctypes
import os
import platform
from concurrent.futures import ThreadPoolExecutor

import pytest

from mlc_api.prompt_thread import ATTRIBUTES, SLICE_NS, run_soon_when_woken

GET_ATTRIBUTES = {"x86_64": 315, "aarch64": 275}


def attributes() -> tuple[int, ...]:
    """Of the calling thread: size, policy, flags, nice, priority, runtime, deadline, period."""
    buffer = ctypes.create_string_buffer(ATTRIBUTES.size)
    number = GET_ATTRIBUTES.get(platform.machine())
    if number is None or ctypes.CDLL(None).syscall(number, 0, buffer, ATTRIBUTES.size, 0):
        pytest.skip("this kernel does not tell")
    return ATTRIBUTES.unpack(buffer.raw)


def in_a_thread() -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Before, after, and what a thread has that the thread started."""

    def asks() -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        before = attributes()
        run_soon_when_woken()
        with ThreadPoolExecutor(1) as pool:
            return before, attributes(), pool.submit(attributes).result()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asks).result()


def test_only_the_thread_that_asks_gets_a_short_slice_and_its_priority_stays() -> None:
    before, after, child = in_a_thread()
    assert before[1] == after[1] == os.SCHED_OTHER
    assert before[3] == after[3]
    assert child[5] == before[5]
    if after[5] == before[5]:
        pytest.skip("this kernel has no slices to ask for")
    assert after[5] == SLICE_NS


def test_a_policy_that_was_chosen_for_the_process_is_kept() -> None:
    def asks() -> int:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        run_soon_when_woken()
        return os.sched_getscheduler(0)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(asks).result() == os.SCHED_BATCH
