"""Wan2.2 TI2V that sees a video and the robot's states: the sampling track of the 1X World Model Challenge.

The latents of the context frames stay clean at timestep 0 beside the noisy future, the states modulate every latent
frame, the text is that of the empty prompt, and the pretrained transformer learns through a low-rank adapter.
Source: Revontuli report section 2; what it leaves open: SYSTEMS.md section 4 and reference wan.  The same classes, small
and from scratch, are the twin for a CPU.  Ours are `dropout`, `state_changes`, `state_sampling="stack"`, `place_context`,
`place_channels`, `target="change"`, `output="data"` and `relative_loss`, each an option of the same model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hwm.clock import SAMPLING_STEP, WAN, subsample
from hwm.contracts import Batch, Kind, Prediction, Sampling
from hwm.model_config import WanConfig
from hwm.models.wan.text import pad, read_text_embedding
from hwm.models.wan.transformer import TIMESTEPS, FrameStateEncoder, StateConditionedWan, cast_as_loaded, load_transformer, solve
from hwm.nn import flow_matching as flow
from hwm.nn.dropout import dropout_from, without_dropout
from hwm.nn.units import Units

VALIDATION_LEVELS = 4
RELATIVE_FLOOR = 0.05
"""Added to the size of what a clip predicts, of mean 1, before its error is divided by it: stillness is not all."""
UNIT_RANGE = (0.2, 5.0)
"""Standard deviations of latents that a pretrained model can have been trained on: it wants them normalised."""


class WanWorldModel(nn.Module):
    """The world model over Wan latents of clips of every fourth frame; satisfies `hwm.contracts.LatentWorldModel`.

    config: every size and option.  With config.base its transformer is loaded and, with config.lora_rank, frozen; then
    only adapter, state encoder and statistics are part of the state dict, which names its base by a digest.
    On torch's meta device nothing is loaded, and sizes and types can be counted.
    Raises ValueError where the base is not of the configured sizes or the clip not of the clock's lengths.
    """

    predicts: Kind = "latents"
    validation_key = "flow_mse"
    frame_step = SAMPLING_STEP
    reach = 0
    text_1RD: Tensor
    base_digest: Tensor
    frames: Tensor

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        self.config = config
        self.context_grids, self.future_grids, self.num_states = config.context_grids, config.future_grids, config.num_states
        grids = self.context_grids + self.future_grids
        frames = subsample(config.num_states, length=WAN.num_frames(grids))
        self.register_buffer("frames", torch.from_numpy(frames), persistent=False)
        self.units = Units(channels=config.channels, state_dim=config.state_dim, target=config.target)
        width = config.num_heads * config.head_width
        self.states = FrameStateEncoder(
            state_dim=config.state_dim,
            rows=SAMPLING_STEP if config.state_sampling == "stack" else 1,
            plain=config.state_plain,
            frequencies=config.state_frequencies,
            hidden=config.state_hidden,
            width_out=width * (6 if config.state_injection == "post" else 1),
            changes_from=WAN.num_frames(self.context_grids) - 1 if config.state_changes else None,
        )
        extra = config.channels * config.context_grids * config.place_context + config.place_channels
        self.places = nn.Parameter(0.3 * torch.randn(config.place_channels, *config.grid)) if config.place_channels else None
        only_sizes = self.states.null.is_meta
        embedding = torch.zeros(config.text_width) if only_sizes else _text(config)
        self.register_buffer("text_1RD", pad(embedding, rows=config.text_rows), persistent=False)
        self.transformer: Any  # diffusers is not typed
        if config.base and not only_sizes:
            self.transformer = load_transformer(config.base, dtype=getattr(torch, config.dtype))
            _expect_sizes(self.transformer.config, config)
        else:
            self.transformer = StateConditionedWan(**_sizes(config), in_channels=config.channels + extra)
            if config.base:
                cast_as_loaded(self.transformer, getattr(torch, config.dtype))
        for module in self.transformer.modules():
            if isinstance(module, nn.Dropout):
                module.p = config.dropout
        if config.checkpointing:
            self.transformer.enable_gradient_checkpointing()
        if config.base:
            digest = torch.zeros(32, dtype=torch.uint8) if only_sizes else _digest(self.transformer)
            self.register_buffer("base_digest", digest)
        if config.lora_rank:
            from hwm.models.wan.lora import add_lora

            add_lora(self.transformer, rank=config.lora_rank, alpha=config.lora_alpha or config.lora_rank)
            self._save_only_what_learns()

    # What is saved

    def _save_only_what_learns(self) -> None:
        """Keep the frozen base out of the state dict, and refuse one that was trained on another base."""
        frozen = {f"transformer.{n}" for n, p in self.transformer.named_parameters() if not p.requires_grad}
        frozen |= {f"transformer.{n}" for n, _ in self.transformer.named_buffers()}

        def drop(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
            for name in frozen:
                state.pop(prefix + name, None)

        def forgive(module: nn.Module, found: Any) -> None:
            found.missing_keys[:] = [key for key in found.missing_keys if key not in frozen]

        def check(module: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
            theirs = state.get(prefix + "base_digest")
            if theirs is not None and not torch.equal(theirs.cpu(), self.base_digest.cpu()):
                raise ValueError(f"the adapter was trained on another base than {self.config.base}; give the one it was made for")

        self.register_state_dict_post_hook(drop)
        self.register_load_state_dict_post_hook(forgive)
        self.register_load_state_dict_pre_hook(check)

    def set_state_statistics(self, shift_scale: Tensor) -> None:
        """Normalise states as (state - shift) * scale; (2, A) from `hwm.robot.normalisation`; a saved buffer."""
        self.units.set_states(shift_scale)

    def set_latent_statistics(self, mean_C: Tensor, std_C: Tensor, change_std_C: Tensor | None = None) -> None:
        """Normalise latents by the mean and standard deviation of each channel; saved buffers.

        A pretrained base keeps the units it knows, in which `WanTokenizer` gives latents; they are only checked.
        Raises ValueError for latents of other units there, or as `Units.set_latents`.
        """
        if not self.config.base:
            return self.units.set_latents(mean_C, std_C, change_std_C)
        typical = float(std_C.median())
        if not UNIT_RANGE[0] < typical < UNIT_RANGE[1]:
            raise ValueError(f"latents of standard deviation {typical:.3g} are not those of {self.config.base}'s own autoencoder")

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks."""
        return self.transformer.blocks

    def state_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Those of the state encoder."""
        return list(self.states.named_parameters("states"))

    def first_loss(self, batch: Batch) -> float | None:
        """The error of an output that is independent of its target; None for a pretrained model, which knows something."""
        if self.config.base:
            return None
        _, data_BTCHW, _ = self._clips(batch)
        size_B = data_BTCHW.square().mean((1, 2, 3, 4))
        error_B = size_B + (self.config.output == "velocity") + 1 / 3  # of torch's own initial weights
        if self.config.relative_loss:
            error_B = error_B / (size_B + RELATIVE_FLOOR)
        return error_B.mean().item()

    @property
    def temperature(self) -> float:
        """Scale of the initial noise in prediction, as configured."""
        return self.config.temperature

    @property
    def neutral_state_A(self) -> Tensor:
        """The raw state (A,) that normalisation maps to zero."""
        return self.units.shift_scale[0]

    # Training

    def loss(self, batch: Batch, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Flow-matching loss on the future latents ("flow_mse"); all randomness from `generator`.

        The error is that of the velocity or, where the network gives the data, of the data.
        Clips lose their states with probability config.condition_dropout.  Raises ValueError for clips of another shape.
        """
        past_BTCHW, data_BTCHW, states_BFRA = self._clips(batch)
        B = len(data_BTCHW)

        def drawn(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, device=generator.device).to(data_BTCHW)

        drop_B = drawn(B) < self.config.condition_dropout
        sigma_B = flow.sample_times((B,), self.config.time_sampling, generator=generator).to(data_BTCHW)
        sigma_B = flow.shift_noise(sigma_B, self.config.shift)
        noise_BTCHW = torch.randn(data_BTCHW.shape, generator=generator, device=generator.device).to(data_BTCHW)
        with dropout_from(generator, device=data_BTCHW.device, active=self.training and self.config.dropout > 0):
            error_B = self._error(past_BTCHW, data_BTCHW, noise_BTCHW, sigma_B, self.states(states_BFRA, drop_B))
        if self.config.relative_loss:
            error_B = error_B / (data_BTCHW.square().mean((1, 2, 3, 4)) + RELATIVE_FLOOR)
        flow_mse = error_B.mean()
        return {"loss": flow_mse, "flow_mse": flow_mse}

    def _error(
        self, past_BTCHW: Tensor, data_BTCHW: Tensor, noise_BTCHW: Tensor, sigma_B: Tensor, modulation_BTM: Tensor
    ) -> Tensor:
        """Squared error (B,) of the network's output at noise levels sigma; the context counts for nothing."""
        x_BTCHW = flow.interpolate(noise_BTCHW, data_BTCHW, 1 - _beside(sigma_B), sigma_min=0)
        output_BTCHW = self._network(x_BTCHW, past_BTCHW, sigma_B, modulation_BTM)
        target_BTCHW = data_BTCHW if self.config.output == "data" else noise_BTCHW - data_BTCHW
        return (output_BTCHW - target_BTCHW).square().mean((1, 2, 3, 4))

    def _network(self, x_BTCHW: Tensor, past_BTCHW: Tensor, sigma_B: Tensor, modulation_BTM: Tensor) -> Tensor:
        """The transformer's output for the future latents x at noise levels sigma behind the clean context, float32."""
        B, past = len(x_BTCHW), self.context_grids
        cells = torch.cat([past_BTCHW, x_BTCHW], 1).transpose(1, 2)
        T, (H, W) = cells.shape[2], self.config.grid
        if self.config.place_context:
            here = past_BTCHW.flatten(1, 2)[:, :, None].expand(-1, -1, T, -1, -1)
            cells = torch.cat([cells, here], 1)
        if self.places is not None:
            cells = torch.cat([cells, self.places[None, :, None].expand(B, -1, T, -1, -1)], 1)
        noisy_T = (torch.arange(T, device=x_BTCHW.device) >= past).float()
        tokens = H * W // self.config.patch**2
        # Float32, whatever the weights are: bfloat16 turns timestep 999 into 1000.
        timestep_BS = (TIMESTEPS * sigma_B.float()[:, None] * noisy_T).repeat_interleave(tokens, 1)
        dtype = self.transformer.dtype
        text_BRD = self.text_1RD.to(dtype).expand(B, -1, -1)
        output = self.transformer(
            cells.to(dtype), timestep_BS, text_BRD, frame_modulation=modulation_BTM, return_dict=False
        )[0]
        return output.float().transpose(1, 2)[:, past:]

    def _expect_islands(self) -> None:
        """Raise ValueError if float32 was taken from what must keep it."""
        islands = self.states.out.weight, self.transformer.condition_embedder.time_embedder.linear_1.weight
        if any(weight.dtype != torch.float32 for weight in islands):
            raise ValueError("state encoder and time embedding must stay float32: move the model by device only, set model.dtype")

    # Prediction

    @torch.no_grad()
    def validate(self, batch: Batch, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Scores (B,) of every clip, lower is better.

        flow_mse: the error of the loss at fixed noise levels spread as in training, with noise from `generator`.
        latent_mse: squared error, in normalised latents, of the mean of all futures; latent_mse_copy: of the last past one.
        """
        past_BTCHW, data_BTCHW, states_BFRA = self._clips(batch)
        modulation_BTM, errors = self.states(states_BFRA), []
        with without_dropout(self):
            for level in flow.shift_noise(flow.stratified_times(VALIDATION_LEVELS), self.config.shift).tolist():
                noise = torch.randn(data_BTCHW.shape, generator=generator, device=generator.device).to(data_BTCHW)
                sigma_B = data_BTCHW.new_full((len(data_BTCHW),), level)
                errors.append(self._error(past_BTCHW, data_BTCHW, noise, sigma_B, modulation_BTM))
            guess_BTCHW = self._mean(past_BTCHW, modulation_BTM)
        last = past_BTCHW[:, -1:]
        guess_BTCHW, future_BTCHW = (self.units.future(y, last_past=last) for y in (guess_BTCHW, data_BTCHW))
        return {
            "flow_mse": torch.stack(errors).mean(0),
            "latent_mse": (guess_BTCHW - future_BTCHW).square().mean((1, 2, 3, 4)),
            "latent_mse_copy": (last - future_BTCHW).square().mean((1, 2, 3, 4)),
        }

    @torch.no_grad()
    def predict(
        self,
        context_BTCHW: Tensor,
        states_BFA: Tensor,
        *,
        generator: torch.Generator | Sequence[torch.Generator],
        num_samples: int = 1,
        sampling: Sampling | None = None,
    ) -> Prediction:
        """Carry noise to K futures by config.steps steps of config.solver under config.guidance; never with dropout.

        context_BTCHW: latents of the context in the tokenizer's units.  states_BFA: raw states of all num_states frames
        of the clip at 30 Hz; the model takes those it wants.  generator: or one for each clip and sample, clips first.
        sampling: its temperature scales the initial noise; None takes config.temperature.  Temperature 0 gives the mean of
        all futures, one step from the centre of the noise, the same for all samples.
        Raises ValueError for latents or states of another shape, and for top-k or top-p, which latents do not have.
        """
        if sampling is not None and (sampling.top_k or sampling.top_p != 1):
            raise ValueError("top_k and top_p choose among tokens; for latents there is the temperature alone")
        temperature = self.config.temperature if sampling is None else sampling.temperature
        past_BTCHW = self.units.latents(self._check_latents(context_BTCHW, self.context_grids))
        states_BFRA = self._rows(states_BFA)
        modulation_BTM, B, K = self.states(states_BFRA), len(past_BTCHW), num_samples
        last_B1TCHW = past_BTCHW[:, None, -1:]
        if not temperature:
            with without_dropout(self):
                data_BKTCHW = self._mean(past_BTCHW, modulation_BTM)[:, None]
        else:
            noise = flow.noise((B, K, self.future_grids, *past_BTCHW.shape[2:]), generator=generator)
            null_BTM = self.states(states_BFRA, states_BFRA.new_ones(B, dtype=torch.bool))
            with without_dropout(self):
                data_BKTCHW = self._sample(
                    temperature * noise.to(past_BTCHW).flatten(0, 1),
                    past_BTCHW.repeat_interleave(K, 0),
                    modulation_BTM.repeat_interleave(K, 0),
                    null_BTM.repeat_interleave(K, 0) if self.config.guidance != 1 else None,
                ).unflatten(0, (B, K))
        latents_BKTCHW = self.units.raw(self.units.future(data_BKTCHW, last_past=last_B1TCHW))
        return Prediction(latents_BKTCHW=latents_BKTCHW.expand(-1, K, -1, -1, -1, -1))

    def _sample(
        self, noise_RTCHW: Tensor, past_RTCHW: Tensor, modulation_RTM: Tensor, null_RTM: Tensor | None
    ) -> Tensor:
        """Solve the flow.  Only the future is carried along, so the context cannot be touched by a step."""

        def velocity(x_RTCHW: Tensor, sigma: float) -> Tensor:
            if null_RTM is None:
                return self._velocity(x_RTCHW, past_RTCHW, sigma, modulation_RTM)
            x, past = torch.cat([x_RTCHW, x_RTCHW]), torch.cat([past_RTCHW, past_RTCHW])
            both = self._velocity(x, past, sigma, torch.cat([modulation_RTM, null_RTM]))
            conditional, unconditional = both.chunk(2)
            return flow.guide(conditional, unconditional, self.config.guidance)

        steps, solver, shift = self.config.steps, self.config.solver, self.config.shift
        return solve(velocity, noise_RTCHW, num_steps=steps, solver=solver, shift=shift)

    def _velocity(self, x_BTCHW: Tensor, past_BTCHW: Tensor, sigma: float, modulation_BTM: Tensor) -> Tensor:
        """Noise minus data at the point x."""
        output_BTCHW = self._network(x_BTCHW, past_BTCHW, x_BTCHW.new_full((len(x_BTCHW),), sigma), modulation_BTM)
        if self.config.output == "velocity":
            return output_BTCHW
        return (x_BTCHW - output_BTCHW) / max(sigma, flow.LAST_SPAN)

    def _mean(self, past_BTCHW: Tensor, modulation_BTM: Tensor) -> Tensor:
        """The mean of what the flow ends in: minus the velocity at noise level 1, from the centre of the noise."""
        x_BTCHW = past_BTCHW.new_zeros(len(past_BTCHW), self.future_grids, *past_BTCHW.shape[2:])
        return -self._velocity(x_BTCHW, past_BTCHW, 1.0, modulation_BTM)

    # Clips

    def _clips(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Past latents, what the flow ends in, and the rows of states of a batch, all normalised."""
        latents_BTCHW = self._check_latents(batch.latents_BTCHW, self.context_grids + self.future_grids)
        past_BTCHW, future_BTCHW = self.units.latents(latents_BTCHW).tensor_split([self.context_grids], 1)
        return past_BTCHW, self.units.data(future_BTCHW, last_past=past_BTCHW[:, -1:]), self._rows(batch.states_BFA)

    def _rows(self, states_BFA: Tensor) -> Tensor:
        """Normalised states of the kept frames, (B, F, R, A): one row each, or the four that end there."""
        self._expect_islands()
        if states_BFA.shape[1] < self.num_states or states_BFA.shape[2] != self.config.state_dim:
            raise ValueError(
                f"the model reads {self.num_states} state rows of width {self.config.state_dim} a clip, got "
                f"{tuple(states_BFA.shape[1:])}; give the states of all frames, the future ones too"
            )
        back = torch.arange(1 - self.states.rows, 1, device=self.frames.device)
        return self.units.states(states_BFA)[:, (self.frames[:, None] + back).clamp(min=0)]

    def _check_latents(self, latents_BTCHW: Tensor | None, num_grids: int) -> Tensor:
        expected = (num_grids, self.config.channels, *self.config.grid)
        if latents_BTCHW is None or tuple(latents_BTCHW.shape[1:]) != expected:
            got = "no latents" if latents_BTCHW is None else tuple(latents_BTCHW.shape[1:])
            raise ValueError(f"the model works on latents {expected} (T, C, H, W) here, got {got}")
        return latents_BTCHW


def _text(config: WanConfig) -> Tensor:
    """The embedding (text_width,) that every clip is given.  A pretrained model must be told: zeros are off what it knows."""
    if config.text == "zeros" or not (config.text or config.base):
        return torch.zeros(config.text_width)
    if not config.text:
        make = f"`hwm text-embedding {config.base} FILE`, then model.text=FILE"
        raise ValueError(f'{config.base} knows the embedding of the empty prompt: make it with {make} (or model.text="zeros")')
    return read_text_embedding(config.text)


def _sizes(config: WanConfig) -> dict[str, Any]:
    """The transformer's sizes in diffusers' words."""
    return {
        "patch_size": (1, config.patch, config.patch),
        "num_attention_heads": config.num_heads,
        "attention_head_dim": config.head_width,
        "out_channels": config.channels,
        "text_dim": config.text_width,
        "freq_dim": config.time_width,
        "ffn_dim": config.mlp_width,
        "num_layers": config.num_layers,
    }


def _expect_sizes(found: Any, config: WanConfig) -> None:
    """Raise ValueError unless the loaded transformer has the configured sizes: grids and memory were reckoned with them."""
    for name, value in {**_sizes(config), "in_channels": config.channels}.items():
        has = tuple(found[name]) if isinstance(found[name], list) else found[name]
        if has != value:
            raise ValueError(f"{config.base}: its {name} is {has}, the run is configured for {value}; set the model's sizes")


def _digest(transformer: nn.Module) -> Tensor:
    from hwm.models.wan.lora import fingerprint_of

    return torch.tensor(list(bytes.fromhex(fingerprint_of(transformer))), dtype=torch.uint8)


def _beside(sigma_B: Tensor) -> Tensor:
    """One number a clip, in a shape that meets latents."""
    return sigma_B[:, None, None, None, None]
