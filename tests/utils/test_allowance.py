"""Threads that share an amount never take more than there is, and all get their turn."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from gns.utils.allowance import Allowance


def test_no_more_than_there_is_at_a_time() -> None:
    allowance, lock = Allowance(10), threading.Lock()
    held, most = 0, 0

    def work(amount: int) -> None:
        nonlocal held, most
        with allowance.taken(amount):
            with lock:
                held += amount
                most = max(most, held)
            time.sleep(0.002)
            with lock:
                held -= amount

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [1, 7, 3, 10, 2, 9, 4, 4, 1, 1] * 3))
    assert held == 0
    assert 5 <= most <= 10


def test_who_wants_more_than_there_is_waits_for_the_others() -> None:
    allowance, order = Allowance(10), list[str]()
    inside, asked = threading.Event(), threading.Event()

    def small() -> None:
        with allowance.taken(1):
            inside.set()
            asked.wait(5)
            time.sleep(0.02)
            order.append("small")

    def large() -> None:
        inside.wait(5)
        asked.set()
        with allowance.taken(1000):
            order.append("large")

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(small), pool.submit(large)]:
            done.result(10)
    assert order == ["small", "large"]


def test_what_was_taken_comes_back_after_an_error() -> None:
    allowance = Allowance(3)
    for _ in range(5):
        with pytest.raises(ZeroDivisionError), allowance.taken(3):
            raise ZeroDivisionError
    with allowance.taken(3):
        pass
