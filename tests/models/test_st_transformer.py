import dataclasses
import math

import pytest
import torch
from seeds import gen

from hwm.contracts import Batch, Sampling
from hwm.model_config import STConfig
from hwm.models.st_transformer import STTransformer
from hwm.models.token_grids import corrupt

TINY = STConfig(vocab_size=40, grid=(2, 3), num_layers=2, num_heads=2, width=16, dropout=0.0, num_states=34, state_hidden=16)
FACTORISED = dataclasses.replace(TINY, factors=(5, 8))
MODULATED = dataclasses.replace(FACTORISED, state_injection="modulate", code_loss=3.0)
FULL = dataclasses.replace(TINY, attention="full")


def build(config=TINY, *, dtype=torch.float64, std=None):
    torch.manual_seed(0)
    model = STTransformer(config).to(dtype)
    if std:
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=std)
    return model


def clips(config=TINY, num=3, seed=7):
    g = gen(seed)
    tokens = torch.randint(config.vocab_size, (num, 6, *config.grid), generator=g)
    return Batch(states_BFA=torch.randn(num, max(config.num_states, 34), 25, generator=g), tokens_BTHW=tokens)


def outputs(model, batch):
    """Outputs of all five input steps, (5, B, S, D)."""
    with torch.no_grad():
        return model.trunk(batch.tokens_BTHW[:, :-1], model.states(batch.states_BFA), newest=5)


def test_published_size_by_part():
    with torch.device("meta"):
        model = STTransformer(STConfig())
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert counts["vocabulary"] == 64000 * 512
    assert counts["blocks"] == 24 * 4_204_544
    assert counts["states"] == (25 * 2048 + 2048) + (2048 * 512 + 512) + (3 * 512 * 512 + 512) + 64 * 512
    assert counts["norm"] == 1024
    assert model.place_positions.numel() + model.step_positions.numel() == (1024 + 5) * 512
    total = sum(p.numel() for p in model.parameters())
    assert total == 136_126_976 and abs(total / 1e6 - 136.1) < 0.05


@pytest.mark.parametrize("config", [TINY, FULL])
def test_a_grid_reaches_its_own_and_later_steps_only(config):
    model, batch = build(config, std=0.3), clips()
    base = outputs(model, batch)
    for grid in range(6):
        tokens = batch.tokens_BTHW.clone()
        tokens[:, grid] = (tokens[:, grid] + 1) % 40
        moved = (outputs(model, dataclasses.replace(batch, tokens_BTHW=tokens)) != base).flatten(1).any(1)
        assert moved.tolist() == [step >= grid for step in range(5)]


def test_full_attention_takes_the_same_weights_and_differs_from_the_second_grid_on():
    factorised, full, batch = build(std=0.3), build(FULL, std=0.3), clips()
    full.load_state_dict(factorised.state_dict(), strict=True)
    same = [torch.allclose(a, b) for a, b in zip(outputs(factorised, batch), outputs(full, batch))]
    assert same == [True, False, False, False, False]


@pytest.mark.parametrize("alignment", ["target", "current"])
@pytest.mark.parametrize("offset", [0, 2])
def test_a_state_row_reaches_the_steps_from_its_grid_on(alignment, offset):
    config = dataclasses.replace(TINY, state_alignment=alignment, state_offset=offset, num_states=40)
    model, batch = build(config, std=0.3), clips(config)
    base = outputs(model, batch)
    first_step = 1 if alignment == "target" else 0
    # Grids cover frames 0 | 1-8 | 9-16 | 17 | 18-25 | 26-33; row r is the state of frame r - offset, and the
    # convolution carries it into the rows beside it.
    grid_of_row = {row: sum(row - offset >= f for f in (0, 1, 9, 17, 18, 26, 34)) - 1 for row in range(-1, 41)}
    for row in range(40):
        states = batch.states_BFA.clone()
        states[:, row] += 1
        moved = (outputs(model, dataclasses.replace(batch, states_BFA=states)) != base).flatten(1).any(1)
        grids = [grid_of_row[r] for r in (row - 1, row, row + 1) if 0 <= r < 40]
        steps = [g - first_step for g in grids if first_step <= g < first_step + 5]
        assert moved.tolist() == [bool(steps) and step >= min(steps) for step in range(5)], row


def test_adaptive_pooling_reads_all_rows():
    config = dataclasses.replace(TINY, state_pooling="adaptive", num_states=64)
    model, batch = build(config, std=0.3), clips(config)
    base = outputs(model, batch)
    states = batch.states_BFA.clone()
    states[:, 63] += 1
    moved = (outputs(model, dataclasses.replace(batch, states_BFA=states)) != base).flatten(1).any(1)
    assert moved.tolist() == [False] * 4 + [True]


