"""What recipes need: the figures of the reference, and short stacks that tell of long ones."""

from dataclasses import replace

import pytest

from hwm.doctor.costs import GB, _step, _whole_step, recipe_costs, state_costs
from hwm.recipes import recipe

QUICK = ["st-tiny", "wan-tiny"]
SLOW = ["masked-hwm-split-tiny", "flow-hwm-modality-tiny"]


@pytest.fixture(scope="module")
def published():
    pytest.importorskip("diffusers")
    pytest.importorskip("peft")
    return recipe_costs(recipe("wan-revontuli"))


def test_arithmetic_of_the_published_wan(published):
    """Reference wan 5, measured on the real configuration: TFLOP at 512x512."""
    assert published.checkpointed.clip_flop / 1e12 == pytest.approx(46.9, rel=0.03)
    assert published.plain.clip_flop / 1e12 == pytest.approx(31.6, rel=0.03)
    again = published.checkpointed.clip_flop - published.plain.clip_flop
    assert again / 1e12 == pytest.approx(15.31, rel=0.03)  # checkpointing runs the blocks forward once more
    assert published.step is published.checkpointed and published.clips == 1024


def test_memory_of_the_published_wan(published):
    """Reference wan 4 and 5: weights 10.02 GB, adapter with state 1.3 GB and state encoder 0.1 GB."""
    state = published.state
    assert state.frozen_weights / GB == pytest.approx(10.02, rel=0.005)
    assert (state.total - state.frozen_weights) / GB == pytest.approx(1.4, rel=0.05)
    # 30 inputs of blocks in bfloat16 and one block's activations, 678 MB with a float32 adapter (reference wan 2.3).
    assert published.checkpointed.clip_bytes / 1e6 == pytest.approx(30 * 9.4 + 678, rel=0.05)
    assert published.plain.clip_bytes / 1e6 == pytest.approx(30 * 678, rel=0.03)


def test_what_fits_fits(published):
    for step in (published.plain, published.checkpointed):
        for card in (24 * GB, 80 * GB):
            most = published.largest(card, step)
            assert not most or published.memory(most, step) <= card
            assert published.memory(most + 1, step) > card
    assert published.largest(GB) == 0
    assert published.hours(2e15) == pytest.approx(published.hours(1e15) / 2)


@pytest.mark.full
def test_arithmetic_at_256_pixels():
    pytest.importorskip("diffusers")
    counted = recipe_costs(recipe("wan-one-gpu"))
    assert (counted.checkpointed.clip_flop - counted.plain.clip_flop) / 1e12 == pytest.approx(4.1, rel=0.03)


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.full) for name in SLOW)])
def test_two_short_stacks_tell_of_a_long_one(name):
    if name.startswith("wan"):
        pytest.importorskip("diffusers")
    config = recipe(name)
    layers = getattr(config.model, "unshared_blocks", 0) + 3
    config = replace(config, model=replace(config.model, num_layers=layers))
    assert _step(config) == _whole_step(config)


def test_the_quick_state_is_that_of_all_costs():
    config = recipe("st-tiny")
    assert state_costs(config) == recipe_costs(config).state
    assert state_costs(config).parameters == state_costs(config).trainable_parameters
