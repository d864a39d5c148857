"""Direct: what it starts from, what reaches what, how far it reaches, and that it learns."""

import dataclasses

import pytest
import torch
from refusing import refused
from seeds import gen

from hwm.config import RunConfig, from_dict, override, to_dict
from hwm.contracts import Batch, Sampling
from hwm.model_config import DirectConfig
from hwm.models.direct import RELATIVE_FLOOR, Direct, _edges
from hwm.models.direct_blocks import DETAILS, Mounting, moved
from hwm.nn.skeleton import MOUNTING, Bones
from hwm.robot import Skeleton

TINY = DirectConfig(
    grid=(8, 12), patch=4, context_grids=3, future_grids=2, horizon=7, reach=7, num_layers=2, num_heads=2, width=16, num_states=5,
    map_hidden=16, map_channels=4, pairs=3,
)  # fmt: skip
ARM = Skeleton(
    parents=(-1, -1, 1), places=((0.0, 0.0, 0.0), (2.0, 0.0, 0.0), (0.0, 0.0, 1.0)), axes=((0.0, 1.0, 0.0),) * 3,
    states=(1, 0, -1), rests=(0.0, 0.0, 0.0), bones=((1, 2),), fovy=90.0,
)  # fmt: skip
NOISED = dataclasses.replace(TINY, context_grids=2, num_states=4, noised=0.5, own_context=0.5, steps=3)
VARIANTS = {
    "warp": TINY, "change": dataclasses.replace(TINY, warp=False),
    "joints": dataclasses.replace(TINY, state_dim=7, velocity_rows=()), "refined": dataclasses.replace(TINY, refine=8),
    "bones": dataclasses.replace(TINY, skeleton=ARM), "mounted": dataclasses.replace(TINY, skeleton=ARM, mounting=8, refine=8),
}


def build(config=TINY, *, std=0.0):
    """A fresh model; with std all weights are drawn, so that everything reaches the output."""
    torch.manual_seed(0)
    model = Direct(config).double()
    for parameter in model.parameters() if std else ():
        torch.nn.init.normal_(parameter, std=std)
    return model


def clips(config=TINY, num=3, frames=12, seed=7):
    """A square that goes right by what the first state says, on a noisy ground that stays."""
    ground = torch.randint(90, (num, 1, *config.grid, 3), generator=gen(seed), dtype=torch.uint8)
    video, states = ground.repeat(1, frames, 1, 1, 1), torch.randn(num, frames, config.state_dim, generator=gen(seed + 1))
    for clip in range(num):
        places = torch.randint(config.grid[1] - 3, (frames,), generator=gen(seed + 2 + clip)).sort().values
        states[clip, :, 0] = places / 4 - 1
        for frame, place in enumerate(places):
            video[clip, frame, 2:5, place : place + 3] = 240
    return Batch(states_BFA=states, video_BFHWC=video)


def predict(model, batch, frames=7, **options):
    C = model.context_grids
    return model.predict(batch.video_BFHWC[:, :C], batch.states_BFA[:, : C + frames], generator=gen(), **options).video_BKFHWC


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_before_training_the_last_frame_is_copied_exactly(config):
    batch = clips(config)
    found = predict(build(config), batch, num_samples=2)
    assert found.shape == (3, 2, 7, *config.grid, 3) and found.dtype == torch.uint8
    assert torch.equal(found, batch.video_BFHWC[:, None, 2:3].expand_as(found))


