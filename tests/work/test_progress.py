"""Progress in a log: lines while it works, and nothing that is not so."""

import pytest

from hwm.work.progress import Counter


@pytest.fixture
def told(monkeypatch):
    """Lines of a counter, and a clock that goes on by twenty seconds whenever it is looked at."""
    now, lines = [0.0], []

    def later():
        now[0] += 20
        return now[0]

    monkeypatch.setattr("hwm.work.progress.time.monotonic", later)
    return lines


def test_the_end_is_told_once_and_never_as_no_time_left(told):
    with Counter("evaluating", unit="clips", log=told.append) as counter:
        counter(8, 16)
        counter(16, 16)
    assert [line.partition(",")[0] for line in told[:1]] == ["evaluating: 8/16 clips"] and len(told) == 2
    assert told[1].startswith("evaluating: 16/16 clips in ") and not any("0 s left" in line for line in told[1:])


def test_a_sign_of_life_comes_before_anything_is_done(told):
    with Counter("evaluating", unit="clips", log=told.append) as counter:
        counter.alive()
    assert told[0].startswith("evaluating: 0/? clips, at work for ")
