"""Wan2.2 TI2V that sees a video and the robot's states: the sampling track of the 1X World Model Challenge.

The latents of the context frames stay clean at timestep 0 beside the noisy future, the states modulate every latent
frame, the text is that of the empty prompt, and the pretrained transformer learns through a low-rank adapter.
Source: Revontuli report section 2; what it leaves open: SYSTEMS.md section 4 and reference wan.  The same classes, small
and from scratch, are the twin for a CPU.  Ours are `dropout`, `state_changes`, `state_sampling="stack"`, `place_context`
and `output="data"`, each an option of the same model.
"""

import re
from typing import Any

import torch
from torch import Tensor, nn

from hwm.clock import SAMPLING_STEP, WAN, subsample
from hwm.contracts import Batch
from hwm.model_config import WanConfig
from hwm.models.latent_flow import LatentFlow, beside, squared_error
from hwm.models.wan.text import pad, read_text_embedding
from hwm.models.wan.transformer import TIMESTEPS, FrameStateEncoder, StateConditionedWan, cast_as_loaded, load_transformer
from hwm.nn import flow_matching as flow
from hwm.nn.dropout import dropout_from

UNIT_RANGE = (0.2, 5.0)
"""Standard deviations of latents that a pretrained model can have been trained on: it wants them normalised."""