def test_loss_at_the_start_is_the_relative_error_of_copying():
    """In the shares in which horizons are drawn: the mean over many draws is the closed form."""
    model, batch = build(dataclasses.replace(TINY, pairs=4000)), clips()
    terms = model.loss(batch, generator=gen())
    assert terms["loss"] is terms["relative_mse"] and list(terms) == ["loss", "relative_mse"]
    assert terms["loss"].item() == pytest.approx(model.first_loss(batch), abs=0.01)
    still = dataclasses.replace(batch, video_BFHWC=batch.video_BFHWC[:, :1].repeat(1, 12, 1, 1, 1))
    assert model.first_loss(still) == pytest.approx(0, abs=1e-9)
    # Where every two frames differ alike, horizons do not matter.
    flashing = torch.tensor([0, 51], dtype=torch.uint8).repeat(2)[:, None, None, None].expand(-1, *TINY.grid, 3)[None]
    expected = 0.2**2 / (0.2**2 + RELATIVE_FLOOR)
    one = dataclasses.replace(TINY, context_grids=3, horizon=1, reach=1, future_grids=1, num_states=4)
    batch = Batch(states_BFA=torch.zeros(1, 4, 25), video_BFHWC=flashing)
    assert build(one).first_loss(batch) == pytest.approx(expected)


def test_loss_predicts_all_frames_of_a_clip_and_nothing_beyond(monkeypatch):
    config = dataclasses.replace(TINY, pairs=500)
    model, batch, seen = build(config), clips(frames=12), []
    whole = model._frames
    monkeypatch.setattr(model, "_frames", lambda *args: seen.append(args) or whole(*args))
    model.loss(batch, generator=gen())
    _, _, now, horizons, _ = seen[0]
    assert set(horizons.flatten().tolist()) == set(range(1, 8))  # the horizon, though the clip holds 9
    assert set(now.flatten().tolist()) == set(range(2, 11))
    assert set((now + horizons).flatten().tolist()) == set(range(3, 12))
    assert (horizons <= 3).double().mean() == pytest.approx((3 / 7) ** 0.5, abs=0.05)
    model.loss(clips(frames=5), generator=gen())
    assert seen[1][3].max() == 2 and (seen[1][2] + seen[1][3]).max() == 4


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_every_frame_follows_its_own_horizon_alone(config):
    """Predicting all frames at once or the first few gives the same ones; later states reach no earlier frame."""
    model, batch = build(config, std=0.2), clips(config)
    base = predict(model, batch)
    assert len({base[:, :, i].double().mean().item() for i in range(7)}) == 7
    for frames in range(1, 8):
        assert torch.equal(predict(model, batch, frames), base[:, :, :frames])
    for row in range(10):
        states = batch.states_BFA.clone()
        states[:, row] += 1
        found = predict(model, dataclasses.replace(batch, states_BFA=states))
        changed = [i for i in range(7) if not torch.equal(found[:, :, i], base[:, :, i])]
        moving = row > 2 and bool(config.velocity_rows)  # the way the base goes holds all rows on it
        expected = range(row - 3, 7 if moving else row - 2) if row > 2 else range(7 if row != 1 else 0)
        assert changed == list(expected)


def test_training_reads_the_first_and_last_frame_of_the_context_and_no_future_one():
    model, batch = build(std=0.2), clips()
    now, horizons = torch.tensor([[3, 4, 5]]), torch.tensor([[2, 5, 6]])
    guesses = []
    model.register_forward_hook(lambda module, args, output: guesses.append(output))
    for frame in (None, *range(12)):
        video = batch.video_BFHWC.clone()
        if frame is not None:
            video[:, frame] = 255 - video[:, frame]
        model._frames(video, batch.states_BFA, now, horizons)
    changed = [(guess != guesses[0]).flatten(2).any(2)[0].tolist() for guess in guesses[1:]]
    assert changed == [[frame in (n, n - 2) for n in (3, 4, 5)] for frame in range(12)]


def test_beyond_the_horizon_of_training_frames_are_told_by_their_states_alone():
    config = dataclasses.replace(TINY, horizon=4, velocity_rows=())
    model, batch = build(config, std=0.2), clips(config)
    states = batch.states_BFA.clone()
    states[:, 6:] = states[:, 6:7]
    found = predict(model, dataclasses.replace(batch, states_BFA=states))
    assert not torch.equal(found[:, :, 2], found[:, :, 3]) and all(torch.equal(found[:, :, 3], found[:, :, i]) for i in (4, 5, 6))
    assert not torch.equal(*(predict(model, batch)[:, :, i] for i in (5, 6)))


