import signal
import threading
import time

import pytest

from fastad.base.turns import by_turns


def test_what_is_told_is_yielded_in_order_and_nothing_happens_at_once():
    log = []

    def work(tell):
        for number in range(3):
            log.append(f"works {number}")
            tell(number)

    for number in by_turns(work, seconds=0):
        time.sleep(0.02)
        log.append(f"sees {number}")
    assert log == ["works 0", "sees 0", "works 1", "sees 1", "works 2", "sees 2"]


def test_what_is_told_too_often_is_passed_over():
    assert len(list(by_turns(lambda tell: [tell(n) for n in range(1000)], seconds=10))) == 0


def test_an_error_of_the_function_is_raised_where_it_is_iterated_over():
    def work(tell):
        tell(1)
        raise ValueError("wrong")

    turns = by_turns(work, seconds=0)
    assert next(turns) == 1
    with pytest.raises(ValueError, match="wrong"):
        next(turns)


def test_a_closed_iterator_ends_the_function_where_it_is():
    ended = []

    def work(tell):
        try:
            while True:
                tell(0)
        finally:
            ended.append(True)

    turns = by_turns(work, seconds=0)
    next(turns)
    threads = threading.active_count()
    turns.close()
    assert ended == [True]
    assert threading.active_count() == threads - 1


def test_an_interrupt_ends_the_function_while_it_works():
    ended = []

    def work(tell):
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            while True:
                tell(0)
        finally:
            ended.append(True)

    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            list(by_turns(work, seconds=100))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert ended == [True]