class WanWorldModel(LatentFlow):
    """The world model over Wan latents of clips of every fourth frame.

    config: every size and option.  With config.base its transformer is loaded and, with config.lora_rank, frozen; then
    only adapter, state encoder and statistics are part of the state dict, which names its base by a digest.
    On torch's meta device nothing is loaded, and sizes and types can be counted.
    Raises ValueError where the base is not of the configured sizes or the clip not of the clock's lengths.
    """

    config: WanConfig
    frame_step = SAMPLING_STEP
    text_1RD: Tensor
    base_digest: Tensor
    frames: Tensor

    def __init__(self, config: WanConfig) -> None:
        super().__init__(config)
        grids = self.context_grids + self.future_grids
        frames = subsample(config.num_states, length=WAN.num_frames(grids))
        self.register_buffer("frames", torch.from_numpy(frames), persistent=False)
        width = config.num_heads * config.head_width
        self.states = FrameStateEncoder(
            state_dim=config.state_dim, rows=SAMPLING_STEP if config.state_sampling == "stack" else 1, plain=config.state_plain,
            frequencies=config.state_frequencies, hidden=config.state_hidden,
            width_out=width * (6 if config.state_injection == "post" else 1),
            changes_from=WAN.num_frames(self.context_grids) - 1 if config.state_changes else None, gate=config.state_gate,
            start=config.state_start,
        )
        extra = config.channels * config.context_grids * config.place_context
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

    def set_latent_statistics(self, mean_C: Tensor, std_C: Tensor) -> None:
        """Normalise latents by the mean and standard deviation of each channel; saved buffers.

        A pretrained base keeps the units it knows, in which `WanTokenizer` gives latents; they are only checked.
        Raises ValueError for latents of other units there, or as `Units.set_latents`.
        """
        if not self.config.base:
            return super().set_latent_statistics(mean_C, std_C)
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

    def idle_parameters(self) -> list[str]:
        """What a few steps need not reach.

        Attention to the equal rows of a constant text is the same whatever it asks, and through whatever norm; the null state
        learns from those few clips that lose their states.
        """
        late = re.compile(r"attn2\.(to_q|to_k|norm_q|norm_k)|\.norm2\.|text_embedder|states\.null")
        return [name for name, _ in self.named_parameters() if late.search(name)]

    def _first_output(self) -> float | None:
        return None if self.config.base else 1 / 3  # a pretrained model knows something; else torch's own weights

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
        flow_mse = error_B.mean()
        return {"loss": flow_mse, "flow_mse": flow_mse}

    def _error(
        self, past_BTCHW: Tensor, data_BTCHW: Tensor, noise_BTCHW: Tensor, sigma_B: Tensor, modulation_BTM: Tensor
    ) -> Tensor:
        """Squared error (B,) of the network's output at noise levels sigma; the context counts for nothing."""
        x_BTCHW = flow.interpolate(noise_BTCHW, data_BTCHW, 1 - beside(sigma_B), sigma_min=0)
        output_BTCHW = self._network(x_BTCHW, past_BTCHW, sigma_B, modulation_BTM)
        target_BTCHW = data_BTCHW if self.config.output == "data" else noise_BTCHW - data_BTCHW
        return squared_error(output_BTCHW, target_BTCHW)

    def _network(self, x_BTCHW: Tensor, past_BTCHW: Tensor, sigma_B: Tensor, modulation_BTM: Tensor) -> Tensor:
        """The transformer's output for the future latents x at noise levels sigma behind the clean context, float32."""
        B, past = len(x_BTCHW), self.context_grids
        cells = torch.cat([past_BTCHW, x_BTCHW], 1).transpose(1, 2)
        T, (H, W) = cells.shape[2], self.config.grid
        if self.config.place_context:
            here = past_BTCHW.flatten(1, 2)[:, :, None].expand(-1, -1, T, -1, -1)
            cells = torch.cat([cells, here], 1)
        noisy_T = (torch.arange(T, device=x_BTCHW.device) >= past).float()
        tokens = H * W // self.config.patch**2
        # Float32, whatever the weights are: bfloat16 turns timestep 999 into 1000.
        timestep_BS = (TIMESTEPS * sigma_B.float()[:, None] * noisy_T).repeat_interleave(tokens, 1)
        dtype = self.transformer.dtype
        text_BRD = self.text_1RD.to(dtype).expand(B, -1, -1)
        output = self.transformer(cells.to(dtype), timestep_BS, text_BRD, frame_modulation=modulation_BTM, return_dict=False)[0]
        return output.float().transpose(1, 2)[:, past:]

    def _expect_islands(self) -> None:
        """Raise ValueError if float32 was taken from what must keep it."""
        islands = self.states.out.weight, self.transformer.condition_embedder.time_embedder.linear_1.weight
        if any(weight.dtype != torch.float32 for weight in islands):
            raise ValueError("state encoder and time embedding must stay float32: move the model by device only, set model.dtype")

    def _error_at(self, time: Tensor, noise_BTCHW: Tensor, data_BTCHW: Tensor, past_BTCHW: Tensor, states: Tensor) -> Tensor:
        sigma_B = flow.shift_noise(time, self.config.shift).expand(len(data_BTCHW))
        return self._error(past_BTCHW, data_BTCHW, noise_BTCHW, sigma_B, self.states(states))

    def _velocity(self, x_BTCHW: Tensor, past_BTCHW: Tensor, sigma: float, modulation_BTM: Tensor) -> Tensor:
        """From noise to data at the point x, against the sign of the network."""
        output_BTCHW = self._network(x_BTCHW, past_BTCHW, x_BTCHW.new_full((len(x_BTCHW),), sigma), modulation_BTM)
        if self.config.output == "velocity":
            return -output_BTCHW
        return (x_BTCHW - output_BTCHW) / -max(sigma, flow.LAST_SPAN)

    def _mean(self, past_BTCHW: Tensor, states: Tensor, *, guidance: float) -> Tensor:
        """Where the velocity points at noise level 1 from the centre of the noise; never guided."""
        x_BTCHW = past_BTCHW.new_zeros(len(past_BTCHW), self.future_grids, *past_BTCHW.shape[2:])
        return self._velocity(x_BTCHW, past_BTCHW, 1.0, self.states(states))

    def _sample(self, past_BTCHW: Tensor, states: Tensor, noise_BKTCHW: Tensor, watch: flow.Watch | None = None) -> Tensor:
        """Solve the flow.  Only the future is carried along, so the context cannot be touched by a step."""
        B, K = noise_BKTCHW.shape[:2]
        guided = self.config.guidance != 1
        past_RTCHW, modulation_RTM = (y.repeat_interleave(K, 0) for y in (past_BTCHW, self.states(states)))
        if guided:
            null_BTM = self.states(states, states.new_ones(B, dtype=torch.bool))
            past_RTCHW = torch.cat([past_RTCHW, past_RTCHW])
            modulation_RTM = torch.cat([modulation_RTM, null_BTM.repeat_interleave(K, 0)])

        def velocity(x_RTCHW: Tensor, _: int, sigma: float) -> Tensor:
            if not guided:
                return self._velocity(x_RTCHW, past_RTCHW, sigma, modulation_RTM)
            both = self._velocity(torch.cat([x_RTCHW, x_RTCHW]), past_RTCHW, sigma, modulation_RTM)
            conditional, unconditional = both.chunk(2)
            return flow.guide(conditional, unconditional, self.config.guidance)

        steps = flow.Steps(self.config.steps, shift=self.config.shift)
        solve = flow.SOLVERS[self.config.solver]
        return solve(flow.watched(velocity, watch), noise_BKTCHW.flatten(0, 1), steps).unflatten(0, (B, K))

    def _rows(self, states_BFA: Tensor) -> Tensor:
        """Normalised states of the kept frames, (B, F, R, A): one row each, or the four that end there."""
        self._expect_islands()
        states_BFA = self.units.states(self._check_states(states_BFA))
        back = torch.arange(1 - self.states.rows, 1, device=self.frames.device)
        return states_BFA[:, (self.frames[:, None] + back).clamp(min=0)]


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
        "patch_size": (1, config.patch, config.patch), "num_attention_heads": config.num_heads,
        "attention_head_dim": config.head_width, "out_channels": config.channels, "text_dim": config.text_width,
        "freq_dim": config.time_width, "ffn_dim": config.mlp_width, "num_layers": config.num_layers,
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
