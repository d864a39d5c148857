import pytest
import torch
from refusing import refused

from hwm.clock import COSMOS, WAN
from hwm.config import RunConfig
from hwm.contracts import Prediction, Sampling
from hwm.model_config import MaskedConfig, STConfig
from hwm.models.build import build_model
from hwm.models.st_transformer import STTransformer
from hwm.predict.rollout import frames_per_step, rollout, state_window


class Recorder:
    """Token = first token of the context's last grid + 1, + number of the state row that leads to the grid."""

    predicts, frame_step, reach = "tokens", 1, 0

    def __init__(self, context_grids=3, future_grids=3, num_states=40):
        self.context_grids, self.future_grids, self.num_states = context_grids, future_grids, num_states
        self.seen = []

    def predict(self, context_BTHW, states_BFA, *, generator, num_samples=1, sampling=None):
        assert states_BFA.shape[1] == self.num_states and context_BTHW.shape[1] == self.context_grids
        self.seen.append((context_BTHW.clone(), states_BFA[..., 0].clone()))
        spans = [COSMOS.span(self.context_grids + t) for t in range(self.future_grids)]
        base = context_BTHW[:, -1]
        noise = torch.randint(0, 2**40, (len(base),), generator=generator) if sampling else 0
        grids = [base + 1 + t + states_BFA[:, a, 0].long()[:, None, None] * 1000 for t, (a, _) in enumerate(spans)]
        tokens = torch.stack(grids, 1) + (noise.view(-1, 1, 1, 1) if sampling else 0)
        return Prediction(tokens_BKTHW=tokens[:, None])


def states(num_frames, num_clips=2):
    return torch.arange(num_frames).float().view(1, -1, 1).expand(num_clips, -1, 4)


def run(model, context, states_BFA, num_blocks, **options):
    return rollout(model, None, context, states_BFA, num_frames=17 * num_blocks, generator=torch.Generator(), **options)


def test_contexts_and_state_windows_advance_block_by_block():
    model, context = Recorder(), torch.arange(6).view(2, 3, 1, 1)
    found = run(model, context, states(17 * 4), 3)
    assert found.tokens_BKTHW.shape == (2, 1, 9, 1, 1) and found.video_BKFHWC is None
    future = found.tokens_BKTHW[:, 0]
    for step, (seen, rows) in enumerate(model.seen):
        expected = context if step == 0 else future[:, 3 * step - 3 : 3 * step]
        assert torch.equal(seen, expected)
        # Rows start at the first frame of that context; past the end the last row stands.
        assert rows[0].tolist() == [min(17 * step + i, 67) for i in range(40)]
    # The grids of block b + 1 start at frames 17, 18 and 26 of its window, that is of frame 17 b.
    for b in range(3):
        last = context[:, -1] if b == 0 else future[:, 3 * b - 1]
        for t, offset in enumerate((17, 18, 26)):
            assert torch.equal(future[:, 3 * b + t], last + 1 + t + 1000 * (17 * b + offset))


def test_longer_context_slides_over_its_own_predictions():
    model, context = Recorder(context_grids=6, future_grids=3, num_states=51), torch.arange(6).view(1, 6, 1, 1)
    found = run(model, context, states(34 + 34, 1), 2).tokens_BKTHW[:, 0]
    assert torch.equal(model.seen[1][0], torch.cat([context[:, 3:], found[:, :3]], 1))
    assert model.seen[1][1][0, 0] == 17


def test_samples_are_independent_and_keep_their_own_past():
    model, context = Recorder(), torch.zeros(2, 3, 1, 1).long()
    found = run(model, context, states(17 * 3), 2, num_samples=3, sampling=Sampling(temperature=1.0)).tokens_BKTHW
    assert found.shape == (2, 3, 6, 1, 1)
    assert found[:, :, 0].unique().numel() == 6
    seen = model.seen[1][0].unflatten(0, (2, 3))
    assert torch.equal(seen, found[:, :, :3])


def test_the_video_ends_with_the_last_frame_asked_for():
    for num_frames, grids in ((1, 3), (17, 3), (18, 6), (40, 9)):
        found = rollout(
            Recorder(), Decoder(), torch.zeros(1, 3, 1, 1).long(), states(60, 1), num_frames=num_frames,
            generator=torch.Generator(),
        )
        assert found.video_BKFHWC.shape[2] == num_frames and found.tokens_BKTHW.shape[2] == grids


