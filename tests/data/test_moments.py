import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwm.data.moments import Moments


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.floats(-1e6, 1e6))
def test_merged_moments_are_those_of_all_samples(sizes, offset):
    rng = np.random.default_rng(sum(sizes))
    parts = [offset + rng.normal(size=(n, 3)) for n in sizes]
    found = Moments.none(3)
    for part in parts:
        found = found.merged(Moments.of(part))
    whole = np.concatenate(parts)
    assert found.count == len(whole)
    np.testing.assert_allclose(found.mean, whole.mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.std, whole.std(0), rtol=1e-6, atol=1e-9)


def test_json_gives_exactly_the_same_back():
    moments = Moments.of(np.random.default_rng(0).normal(size=(7, 3)))
    again = Moments.from_json(json.loads(json.dumps(moments.as_json())), width=3)
    assert again.count == 7
    assert np.array_equal(again.mean, moments.mean) and np.array_equal(again.scatter, moments.scatter)
    for wrong in (None, {}, {**moments.as_json(), "count": 1.5}, {**moments.as_json(), "mean": [1, 2]},
                  {**moments.as_json(), "mean": [1, 2, "3"]}, {**moments.as_json(), "scatter": [1, 2, float("nan")]}):
        with pytest.raises(ValueError, match="expected"):
            Moments.from_json(wrong, width=3)
    assert Moments.none(3).merged(Moments.none(3)).count == 0