@pytest.mark.parametrize("config", [TINY, FACTORISED, MODULATED, FULL])
def test_greedy_prediction_equals_running_everything_again(config):
    model, batch = build(config, std=0.3), clips(config)
    grids = batch.tokens_BTHW[:, :3]
    states = model.states(batch.states_BFA)
    for _ in range(3):
        hidden = model.trunk(grids, states, newest=1)[0]
        new = model.vocabulary.log_probabilities(hidden.flatten(0, 1)).argmax(1)
        grids = torch.cat([grids, new.view(3, 1, *config.grid)], 1)
    prediction = model.predict(batch.tokens_BTHW[:, :3], batch.states_BFA, generator=gen(), num_samples=2)
    assert torch.equal(prediction.tokens_BKTHW, grids[:, None, 3:].expand(-1, 2, -1, -1, -1))


@pytest.mark.parametrize("config", [TINY, FACTORISED, MODULATED, FULL])
def test_teacher_forced_scores_equal_the_loss(config):
    model, batch = build(config, std=0.3), clips(config)
    prediction = model.predict(
        batch.tokens_BTHW[:, :3], batch.states_BFA, generator=gen(), targets_BTHW=batch.tokens_BTHW[:, 3:], teacher_forced=True
    )
    scores = model.loss(batch, generator=gen())
    torch.testing.assert_close(prediction.nll_BTHW.mean(), scores["cross_entropy"])
    right = prediction.tokens_BKTHW[:, 0] == batch.tokens_BTHW[:, 3:]
    assert right.double().mean().item() == pytest.approx(scores["accuracy"].item())
    validated = model.validate(batch, generator=gen())
    torch.testing.assert_close(validated["ce_teacher"], prediction.nll_BTHW.mean((1, 2, 3)))
    torch.testing.assert_close(validated["accuracy_teacher"].double(), right.double().mean((1, 2, 3)))


def test_validation_on_its_own_scores_the_greedy_prediction():
    model, batch = build(std=0.3), clips()
    prediction = model.predict(batch.tokens_BTHW[:, :3], batch.states_BFA, generator=gen(), targets_BTHW=batch.tokens_BTHW[:, 3:])
    scores = model.validate(batch, generator=gen())
    assert set(scores) == {"ce_teacher", "ce_auto", "accuracy_teacher", "accuracy_auto"}
    assert {tuple(score.shape) for score in scores.values()} == {(3,)}
    torch.testing.assert_close(scores["ce_auto"], prediction.nll_BTHW.mean((1, 2, 3)))
    assert not torch.allclose(scores["ce_auto"], scores["ce_teacher"])


def test_fields_describe_the_distribution_along_the_first_sample():
    model, batch = build(std=0.3), clips()
    codes = torch.randn(40, 2, generator=gen(3))
    prediction = model.predict(
        batch.tokens_BTHW[:, :3], batch.states_BFA, generator=gen(), num_samples=3, sampling=Sampling(temperature=1.0),
        targets_BTHW=batch.tokens_BTHW[:, 3:], top_k_logits=4, codes_VC=codes
    )
    path = torch.cat([batch.tokens_BTHW[:, :3], prediction.tokens_BKTHW[:, 0]], 1)
    hidden = outputs(model, dataclasses.replace(batch, tokens_BTHW=path))[2:].transpose(0, 1)
    log_p = model.vocabulary.log_probabilities(hidden.flatten(0, 2)).detach().view(3, 3, 2, 3, 40)
    top = log_p.topk(4)
    torch.testing.assert_close(prediction.nll_BTHW, -log_p.gather(4, batch.tokens_BTHW[:, 3:, ..., None])[..., 0])
    torch.testing.assert_close(prediction.entropy_BTHW, -(log_p.exp() * log_p).sum(-1))
    torch.testing.assert_close(prediction.codes_BTHWC, log_p.exp() @ codes.double())
    torch.testing.assert_close(prediction.top_values_BTHWK, top.values)
    assert torch.equal(prediction.top_indices_BTHWK, top.indices)


def test_samples_follow_the_model_beyond_the_first_grid():
    """Every sample continues its own first grid: with peaked logits a sample's later grids are greedy given it."""
    model, batch = build(std=0.6), clips(num=2)
    sampling = Sampling(temperature=1.0)
    prediction = model.predict(batch.tokens_BTHW[:, :3], batch.states_BFA, generator=gen(), num_samples=5, sampling=sampling)
    log_p = []
    for k in range(5):
        path = torch.cat([batch.tokens_BTHW[:, :3], prediction.tokens_BKTHW[:, k]], 1)
        scores = model.predict(
            batch.tokens_BTHW[:, :3], batch.states_BFA, generator=gen(), targets_BTHW=path[:, 3:], teacher_forced=True
        )
        log_p.append((scores.nll_BTHW - scores.entropy_BTHW).flatten())
    surprise = torch.cat(log_p)
    # Along a model's own samples the mean surprise is the mean entropy; on another's it is far above.
    assert surprise.mean().abs() < 5 * surprise.std() / math.sqrt(len(surprise))