def test_with_lags_a_frame_depends_on_the_states_just_before_it():
    batch = clips(config := dataclasses.replace(TINY, velocity_rows=()))
    earlier = batch.states_BFA.clone()
    earlier[:, 4] += 1  # two before the fourth frame to come, from a context of three
    model, plain = build(dataclasses.replace(config, lags=(2,)), std=0.2), build(config, std=0.2)
    found, moved_on = (predict(model, dataclasses.replace(batch, states_BFA=states)) for states in (batch.states_BFA, earlier))
    assert [i for i in range(7) if not torch.equal(found[:, :, i], moved_on[:, :, i])] == [1, 3]
    moved_on = predict(plain, dataclasses.replace(batch, states_BFA=earlier))
    assert [i for i in range(7) if not torch.equal(predict(plain, batch)[:, :, i], moved_on[:, :, i])] == [1]
    refused("lags .4. must be at most the 3 frames", dataclasses.replace, config, lags=(4,))


def test_of_bones_the_places_now_and_then_are_told_and_nothing_else():
    """Without what is made of them the pictures are those of a model without a skeleton."""
    model, plain = build(VARIANTS["bones"], std=0.2), build(std=0.2)
    batch = clips()
    own = dict(model.named_parameters())
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if name in plain.state_dict()})
    told = model.features(batch.states_BFA.double(), *torch.tensor([[2] * 3, [3] * 3])[:, None])
    joints = told[..., model.told :].unflatten(-1, (2, 3, 3))
    expected = model.skeleton.points(batch.states_BFA.double()[:, [2, 5]])
    assert torch.allclose(joints[0], expected)
    for name in ("bones.2.weight", "bones.2.bias"):
        torch.nn.init.zeros_(own[name])
    assert torch.equal(predict(model, batch), predict(plain, batch))
    torch.nn.init.normal_(own["bones.2.weight"])
    assert not torch.equal(predict(model, batch), predict(plain, batch))


