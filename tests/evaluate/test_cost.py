import sys
import time

import pytest
import torch
from torch import nn

from hwm.evaluate.cost import Timed, measure_cost, peak_memory

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def test_rates_are_clips_over_the_median_time_after_a_warm_up():
    model, calls = nn.Linear(10, 5).double(), {"predict": 0, "decode": 0}

    def sleep(name, seconds, slow):
        calls[name] += 1
        time.sleep(0.3 if calls[name] in (1, slow) else seconds)  # a slow warm-up and one slow repeat do not count

    timed = [
        Timed("rate decoded", lambda: sleep("decode", 0.05, 4), repeats=3, rate=4, warm=True),
        Timed("rate", lambda: sleep("predict", 0.02, 3), repeats=3, rate=4, warm=True),
    ]
    cost = measure_cost(model, timed, device="cpu", how="so")
    assert 4 / 0.06 < cost.figures["rate"] <= 4 / 0.02
    assert 4 / 0.12 < cost.figures["rate decoded"] <= 4 / 0.05
    assert (cost.parameters, cost.weight_bytes, cost.how) == (55, 440, "so")
    assert calls == {"predict": 4, "decode": 4}  # warm-up and three repeats


def test_without_a_rate_the_figure_is_the_seconds_of_a_run():
    cost = measure_cost(nn.Linear(1, 1), [Timed("seconds", lambda: time.sleep(0.03), repeats=1)], device="cpu", how="")
    assert 0.03 <= cost.figures["seconds"] < 0.09


@linux
def test_peak_memory_is_what_the_run_needs_at_once():
    def run():
        for _ in range(3):
            torch.ones(64 * 2**20 // 4)  # one after the other, 64 MiB each

    torch.ones(256 * 2**20 // 4)  # what was needed before does not count
    for _ in range(2):  # nor does the C library's store of freed memory hide anything
        peak, meaning = peak_memory(run, device="cpu")
        assert 56 * 2**20 < peak < 160 * 2**20 and "resident" in meaning


@linux
def test_a_system_that_keeps_no_peak_gives_no_number(monkeypatch, tmp_path):
    from hwm.evaluate import cost

    monkeypatch.setattr(cost, "CLEAR_REFS", tmp_path / "nothing" / "clear_refs")
    peak, meaning = peak_memory(lambda: None, device="cpu")
    assert peak is None and "not measured" in meaning


def test_a_failing_prediction_is_not_taken_for_a_missing_peak():
    def fail():
        raise OSError("no such file")

    with pytest.raises(OSError, match="no such file"):
        peak_memory(fail, device="cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_peak_memory_on_a_gpu_counts_what_is_allocated():
    held = torch.ones(32 * 2**20 // 4, device="cuda")
    peak, meaning = peak_memory(lambda: torch.ones(64 * 2**20 // 4, device="cuda"), device="cuda")
    assert 96 * 2**20 <= peak < 512 * 2**20 and "GPU" in meaning
    del held
