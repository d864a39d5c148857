"""The loss before any learning, against what arithmetic says it must be (`model.first_loss`).

Token models: a network that knows nothing gives every id the same chance, so uniformly random ids cost ln V nats each,
whatever the network is, and digits of a factorised vocabulary ln L each.  Real clips may cost less at once: a head tied
to the embedding prefers the id that it sees, and most places stand still.  Random ids that cost less than ln V are a
leak from the target; more means that the weights start too large.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hwm.doctor.trial import Trial
from hwm.doctor.verdict import Verdict, fail, graded, ok

TOO_MUCH = 0.1
"""Share of ln V by which logits of the configured initial size may raise the loss."""
ROWS = 128
"""Tokens whose digits are scored one by one."""
LATENT_RANGE = (0.75, 1.35)
"""Of the loss of a latent model, in units of the expected one."""
VIDEO_GIVE = 0.3
"""Of the relative error of a model of video, which draws few of a clip's frames."""


@torch.no_grad()
def first_loss(trial: Trial) -> Iterator[Verdict]:
    """Finite, and as large as chance makes it."""
    terms, model = {name: term.item() for name, term in trial.terms().items()}, trial.config.model
    wrong = [f"{name} is {value}" for name, value in terms.items() if not math.isfinite(value)]
    if wrong:
        yield fail("first loss", ", ".join(wrong), "check the data's values and train.precision")
        return
    main, found = list(terms.items())[1]
    if abs(terms["loss"] - found) > 0.01:
        parts = ", ".join(f"{name} {value:.3f}" for name, value in terms.items() if name != "loss")
        yield ok("training loss", f"{terms['loss']:.3f} is what training prints, not {main} alone: weighed of {parts}")
    if model.kind == "tokens":
        yield from _of_tokens(trial, main, found)
        return
    expected = trial.model.first_loss(trial.batch)
    if expected is None:
        yield ok("first loss", f"{main} {found:.3f}; what a model that knows something should have is not known")
        return
    low, high = (x * expected for x in LATENT_RANGE)
    if model.role == "tokenizer":
        low, high = 0.0, 2 * (expected + 1)
    elif model.kind == "video":
        low, high = expected - VIDEO_GIVE, expected + VIDEO_GIVE
    remedy = "the model sees what it is to predict" if found < low else "check the data's statistics and the initial weights"
    yield graded("first loss", f"{main} {found:.3f}, expected {expected:.3f}", remedy, fails=not low <= found <= high)


def _of_tokens(trial: Trial, main: str, here: float) -> Iterator[Verdict]:
    model: Any = trial.config.model
    tokens_BTHW, vocabulary = trial.batch.tokens_BTHW, trial.model.vocabulary
    assert tokens_BTHW is not None
    drawn = torch.randint(model.vocab_size, tokens_BTHW.shape, generator=torch.Generator().manual_seed(0)).to(tokens_BTHW)
    batch, heard, score = replace(trial.batch, tokens_BTHW=drawn), [], vocabulary.loss

    def listening(hidden_ND: Tensor, ids_N: Tensor, **options: float) -> object:
        heard.append((hidden_ND, ids_N))
        return score(hidden_ND, ids_N, **options)

    vocabulary.loss = listening
    try:
        found = trial.terms(batch)[main].item()
    finally:
        del vocabulary.loss
    hidden_ND, ids_N = heard[-1]
    uniform = math.log(model.vocab_size)
    text = f"{here:.3f} nats on these clips; random ids {found:.3f}, ln {model.vocab_size} = {uniform:.3f}"
    give = _give(trial.model, vocabulary.factors, len(ids_N))
    yield _judged("first loss", text, found, uniform - give, trial.model.first_loss(batch) + give)
    if len(vocabulary.factors) == 1:
        return
    digits_NF = vocabulary.digits(ids_N[:ROWS])
    rows = []
    for i, logits_Nv in enumerate(vocabulary.logits(hidden_ND[:ROWS]).split(vocabulary.factors, 1)):
        size = logits_Nv.shape[1]
        uniform, give = math.log(size), _give(trial.model, (size,), len(digits_NF))
        most = uniform + min(trial.model.head_std**2 * model.width / 2, TOO_MUCH * uniform) + give
        scored = F.cross_entropy(logits_Nv, digits_NF[:, i]).item()
        rows.append((not uniform - give <= scored <= most, abs(scored - uniform), i, scored, uniform, uniform - give, most))
    _, _, worst, scored, uniform, low, high = max(rows)
    text = f"each of {len(rows)} digits costs ln of its size; the worst is digit {worst}, {scored - uniform:+.3f} nats"
    yield _judged("first loss, digits", text, scored, low, high)


def _give(model: Any, factors: tuple[int, ...], tokens: int) -> float:
    """Nats by which the cross-entropy of so many random ids may miss: logits are sums of `width` small products."""
    variance = len(factors) * model.head_std**2 * model.config.width
    return 0.15 + min(3 * math.sqrt(variance / tokens), TOO_MUCH * math.log(math.prod(factors)))


def _judged(name: str, text: str, found: float, low: float, high: float) -> Verdict:
    remedy = "higher than chance: the weights start too large, lower model.init_std"
    if found < low:
        remedy = "lower than chance: the model sees what it is to predict"
    return graded(name, f"{text} ({low:.2f} to {high:.2f} expected)", remedy, fails=not low <= found <= high)