def test_a_mounting_is_learned_from_where_the_arms_are():
    """Cameras that are turned each by its own: of the last picture alone the silhouettes soon cover arms elsewhere too."""
    g = gen(3)
    bones = Bones(dataclasses.replace(ARM, states=(-1, 0, -1)), size=(32, 32), patch=8)
    radii, found = torch.tensor([0.2]), []
    torch.manual_seed(0)
    mounting = Mounting(bones, 8)
    optimizer = torch.optim.AdamW(mounting.parameters(), lr=1e-2)
    for _ in range(200):
        joints = bones.points(1.2 * torch.rand(2, 1, 32, 1, generator=g) - 0.6)
        off = torch.zeros(32, MOUNTING)
        off[:, 0:2] = 6 * torch.randn(32, 2, generator=g)
        masks = bones.drawn(bones.mounted(joints, off), radii).amax(-3).repeat_interleave(2, -1).repeat_interleave(2, -2) > 0.5
        last = masks[0, :, :, None].expand(-1, -1, 3, -1, -1).float()
        seen = mounting(last, joints)
        loss = mounting.miss(seen, masks)
        found.append((loss.item(), mounting.miss(joints, masks).item()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    before, (after, unmounted) = found[0], torch.tensor(found[-20:]).mean(0)
    assert before[0] == before[1], "before training the mounting is as the skeleton says"
    assert after < 0.6 * unmounted
    with pytest.raises(ValueError, match="needs a robot whose bones are known"):
        build(dataclasses.replace(TINY, mounting=8, silhouette_loss=1.0))
    refused("set that above 0 too", dataclasses.replace, VARIANTS["bones"], silhouette_loss=1.0)
    refused("multiple of 8", dataclasses.replace, VARIANTS["bones"], mounting=12)


def test_a_batch_may_hold_no_own_frames():
    config = dataclasses.replace(VARIANTS["refined"], own_context=1e-9)
    plain = build(VARIANTS["refined"]).loss(clips(), generator=gen())["loss"]
    assert build(config).loss(clips(), generator=gen())["loss"] == plain


def test_pixels_of_the_body_count_more():
    plain, one = clips(num=1, frames=4), dataclasses.replace(TINY, pairs=1)
    error = build(one).loss(plain, generator=gen())["relative_mse"]
    copy = RELATIVE_FLOOR * error / (1 - error)
    model, all_of_it = build(dataclasses.replace(one, body_loss=3.0)), torch.ones(1, 4, 8, 12, dtype=torch.bool)
    changed = (plain.video_BFHWC[:, 2] != plain.video_BFHWC[:, 3]).any(-1)[:, None] & all_of_it
    for mask, times in ((all_of_it, 4), (~all_of_it, 1), (changed, 4), (~changed, 1)):
        found = model.loss(dataclasses.replace(plain, masks_BFHW=mask), generator=gen())["relative_mse"]
        assert found.item() == pytest.approx((times * copy / (times * copy + RELATIVE_FLOOR)).item())
    assert model.first_loss(plain) is None


def test_any_horizon_up_to_the_reach_and_none_beyond():
    model, batch = build(), clips()
    for frames in (0, 8):
        refused("1 to 7 more", predict, model, batch, frames)
    refused("works on 3 frames", model.predict, batch.video_BFHWC[:, :4], batch.states_BFA[:, :8], generator=gen())
    refused("more than 3 frames", model.loss, clips(frames=3), generator=gen())
    refused(r"shape \(2, 25\), got \(2, 26\)", model.set_state_statistics, torch.zeros(2, 26))


def test_overfits_clips_that_move_and_then_follows_the_states():
    config = dataclasses.replace(TINY, width=32, pairs=8)
    model, batch = build(config).float(), clips(config, num=4)
    optimizer = torch.optim.AdamW(model.parameter_groups(0.0), lr=5e-3)
    first = model.validate(batch, generator=gen())
    torch.testing.assert_close(first["pixel_mse"], first["pixel_mse_copy"], rtol=1e-4, atol=1e-6)
    for step in range(250):
        optimizer.zero_grad()
        model.loss(batch, generator=gen(step))["loss"].backward()
        optimizer.step()
    scores = model.validate(batch, generator=gen())
    assert scores["relative_mse"].shape == (4,) and scores["relative_mse"].mean() < 0.1
    other = model.validate(dataclasses.replace(batch, states_BFA=batch.states_BFA.roll(1, 0)), generator=gen())
    assert other["pixel_mse"].mean() > 5 * scores["pixel_mse"].mean()


def test_frames_are_moved_by_whole_and_half_pixels():
    frames = torch.rand(2, 1, 3, 4, 5, generator=gen(), dtype=torch.float64)
    flow = torch.zeros(2, 1, 2, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(moved(frames, flow), frames)
    flow[:, :, 0] = 2 / 4  # of five columns, four steps over two half sides: one pixel from the right
    torch.testing.assert_close(moved(frames, flow), frames[..., [1, 2, 3, 4, 4]])
    flow[:, :, 0], flow[:, :, 1] = 0, -1 / 3  # half a pixel from above
    between = (frames + frames[..., [0, 0, 1, 2], :]) / 2
    torch.testing.assert_close(moved(frames, flow), between)


def test_size_by_part():
    with torch.device("meta"):
        model = Direct(DirectConfig())
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    D, features = 192, 4 * 25 + 2 + 2 + 16
    assert counts["patches"] == 384 * D + D and counts["out"] == D * 320 + 320 and counts["norm"] == 2 * D
    assert counts["states"] == features * 2 * D + 2 * D + 2 * D * D + D
    assert counts["state_map"] == features * 512 + 512 + 512 * 512 + 512 + 512 * 2048 + 2048 + 32 * D + D
    assert counts["blocks"] == 5 * (12 * D * D + 13 * D + 4 * D * D + 4 * D)
    assert sum(p.numel() for p in model.parameters()) == sum(counts.values()) + 64 * D
    named = dict(model.state_parameters())
    assert sum(p.numel() for p in named.values()) == counts["states"] + counts["state_map"] + 5 * (4 * D * D + 4 * D)


def test_what_cannot_be_is_refused():
    for changes, message in (
        ({"num_states": 6}, "must be that of the 3 \\+ 2 frames"), ({"reach": 1}, "is more than model.reach"),
        ({"velocity_rows": (25,)}, "must be below state_dim"), ({"patch": 3}, "not divisible by model.patch")
    ):
        refused(message, dataclasses.replace, TINY, **changes)


def test_the_edge_loss_is_the_relative_error_of_gradient_magnitudes():
    """Before training, copying: both relative errors are those of copying, and the loss adds them by the weight."""
    batch = clips()
    plain, edged = build(TINY), build(dataclasses.replace(TINY, edge_loss=0.5))
    first, found = plain.loss(batch, generator=gen(3)), edged.loss(batch, generator=gen(3))
    assert set(first) == {"loss", "relative_mse"} and found["relative_mse"] == first["relative_mse"] == first["loss"]
    assert found["loss"].item() == pytest.approx(found["relative_mse"].item() + 0.5 * found["relative_edges"].item())
    assert 0.5 < found["relative_edges"].item() < 1  # 1 but for the floor


def test_the_edge_loss_wants_an_edge_where_the_mean_has_none():
    """An edge that goes up or down with equal chance: its mean is flat, the mean magnitude is not."""
    up = torch.zeros(1, 1, 1, 2, 4, dtype=torch.float64)
    up[..., 2:] = 1
    truths, size = (up, 1 - up), torch.linspace(0, 1, 101, dtype=torch.float64)
    guesses = [(0.5 + s * (up - 0.5)) for s in size]
    pixels, edges = (torch.tensor([sum((f(g) - f(t)).square().mean() for t in truths) for g in guesses])
                     for f in (lambda x: x, _edges))  # fmt: skip
    assert size[pixels.argmin()] == 0 and size[edges.argmin()] == pytest.approx(1, abs=0.011)


def test_samples_start_from_noise_and_their_first_step_is_the_mean():
    batch, model = clips(NOISED), build(NOISED, std=0.05)
    one = dataclasses.replace(NOISED, steps=1)
    single = build(one)
    single.load_state_dict(model.state_dict())
    warm, still = Sampling(temperature=1.0), Sampling(temperature=0.0)
    mean = predict(model, batch, num_samples=2)
    assert torch.equal(mean, predict(model, batch, num_samples=2, sampling=still))
    assert torch.equal(mean, predict(single, batch, num_samples=2, sampling=warm))
    drawn = predict(model, batch, num_samples=2, sampling=warm)
    assert drawn.shape == mean.shape and not torch.equal(drawn[:, 0], drawn[:, 1]) and not torch.equal(drawn, mean)
    # A sample's frames have the same noise, so that it does not matter how many are asked for at a time.
    assert torch.equal(predict(model, batch, num_samples=2, sampling=warm, only=[2, 3]), drawn[:, :, 1:3])
    plain, batch = build(TINY, std=0.05), clips()
    assert not plain.draws and torch.equal(predict(plain, batch), predict(plain, batch, sampling=warm))


def test_before_training_samples_are_the_last_frame_too():
    batch, model = clips(NOISED), build(NOISED)
    found = predict(model, batch, num_samples=2, sampling=Sampling(temperature=1.0))
    assert torch.equal(found, batch.video_BFHWC[:, None, 1:2].expand_as(found))


def test_a_frame_under_noise_is_looked_at_unless_only_noise_is_left():
    batch, model = clips(NOISED), build(NOISED, std=0.05)
    last, past, other = (batch.video_BFHWC[:, i].movedim(-1, -3)[None] / 255 for i in (1, 0, 5))
    last, past, other = (x.double() for x in (last, past, other))
    now = torch.ones(1, 3, dtype=torch.int64)
    features = model.features(batch.states_BFA, now, 4 * now)
    mean = model(last, past, features)
    found = {level: [model(last, past, features, (x, torch.full((1, 3), level).double())) for x in (other, last)]
             for level in (0.1, 0.5, 1.0)}  # fmt: skip
    assert all(torch.equal(x, mean) for x in found[1.0])
    assert not torch.allclose(*found[0.1]) and not torch.allclose(found[0.1][0], found[0.5][0])


def test_loss_counts_frames_under_noise_by_what_has_gone():
    """Before training every frame's relative error is that of copying, under noise or not: so is the loss."""
    model, batch = build(dataclasses.replace(NOISED, pairs=2000, own_context=0.0)), clips(NOISED)
    terms = model.loss(batch, generator=gen())
    assert list(terms) == ["loss", "relative_mse", "denoising_mse"]
    for term in terms.values():
        assert term.item() == pytest.approx(model.first_loss(batch), abs=0.04)


def test_own_frames_take_the_place_of_recorded_ones_where_a_clip_is_long_enough(monkeypatch):
    config = dataclasses.replace(NOISED, noised=0.0, steps=8, own_context=1.0, pairs=200)
    model, batch, seen = build(config, std=0.05), clips(config), []
    whole = model.forward
    monkeypatch.setattr(model, "forward", lambda *args: seen.append(args) or whole(*args))
    model.loss(batch, generator=gen())
    (last_own, past_own), (last, past) = seen[:2], seen[2][:2]
    recorded = model._pictures(batch.video_BFHWC)
    own = [not any(torch.equal(frame, other) for other in recorded[clip]) for turn in last for clip, frame in enumerate(turn)]
    assert len(seen) == 3 and 0 < sum(own) < len(own)  # the first places have no context of own frames
    assert sum(own) == len(last_own[0][0]) == len(past_own[0][0]) and past.shape == last.shape
    assert torch.equal(last_own[0][0], recorded[:, 1][[clip for _ in range(200) for clip in range(3)]][own])


def test_convolutions_at_the_end_see_across_patches():
    """A pixel beside a patch's border changes with what stands in the next patch of the picture that patches make."""
    model, batch = build(dataclasses.replace(TINY, refine=8)), clips()
    torch.nn.init.normal_(model.refine.last.weight, std=0.5)
    parts = [torch.zeros(1, 1, channels, 8, 12, dtype=torch.float64) for channels in (3, 3, 3, DETAILS)]
    plain = model.refine(*parts)
    parts[0] = parts[0].index_fill(4, torch.tensor([4]), 1.0)  # the first column of the second patch
    changed = (model.refine(*parts) - plain).abs().sum((0, 1, 2, 3))
    assert plain.shape == (1, 1, 3, 8, 12) and (changed[2:4] > 0).all()
    found = predict(model, batch)
    assert not torch.equal(found, batch.video_BFHWC[:, None, 2:3].expand_as(found))  # biases alone already add something


def test_settings_of_samples_need_a_model_that_samples():
    refused("need model.noised above 0 in training", dataclasses.replace, TINY, temperature=1.0)
    refused("need model.noised above 0 in training", dataclasses.replace, TINY, steps=3)
    assert TINY.solver_steps is None and NOISED.solver_steps == 3


def test_a_run_from_before_there_was_a_horizon_learned_as_far_as_it_reached():
    stored = {name: value for name, value in to_dict(RunConfig(model=TINY)).items() if name == "model"}
    del stored["model"]["horizon"]
    stored["model"]["reach"] = 5
    model = from_dict(RunConfig, stored).model
    assert (model.horizon, model.reach) == (5, 5)
    assert override(RunConfig(model=TINY), ["model.reach=6"]).model.horizon == TINY.horizon
