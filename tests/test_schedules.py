"""savae_lite.schedules by endpoints, periods and monotone ramps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from savae_lite.schedules import constant, cyclical, linear

counts, periods = st.integers(1, 50), st.integers(2, 50)
steps = st.integers(0, 500)
weights = st.floats(0.0, 2.0)


@given(weights, steps)
def test_constant(value, step):
    assert constant(value)(step) == value


@given(weights, weights, counts, st.integers(0, 200))
def test_linear_is_the_straight_line_between_its_ends(start, stop, count, step):
    expected = start + (stop - start) * min(step, count) / count
    assert linear(start, stop, count)(step) == pytest.approx(expected, abs=1e-12)


@given(weights, weights, counts)
def test_linear_meets_its_ends_exactly(start, stop, count):
    beta = linear(start, stop, count)
    assert beta(0) == start
    assert beta(count) == beta(count + 7) == pytest.approx(stop, abs=1e-15)


@given(periods, st.floats(0.05, 1.0), steps)
def test_cyclical_is_its_definition(period, ramp, step):
    assert cyclical(period, ramp=ramp)(step) == pytest.approx(min(1.0, step % period / (ramp * period)))


@given(periods, st.floats(0.05, 1.0), steps)
def test_cyclical_has_its_period(period, ramp, step):
    beta = cyclical(period, ramp=ramp)
    assert beta(step) == beta(step + period) and beta(period * (step + 1)) == 0.0


@given(st.integers(2, 50), st.floats(0.05, 1.0))
def test_a_cycle_never_falls_and_stays_within_0_and_1(period, ramp):
    cycle = [cyclical(period, ramp=ramp)(step) for step in range(period)]
    assert cycle == sorted(cycle) and cycle[0] == 0.0 and cycle[-1] <= 1.0


def test_half_a_cycle_is_the_ramp_unless_told():
    assert [cyclical(4)(step) for step in range(5)] == [0.0, 0.5, 1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: linear(0.0, 1.0, 0), "step.* got 0"),
        (lambda: linear(0.0, 1.0, -3), "step.* got -3"),
        (lambda: cyclical(0), "period.* got 0"),
        (lambda: cyclical(-1), "period.* got -1"),
        (lambda: cyclical(10, ramp=0.0), "ramp.* got 0.0"),
        (lambda: cyclical(10, ramp=1.5), "ramp.* got 1.5"),
        (lambda: cyclical(10, ramp=-0.5), "ramp.* got -0.5"),
    ],
)
def test_an_argument_out_of_range_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
