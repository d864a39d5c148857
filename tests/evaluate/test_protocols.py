"""Which clips are scored, by which protocol, and what a scoring may be told."""

import numpy as np
import pytest
from refusing import refused

from hwm.evaluate.protocols import COMPRESSION, HWM, SAMPLING, Scoring, own_protocol
from hwm.evaluate.scenes import from_another_segment, spread


@pytest.mark.parametrize("sizes", [[1] * 7, [2, 2, 2], [3, 1, 1, 1], [1, 4, 2, 3]])
def test_permuted_states_come_from_another_segment(sizes):
    groups = np.repeat(np.arange(len(sizes)), sizes)
    for seed in range(20):
        source = from_another_segment(len(groups), groups, seed)
        assert sorted(source) == list(range(len(groups)))
        assert (groups[source] != groups).all()
    for num in (2, 3, 8):  # of one segment they come from another clip
        source = from_another_segment(num, np.zeros(num), 0)
        assert sorted(source) == list(range(num)) and (source != np.arange(num)).all()


def test_clips_are_spread_evenly():
    assert spread(10, 5).tolist() == [0, 2, 4, 6, 8]
    assert spread(3, 64).tolist() == spread(3, 0).tolist() == [0, 1, 2]
    refused("at least 2", spread, 1, 0)


def test_a_run_is_scored_by_the_clips_it_learned_from():
    assert [own_protocol(clip) for clip in ("block_pairs", "blocks", "sampling")] == [COMPRESSION, HWM, SAMPLING]


@pytest.mark.parametrize(("protocol", "given", "named"), [
    (HWM, {"members": (1, 2), "seed": 3}, "--members: only with --protocol sampling"),
    (COMPRESSION, {"tuning": "x", "score_size": 8}, "--tuning, --score-size: only with --protocol sampling"),
    (SAMPLING, {"video": "x", "decode": "sample"}, "--video, --decode: only with --protocol compression or hwm")
])
def test_options_that_would_do_nothing_are_named(protocol, given, named):
    refused(named, protocol.refuse, given)
    protocol.refuse({"seed": 3, "temperature": 0.5} | dict.fromkeys(given))


def test_only_what_is_set_counts_as_changed():
    assert Scoring().changed() == {} and Scoring(clips=3, members=(1, 2)).changed() == {"clips": 3, "members": (1, 2)}
