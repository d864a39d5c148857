"""What Flow-HWM and Wan have in common: noise is carried to the latents of the future along a learned velocity.

A family adds its network, its loss (the draws of a training step are its own) and how it reads states.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hwm.contracts import Batch, Kind, Prediction, Sampling
from hwm.models.family import WorldModule
from hwm.nn import flow_matching as flow
from hwm.nn.dropout import predicting, without_dropout
from hwm.nn.units import Units

VALIDATION_LEVELS = 4


class LatentFlow(WorldModule):
    """A world model over continuous latents.

    The network works on normalised latents and states; batches come and predictions go in raw units.
    config: a FlowConfig or a WanConfig, of which it reads the fields that both have.
    """

    predicts: Kind = "latents"
    validation_key = "flow_mse"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        if config.solver not in flow.SOLVERS:
            raise ValueError(f"model.solver must be one of {', '.join(map(repr, flow.SOLVERS))}, got {config.solver!r}")
        self.units = Units(channels=config.channels, state_dim=config.state_dim)

    def set_latent_statistics(self, mean_C: Tensor, std_C: Tensor) -> None:
        """Normalise latents by the mean and standard deviation of each channel; saved buffers.

        Raises ValueError for another number of channels.
        """
        self.units.set_latents(mean_C, std_C)

    def _first_output(self) -> float | None:
        """Mean square of the network's output before any training; None where that is not known."""
        raise NotImplementedError

    def _rows(self, states_BFA: Tensor) -> Tensor:
        """Raw states of a clip as the family reads them, normalised."""
        return self.units.states(self._check_states(states_BFA))

    def _error_at(self, time: Tensor, noise_BTCHW: Tensor, data_BTCHW: Tensor, past_BTCHW: Tensor, states: Tensor) -> Tensor:
        """Error (B,) of the loss without its weights at one time in [0, 1] of equal parts."""
        raise NotImplementedError

    def _mean(self, past_BTCHW: Tensor, states: Tensor, *, guidance: float) -> Tensor:
        """The mean (B, T, C, H, W) of what the flow ends in."""
        raise NotImplementedError

    def _sample(self, past_BTCHW: Tensor, states: Tensor, noise_BKTCHW: Tensor, watch: flow.Watch | None = None) -> Tensor:
        """Where the flow carries the noise, by the configured steps, solver and guidance: (B, K, T, C, H, W).

        watch: looks at the velocities that the solver asks for.
        """
        raise NotImplementedError

    def first_loss(self, batch: Batch) -> float | None:
        """The error of an output that is independent of its target: the sum of both mean squares."""
        output = self._first_output()
        if output is None:
            return None
        _, data_BTCHW, _ = self._clips(batch)
        noise = float(self.config.output == "velocity")  # the target is noise and data, or data alone
        return (_size(data_BTCHW) + noise + output).mean().item()

    @torch.no_grad()
    def validate(self, batch: Batch, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Scores (B,) of every clip, lower is better.

        flow_mse: the error of the loss at fixed times spread as in training, with noise from `generator`.
        latent_mse: squared error, in normalised latents, of the mean of all futures without guidance.
        latent_mse_copy: that of copying the last past latent.
        """
        past_BTCHW, future_BTCHW, states = self._clips(batch)
        errors = []
        with without_dropout(self):
            for time in flow.stratified_times(VALIDATION_LEVELS).to(future_BTCHW):
                noise = torch.randn(future_BTCHW.shape, generator=generator, device=generator.device).to(future_BTCHW)
                errors.append(self._error_at(time, noise, future_BTCHW, past_BTCHW, states))
            guess_BTCHW = self._mean(past_BTCHW, states, guidance=1.0)
        return {
            "flow_mse": torch.stack(errors).mean(0),
            "latent_mse": squared_error(guess_BTCHW, future_BTCHW),
            "latent_mse_copy": squared_error(past_BTCHW[:, -1:], future_BTCHW),
        }

    @torch.no_grad()
    def predict(
        self, context_BTCHW: Tensor, states_BFA: Tensor,
        *, generator: torch.Generator | Sequence[torch.Generator], num_samples: int = 1, sampling: Sampling | None = None,
        unrest: bool = False,
    ) -> Prediction:
        """Carry noise to K futures by config.steps steps of config.solver under config.guidance.

        Without dropout, but under `kept_dropout`.

        context_BTCHW: latents of the context in the tokenizer's units.  states_BFA: raw states from the first context
        frame, num_states rows.  generator: or one for each clip and sample, clips first.
        sampling: its temperature scales the initial noise; None takes config.temperature.  Temperature 0 gives the mean
        of all futures, which is where the velocity points at time 0 from the centre of the noise: one step, whatever
        config.steps, and the same for all samples.  unrest: fills unrest_BKTHW, where there are steps.
        Raises ValueError for latents or states of another shape, and for top-k or top-p, which latents do not have.
        """
        if sampling is not None and (sampling.top_k or sampling.top_p != 1):
            raise ValueError("top_k and top_p choose among tokens; for latents there is the temperature alone")
        temperature = self.config.temperature if sampling is None else sampling.temperature
        past_BTCHW = self.units.latents(self._check_latents(context_BTCHW, self.context_grids))
        states = self._rows(states_BFA)
        watch = flow.Watch() if unrest else None
        with predicting(self, generator):
            if temperature:
                shape = (len(past_BTCHW), num_samples, self.future_grids, *past_BTCHW.shape[2:])
                noise = temperature * flow.noise(shape, generator=generator).to(past_BTCHW)
                future_BKTCHW = self._sample(past_BTCHW, states, noise, watch)
            else:
                future_BKTCHW = self._mean(past_BTCHW, states, guidance=self.config.guidance)[:, None]
        latents_BKTCHW = self.units.raw(future_BKTCHW)
        moved = None if watch is None or (found := watch.moved) is None else found.unflatten(0, (-1, num_samples)).mean(3).sqrt()
        return Prediction(latents_BKTCHW=latents_BKTCHW.expand(-1, num_samples, -1, -1, -1, -1), unrest_BKTHW=moved)

    def _clips(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Past and future latents and states of a batch, all normalised."""
        latents_BTCHW = self._check_latents(batch.latents_BTCHW, self.context_grids + self.future_grids)
        past_BTCHW, future_BTCHW = self.units.latents(latents_BTCHW).tensor_split([self.context_grids], 1)
        return past_BTCHW, future_BTCHW, self._rows(batch.states_BFA)

    def _check_latents(self, latents_BTCHW: Tensor | None, num_grids: int) -> Tensor:
        expected = (num_grids, self.config.channels, *self.config.grid)
        if latents_BTCHW is None or tuple(latents_BTCHW.shape[1:]) != expected:
            got = "no latents" if latents_BTCHW is None else tuple(latents_BTCHW.shape[1:])
            raise ValueError(f"the model works on latents {expected} (T, C, H, W) here, got {got}")
        return latents_BTCHW

    def _check_states(self, states_BFA: Tensor) -> Tensor:
        if states_BFA.shape[1] < self.num_states or states_BFA.shape[2] != self.config.state_dim:
            raise ValueError(
                f"the model reads {self.num_states} state rows of width {self.config.state_dim} a clip, got "
                f"{tuple(states_BFA.shape[1:])}; give the states of all frames, the future ones too"
            )
        return states_BFA[:, : self.num_states]


def beside(times: Tensor) -> Tensor:
    """Numbers (B, T) of grids, or (B,) of clips, in a shape that meets latents (B, T, C, H, W)."""
    return times.reshape(len(times), -1, 1, 1, 1)


def squared_error(x_BTCHW: Tensor, y_BTCHW: Tensor) -> Tensor:
    """Mean square (B,) of the difference of every clip."""
    return _size(x_BTCHW - y_BTCHW)


def _size(x_BTCHW: Tensor) -> Tensor:
    return x_BTCHW.square().mean((1, 2, 3, 4))
