"""Masked-HWM: fills in the masked token grid of the future from past grids and the robot's states, in a few passes.

Source: HWM paper sections 2.2 and 2.4; sizes, parameter counts and the release's defects: reference D.1; decoding:
MaskGIT (reference C.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hwm.clock import COSMOS, Clock
from hwm.contracts import Batch, Kind, Prediction, Sampling
from hwm.model_config import MaskedConfig
from hwm.models.masked_blocks import JointBlock, SplitBlock, Window
from hwm.nn.attention import KVCache
from hwm.nn.dropout import dropout_from, without_dropout
from hwm.nn.masking import corrupt, masks_left, random_mask, remask
from hwm.nn.parameters import decay_groups, normal_init
from hwm.nn.rope import grid_positions, rope_angles
from hwm.nn.states import ActionEncoder, state_pooling
from hwm.nn.streams import sharing_by_layer, slot_visibility
from hwm.nn.vocabulary import TokenReading, Vocabulary, as_prediction


class MaskedHWM(nn.Module):
    """Masked video model over past and future token grids; satisfies `hwm.contracts.TokenWorldModel`.

    config: every size and option.  clock: which frames, and so which state rows, belong to a grid.
    A grid and its action token stand at the same rotary time, so that every action keeps its distance to the grid it
    causes (the release puts the actions after all grids, where a grid cannot see them).  Weights, tables, positions and
    the mask vector start from N(0, init_std) (the release: output Xavier, mask vector 0), biases and the frame
    positions of the actions from 0.  Raises ValueError where the state rows leave a grid without any, and for heads
    whose width is not divisible by 4.
    """

    predicts: Kind = "tokens"
    validation_key = "ce_masked"
    frame_step = 1
    reach = 0
    visible_2G2G: Tensor
    same_GG: Tensor

    def __init__(self, config: MaskedConfig, *, clock: Clock = COSMOS) -> None:
        super().__init__()
        self.config = config
        self.context_grids, self.future_grids = config.context_grids, config.future_grids
        self.num_states = config.num_states
        self.num_grids = G = config.context_grids + config.future_grids
        self.num_places = config.grid[0] * config.grid[1]
        self.head_width = config.width // config.num_heads
        if self.head_width % 4:
            raise ValueError(
                f"model.width / model.num_heads must be divisible by 4 for rotary positions in two dimensions, "
                f"got {config.width} / {config.num_heads}"
            )
        pooling_GF = state_pooling(clock, G, num_states=config.num_states)
        if (pooling_GF.sum(1) == 0).any():
            raise ValueError(
                f"model.num_states {config.num_states} leaves a grid of {G} without state rows; "
                f"raise it to {clock.span(G - 1)[1]}"
            )
        self.vocabulary = Vocabulary(config.vocab_size, config.width, tied=False, factors=config.factors)
        self.mask = nn.Parameter(torch.empty(config.width))
        self.positions = (
            nn.Parameter(torch.empty(G, self.num_places, config.width)) if config.learned_positions else None
        )
        self.place = nn.Linear(self.context_grids * config.width, config.width) if config.place_context else None
        self.actions = ActionEncoder(
            pooling_GF,
            state_dim=config.state_dim,
            width=config.width,
            mlp_ratio=config.mlp_ratio,
            changes_from=clock.num_frames(config.context_grids) - 1 if config.state_changes else None,
        )
        block = JointBlock if config.attention == "joint" else SplitBlock
        sharing = sharing_by_layer(
            config.sharing, num_layers=config.num_layers, unshared_blocks=config.unshared_blocks
        )
        self.blocks = nn.ModuleList(block(config, kind) for kind in sharing)
        self.norm = nn.LayerNorm(config.width)
        visible = slot_visibility(G, config.visibility).view(2, G, 2, G)
        past_G = torch.arange(G) < self.context_grids
        self.register_buffer("visible_2G2G", visible, persistent=False)
        self.register_buffer("same_GG", past_G[:, None] == past_G[None, :], persistent=False)
        normal_init(self, std=config.init_std)
        nn.init.zeros_(self.actions.positions)

    def set_state_statistics(self, shift_scale: Tensor) -> None:
        """Normalise states as (state - shift) * scale; (2, A) from `hwm.robot.normalisation`; a saved buffer."""
        self.actions.set_statistics(shift_scale)

    def state_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Those of the action encoder."""
        return list(self.actions.named_parameters("actions"))

    def first_loss(self, batch: Batch) -> float | None:
        """The cross-entropy of random ids."""
        return self.vocabulary.first_cross_entropy(self.config.init_std)

    @property
    def temperature(self) -> float:
        """Temperature of prediction, as configured."""
        return self.config.temperature

    @property
    def neutral_state_A(self) -> Tensor:
        """The raw state (A,) that normalisation maps to zero."""
        return self.actions.shift_scale[0]

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Groups for AdamW: decay on matrices and the token table, none on biases, norms, mask and positions."""
        return decay_groups(self, weight_decay)

    # The network

    def embed(self, tokens_BTS: Tensor, masked_BTS: Tensor, *, first_slot: int) -> Tensor:
        """Token vectors of slots first_slot ..., the mask vector where True, plus positions, (T, B, S, D)."""
        x_TBSD = self.vocabulary.embed(tokens_BTS.transpose(0, 1))
        x_TBSD = torch.where(masked_BTS.transpose(0, 1)[..., None], self.mask.to(x_TBSD.dtype), x_TBSD)
        if self.positions is None:
            return x_TBSD
        return x_TBSD + self.positions[first_slot : first_slot + len(x_TBSD), None]

    def at_place(self, context_BCS: Tensor) -> Tensor | None:
        """What future tokens know of the context at their place (B, S, D), where config.place_context asks for it."""
        if self.place is None:
            return None
        x_BCSD = self.vocabulary.embed(context_BCS)
        place_BSD: Tensor = self.place(x_BCSD.transpose(1, 2).flatten(2))
        return place_BSD

    def trunk(
        self,
        tokens_BTS: Tensor,
        masked_BTS: Tensor,
        state_BGD: Tensor,
        *,
        newest: int,
        place_BSD: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Tokens of consecutive slots -> inputs of the head for the `newest` last ones, (newest, B, S, D).

        masked_BTS: bool, True hides the token.  state_BGD: action tokens of all grids.  place_BSD: from `at_place`.
        With a cache, the slots follow the ones already in it.
        """
        first = cache.num_grids if cache is not None else 0
        end = first + tokens_BTS.shape[1]
        num_past = max(0, self.context_grids - first)
        video_TBSD = self.embed(tokens_BTS, masked_BTS, first_slot=first)
        if place_BSD is not None:
            video_TBSD = torch.cat([video_TBSD[:num_past], video_TBSD[num_past:] + place_BSD])
        state_TBD = state_BGD[:, first:end].transpose(0, 1)
        actions_TB1D: Tensor = state_TBD[:, :, None]
        places_S2 = grid_positions(*self.config.grid).to(tokens_BTS.device)
        times_T1 = torch.arange(first, end, device=tokens_BTS.device)[:, None]
        window = Window(
            num_past=num_past,
            place_angles_SP=rope_angles(places_S2, self.head_width),
            time_angles_TP=rope_angles(times_T1, self.head_width),
            visible_2T2U=self.visible_2G2G[:, first:end, :, :end],
            same_TU=self.same_GG[first:end, :end],
            cache=cache,
        )
        *blocks, last = self.blocks
        for block in blocks:
            video_TBSD, actions_TB1D = block(video_TBSD, actions_TB1D, state_TBD, window)
        video_TBSD, _ = last(video_TBSD, actions_TB1D, state_TBD, window, read=newest)
        return self.norm(video_TBSD)

    # Training

    def loss(self, batch: Batch, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Cross-entropy in nats of the masked future tokens and the share of them guessed right ("accuracy").

        Context and future tokens are corrupted, then future tokens masked.  "loss" is the cross-entropy, with
        config.code_loss also the error of the expected codes.  Corruption, masks and dropout draw from `generator`
        alone.  Raises ValueError for clips of another shape.
        """
        tokens_BTHW = self._check_tokens(batch.tokens_BTHW, self.num_grids)
        inputs_BTHW = corrupt(
            tokens_BTHW,
            vocab_size=self.config.vocab_size,
            max_rate=self.config.max_corruption,
            generator=generator,
        )
        shape = (len(tokens_BTHW), self.future_grids, *self.config.grid)
        hidden_BTS = random_mask(shape, generator=generator).to(tokens_BTHW.device).flatten(2)
        shown_BTS = torch.zeros(len(tokens_BTHW), self.context_grids, self.num_places).to(hidden_BTS)
        masked_BTS = torch.cat([shown_BTS, hidden_BTS], 1)
        dropping = self.training and self.config.dropout > 0
        with dropout_from(generator, device=tokens_BTHW.device, active=dropping):
            inputs_BTS = inputs_BTHW.flatten(2)
            x_TBSD = self.trunk(
                inputs_BTS,
                masked_BTS,
                self.actions(batch.states_BFA),
                newest=self.future_grids,
                place_BSD=self.at_place(inputs_BTS[:, : self.context_grids]),
            )
        rows_TBS = hidden_BTS.transpose(0, 1)
        targets_TBS = tokens_BTHW[:, self.context_grids :].flatten(2).transpose(0, 1)
        loss, nll, accuracy = self.vocabulary.loss(
            x_TBSD[rows_TBS], targets_TBS[rows_TBS], code_weight=self.config.code_loss
        )
        return {"loss": loss, "cross_entropy": nll, "accuracy": accuracy}

    # Prediction

    @torch.no_grad()
    def validate(self, batch: Batch, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Scores (B,): "ce_masked", nats a token of wholly masked grids after true ones; "accuracy" of the prediction.

        With several future grids also "ce_auto", nats a token of wholly masked grids after predicted ones.
        """
        tokens_BTHW = self._check_tokens(batch.tokens_BTHW, self.num_grids)
        context_BTHW, future_BTHW = tokens_BTHW.tensor_split([self.context_grids], 1)

        def predict(*, teacher_forced: bool) -> tuple[Tensor, Tensor]:
            prediction = self.predict(
                context_BTHW,
                batch.states_BFA,
                generator=generator,
                targets_BTHW=future_BTHW,
                teacher_forced=teacher_forced,
            )
            assert prediction.nll_BTHW is not None and prediction.tokens_BKTHW is not None
            right_BTHW = (prediction.tokens_BKTHW[:, 0] == future_BTHW).float()
            return prediction.nll_BTHW.mean((1, 2, 3)), right_BTHW.mean((1, 2, 3))

        ce_B, accuracy_B = predict(teacher_forced=True)
        if self.future_grids == 1:
            return {"ce_masked": ce_B, "accuracy": accuracy_B}
        ce_auto_B, accuracy_B = predict(teacher_forced=False)
        return {"ce_masked": ce_B, "ce_auto": ce_auto_B, "accuracy": accuracy_B}

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
        """Predict the future grids one after the other, each in `config.steps` passes; never with dropout.

        context_BTHW: int64, the context grids.  states_BFA: raw states from the first context frame, num_states rows.
        sampling: None takes config.temperature.  The rest as in `hwm.contracts.TokenWorldModel`.  The distribution
        described by nll, top logits and entropy is that of the first pass of a grid, all of it masked; the expected
        codes of a place come from the pass that decided it.  Samples share the work on the context; where nothing is
        random they are equal and made once.  Raises ValueError as `STTransformer.predict` does.
        """
        sampling = sampling or Sampling(temperature=self.config.temperature)
        context_BTHW = self._check_tokens(context_BTHW, self.context_grids)
        if targets_BTHW is not None:
            targets_BTHW = self._check_tokens(targets_BTHW, self.future_grids)
        elif teacher_forced:
            raise ValueError("teacher forcing needs targets_BTHW, the true future grids")
        B, C = len(context_BTHW), self.context_grids
        decided_at_random = self.config.remask == "random" and self._passes()[0] > 0
        draws = num_samples if sampling.temperature > 0 or decided_at_random else 1
        tokens_BGS = torch.cat([context_BTHW, context_BTHW[:, :1].expand(-1, self.future_grids, -1, -1)], 1).flatten(2)
        masked_BGS = torch.ones_like(tokens_BGS, dtype=torch.bool)
        masked_BGS[:, :C] = False
        draft = _Draft(tokens_BGS, masked_BGS, self.actions(states_BFA), cache=KVCache())
        drawn, readings = [], []
        with without_dropout(self):
            for grid in range(C, self.num_grids):
                ask = {
                    "targets_N": None if targets_BTHW is None else targets_BTHW[:, grid - C].flatten(),
                    "num_top": top_k_logits,
                }
                filled, reading = self._fill(
                    draft, grid, draws=draws, sampling=sampling, generator=generator, codes_VC=codes_VC, ask=ask
                )
                drawn.append(filled.tokens_RGS[:, grid].clone().view(-1, B, *self.config.grid))
                readings.append(reading)
                if teacher_forced:
                    assert targets_BTHW is not None
                    draft.tokens_RGS[:, grid] = targets_BTHW[:, grid - C].flatten(1)
                    draft.masked_RGS[:, grid] = False
                else:
                    draft = filled
        tokens_BKTHW = torch.stack(drawn, 2).transpose(0, 1).expand(-1, num_samples, -1, -1, -1)
        return as_prediction(tokens_BKTHW, readings)

    def _fill(
        self,
        draft: _Draft,
        grid: int,
        *,
        draws: int,
        sampling: Sampling,
        generator: torch.Generator,
        codes_VC: Tensor | None,
        ask: dict[str, Any],
    ) -> tuple[_Draft, TokenReading]:
        """Decide all places of a grid for every sample; what the first pass says of the first sample.

        ask: what else the first pass describes.  A draft that all samples share is spread to one each when they begin
        to differ, after its first pass.
        """
        first_slot, end, settled = draft.cache.num_grids, *self._reach(grid)
        by_confidence = self.config.remask == "confidence"
        said: TokenReading | None = None
        for left in self._passes():
            x_RSD = self.trunk(
                draft.tokens_RGS[:, first_slot:end],
                draft.masked_RGS[:, first_slot:end],
                draft.state_RGD,
                newest=end - grid,
                place_BSD=self.at_place(draft.tokens_RGS[:, : self.context_grids]),
                cache=draft.cache,
            )[0]
            first_slot = settled
            draft.cache.keep(settled if left or grid + 1 < self.num_grids else 0)

            # Read the head where the grid is masked; what is described is described for the first sample only.
            masked_RS = draft.masked_RGS[:, grid]
            rows_ND = x_RSD[masked_RS]
            own_ND, others_ND = rows_ND.tensor_split([len(rows_ND) // draft.copies])
            how: dict[str, Any] = {"sampling": sampling, "generator": generator, "confidence": by_confidence and left > 0}
            spread = draws // draft.copies
            own = self.vocabulary.read(own_ND, num_draws=spread, codes_VC=codes_VC, **how, **(ask if said is None else {}))
            readings = [own, self.vocabulary.read(others_ND, **how)] if len(others_ND) else [own]
            if said is None:
                said = own
            elif own.codes_NC is not None:
                assert said.codes_NC is not None
                said.codes_NC[masked_RS[: len(masked_RS) // draft.copies].flatten()] = own.codes_NC

            # Write down what was drawn, then choose what is masked again.
            if spread > 1:
                draft = draft.repeat(spread)
                masked_RS = draft.masked_RGS[:, grid]
            draft.tokens_RGS[:, grid][masked_RS] = torch.cat([r.drawn_NK.t().flatten() for r in readings])
            if not left:
                draft.masked_RGS[:, grid] = False
            elif by_confidence:
                sure_N = torch.cat([r.confidence_NK.t().flatten() for r in readings if r.confidence_NK is not None])
                sure_RS = torch.zeros(masked_RS.shape, dtype=sure_N.dtype, device=sure_N.device)
                sure_RS[masked_RS] = sure_N
                draft.masked_RGS[:, grid] = remask(masked_RS, sure_RS, left)
            else:
                chance_RS = torch.rand(masked_RS.shape, generator=generator, device=generator.device)
                draft.masked_RGS[:, grid] = remask(masked_RS, chance_RS.to(masked_RS.device), left)
        assert said is not None
        return draft, said

    def _passes(self) -> list[int]:
        """Places still masked after each pass over a grid."""
        return masks_left(self.config.steps, self.num_places)

    def _reach(self, grid: int) -> tuple[int, int]:
        """To predict `grid`: the end of the slots that it depends on, and how many first slots depend on no later one.

        The latter are computed once.  Where future grids see later ones, these take part, masked.
        """
        if self.config.visibility == "causal":
            return grid + 1, grid
        return self.num_grids, self.context_grids if self.config.attention == "split" else 0

    def _check_tokens(self, tokens_BTHW: Tensor | None, num_grids: int) -> Tensor:
        expected = (num_grids, *self.config.grid)
        if tokens_BTHW is None or tuple(tokens_BTHW.shape[1:]) != expected:
            got = "no tokens" if tokens_BTHW is None else tuple(tokens_BTHW.shape[1:])
            raise ValueError(f"the model works on {expected} token grids (T, H, W) here, got {got}")
        return tokens_BTHW


@dataclass(frozen=True)
class _Draft:
    """A clip being filled in: `copies` samples of the batch, one after the other in R, of all G grids."""

    tokens_RGS: Tensor
    masked_RGS: Tensor
    state_RGD: Tensor
    cache: KVCache
    copies: int = 1

    def repeat(self, num: int) -> _Draft:
        """The draft for `num` times as many samples."""
        return _Draft(
            self.tokens_RGS.repeat(num, 1, 1),
            self.masked_RGS.repeat(num, 1, 1),
            self.state_RGD.repeat(num, 1, 1),
            cache=self.cache.repeat(num),
            copies=num * self.copies,
        )
