"""ST-Transformer: predicts the next token grid from the past grids and the robot's states, one grid a step.

Blocks alternate attention over the places of a grid, causal attention over time at one place, and an MLP.
Source: Revontuli report section 3; parameter count and readings of what it leaves open: reference F and F.2.
"""

from typing import Any

import torch
from torch import Tensor, nn

from hwm.clock import COSMOS, EACH_FRAME
from hwm.contracts import Batch
from hwm.model_config import STConfig
from hwm.models.token_grids import Asked, TokenGrids, corrupt
from hwm.nn.attention import KVCache, SpatialAttention, TemporalAttention
from hwm.nn.dropout import dropout, dropout_from, without_dropout
from hwm.nn.modulation import Modulation, unchanged
from hwm.nn.parameters import normal_init
from hwm.nn.states import StateEncoder, state_pooling
from hwm.nn.vocabulary import TokenReading, Vocabulary


class Block(nn.Module):
    """Pre-LN spatial attention (or full), pre-LN temporal attention, pre-LN MLP; one MLP for both."""

    def __init__(self, config: STConfig) -> None:
        super().__init__()
        D, hidden = config.width, config.mlp_ratio * config.width
        attention: dict[str, Any] = {
            "num_heads": config.num_heads, "qk_norm": config.qk_norm, "qkv_bias": config.qkv_bias, "dropout": config.dropout
        }
        self.dropout = config.dropout
        self.spatial_norm, self.spatial = nn.LayerNorm(D), SpatialAttention(D, full=config.attention == "full", **attention)
        self.temporal_norm, self.temporal = nn.LayerNorm(D), TemporalAttention(D, **attention)
        self.mlp_norm, self.mlp = nn.LayerNorm(D), nn.Sequential(nn.Linear(D, hidden), nn.GELU(), nn.Linear(hidden, D))
        self.modulation = Modulation(D, 3, gate=config.state_gate, start=config.state_start) if config.modulated else None

    def forward(self, x_TBSD: Tensor, state_TBD: Tensor, *, newest: int, cache: KVCache | None = None, layer: int = 0) -> Tensor:
        """All steps go in, the `newest` last ones come out."""
        spatial, temporal, mlp = self.modulation(state_TBD) if self.modulation else (unchanged,) * 3
        y_TBSD = self.spatial(spatial(self.spatial_norm(x_TBSD)), cache=cache, layer=layer)
        x_TBSD = x_TBSD + self._drop(y_TBSD)
        y_TBSD = self.temporal(temporal(self.temporal_norm(x_TBSD)), newest=newest, cache=cache, layer=layer)
        x_TBSD = x_TBSD[-newest:] + self._drop(y_TBSD)
        return x_TBSD + self._drop(self.mlp(mlp(self.mlp_norm(x_TBSD))))

    def _drop(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, training=self.training)


