"""One real training step of the real model, and a few more: what only running it can tell."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch

from hwm.config import RunConfig
from hwm.doctor.trial import Trial
from hwm.doctor.units import size, span
from hwm.doctor.verdict import Verdict, fail, graded, ok
from hwm.model_config import MaskedConfig
from hwm.nn.streams import FUTURE_VIDEO, WEIGHT_SET, sharing_by_layer
from hwm.training import checkpoint
from hwm.training.loop import Position
from hwm.training.optim import optimizer_tensors
from hwm.training.run_folder import config_hash

CUT_OFF = "the loss does not depend on the states: look at the way from the state encoder to the prediction"


def started(trial: Trial) -> Verdict:
    """The model is built and its clips are read."""
    trained = sum(p.numel() for p in trial.trained.values())
    kind = "random" if trial.source is None else "real"
    found = f"{type(trial.model).__name__} on {trial.device}, {trained / 1e6:.2f} M trained; {trial.clips} {kind} clips"
    cut = f", of {trial.config.train.batch_size} of the recipe" if trial.clips < trial.config.train.batch_size else ""
    return ok("model", found + cut)


def gradients(trial: Trial) -> Verdict:
    """The gradient of a first step: finite, and there for every parameter that is trained."""
    loss, norm = trial.gradients()
    bad = [name for name, p in trial.trained.items() if p.grad is not None and not bool(p.grad.isfinite().all())]
    if bad or not math.isfinite(norm):
        first = f"first {bad[0]}" if bad else f"norm {norm}"
        return fail("gradients", f"{len(bad)} not finite, {first}", "check the data's values, lower model.init_std, use float32")
    idle = idle_by_design(trial.config)
    missing = [n for n, p in trial.trained.items() if p.grad is None and not (idle and idle.match(n))]
    known = [n for n, p in trial.trained.items() if p.grad is None and idle and idle.match(n)]
    found = f"loss {loss:.4f}, norm {norm:.3g}, {len(trial.trained)} tensors"
    found += f", {len(known)} of them idle by design" if known else ""
    if missing:
        remedy = "these take no part in the loss: use or freeze them"
        return fail("gradients", f"{found}; none for {len(missing)}, first {missing[0]}", remedy)
    return graded("gradients", found, "nothing is learned: the loss does not depend on the weights", fails=norm == 0)


def idle_by_design(config: RunConfig) -> re.Pattern[str] | None:
    """Names of parameters that take no part in the loss, though published counts hold them.

    Masked-HWM reads only the future video after its last block, whose other feed-forward weights lie idle.
    """
    model = config.model
    if not isinstance(model, MaskedConfig):
        return None
    last = model.num_layers - 1
    layers = sharing_by_layer(model.sharing, num_layers=model.num_layers, unshared_blocks=model.unshared_blocks)
    sets = WEIGHT_SET[layers[last]]
    idle = sorted(set(sets) - {sets[FUTURE_VIDEO]})
    return re.compile(rf"blocks\.{last}\.mlp\.layers\.sets\.[{''.join(map(str, idle))}]\.") if idle else None


def repeated(trial: Trial) -> Verdict:
    """The same step twice: the same bits of loss, and of the gradient's norm."""
    first, second = trial.gradients(), trial.gradients()
    if first[0] != second[0]:
        remedy = "draw all random numbers from the generator that is given; a stopped run could not go on as if nothing had been"
        return fail("repeated step", f"loss {first[0]!r}, then {second[0]!r}", remedy)
    same = first[1] == second[1]
    found = "the same loss and gradient, bit for bit" if same else "the same loss, another gradient"
    return graded("repeated step", found, "a resumed run will be close to an unbroken one, not equal", warns=not same)


def learning(trial: Trial, *, steps: int) -> Iterator[Verdict]:
    """The loss falls on one batch; every trained parameter has had a gradient, those behind zero gates late."""
    before = trial.grad_norm(trial.state_path)
    trial.learn(steps)
    falls = f"{trial.losses[0]:.4f} to {trial.losses[-1]:.4f} in {steps} steps on one batch"
    yield graded("learning", falls, "lower train.lr", fails=not trial.losses[-1] < trial.losses[0])
    idle = idle_by_design(trial.config)
    dead = sorted(name for name in trial.trained.keys() - trial.alive if not (idle and idle.match(name)))
    later = waiting_by_design(trial.config)
    waiting = [name for name in dead if later and later.search(name)]
    dead = [name for name in dead if name not in waiting]
    found = f"{len(trial.alive)} of {len(trial.trained)} tensors have had one"
    found += f", {len(waiting)} wait by design (text, dropped states)" if waiting else ""
    remedy = "these never learn: find what cuts them off, or freeze them"
    yield graded("gradient everywhere", found + (f"; not {dead[0]}" if dead else ""), remedy, fails=bool(dead))
    if trial.state_path:
        after = trial.grad_norm(trial.state_path)
        found = f"norm {before:.3g} at the first step, {after:.3g} after {steps}"
        found += " (zero gates: closed at first by design)" if before == 0 < after else ""
        yield graded("gradient of states", found, CUT_OFF, fails=not after > 0)


def waiting_by_design(config: RunConfig) -> re.Pattern[str] | None:
    """Names of weights of Wan that a few steps need not reach.

    Attention to the equal rows of a constant text is the same whatever it asks; the null state learns from those few
    clips that lose their states.
    """
    names = r"attn2\.(to_q|to_k|norm_q|norm_k)|text_embedder|states\.null"
    return re.compile(names) if config.model.family == "wan" else None


@torch.no_grad()
def states_used(trial: Trial) -> Verdict:
    """After those steps other states must give another loss, everything else being equal."""
    if not trial.state_path:
        return ok("states used", "a tokenizer has none")
    other = trial.with_other_states()
    for number in range(4):  # a clip may lose its states to condition dropout
        own, wrong = (trial.terms(batch, number=number)["loss"].item() for batch in (None, other))
        if own != wrong:
            return ok("states used", f"loss {own:.5f}, with another clip's states {wrong:.5f} ({(wrong - own) / abs(own):+.2%})")
    return fail("states used", f"loss {own:.5f} with any states", CUT_OFF)


def round_trip(trial: Trial, folder: Path) -> Verdict:
    """A checkpoint saved, verified and read is the same bit for bit."""
    tensors = {"model": trial.model.state_dict(), "optimizer": optimizer_tensors(trial.model, trial.optimizer)}
    state = asdict(Position(step=1)) | {"config": config_hash(trial.config)}
    began = time.monotonic()
    place = checkpoint.save(folder, state, tensors, keep=1)
    trial.save_seconds = time.monotonic() - began
    checkpoint.verify(place)
    stored = checkpoint.stored(place)
    back = {group: stored.read(group) for group in tensors}
    different = [
        f"{group}/{name}"
        for group, named in tensors.items()
        for name, tensor in named.items()
        if name not in back[group] or not torch.equal(back[group][name], tensor.detach().cpu())
    ]
    written = sum(file.stat().st_size for file in place.iterdir())
    found = f"{size(written)} saved in {span(trial.save_seconds)}"
    found += f"; {different[0]} came back changed" if different else ", bit for bit the same"
    return graded("checkpoint", found, "change the disk", fails=bool(different))
