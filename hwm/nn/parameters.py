"""Start values of the weights and which of them decay."""

from typing import Any

from torch import nn

from hwm.nn.modulation import Modulation


def normal_init(model: nn.Module, *, std: float) -> None:
    """Weights, tables and positions from N(0, std), biases 0, layer norms as they are, modulations without effect."""
    for module in model.modules():
        if not isinstance(module, nn.LayerNorm):
            for name, parameter in module.named_parameters(recurse=False):
                nn.init.zeros_(parameter) if name == "bias" else nn.init.normal_(parameter, std=std)
    for module in model.modules():
        if isinstance(module, Modulation):
            module.reset()


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Groups for AdamW: decay on matrices, tables of tokens among them; none on biases, norms, positions and step sizes."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        vectors = parameter.ndim < 2 or name.endswith("positions") or "step_size" in name
        (free if vectors else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]
