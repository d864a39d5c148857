"""The loss before any learning, against what arithmetic says it must be.

Token models: a network that knows nothing gives every id the same chance, so uniformly random ids cost ln V nats each,
whatever the network is, and digits of a factorised vocabulary ln L each.  Real clips may cost less at once: a head tied
to the embedding prefers the id that it sees, and most places stand still.  Random ids that cost less than ln V are a
leak from the target; more means that the weights start too large.

Latent models: the output is independent of the target, so their squared error is the sum of both mean squares.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from hwm.doctor.trial import Trial
from hwm.doctor.verdict import Verdict, fail, graded
from hwm.model_config import DirectConfig, FlowConfig, FSQConfig, MaskedConfig, STConfig, WanConfig
from hwm.models.latent_flow import RELATIVE_FLOOR

TOO_MUCH = 0.1
"""Share of ln V by which logits of the configured initial size may raise the loss."""
ROWS = 128
"""Tokens whose digits are scored one by one."""
LATENT_RANGE = (0.75, 1.35)
"""Of the loss of a latent model, in units of the expected one."""

VIDEO_TOLERANCE = 0.3
"""Of the relative error of a model of video, which draws few of a clip's frames."""


@torch.no_grad()
def first_loss(trial: Trial) -> Iterator[Verdict]:
    """Finite, and as large as chance makes it."""
    terms = {name: term.item() for name, term in trial.terms().items()}
    wrong = [f"{name} is {value}" for name, value in terms.items() if not math.isfinite(value)]
    if wrong:
        yield fail("first loss", ", ".join(wrong), "check the data's values and train.precision")
    elif isinstance(trial.config.model, STConfig | MaskedConfig):
        yield from _of_tokens(trial, terms["cross_entropy"], vocabulary=trial.config.model)
    elif isinstance(trial.config.model, FSQConfig):
        yield _of_tokenizer(trial, terms["mse"])
    elif isinstance(trial.config.model, DirectConfig):
        yield _of_video(trial, terms["relative_mse"])
    else:
        yield _of_latents(trial, terms["flow_mse"], trial.config.model)


def _of_tokens(trial: Trial, here: float, *, vocabulary: STConfig | MaskedConfig) -> Iterator[Verdict]:
    tokens_BTHW = trial.batch.tokens_BTHW
    assert tokens_BTHW is not None
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(vocabulary.vocab_size, tokens_BTHW.shape, generator=generator).to(tokens_BTHW)
    heard: list[tuple[Tensor, Tensor]] = []
    listened, score = trial.model.vocabulary, trial.model.vocabulary.loss

    def listening(hidden_ND: Tensor, ids_N: Tensor, **options: float) -> object:
        heard.append((hidden_ND, ids_N))
        return score(hidden_ND, ids_N, **options)

    listened.loss = listening
    try:
        found = trial.terms(replace(trial.batch, tokens_BTHW=drawn))["cross_entropy"].item()
    finally:
        del listened.loss
    hidden_ND, ids_N = heard[-1]
    factors = vocabulary.factors or (vocabulary.vocab_size,)
    uniform = f"ln {vocabulary.vocab_size} = {math.log(vocabulary.vocab_size):.3f}"
    text = f"{here:.3f} nats on these clips; random ids {found:.3f}, {uniform}"
    low, high = chance(vocabulary, factors, tokens=len(ids_N))
    yield _judged("first loss", text, found, low, high)
    if len(factors) > 1:
        scores = digit_scores(listened, hidden_ND[:ROWS], ids_N[:ROWS])
        bounds = [chance(vocabulary, (size,), tokens=min(ROWS, len(ids_N))) for size in factors]
        off = [s - math.log(size) for s, size in zip(scores, factors)]
        worst = max(range(len(factors)), key=lambda i: abs(off[i]))
        text = f"each of {len(factors)} digits costs ln of its size; the worst is digit {worst}, {off[worst]:+.3f} nats"
        outside = [i for i, (s, (a, b)) in enumerate(zip(scores, bounds)) if not a <= s <= b]
        at = outside[0] if outside else worst
        yield _judged("first loss, digits", text, scores[at], *bounds[at])