class Decoder:
    """Every frame shows the number of its token."""

    kind, clock, name = "tokens", COSMOS, "numbers"

    def __init__(self):
        self.calls = []

    def decode(self, tokens_BTHW):
        self.calls.append(tokens_BTHW)
        grids = torch.as_tensor([COSMOS.grid_of(frame) for frame in range(17)])
        return tokens_BTHW[:, grids].remainder(256).to(torch.uint8)[..., None].expand(*[-1] * 4, 3)


def test_every_block_is_decoded_by_itself():
    tokenizer = Decoder()
    found = rollout(
        Recorder(), tokenizer, torch.zeros(1, 3, 1, 1).long(), states(51, 1), num_frames=34, generator=torch.Generator()
    )
    assert found.video_BKFHWC.shape == (1, 1, 34, 1, 1, 3)
    assert [c.shape[1] for c in tokenizer.calls] == [3, 3]
    for frame in (0, 1, 16, 17, 18, 33):
        expected = found.tokens_BKTHW[0, 0, COSMOS.grid_of(frame), 0, 0] % 256
        assert found.video_BKFHWC[0, 0, frame, 0, 0, 0] == expected


@pytest.mark.parametrize(("model", "grids", "rows", "num_blocks", "message"), [
    (Recorder(), 2, 60, 1, "3 context grids"), (Recorder(), 3, 50, 2, "51 state rows"),
    (Recorder(future_grids=1), 3, 60, 1, "whole blocks"),
    (Recorder(context_grids=2, future_grids=2), 2, 60, 1, "both inside one block"), (Recorder(), 3, 60, 0, "at least 1")
])
def test_what_does_not_fit_is_refused(model, grids, rows, num_blocks, message):
    refused(message, run, model, torch.zeros(2, grids, 1, 1).long(), states(rows), num_blocks)


def test_the_real_network_rolls_on_its_own_predictions():
    torch.manual_seed(0)
    config = STConfig(vocab_size=20, grid=(2, 3), num_layers=1, num_heads=2, width=16, state_hidden=8, num_states=40)
    model = STTransformer(config).eval()
    for parameter in model.parameters():  # large enough weights that states and context decide the tokens
        parameter.data.normal_(std=0.5)
    context, states_BFA = torch.randint(0, 20, (3, 3, 2, 3)), torch.randn(3, 17 * 4 + 6, 25)
    found = run(model, context, states_BFA, 3).tokens_BKTHW[:, 0]
    for step in range(3):
        rows = state_window(states_BFA, first_frame=17 * step, num_states=40)
        expected = model.predict(context, rows, generator=torch.Generator()).tokens_BKTHW[:, 0]
        assert torch.equal(found[:, 3 * step : 3 * step + 3], expected)
        context = expected
    later = states_BFA.clone()
    later[:, 17 * 2 + 6 :] = 9.0  # beyond the 40 rows that the first block reads
    again = run(model, found[:, :3] * 0, later, 3).tokens_BKTHW
    plain = run(model, found[:, :3] * 0, states_BFA, 3).tokens_BKTHW
    assert torch.equal(again[:, :, :3], plain[:, :, :3]) and not torch.equal(again, plain)


def shades(values, num_clips=1):
    """Clips of 8x8 frames of the given brightnesses."""
    return torch.tensor(values, dtype=torch.uint8).view(1, -1, 1, 1, 1).expand(num_clips, -1, 8, 8, 3).contiguous()


def rising(num_rows, num_clips=1):
    """The first state is the number of its row."""
    states_BFA = torch.zeros(num_clips, num_rows, 2)
    states_BFA[..., 0] = torch.arange(num_rows)
    return states_BFA


@pytest.fixture
def roll(strided):
    """Brightness of every frame of a rollout of every fourth frame."""

    def run(model, context, states_BFA, num_frames, **options):
        options = {"generator": torch.Generator(), **options}
        found = rollout(model, strided.Tokenizer(), context, states_BFA, num_frames=num_frames, **options)
        assert (found.video_BKFHWC == found.video_BKFHWC[..., :1, :1, :1]).all()
        return found.video_BKFHWC[..., 0, 0, 0]

    return run


