"""ST-Transformer: predicts the next token grid from the past grids and the robot's states, one grid a step.

Blocks alternate attention over the places of a grid, causal attention over time at one place, and an MLP.
Source: Revontuli report section 3; parameter count and readings of what it leaves open: reference F and F.2.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hwm.clock import COSMOS, Clock
from hwm.contracts import Batch, Kind, Prediction, Sampling
from hwm.model_config import STConfig
from hwm.nn.attention import KVCache, SpatialAttention, TemporalAttention
from hwm.nn.dropout import dropout, dropout_from, without_dropout
from hwm.nn.modulation import Modulation
from hwm.nn.parameters import decay_groups, normal_init
from hwm.nn.states import StateEncoder, state_pooling
from hwm.nn.vocabulary import Vocabulary, as_prediction


class Block(nn.Module):
    """Pre-LN spatial attention, pre-LN temporal attention, pre-LN MLP; one MLP for both."""

    def __init__(self, config: STConfig) -> None:
        super().__init__()
        D, hidden = config.width, config.mlp_ratio * config.width
        attention: dict[str, Any] = {
            "num_heads": config.num_heads,
            "qk_norm": config.qk_norm,
            "qkv_bias": config.qkv_bias,
            "dropout": config.dropout,
        }
        self.dropout = config.dropout
        self.spatial_norm, self.spatial = nn.LayerNorm(D), SpatialAttention(D, **attention)
        self.temporal_norm, self.temporal = nn.LayerNorm(D), TemporalAttention(D, **attention)
        self.mlp_norm, self.mlp = nn.LayerNorm(D), nn.Sequential(nn.Linear(D, hidden), nn.GELU(), nn.Linear(hidden, D))
        self.modulation = Modulation(D, 3) if config.state_injection == "modulate" else None

    def forward(
        self, x_TBSD: Tensor, state_TBD: Tensor, *, newest: int, cache: KVCache | None = None, layer: int = 0
    ) -> Tensor:
        """All steps go in, the `newest` last ones come out."""
        spatial, temporal, mlp = self.modulation(state_TBD) if self.modulation else (_unchanged,) * 3
        x_TBSD = x_TBSD + self._drop(self.spatial(spatial(self.spatial_norm(x_TBSD))))
        y_TBSD = self.temporal(temporal(self.temporal_norm(x_TBSD)), newest=newest, cache=cache, layer=layer)
        x_TBSD = x_TBSD[-newest:] + self._drop(y_TBSD)
        return x_TBSD + self._drop(self.mlp(mlp(self.mlp_norm(x_TBSD))))

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, training=self.training)


def _unchanged(x_TBSD: Tensor) -> Tensor:
    return x_TBSD


class STTransformer(nn.Module):
    """The world model of the compression track; satisfies `hwm.contracts.TokenWorldModel`.

    config: every size and option.  clock: which frames, and so which state rows, belong to a grid.
    Input step t holds grid t and predicts grid t + 1; it sees the states of grid t + 1 (`state_alignment="target"`)
    or of grid t ("current").  Weights, embeddings and positions start from N(0, init_std), biases from 0.
    Raises ValueError where the state rows leave a grid without any.
    """

    predicts: Kind = "tokens"
    validation_key = "ce_auto"
    frame_step = 1
    reach = 0
    temperature = 0.0

    def __init__(self, config: STConfig, *, clock: Clock = COSMOS) -> None:
        super().__init__()
        self.config = config
        self.context_grids, self.future_grids = config.context_grids, config.future_grids
        self.num_states = config.num_states
        self.num_grids = config.context_grids + config.future_grids
        steps, places = self.num_grids - 1, config.grid[0] * config.grid[1]

        pooling_GF = state_pooling(
            clock,
            self.num_grids,
            num_states=config.num_states,
            offset=config.state_offset,
            pooling=config.state_pooling,
        )
        pooling_TF = pooling_GF[1:] if config.state_alignment == "target" else pooling_GF[:-1]
        if (pooling_TF.sum(1) == 0).any():
            raise ValueError(
                f"model.num_states {config.num_states} with model.state_offset {config.state_offset} leaves a grid "
                f"of {self.num_grids} without state rows; raise num_states or bring the offset nearer to 0"
            )
        self.vocabulary = Vocabulary(config.vocab_size, config.width, tied=True, factors=config.factors)
        self.place_positions = nn.Parameter(torch.empty(places, config.width))
        self.step_positions = nn.Parameter(torch.empty(steps, config.width))
        self.states = StateEncoder(
            pooling_TF, state_dim=config.state_dim, hidden=config.state_hidden, width=config.width
        )
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.width)
        normal_init(self, std=config.init_std)

    def set_state_statistics(self, shift_scale: Tensor) -> None:
        """Normalise states as (state - shift) * scale; (2, A) from `hwm.robot.normalisation`; a saved buffer."""
        self.states.set_statistics(shift_scale)

    def state_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Those of the state encoder."""
        return list(self.states.named_parameters("states"))

    def first_loss(self, batch: Batch) -> float | None:
        """The cross-entropy of random ids."""
        return self.vocabulary.first_cross_entropy(self.config.init_std)

    @property
    def neutral_state_A(self) -> Tensor:
        """The raw state (A,) that normalisation maps to zero."""
        return self.states.shift_scale[0]

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Groups for AdamW: decay on matrices (the tied table among them), none on biases, norms and positions."""
        return decay_groups(self, weight_decay)

    # The network

    def embed(self, tokens_BTHW: Tensor, state_BTD: Tensor, *, first_step: int = 0) -> Tensor:
        """Tokens of steps first_step ... plus place, step and state vectors, (T, B, S, D)."""
        tokens_TBS = tokens_BTHW.flatten(2).transpose(0, 1)
        steps = slice(first_step, first_step + len(tokens_TBS))
        step_TBD = (state_BTD[:, steps] + self.step_positions[steps]).transpose(0, 1)
        return self.vocabulary.embed(tokens_TBS) + self.place_positions + step_TBD[:, :, None]

    def trunk(
        self, tokens_BTHW: Tensor, state_BTD: Tensor, *, newest: int, cache: KVCache | None = None
    ) -> Tensor:
        """Tokens of consecutive steps -> inputs of the head for the `newest` last ones, (newest, B, S, D).

        state_BTD: state vectors of all steps.  With a cache, the steps follow the ones already in it.  The last block
        need not finish the steps that nobody reads.
        """
        first_step = cache.num_grids if cache is not None else 0
        x_TBSD = self.embed(tokens_BTHW, state_BTD, first_step=first_step)
        state_TBD = state_BTD[:, first_step : first_step + len(x_TBSD)].transpose(0, 1)
        for layer, block in enumerate(self.blocks):
            last = block is self.blocks[-1]
            x_TBSD = block(x_TBSD, state_TBD, newest=newest if last else len(x_TBSD), cache=cache, layer=layer)
        return self.norm(x_TBSD)

    # Training

    def loss(self, batch: Batch, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Teacher-forced "cross_entropy" in nats a token and the share of tokens guessed right ("accuracy").

        "loss" is the cross-entropy, with config.code_loss also the error of the expected codes.

        Dropout and scheduled sampling draw from `generator` alone.  Raises ValueError for clips of another shape.
        """
        tokens_BTHW = self._check_tokens(batch.tokens_BTHW, self.num_grids)
        scored = self.future_grids if self.config.loss_on == "future" else self.num_grids - 1
        dropping = self.training and self.config.dropout > 0
        with dropout_from(generator, device=tokens_BTHW.device, active=dropping):
            inputs_BTHW = tokens_BTHW[:, :-1]
            if self.training and self.config.scheduled_sampling:
                inputs_BTHW = self._mix_in_predictions(inputs_BTHW, batch.states_BFA, generator)
            hidden_TBSD = self.trunk(inputs_BTHW, self.states(batch.states_BFA), newest=scored)
            targets_N = tokens_BTHW[:, -scored:].flatten(2).transpose(0, 1).flatten()
            loss, nll, accuracy = self.vocabulary.loss(
                hidden_TBSD.flatten(0, 2), targets_N, code_weight=self.config.code_loss
            )
        return {"loss": loss, "cross_entropy": nll, "accuracy": accuracy}

    @torch.no_grad()
    def _mix_in_predictions(self, inputs_BTHW: Tensor, states_BFA: Tensor, generator: torch.Generator) -> Tensor:
        """Scheduled sampling: future input tokens become, at random, the model's teacher-forced greedy prediction."""
        future_BTHW = inputs_BTHW[:, self.context_grids :]
        if not future_BTHW.shape[1]:
            return inputs_BTHW
        with without_dropout(self):
            hidden_TBSD = self.trunk(inputs_BTHW[:, :-1], self.states(states_BFA), newest=future_BTHW.shape[1])
            guess_N = self.vocabulary.most_likely(hidden_TBSD.flatten(0, 2))
        guess_BTHW = guess_N.view(hidden_TBSD.shape[:-1]).transpose(0, 1).reshape(future_BTHW.shape)
        chance = torch.rand(future_BTHW.shape, generator=generator, device=generator.device).to(future_BTHW.device)
        mixed_BTHW = torch.where(chance < self.config.scheduled_sampling, guess_BTHW, future_BTHW)
        return torch.cat([inputs_BTHW[:, : self.context_grids], mixed_BTHW], 1)

    # Prediction

    @torch.no_grad()
    def validate(self, batch: Batch, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Cross-entropy in nats and accuracy over the future grids, (B,) each, teacher-forced and on its own."""
        tokens_BTHW = self._check_tokens(batch.tokens_BTHW, self.num_grids)
        context_BTHW, future_BTHW = tokens_BTHW.tensor_split([self.context_grids], 1)
        scores = {}
        for name, teacher_forced in (("teacher", True), ("auto", False)):
            prediction = self.predict(
                context_BTHW,
                batch.states_BFA,
                generator=generator,
                targets_BTHW=future_BTHW,
                teacher_forced=teacher_forced,
            )
            assert prediction.nll_BTHW is not None and prediction.tokens_BKTHW is not None
            right_BTHW = prediction.tokens_BKTHW[:, 0] == future_BTHW
            scores[f"ce_{name}"] = prediction.nll_BTHW.mean((1, 2, 3))
            scores[f"accuracy_{name}"] = right_BTHW.float().mean((1, 2, 3))
        return scores

    @torch.no_grad()
    def predict(
        self,
        context_BTHW: Tensor,
        states_BFA: Tensor,
        *,
        generator: torch.Generator,
        num_samples: int = 1,
        sampling: Sampling | None = None,
        targets_BTHW: Tensor | None = None,
        teacher_forced: bool = False,
        top_k_logits: int = 0,
        codes_VC: Tensor | None = None,
    ) -> Prediction:
        """Predict the future grids one after the other, all places of a grid at once; never with dropout.

        context_BTHW: int64, the context grids.  states_BFA: raw states from the first context frame, num_states rows.
        The rest as in `hwm.contracts.TokenWorldModel`.  Asking for any of nll, top logits or codes also fills the
        entropy; the top values are log-probabilities.  Samples share the work on the context; greedy ones are equal
        and made once.  Raises ValueError for another number of grids or states, or teacher forcing without targets.
        """
        sampling = sampling or Sampling()
        context_BTHW = self._check_tokens(context_BTHW, self.context_grids)
        if targets_BTHW is not None:
            targets_BTHW = self._check_tokens(targets_BTHW, self.future_grids)
        elif teacher_forced:
            raise ValueError("teacher forcing needs targets_BTHW, the true future grids")
        B, grid_shape, N = len(context_BTHW), self.config.grid, context_BTHW[:, 0].numel()
        draws = 1 if sampling.temperature == 0 else num_samples
        state_BTD, cache, grids_BTHW = self.states(states_BFA), KVCache(), context_BTHW
        drawn, readings = [], []
        with without_dropout(self):
            for t in range(self.future_grids):
                hidden_ND = self.trunk(grids_BTHW, state_BTD, newest=1, cache=cache).flatten(0, 2)
                # Until the samples go separate ways there is one batch to draw them all from; then one batch each.
                first_ND, others_ND = hidden_ND.tensor_split([N])
                reading = self.vocabulary.read(
                    first_ND,
                    sampling=sampling,
                    generator=generator,
                    num_draws=1 if len(others_ND) else draws,
                    targets_N=None if targets_BTHW is None else targets_BTHW[:, t].flatten(),
                    num_top=top_k_logits,
                    codes_VC=codes_VC,
                )
                ids_N = reading.drawn_NK.t().flatten()
                if len(others_ND):
                    others = self.vocabulary.read(others_ND, sampling=sampling, generator=generator)
                    ids_N = torch.cat([ids_N, others.drawn_NK[:, 0]])
                readings.append(reading)
                drawn.append(ids_N.view(draws, B, *grid_shape))
                if teacher_forced:
                    assert targets_BTHW is not None
                    grids_BTHW = targets_BTHW[:, t : t + 1]
                else:
                    if t == 0 and draws > 1:
                        cache, state_BTD = cache.repeat(draws), state_BTD.repeat(draws, 1, 1)
                    grids_BTHW = ids_N.view(-1, 1, *grid_shape)
        tokens_BKTHW = torch.stack(drawn, 2).transpose(0, 1).expand(-1, num_samples, -1, -1, -1)
        return as_prediction(tokens_BKTHW, readings)

    def _check_tokens(self, tokens_BTHW: Tensor | None, num_grids: int) -> Tensor:
        expected = (num_grids, *self.config.grid)
        if tokens_BTHW is None or tuple(tokens_BTHW.shape[1:]) != expected:
            got = "no tokens" if tokens_BTHW is None else tuple(tokens_BTHW.shape[1:])
            raise ValueError(f"the model works on {expected} token grids (T, H, W) here, got {got}")
        return tokens_BTHW