@pytest.mark.parametrize("config", [TINY, FACTORISED, dataclasses.replace(TINY, qk_norm=False, qkv_bias=False)])
def test_overfits_one_clip(config):
    config = dataclasses.replace(config, width=32)
    model, batch = build(config, dtype=torch.float32), clips(config, num=1)
    optimiser = torch.optim.AdamW(model.parameter_groups(0.0), lr=1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        scores = model.loss(batch, generator=gen())
        scores["loss"].backward()
        optimiser.step()
    assert scores["loss"].item() < 0.1 and scores["accuracy"].item() == 1.0
    prediction = model.predict(batch.tokens_BTHW[:, :3], batch.states_BFA, generator=gen())
    assert torch.equal(prediction.tokens_BKTHW[:, 0], batch.tokens_BTHW[:, 3:])


def test_scheduled_sampling_feeds_predictions_with_the_given_probability():
    model, batch = build(std=0.3), clips(num=8)
    inputs = batch.tokens_BTHW[:, :-1]
    guess = model.predict(
        batch.tokens_BTHW[:, :3], batch.states_BFA, generator=gen(), targets_BTHW=batch.tokens_BTHW[:, 3:], teacher_forced=True
    ).tokens_BKTHW[:, 0, :2]
    for probability, low, high in ((1.0, 1, 1), (0.5, 0.3, 0.7)):
        model.config = dataclasses.replace(TINY, scheduled_sampling=probability)
        mixed = model._mix_in_predictions(inputs, batch.states_BFA, gen())
        assert torch.equal(mixed[:, :3], inputs[:, :3])
        replaced = (mixed[:, 3:] == guess) & (guess != inputs[:, 3:])
        assert ((mixed[:, 3:] == guess) | (mixed[:, 3:] == inputs[:, 3:])).all()
        assert low <= replaced.sum().item() / (guess != inputs[:, 3:]).sum().item() <= high
        # The inputs are the mixed ones, the targets stay the truth.
        hidden = outputs(model, dataclasses.replace(batch, tokens_BTHW=torch.cat([mixed, inputs[:, :1]], 1)))[2:]
        targets = batch.tokens_BTHW[:, 3:].flatten(2).transpose(0, 1)
        expected = model.vocabulary.loss(hidden.flatten(0, 2), targets.flatten())[0]
        torch.testing.assert_close(model.loss(batch, generator=gen())["loss"], expected)
        assert not torch.allclose(model.eval().loss(batch, generator=gen())["loss"], expected)
        model.train()


def test_own_grids_are_fed_as_the_model_would_go_on_by_itself():
    model, batch = build(std=0.3), clips(num=8)
    inputs = batch.tokens_BTHW[:, :-1]
    own = model.predict(batch.tokens_BTHW[:, :3], batch.states_BFA, generator=gen()).tokens_BKTHW[:, 0]
    for share, grids in ((1.0, 1), (1.0, 2), (0.5, 2)):
        model.config = dataclasses.replace(TINY, scheduled_sampling=share, own_grids=grids)
        fed = model._disturbed(inputs, batch.states_BFA, gen())
        followed = (fed[:, 3 : 3 + grids] == own[:, :grids]).flatten(1).all(1)
        kept = (fed == inputs).flatten(1).all(1)
        assert torch.equal(fed[:, :3], inputs[:, :3]) and torch.equal(fed[:, 3 + grids :], inputs[:, 3 + grids :])
        assert (followed | kept).all() and (followed.all() if share == 1 else followed.any() and kept.any())
    assert torch.equal(model.eval().loss(batch, generator=gen())["loss"], build(std=0.3).loss(batch, generator=gen())["loss"])


def test_inputs_are_corrupted_in_training_alone_and_targets_never():
    model, plain, batch = build(dataclasses.replace(TINY, max_corruption=0.5), std=0.3), build(std=0.3), clips(num=8)
    inputs, expected = batch.tokens_BTHW[:, :-1], corrupt(batch.tokens_BTHW[:, :-1], vocab_size=40, max_rate=0.5, generator=gen())
    assert torch.equal(model._disturbed(inputs, batch.states_BFA, gen()), expected)
    hidden = outputs(plain, dataclasses.replace(batch, tokens_BTHW=torch.cat([expected, inputs[:, :1]], 1)))[2:]
    targets = batch.tokens_BTHW[:, 3:].flatten(2).transpose(0, 1)
    found = plain.vocabulary.loss(hidden.flatten(0, 2), targets.flatten())[0]
    torch.testing.assert_close(model.loss(batch, generator=gen())["loss"], found)
    assert torch.equal(model.eval().loss(batch, generator=gen())["loss"], plain.loss(batch, generator=gen())["loss"])


def test_user_mistakes_are_named():
    model, batch = build(), clips()
    with pytest.raises(ValueError, match="teacher forcing needs"):
        model.predict(batch.tokens_BTHW[:, :3], batch.states_BFA, generator=gen(), teacher_forced=True)
    for wrong in ({"own_grids": 1}, {"own_grids": 3, "scheduled_sampling": 0.5}):
        with pytest.raises(ValueError, match=r"model.own_grids \d needs a model.scheduled_sampling above 0, and at most 2 of 3"):
            STTransformer(dataclasses.replace(TINY, **wrong))
    with pytest.raises(ValueError, match="without state rows"):
        STTransformer(dataclasses.replace(TINY, num_states=20))