def test_every_fourth_frame_moves_by_sixty(roll, strided):
    model = strided.Model()
    assert frames_per_step(model, WAN) == (17, 60)
    levels = roll(model, shades(range(17)), rising(77 + 60), 120)[0, 0].tolist()
    first = [16 + frame for frame in range(20, 77, 4)]
    # The second step's last seen frame is 76, and its frame f is row 60 + f of the states.
    assert levels == first + [first[-1] + 60 + frame for frame in range(20, 77, 4)]
    (context, rows), (again, later) = model.seen
    assert (context[0, :, :, 0, 0] * 255).round().tolist() == [[0, 0, 0, 0], [4, 8, 12, 16]]
    assert (again[0, :, :, 0, 0] * 255).round().tolist() == [[76] * 4, [80, 84, 88, 92]]
    assert rows[0].tolist() == list(range(77)) and later[0].tolist() == list(range(60, 137))


@pytest.mark.parametrize(("num_frames", "kept"), [(4, 1), (7, 1), (59, 14), (60, 15), (64, 16)])
def test_any_horizon_gives_the_fourth_frames_up_to_it(roll, strided, num_frames, kept):
    assert roll(strided.Model(), shades([0] * 17), rising(90), num_frames).shape[2] == kept


def test_of_the_frame_that_stands_twice_the_last_picture_counts(roll, strided):
    levels = roll(strided.Model(twice=50), shades([0] * 17), rising(77), 60)[0, 0]
    assert levels[-1] == 76 + 50 and levels[-2] == 72


def test_grids_begin_a_strided_rollout_as_the_video_does(roll, strided):
    context = shades(range(17))
    found = roll(strided.Model(), context, rising(137), 120)
    assert torch.equal(found, roll(strided.Model(), strided.Tokenizer().encode(context[:, ::4]), rising(137), 120))


def test_a_generator_for_each_sample_makes_it_independent_of_the_batch(strided):
    def samples(context, num_samples, seeds):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        states_BFA, model = rising(137, len(context)), strided.Model(temperature=20.0)
        return rollout(
            model, strided.Tokenizer(), context, states_BFA, num_frames=120, generator=generators, num_samples=num_samples
        ).video_BKFHWC

    both = samples(torch.cat([shades([0] * 17), shades([90] * 17)]), 2, [1, 2, 3, 4])
    assert torch.equal(both[1], samples(shades([90] * 17), 2, [3, 4])[0])
    assert torch.equal(both[:, 1], samples(torch.cat([shades([0] * 17), shades([90] * 17)]), 1, [2, 4])[:, 0])
    assert both.flatten(0, 1).flatten(1).unique(dim=0).shape[0] == 4


@pytest.mark.parametrize("config", [
    STConfig(vocab_size=32, factors=(8, 4), grid=(2, 2), num_layers=1, num_heads=2, width=16, state_hidden=16, num_states=34),
    MaskedConfig(vocab_size=32, grid=(2, 2), num_layers=1, num_heads=2, width=16, steps=3, remask="random", unshared_blocks=1),
])  # fmt: skip
def test_tokens_too_draw_from_a_generator_for_each_sample(config):
    torch.manual_seed(0)
    model = build_model(RunConfig(model=config))
    clips = config.example(2, generator=torch.Generator().manual_seed(0))

    def samples(which, num_samples, seeds):
        return model.predict(
            clips.tokens_BTHW[which, : model.context_grids], clips.states_BFA[which], num_samples=num_samples,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds], sampling=Sampling(temperature=1.0),
        ).tokens_BKTHW

    both = samples([0, 1], 2, [1, 2, 3, 4])
    assert torch.equal(both[1:], samples([1], 2, [3, 4])) and torch.equal(both[:, 1:], samples([0, 1], 1, [2, 4]))
    assert not torch.equal(both[:, 0], both[:, 1])


def test_what_does_not_fit_a_strided_clip_is_refused(roll, strided):
    refused("17 context frames, got 5", roll, strided.Model(), shades([0] * 5), rising(77), 60)
    refused("must be at least 4", roll, strided.Model(), shades([0] * 17), rising(77), 3)
    short = strided.Model()
    short.future_grids = 3
    refused("one block of 6 grids", roll, short, shades([0] * 17), rising(77), 60)
