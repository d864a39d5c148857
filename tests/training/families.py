"""Every family, tiny, and how it is trained, validated and asked by several processes, compared with one process.

Each process takes one micro-batch of a step; the gradient must be that of the sum, and validation and prediction with shared
weights what they are with whole ones, before and after averaged weights were in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hwm.config import RunConfig, TrainConfig, to_toml
from hwm.contracts import Batch
from hwm.model_config import DirectConfig, FlowConfig, FSQConfig, MaskedConfig, ReaderConfig, STConfig, WanConfig
from hwm.models.build import build_model
from hwm.training import checkpoint
from hwm.training.identity import record
from hwm.training.learner import Learner
from hwm.training.processes import joined

ST = STConfig(
    vocab_size=32, grid=(2, 2), num_layers=2, num_heads=2, width=16, mlp_ratio=2, state_hidden=16, num_states=34, dropout=0.1
)
MASKED = MaskedConfig(
    vocab_size=64, grid=(2, 2), num_layers=3, num_heads=2, width=16, unshared_blocks=1, steps=2, dropout=0.1
)  # fmt: skip
FLOW = FlowConfig(channels=3, grid=(4, 4), num_layers=3, num_heads=2, width=16, unshared_blocks=1, steps=2, dropout=0.1)
WAN = WanConfig(
    base="", channels=4, grid=(4, 4), num_layers=2, num_heads=2, head_width=16, mlp_width=32, time_width=32, text_width=8,
    text_rows=2, text="zeros", lora_rank=0, steps=2,
)  # fmt: skip
DIRECT = DirectConfig(
    grid=(8, 8), patch=4, context_grids=3, future_grids=2, num_states=5, num_layers=2, num_heads=2, width=16, map_hidden=16,
    map_channels=4,
)  # fmt: skip
READER = ReaderConfig(grid=(8, 8), widths=(8, 8, 8), depth=1, hidden=8)
FAMILIES: dict[str, Any] = {
    "st": ST, "st-sampled": replace(ST, scheduled_sampling=0.5, factors=(8, 4), code_loss=0.1), "masked-base": MASKED,
    "masked-split": replace(MASKED, attention="split"), "flow-base": FLOW,
    "flow-split": replace(FLOW, attention="split", sharing="modality", unshared_blocks=0),
    "flow-context": replace(FLOW, context_sees="context"), "wan": WAN, "direct": DIRECT,
    "fsq": FSQConfig(levels=(3, 3), spatial_stride=4, channels=8, depth=1), "reader-mask": READER,
    "reader-states": replace(READER, reads="states"),
}

def write_base(folder: Path) -> None:
    """A tiny Wan in diffusers' layout, to be adapted."""
    from hwm.models.wan.transformer import StateConditionedWan

    torch.manual_seed(0)
    sizes = {"num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "out_channels": 4, "text_dim": 8}
    StateConditionedWan(**sizes, patch_size=(1, 2, 2), freq_dim=32, ffn_dim=32, num_layers=2).save_pretrained(folder)


def run_of(config, folder):
    """A run of this model as training leaves it, with averages that differ from the weights."""
    model = build_model(config)
    ema = {name: p.detach() * 1.5 + 0.01 for name, p in model.named_parameters()}
    folder.mkdir()
    (folder / "config.toml").write_text(to_toml(config))
    state = {"step": 7, "validated": 0, "best_step": 0, "best": None, **record(config, {})}
    checkpoint.save(folder / "checkpoints", state, {"model": model.state_dict(), "ema": ema}, keep=1)
    return folder


def batch_of(config: Any, number: int) -> Batch:
    clips = 1 if config.role == "tokenizer" else 2
    return config.example(clips, generator=torch.Generator().manual_seed(number), image_size=8)


def build(config: Any) -> Any:
    model = build_model(RunConfig(model=config))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():  # also what starts at zero, so that every gradient flows
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.train()


def gen(number: int) -> torch.Generator:
    torch.manual_seed(number)
    return torch.Generator().manual_seed(number)


def whole(tensor: Any) -> torch.Tensor | None:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def answers(model: Any, config: Any) -> dict[str, torch.Tensor]:
    batch = batch_of(config, 50)
    found = {f"validate {name}": score for name, score in model.validate(batch, generator=gen(1)).items()}
    if config.role == "tokenizer":
        return found | {"encode": model.encode(batch.video_BFHWC)}
    if config.role == "reader":
        return found | {"read": model.read(batch.video_BFHWC)}
    (grids,) = (x for x in (batch.tokens_BTHW, batch.latents_BTCHW, batch.video_BFHWC) if x is not None)
    prediction = model.predict(grids[:, : model.context_grids], batch.states_BFA, generator=gen(2))
    (predicted,) = (x for x in (prediction.tokens_BKTHW, prediction.latents_BKTCHW, prediction.video_BKFHWC) if x is not None)
    return found | {"predict": predicted}


def expect_equal(name: str, found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys(), f"{name}: {found.keys() ^ expected.keys()}"
    for key, value in expected.items():
        other = found[key]
        assert (value is None) == (other is None), f"{name}: {key} is {'missing' if other is None else 'there'}"
        if value is not None:
            what = f"{name}: {key}: "
            torch.testing.assert_close(other, value, rtol=1e-4, atol=2e-6, msg=lambda text, what=what: what + text)


def compare(name: str, config: Any, mode: str, processes: Any) -> None:
    alone, shared = build(config), build(config)
    train = TrainConfig(
        parallel="fsdp" if "fsdp" in mode else "ddp", recompute="recompute" in mode, compile="compile" in mode, ema=0.9
    )
    expected_losses = []
    for rank in range(processes.world):
        terms = alone.loss(batch_of(config, rank), generator=gen(100 + rank))
        (terms["loss"] / processes.world).backward()
        expected_losses.append(terms["loss"].detach())
    learner = Learner(shared, RunConfig(model=config, train=train), device=torch.device("cpu"), processes=processes)
    parallel, ema = learner.parallel, learner.ema
    for _ in range(2):  # the second step meets what the first one left behind
        shared.zero_grad()
        for last in (False, True):  # two micro-steps, of which the first counts nothing
            with parallel.micro_step(last=last):
                terms = parallel.loss(batch_of(config, processes.rank), generator=gen(100 + processes.rank))
                (terms["loss"] * (1.0 if last else 0.0)).backward()
        torch.testing.assert_close(terms["loss"].detach(), expected_losses[processes.rank], rtol=1e-4, atol=2e-6)
        found = {n: whole(p.grad) for n, p in shared.named_parameters()}
        expect_equal(f"{name} {mode} gradient", found, {n: p.grad for n, p in alone.named_parameters()})

    reference = Learner(alone, RunConfig(model=config, train=TrainConfig(ema=0.9)), device=torch.device("cpu"))
    plain = reference.ema
    for average in (*ema.average.values(), *plain.average.values()):
        average.mul_(1.01)
    for averaged in (False, True, False) if "fsdp" in mode else (True,):  # shares are gathered and given up each time
        learner.ema, reference.ema = (ema, plain) if averaged else (None, None)
        with learner.evaluating():
            here = answers(shared, config)
        with reference.evaluating():
            expect_equal(f"{name} {mode} {'averaged' if averaged else 'trained'}", here, answers(alone, config))
    terms = parallel.loss(batch_of(config, processes.rank), generator=gen(100 + processes.rank))
    torch.testing.assert_close(terms["loss"].detach(), expected_losses[processes.rank], rtol=1e-4, atol=2e-6)
    terms["loss"].backward()


def among_others(modes: Sequence[str], chosen: Sequence[str], base: Path) -> None:
    """As one of several processes: compare the chosen families in all modes ("ddp", "fsdp", "fsdp+recompute").

    "wan-lora" is one more: an adapter in float32 on a frozen base in bfloat16 with float32 islands.
    """
    adapted = replace(WAN, base=str(base), dtype="bfloat16", lora_rank=2, condition_dropout=0.0)
    torch.set_num_threads(1)
    with joined(device="cpu", timeout=300) as processes:
        for mode in modes:
            for name in chosen:
                compare(name, (FAMILIES | {"wan-lora": adapted})[name], mode, processes)
                if processes.first:
                    print(f"{mode} {name} equal", flush=True)