def chance(model: STConfig | MaskedConfig, factors: tuple[int, ...], *, tokens: int) -> tuple[float, float]:
    """Range of the cross-entropy of random ids: ln V, more by half the variance of the logits, give or take sampling.

    Logits are sums over the width of products of a normalised activation and a weight of deviation init_std.
    """
    uniform = math.log(math.prod(factors))
    variance = len(factors) * model.init_std**2 * model.width
    give = 0.15 + min(3 * math.sqrt(variance / tokens), TOO_MUCH * uniform)
    return uniform - give, uniform + min(variance / 2, TOO_MUCH * uniform) + give


def digit_scores(vocabulary: object, hidden_ND: Tensor, ids_N: Tensor) -> list[float]:
    """Cross-entropy of every digit of a factorised vocabulary, lowest first: sums over the table of all ids."""
    joint_NV = vocabulary.log_probabilities(hidden_ND)  # type: ignore[attr-defined]
    digits_NF, factors = vocabulary.digits(ids_N), vocabulary.factors  # type: ignore[attr-defined]
    table = joint_NV.view(len(ids_N), *reversed(factors))
    scores = []
    for i in range(len(factors)):
        axis = len(factors) - i  # the lowest digit runs fastest
        own = table.logsumexp([a for a in range(1, len(factors) + 1) if a != axis])
        scores.append(-own.gather(1, digits_NF[:, i : i + 1]).mean().item())
    return scores


def _judged(name: str, text: str, found: float, low: float, high: float) -> Verdict:
    remedy = "higher than chance: the weights start too large, lower model.init_std"
    if found < low:
        remedy = "lower than chance: the model sees what it is to predict"
    return graded(name, f"{text} ({low:.2f} to {high:.2f} expected)", remedy, fails=not low <= found <= high)


def _of_latents(trial: Trial, found: float, model: FlowConfig | WanConfig) -> Verdict:
    size_B = data_size(trial)
    noise = 1.0 if model.output == "velocity" else 0.0  # the target is noise and data, or data alone
    output = 1 / 3  # of torch's own initial weights on normalised activations, as Wan's head has
    if isinstance(model, FlowConfig):
        output = 2 * model.width / (model.width + model.channels * model.patch**2)  # Xavier's
    weight_B = 1 / (size_B + RELATIVE_FLOOR) if model.relative_loss else torch.ones_like(size_B)
    expected = ((size_B + noise + output) * weight_B).mean().item()
    rule = f"data {size_B.mean():.2f}" + " + noise 1" * bool(noise) + f" + output {output:.2f}"
    rule += ", relative to each clip's" if model.relative_loss else ""
    text = f"{found:.3f}, expected {expected:.3f} ({rule})"
    low, high = (x * expected for x in LATENT_RANGE)
    if isinstance(model, WanConfig) and model.base:
        low = 0.0  # a pretrained model knows something from the first step on
    remedy = "the model sees what it is to predict" if found < low else "check the latents' statistics and the initial weights"
    return graded("first loss", text, remedy, fails=not low <= found <= high)


def _of_video(trial: Trial, found: float) -> Verdict:
    expected = trial.model.first_loss(trial.batch)
    text = f"{found:.3f}, copying the last frame costs {expected:.3f}"
    remedy = "before training a model of video copies the last frame: check the weights it starts from"
    return graded("first loss", text, remedy, fails=abs(found - expected) > VIDEO_TOLERANCE)


def data_size(trial: Trial) -> Tensor:
    """Mean square (B,) of what the flow ends in, normalised."""
    latents_BTCHW, units = trial.batch.latents_BTCHW, trial.model.units
    assert latents_BTCHW is not None
    past, future = units.latents(latents_BTCHW).tensor_split([trial.model.context_grids], 1)
    return units.data(future, last_past=past[:, -1:]).square().mean((1, 2, 3, 4))


def _of_tokenizer(trial: Trial, found: float) -> Verdict:
    video = trial.batch.video_BFHWC
    assert video is not None
    size = video.float().div(127.5).sub(1).square().mean().item()
    text = f"squared error {found:.3f} of pixels in -1..1, whose mean square is {size:.3f}"
    return graded("first loss", text, "the initial weights are too large", fails=found > 2 * (size + 1))
