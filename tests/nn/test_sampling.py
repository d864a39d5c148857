import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from seeds import gen

from hwm.contracts import Sampling
from hwm.nn.sampling import draw, draw_digits, greedy, linear_greedy, top_k, uniform

SIZES = [1, 3, 97, 160, 500, 1000, 1024, 64000]


@pytest.mark.parametrize("size", SIZES)
def test_greedy_is_argmax_and_takes_the_first_of_equals(size):
    x = torch.randn(5, size, generator=gen())
    assert torch.equal(greedy(x), x.argmax(1))
    tied = torch.zeros(2, size)
    tied[1, size // 2 :] = 1
    assert greedy(tied).tolist() == [0, size // 2]


@pytest.mark.parametrize("tile", [1, 7, 64, 100, 1000])
def test_greedy_tile_by_tile_is_argmax_and_takes_the_first_of_equals(tile):
    hidden, weight = torch.randn(9, 4, generator=gen(), dtype=torch.float64), torch.randn(100, 4, dtype=torch.float64)
    assert torch.equal(linear_greedy(hidden, weight, tile=tile), (hidden @ weight.t()).argmax(1))
    bias = torch.randn(100, generator=gen(1), dtype=torch.float64)
    expected = (hidden @ weight.t() + bias).argmax(1)
    assert torch.equal(linear_greedy(hidden, weight, bias_V=bias, tile=tile), expected)
    assert linear_greedy(hidden, torch.zeros_like(weight), tile=tile).tolist() == [0] * 9


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("k", [1, 5, 40])
def test_top_k_is_the_sorted_head(size, k):
    x = torch.randn(4, size, generator=gen(1))
    k = min(k, size)
    values, index = top_k(x, k)
    expected = x.sort(1, descending=True)
    assert torch.equal(values, expected.values[:, :k]) and torch.equal(index, expected.indices[:, :k])


def frequencies(logits, sampling, num=200_000):
    drawn = draw(logits[None], sampling, generator=gen(3), num=num)[0]
    return torch.bincount(drawn, minlength=len(logits)).double() / num


PROBABILITY = torch.tensor([0.4, 0.05, 0.3, 0.15, 0.1], dtype=torch.float64)


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(temperature=1), PROBABILITY),
        (Sampling(temperature=0.5), PROBABILITY**2 / (PROBABILITY**2).sum()),
        (Sampling(temperature=1, top_k=2), torch.tensor([4 / 7, 0, 3 / 7, 0, 0])),
        # 0.4 + 0.3 fall short of 0.75; with 0.15 it is reached.
        (Sampling(temperature=1, top_p=0.75), torch.tensor([0.4, 0, 0.3, 0.15, 0]) / 0.85),
        # Among the three kept by top-k the first has 0.4 / 0.85 = 0.47 of the mass.
        (Sampling(temperature=1, top_k=3, top_p=0.46), torch.tensor([1.0, 0, 0, 0, 0])),
        (Sampling(temperature=1, top_p=1e-9), torch.tensor([1.0, 0, 0, 0, 0])),
        (Sampling(temperature=1, top_k=99), PROBABILITY),
    ],
)
def test_draws_follow_the_filtered_distribution(sampling, expected):
    got = frequencies(PROBABILITY.log(), sampling)
    assert (got - expected).abs().max() < 0.005
    assert (got[expected == 0] == 0).all()


def test_two_level_draws_follow_the_distribution():
    logits = torch.randn(640, generator=gen(5)) * 2
    got = frequencies(logits, Sampling(temperature=1), num=400_000)
    p = logits.double().softmax(0)
    # The worst of 640 independent frequencies lies within 5 standard deviations.
    assert ((got - p).abs() <= 5 * (p / 400_000).sqrt() + 1e-5).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([7, 250, 1024]), st.floats(0.1, 3), st.floats(0.05, 1))
def test_impossible_tokens_are_never_drawn(seed, size, temperature, top_p):
    g = gen(seed)
    logits = torch.randn(3, size, generator=g)
    impossible = torch.rand(3, size, generator=g) < 0.7
    impossible[:, 0] = False
    logits[impossible] = -torch.inf
    drawn = draw(logits, Sampling(temperature=temperature, top_p=top_p), generator=g, num=50)
    assert not impossible.gather(1, drawn).any()


def test_draws_repeat_from_the_generator_and_differ_along_it():
    logits = torch.zeros(10, 64)
    g = gen(1)
    first, second = (draw(logits, Sampling(temperature=1), generator=g) for _ in range(2))
    assert torch.equal(first, draw(logits, Sampling(temperature=1), generator=gen(1)))
    assert not torch.equal(first, second)


def test_greedy_draws_take_nothing_from_the_generator():
    g = gen(1)
    draw(torch.zeros(2, 8), Sampling(), generator=g, num=3)
    assert torch.equal(g.get_state(), gen(1).get_state())


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_digits_drawn_apart_are_the_ids_drawn_from_their_joint_table(temperature):
    torch.manual_seed(0)
    sizes = (8, 5, 3)
    logits = [torch.randn(50, n) for n in sizes]
    joint = sum(part[:, (torch.arange(120) // step) % n] for part, n, step in zip(logits, sizes, (1, 8, 40)))
    how = {"generator": torch.Generator().manual_seed(3), "num": 7}
    wanted = draw(joint, Sampling(temperature=temperature), **how)
    how["generator"] = torch.Generator().manual_seed(3)
    d0, d1, d2 = draw_digits(logits, temperature, **how)
    assert (d0 + 8 * d1 + 40 * d2 == wanted).float().mean() > 0.995  # one uniform number between two ids rounds either way


@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.999])
def test_top_p_of_a_large_vocabulary_equals_sorting_all_of_it(top_p):
    """Rows that are sure, in doubt and without any idea, so that some need the few, the many and all."""
    spread = torch.tensor([6.0, 2.5, 1.0, 0.0])[:, None]
    logits = (spread * torch.randn(4, 6000, generator=gen(5))).double()
    drawn = draw(logits, Sampling(temperature=0.8, top_p=top_p), generator=gen(6), num=400)
    values, index = (logits / 0.8).softmax(1).sort(dim=1, descending=True, stable=True)
    kept = values.masked_fill(values.cumsum(1) - values >= top_p, 0)
    uniform = torch.rand(4, 400, generator=gen(6), dtype=torch.float64)
    expected = index.gather(1, torch.searchsorted(kept.cumsum(1), uniform * kept.sum(1, keepdim=True), right=True))
    assert torch.equal(drawn[:3], expected[:3])
    assert len(drawn[3].unique()) > 300  # of equals any may be among the kept
    # The fewest that have the mass: with the least likely of them it is reached, without it not.
    for row, p in zip(drawn, (logits / 0.8).softmax(1)):
        least = p[row].min()
        assert p[p > least].sum() < top_p


def test_several_generators_give_each_clip_and_draw_its_own_numbers():
    def of(*seeds):
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    both = uniform(6, of(1, 2, 3, 4), num=2)  # two clips of three rows, two draws a row
    assert both.shape == (6, 2) and len(both.unique()) == 12
    assert torch.equal(both[3:], uniform(3, of(3, 4), num=2)) and torch.equal(both[:, 1:], uniform(6, of(2, 4)))
    for rows, num in ((5, 2), (6, 3)):
        with pytest.raises(ValueError, match="cannot be shared evenly by 4 generators"):
            uniform(rows, of(1, 2, 3, 4), num=num)
