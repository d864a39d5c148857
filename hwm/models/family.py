"""What every family of world models has in common: its sizes, and the statistics by which it normalises states."""

from typing import Any

from torch import Tensor, nn

from hwm.nn.units import fill


class WorldModule(nn.Module):
    """Satisfies `hwm.contracts.WorldModel` together with what a family adds: its network, its loss, its way to predict.

    config: a configuration of the family, of which it reads the fields that all have.
    """

    frame_step = 1
    reach = 0
    keeps_dropout = False
    """Whether predictions are made with the dropout of training (`hwm.nn.dropout.kept_dropout`)."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.context_grids, self.future_grids, self.num_states = config.context_grids, config.future_grids, config.num_states

    def set_state_statistics(self, shift_scale: Tensor) -> None:
        """Normalise states as (state - shift) * scale; (2, A) from `hwm.robot.normalisation`; a saved buffer."""
        fill(self._shift_scale, shift_scale, "state statistics")

    @property
    def neutral_state_A(self) -> Tensor:
        """The raw state (A,) that normalisation maps to zero."""
        return self._shift_scale[0]

    @property
    def dropout_rate(self) -> float:
        """Share of activations that training drops, as configured; 0 where that is no setting."""
        return getattr(self.config, "dropout", 0.0)

    @property
    def temperature(self) -> float:
        """Temperature of prediction (of latents the scale of the noise), as configured; 0 where it is no setting."""
        return getattr(self.config, "temperature", 0.0)

    def idle_parameters(self) -> list[str]:
        """None."""
        return []

    @property
    def draws(self) -> bool:
        """They do, of whatever family but a regression."""
        return True

    @property
    def _shift_scale(self) -> Tensor:
        return next(buffer for name, buffer in self.named_buffers() if name.rpartition(".")[2] == "shift_scale")
