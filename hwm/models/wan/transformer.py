"""Wan's video transformer with one modulation a latent frame: a parameter-free subclass of diffusers' class.

A clip's states are to act on the tokens of their own latent frame.  Wan2.2 TI2V already computes its AdaLN input per
token, so state conditioning is one addition to it (Revontuli report section 2.1, figure 2).  The classes below take
over instances that diffusers built: weights, their names and every loader stay those of the base.  Design and
measurements: reference wan 2.

The modulation comes from the states at the frames of the clip: sinusoidal features of angles and velocities, an MLP, a
two-layer convolution over time down to the latents' rate, a projection (section 2.1 "Video-State Conditioning").
"""

import functools
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanTimeTextImageEmbedding, WanTransformerBlock
from torch import Tensor, nn

from hwm.models.wan.lora import check_no_adapter
from hwm.safe_load.sizes import check_model_folder

TIMESTEPS = 1000
"""Wan's timestep is this times the noise level."""
LOWEST_FREQUENCY = 0.5
"""Of the sinusoids, in radians a standard deviation; each next one is twice as high (ours, none is printed)."""
CHANGE_SCALE = 2.0
"""Brings changes to the size of states: over the second or two of a clip a state changes by half its spread (ours)."""


class FrameEmbedding(WanTimeTextImageEmbedding):
    """Embeds one timestep a latent frame instead of one a token, and adds the frame's modulation.

    The modulation comes in the place of image tokens, which this model family does not have.
    """

    def forward(
        self, timestep: Tensor, encoder_hidden_states: Tensor, encoder_hidden_states_image: Tensor | None = None,
        timestep_seq_len: int | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Timesteps (B * S) of S tokens a clip -> embedding (B, S, D) for the head, modulation (B, T, 6 D) for the blocks.

        Modulation (B, T, 6 D) is added to the timestep's; one of (B, T, D) to the timestep's embedding before it.
        """
        modulation_BTM = encoder_hidden_states_image
        if modulation_BTM is None:
            return super().forward(timestep, encoder_hidden_states, None, timestep_seq_len)
        if timestep_seq_len is None:
            raise ValueError("a modulation of frames needs one timestep a token, (B, S)")
        frames = modulation_BTM.shape[1]
        tokens = timestep_seq_len // frames
        if frames * tokens != timestep_seq_len:
            raise ValueError(f"{timestep_seq_len} tokens are no whole number of tokens for {frames} frames")
        first = timestep.view(-1, frames, tokens)[:, :, 0].flatten()
        embedding_BTD, time_BTM, text, _ = super().forward(first, encoder_hidden_states, None, frames)
        if modulation_BTM.shape[2] == embedding_BTD.shape[2]:
            embedding_BTD = (embedding_BTD + modulation_BTM).type_as(embedding_BTD)
            time_BTM = self.time_proj(self.act_fn(embedding_BTD))
        else:
            time_BTM = time_BTM + modulation_BTM  # a float32 modulation makes the sum float32, as the blocks use it
        return embedding_BTD.repeat_interleave(tokens, 1), time_BTM, text, None


class FrameBlock(WanTransformerBlock):
    """Spreads the modulation of a frame over its tokens here, where it need not be kept for the backward pass."""

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor, rotary_emb: Any) -> Tensor:
        """temb: (B, T, 6, D) for T frames of S / T tokens each, or what the base class takes."""
        if temb.ndim == 4 and temb.shape[1] != hidden_states.shape[1]:
            temb = temb.repeat_interleave(hidden_states.shape[1] // temb.shape[1], 1)
        return super().forward(hidden_states, encoder_hidden_states, temb, rotary_emb)


class StateConditionedWan(WanTransformer3DModel):
    """diffusers' Wan transformer that also takes `frame_modulation`; without it, it is its base exactly.

    Raises ValueError for a model with image tokens, whose place the modulation takes.
    """

    _repeated_blocks = ["FrameBlock"]  # noqa: RUF012 - as diffusers declares it
    _no_split_modules = ["FrameBlock"]  # noqa: RUF012

    @functools.wraps(WanTransformer3DModel.__init__)  # type: ignore[misc]  # from_config reads the signature
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.config.image_dim is not None:
            raise ValueError("this Wan model takes image tokens (image_dim); state conditioning is for TI2V models without them")
        self.condition_embedder.__class__ = FrameEmbedding
        for block in self.blocks:
            block.__class__ = FrameBlock

    def forward(
        self, hidden_states: Tensor, timestep: Tensor, encoder_hidden_states: Tensor,
        encoder_hidden_states_image: Tensor | None = None, return_dict: bool = True,
        attention_kwargs: dict[str, Any] | None = None, frame_modulation: Tensor | None = None,
    ) -> Any:
        """As the base's; frame_modulation: (B, T, 6 D) for the blocks or (B, T, D) for the timestep's embedding."""
        if encoder_hidden_states_image is not None:
            raise ValueError("image tokens are not supported: their place is taken by frame_modulation")
        return super().forward(hidden_states, timestep, encoder_hidden_states, frame_modulation, return_dict, attention_kwargs)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """As the base's.  Raises ValueError with a live adapter, of which the base writes what cannot be loaded again."""
        check_no_adapter(self)
        super().save_pretrained(*args, **kwargs)


def expect_loaded(module: nn.Module, source: str) -> None:
    """Raise ValueError if a weight of `module` was never loaded: a loader may leave it on the meta device and only warn."""
    empty = [name for name, p in (*module.named_parameters(), *module.named_buffers()) if p.is_meta]
    if empty:
        raise ValueError(f"{source}: {len(empty)} weights were not loaded, the first is {empty[0]}; fetch the model again")


def cast_as_loaded(transformer: StateConditionedWan, dtype: torch.dtype) -> None:
    """Give the weights, here of the meta device, the types that `load_transformer` with `dtype` gives them."""
    kept = set(transformer._keep_in_fp32_modules)
    for name, parameter in transformer.named_parameters():
        if kept.isdisjoint(name.split(".")):
            parameter.data = parameter.data.to(dtype)


def load_transformer(source: str, *, dtype: torch.dtype) -> StateConditionedWan:
    """The transformer of a Wan model in diffusers' layout: a pipeline's folder, its transformer's, or a hub name.

    dtype: of the weights, except those that diffusers keeps in float32.
    Raises ValueError, naming the source, for what cannot be found or loaded whole.
    """
    subfolder = None if (Path(source) / "config.json").is_file() else "transformer"
    check_model_folder(source, subfolder, model=StateConditionedWan)
    try:
        model = StateConditionedWan.from_pretrained(source, subfolder=subfolder, dtype=dtype, use_safetensors=True)
    except Exception as error:  # a damaged configuration can raise anything
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{source}: no Wan transformer in diffusers' layout here or on the hub ({reason})") from None
    expect_loaded(model, source)
    return model


class FrameStateEncoder(nn.Module):
    """States of the frames of a clip to one vector (B, T, width_out) a latent frame; zero before any training by default.

    Latent 0 is frame 0 and latent k frames 4k-3 to 4k, so the first state is repeated and two convolutions of kernel
    and stride 2 see just the frames of one latent.

    rows: states given per frame (stacked states count as one row of several).  plain: dimensions without sinusoids.
    changes_from: frame from which the change of every state is given beside it; None gives the states alone.
    gate: factor of the vector.  start: standard deviation of the last layer's first weights (ours).
    Always float32, whatever the transformer is.
    """

    waving: Tensor
    octaves: Tensor

    def __init__(
        self,
        *, state_dim: int, rows: int, plain: tuple[int, ...], frequencies: int, hidden: int, width_out: int,
        changes_from: int | None = None, gate: float = 1.0, start: float = 0.0,
    ) -> None:
        super().__init__()
        self.gate = gate
        if any(not 0 <= i < state_dim for i in plain):
            raise ValueError(f"model.state_plain {plain} names dimensions outside 0..{state_dim - 1}")
        self.rows, self.changes_from = rows, changes_from
        waving = [i for i in range(state_dim) if i not in plain]
        self.register_buffer("waving", torch.tensor(waving), persistent=False)
        octaves = LOWEST_FREQUENCY * 2.0 ** torch.arange(frequencies)
        self.register_buffer("octaves", octaves, persistent=False)
        features = rows * (state_dim + 2 * frequencies * len(waving)) + (state_dim if changes_from is not None else 0)
        self.mlp = nn.Sequential(nn.Linear(features, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.compress = nn.ModuleList(nn.Conv1d(hidden, hidden, 2, stride=2) for _ in range(2))
        self.null = nn.Parameter(0.02 * torch.randn(hidden))
        self.out = nn.Linear(hidden, width_out)
        nn.init.normal_(self.out.weight, std=start) if start else nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, states_BFRA: Tensor, drop_B: Tensor | None = None) -> Tensor:
        """Normalised states of F = 1 + 4n frames, R rows each -> (B, 1 + n, width_out).

        drop_B: True where the clip's states are replaced by the learned null state.
        """
        device_type = states_BFRA.device.type
        with torch.autocast(device_type, enabled=False):
            h_BFD = self.mlp(self._features(states_BFRA.float()))
            h_BDF = torch.cat([h_BFD[:, :1].expand(-1, 3, -1), h_BFD], 1).transpose(1, 2)
            for layer in self.compress:
                h_BDF = layer(F.silu(h_BDF))
            h_BTD = h_BDF.transpose(1, 2)
            # Always evaluated, so that every parameter takes part in every step.
            drop_B = states_BFRA.new_zeros(len(states_BFRA), dtype=torch.bool) if drop_B is None else drop_B
            h_BTD = torch.where(drop_B[:, None, None], self.null, h_BTD)
            return self.gate * self.out(F.silu(h_BTD))

    def _features(self, states_BFRA: Tensor) -> Tensor:
        angle = states_BFRA[..., self.waving, None] * self.octaves
        parts = [states_BFRA.flatten(2), angle.sin().flatten(2), angle.cos().flatten(2)]
        if self.changes_from is not None:
            now_BFA = states_BFRA[:, :, -1]
            parts.append(CHANGE_SCALE * (now_BFA - now_BFA[:, self.changes_from : self.changes_from + 1]))
        return torch.cat(parts, 2)
