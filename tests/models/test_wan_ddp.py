"""The Wan model under DistributedDataParallel: two processes of one clip each learn what one process of both learns.

Run as a script this file is one of the processes.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

WORLD, STEPS, LR = 2, 2, 0.5


def build(base):
    """A tiny base with a fresh adapter, whose states matter already."""
    from hwm.config import RunConfig, WanConfig
    from hwm.runs import build_model

    net = build_model(
        RunConfig(
            model=WanConfig(
                base=str(base),
                text="zeros",
                dtype="bfloat16",
                checkpointing=True,
                channels=4,
                grid=(4, 4),
                num_layers=2,
                num_heads=2,
                head_width=16,
                mlp_width=32,
                time_width=32,
                text_width=8,
                text_rows=2,
                lora_rank=2,
                condition_dropout=0.0,
            )
        )
    )
    torch.manual_seed(5)
    nn.init.normal_(net.states.out.weight, std=0.3)
    net.text_1RD.normal_()  # rows of zeros are all alike, and attention to them learns nothing
    return net.train()


class Step(nn.Module):
    """The loss as a forward pass: DistributedDataParallel hooks into no other method."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, batch, generator):
        return self.net.loss(batch, generator=generator)["loss"]


def clip_of(rank, step):
    """One clip and the generator of its noise."""
    from hwm.contracts import Batch

    drawn = torch.Generator().manual_seed(10 * step + rank)
    latents, states = torch.randn(1, 6, 4, 4, 4, generator=drawn), torch.randn(1, 77, 25, generator=drawn)
    return Batch(states_BFA=states, latents_BTCHW=latents), drawn


def learn(model, losses_of_step):
    """Two steps of gradient descent; what is trained, and its last gradients."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD(trained.values(), lr=LR)
    for step in range(STEPS):
        optimizer.zero_grad()
        for loss in losses_of_step(step):
            loss.backward()
        optimizer.step()
    state = {name: p.detach() for name, p in trained.items()} | {f"gradient.{name}": p.grad for name, p in trained.items()}
    return {name: value.contiguous().clone() for name, value in state.items()}


def run_rank(rank, base, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    net = build(base)
    model = nn.parallel.DistributedDataParallel(Step(net))
    save_file(learn(net, lambda step: [model(*clip_of(rank, step))]), folder / f"rank-{rank}.safetensors")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(tmp_path):
    pytest.importorskip("diffusers")
    pytest.importorskip("peft")
    from hwm.nn.wan_transformer import StateConditionedWan

    torch.manual_seed(0)
    sizes = {"num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "out_channels": 4, "text_dim": 8}
    StateConditionedWan(**sizes, patch_size=(1, 2, 2), freq_dim=32, ffn_dim=32, num_layers=2).save_pretrained(tmp_path / "base")
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(tmp_path / "base"), str(tmp_path)]
    ranks = [subprocess.Popen([*command, str(rank)], env=environment, stderr=subprocess.PIPE, text=True) for rank in range(WORLD)]
    net = build(tmp_path / "base")
    step = Step(net)
    alone = learn(net, lambda number: (step(*clip_of(rank, number)) / WORLD for rank in range(WORLD)))
    for process in ranks:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
    assert len(alone) == 2 * (2 * 10 * 2 + sum(1 for _ in net.states.parameters()))
    both = [load_file(tmp_path / f"rank-{rank}.safetensors") for rank in range(WORLD)]
    for name, value in alone.items():
        assert value.dtype == torch.float32
        assert torch.equal(both[0][name], both[1][name]), name
        assert torch.allclose(both[0][name], value, rtol=1e-5, atol=1e-7), name
    assert all(value.any() for name, value in alone.items() if name.startswith("gradient.") and "states.null" not in name)


if __name__ == "__main__":
    run_rank(int(sys.argv[3]), Path(sys.argv[1]), Path(sys.argv[2]))
