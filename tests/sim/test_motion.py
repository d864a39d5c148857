import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwm.sim.body.motion import PEAK_OF_MEAN, Track, Tremor, natural_duration, wrap


def test_a_move_from_rest_is_minimum_jerk():
    track = Track([1.0])
    track.move([3.0], 2.0, time=0.0)
    for time in np.linspace(0, 2, 21):
        s = time / 2
        assert track.at(time)[0] == pytest.approx(1 + 2 * (10 * s**3 - 15 * s**4 + 6 * s**5))
    assert not track.moving and track.at(9.0)[0] == 3.0


def test_the_peak_speed_of_a_natural_move_is_the_one_asked_for():
    duration = natural_duration(2.0, 0.8, 0.1)
    track = Track([0.0])
    track.move([2.0], duration, time=0.0)
    speeds = [(track.at(t), track.velocity[0])[1] for t in np.linspace(0, duration, 201)]
    assert max(speeds) == pytest.approx(0.8, rel=1e-3)
    assert pytest.approx(1.875) == PEAK_OF_MEAN


@given(
    goals=st.lists(st.floats(-2, 2), min_size=2, max_size=2), turn=st.floats(0.05, 0.95),
    durations=st.lists(st.floats(0.2, 3), min_size=2, max_size=2)
)
def test_re_aiming_keeps_position_velocity_and_acceleration(goals, turn, durations):
    track = Track([0.0])
    track.move([goals[0]], durations[0], time=0.0)
    moment = turn * durations[0]
    before = np.array([track.at(moment), track.velocity, track.acceleration])
    track.move([goals[1]], durations[1], time=moment)
    after = np.array([track.at(moment), track.velocity, track.acceleration])
    np.testing.assert_allclose(after, before, atol=1e-9)
    assert track.at(moment + durations[1])[0] == pytest.approx(goals[1], abs=1e-9)


def test_tremor_has_the_spread_asked_for():
    tremor = Tremor(np.random.default_rng(0), np.array([0.02, 0.01]))
    values = np.array([tremor.step(1 / 30) for _ in range(20_000)])
    spread = values.std(0)
    assert 0.8 * 0.02 < spread[0] < 1.05 * 0.02
    assert spread[0] / spread[1] == pytest.approx(2, rel=0.1)


@given(angle=st.floats(-50, 50))
def test_wrapping_keeps_the_direction(angle):
    assert -np.pi <= wrap(angle) <= np.pi
    assert np.cos(wrap(angle)) == pytest.approx(np.cos(angle), abs=1e-9)
    assert np.sin(wrap(angle)) == pytest.approx(np.sin(angle), abs=1e-9)