class STTransformer(TokenGrids):
    """The world model of the compression track; all places of a grid are predicted at once.

    config: every size and option; its clock says which frames, and so which state rows, belong to a grid.
    Input step t holds grid t and predicts grid t + 1; it sees the states of grid t + 1 (`state_alignment="target"`)
    or of grid t ("current", "past").  Weights, embeddings and positions start from N(0, init_std), biases from 0.
    Raises ValueError where the state rows leave a grid without any, and for more own grids than are fed.
    """

    config: STConfig
    validation_key = "ce_auto"
    encoder = "states"

    def __init__(self, config: STConfig) -> None:
        super().__init__(config)
        clock = EACH_FRAME if config.clock == "frames" else COSMOS
        if config.clock == "frames":
            self.validation_key = "ce_teacher"  # as v1.1 is scored
        steps, places = self.num_grids - 1, config.grid[0] * config.grid[1]
        pooling_GF = state_pooling(
            clock, self.num_grids, num_states=config.num_states, offset=config.state_offset, pooling=config.state_pooling
        )
        pooling_TF = pooling_GF[1:] if config.state_alignment == "target" else pooling_GF[:-1]
        if (pooling_TF.sum(1) == 0).any():
            raise ValueError(
                f"model.num_states {config.num_states} with model.state_offset {config.state_offset} leaves a grid "
                f"of {self.num_grids} without state rows; raise num_states or bring the offset nearer to 0"
            )
        if config.own_grids > self.future_grids - 1 or (config.own_grids and not config.scheduled_sampling):
            raise ValueError(
                f"model.own_grids {config.own_grids} needs a model.scheduled_sampling above 0, and at most "
                f"{self.future_grids - 1} of {self.future_grids} future grids are fed"
            )
        self.vocabulary = Vocabulary(config.vocab_size, config.width, tied=True, factors=config.factors)
        self.place_positions = nn.Parameter(torch.empty(places, config.width))
        self.step_positions = nn.Parameter(torch.empty(steps, config.width))
        sizes = {"state_dim": config.state_dim, "hidden": config.state_hidden, "width": config.width}
        causal = config.state_alignment == "past"
        self.states = StateEncoder(pooling_TF, **sizes, ordered=config.ordered_states, causal=causal)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.width)
        normal_init(self, std=config.init_std)

    def embed(self, tokens_BTHW: Tensor, state_BTD: Tensor, *, first_step: int = 0) -> Tensor:
        """Tokens of steps first_step ... plus place, step and state vectors, (T, B, S, D)."""
        tokens_TBS = tokens_BTHW.flatten(2).transpose(0, 1)
        steps = slice(first_step, first_step + len(tokens_TBS))
        step_TBD = (state_BTD[:, steps] + self.step_positions[steps]).transpose(0, 1)
        return self.vocabulary.embed(tokens_TBS) + self.place_positions + step_TBD[:, :, None]

    def trunk(self, tokens_BTHW: Tensor, state_BTD: Tensor, *, newest: int, cache: KVCache | None = None) -> Tensor:
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

    def loss(self, batch: Batch, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Teacher-forced "cross_entropy" in nats a token and the share of tokens guessed right ("accuracy").

        "loss" is the cross-entropy, with config.code_loss also the error of the expected codes.

        Dropout and all that disturbs the inputs in training draw from `generator` alone.
        Raises ValueError for clips of another shape.
        """
        tokens_BTHW = self._check_tokens(batch.tokens_BTHW, self.num_grids)
        scored = self.future_grids if self.config.loss_on == "future" else self.num_grids - 1
        with dropout_from(generator, device=tokens_BTHW.device, active=self.training and self.config.dropout > 0):
            inputs_BTHW = tokens_BTHW[:, :-1]
            if self.training:
                inputs_BTHW = self._disturbed(inputs_BTHW, batch.states_BFA, generator)
            hidden_TBSD = self.trunk(inputs_BTHW, self.states(batch.states_BFA), newest=scored)
            targets_N = tokens_BTHW[:, -scored:].flatten(2).transpose(0, 1).flatten()
            loss, nll, accuracy = self.vocabulary.loss(hidden_TBSD.flatten(0, 2), targets_N, code_weight=self.config.code_loss)
        return {"loss": loss, "cross_entropy": nll, "accuracy": accuracy}

    def _disturbed(self, inputs_BTHW: Tensor, states_BFA: Tensor, generator: torch.Generator) -> Tensor:
        """What is fed in training in the place of true grids, as the configuration asks for."""
        config = self.config
        if config.own_grids:
            inputs_BTHW = self._follow_own(inputs_BTHW, states_BFA, generator)
        elif config.scheduled_sampling:
            inputs_BTHW = self._mix_in_predictions(inputs_BTHW, states_BFA, generator)
        if config.max_corruption:
            inputs_BTHW = corrupt(
                inputs_BTHW, vocab_size=config.vocab_size, max_rate=config.max_corruption, generator=generator
            )
        return inputs_BTHW

    @torch.no_grad()
    def _follow_own(self, inputs_BTHW: Tensor, states_BFA: Tensor, generator: torch.Generator) -> Tensor:
        """The first `own_grids` future grids of some clips become the model's greedy prediction, one after the other."""
        chance_B = torch.rand(len(inputs_BTHW), generator=generator, device=generator.device)
        rows_b = (chance_B < self.config.scheduled_sampling).nonzero().squeeze(1).to(inputs_BTHW.device)
        if not len(rows_b):
            return inputs_BTHW
        inputs_BTHW, first = inputs_BTHW.clone(), self.context_grids
        with without_dropout(self):
            state_bTD, cache, grids_bTHW = self.states(states_BFA[rows_b]), KVCache(), inputs_BTHW[rows_b, :first]
            for grid in range(first, first + self.config.own_grids):
                hidden_ND = self.trunk(grids_bTHW, state_bTD, newest=1, cache=cache).flatten(0, 2)
                grids_bTHW = self.vocabulary.most_likely(hidden_ND).view(-1, 1, *self.config.grid)
                inputs_BTHW[rows_b, grid] = grids_bTHW[:, 0]
        return inputs_BTHW

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

    @torch.no_grad()
    def validate(self, batch: Batch, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Cross-entropy in nats and accuracy over the future grids, (B,) each, teacher-forced and on its own."""
        scores = {}
        for name, forced in (("teacher", True), ("auto", False)):
            scores[f"ce_{name}"], scores[f"accuracy_{name}"] = self._scores(batch, generator, teacher_forced=forced)
        return scores

    def _follow(self, context_BTHW: Tensor, states_BFA: Tensor, asked: Asked) -> tuple[list[Tensor], list[TokenReading]]:
        B, draws = len(context_BTHW), asked.num_samples if asked.sampling.temperature else 1
        state_BTD, cache, grids_BTHW, copies = self.states(states_BFA), KVCache(), context_BTHW, 1
        drawn, readings = [], []
        for t in range(self.future_grids):
            hidden_ND = self.trunk(grids_BTHW, state_BTD, newest=1, cache=cache).flatten(0, 2)
            reading, ids_N, _ = self._read(hidden_ND, copies=copies, draws=draws, asked=asked, about=asked.about(t))
            readings.append(reading)
            drawn.append(ids_N.view(draws, B, *self.config.grid))
            if asked.teacher_forced:
                assert asked.targets_BTHW is not None
                grids_BTHW = asked.targets_BTHW[:, t : t + 1]
                continue
            if copies < draws:  # from here on the samples go separate ways
                cache, state_BTD, copies = cache.repeat(draws), state_BTD.repeat(draws, 1, 1), draws
            grids_BTHW = ids_N.view(-1, 1, *self.config.grid)
        return drawn, readings
