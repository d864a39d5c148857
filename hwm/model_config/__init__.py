"""Frozen configurations of the models and of the tokenizer, one class a family.  Nothing here imports torch.

A class tells all that others ask of its family: see `hwm.contracts.Family`.  One file for each kind of what is learned from;
what several share is in `parts`.
"""

from hwm.model_config.latents import FlowConfig, WanConfig
from hwm.model_config.motion import TwinConfig
from hwm.model_config.parts import Layers
from hwm.model_config.tokens import MaskedConfig, STConfig
from hwm.model_config.video import DirectConfig, FSQConfig, ReaderConfig

__all__ = [
    "DirectConfig", "FSQConfig", "FlowConfig", "Layers", "MaskedConfig", "ModelConfig", "ReaderConfig", "STConfig", "TwinConfig",
    "WanConfig",
]  # fmt: skip

ModelConfig = STConfig | MaskedConfig | FlowConfig | WanConfig | DirectConfig | TwinConfig | FSQConfig | ReaderConfig
