"""Masked-HWM: fills in the masked token grid of the future from past grids and the robot's states, in a few passes.

Source: HWM paper sections 2.2 and 2.4; sizes, parameter counts and the release's defects: reference D.1; decoding:
MaskGIT (reference C.2).
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from hwm.clock import COSMOS, Clock
from hwm.contracts import Batch
from hwm.model_config import MaskedConfig
from hwm.models.masked_blocks import JointBlock, SplitBlock, Window, slot_visibility
from hwm.models.masked_filling import Draft, masks_left, random_mask, remask
from hwm.models.token_grids import Asked, TokenGrids, corrupt
from hwm.nn.attention import KVCache
from hwm.nn.dropout import dropout_from
from hwm.nn.parameters import normal_init
from hwm.nn.rope import grid_positions, rope_angles
from hwm.nn.states import ActionEncoder, state_pooling
from hwm.nn.streams import FUTURE_VIDEO, sharing_by_layer
from hwm.nn.vocabulary import TokenReading, Vocabulary


class MaskedHWM(TokenGrids):
    """Masked video model over past and future token grids; a future grid is filled in `config.steps` passes.

    config: every size and option.  clock: which frames, and so which state rows, belong to a grid.
    A grid and its action token stand at the same rotary time, so that every action keeps its distance to the grid it
    causes (the release puts the actions after all grids, where a grid cannot see them).  Weights, tables and positions
    start from N(0, init_std), mask vector and output projection by Xavier (paper section 3.1; not of a factorised
    vocabulary, whose few rows would start far above chance), biases and the frame positions of the actions from 0.
    Raises ValueError where the state rows leave a grid without any, and for heads whose width is not divisible by 4.
    """

    config: MaskedConfig
    validation_key = "ce_masked"
    encoder = "actions"
    visible_2G2G: Tensor
    same_GG: Tensor

    def __init__(self, config: MaskedConfig, *, clock: Clock = COSMOS) -> None:
        super().__init__(config)
        G = self.num_grids
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
        self.positions = nn.Parameter(torch.empty(G, self.num_places, config.width)) if config.learned_positions else None
        changes_from = clock.num_frames(config.context_grids) - 1 if config.state_changes else None
        sizes = {"state_dim": config.state_dim, "width": config.width, "mlp_ratio": config.mlp_ratio}
        self.actions = ActionEncoder(pooling_GF, **sizes, changes_from=changes_from, ordered=config.ordered_states)
        block = JointBlock if config.attention == "joint" else SplitBlock
        sharing = sharing_by_layer(config.sharing, num_layers=config.num_layers, unshared_blocks=config.unshared_blocks)
        self.blocks: Any = nn.ModuleList(block(config, kind) for kind in sharing)
        self.norm = nn.LayerNorm(config.width)
        visible = slot_visibility(G, config.visibility).view(2, G, 2, G)
        past_G = torch.arange(G) < self.context_grids
        self.register_buffer("visible_2G2G", visible, persistent=False)
        self.register_buffer("same_GG", past_G[:, None] == past_G[None, :], persistent=False)
        normal_init(self, std=config.init_std)
        nn.init.xavier_normal_(self.mask.data[None])
        assert self.vocabulary.head is not None
        if not config.factors:
            nn.init.xavier_normal_(self.vocabulary.head.weight)
        if not config.ordered_states:
            nn.init.zeros_(self.actions.positions)

    @property
    def head_std(self) -> float:
        """By Xavier."""
        sizes = self.config.vocab_size + self.config.width
        return self.config.init_std if self.config.factors else math.sqrt(2 / sizes)

    def idle_parameters(self) -> list[str]:
        """The last block's feed-forward weights of other streams: only the future video is read there."""
        layers = self.blocks[-1].mlp.layers
        read = set(map(id, layers.of(FUTURE_VIDEO).parameters()))
        prefix = f"blocks.{len(self.blocks) - 1}.mlp.layers"
        return [name for name, parameter in layers.named_parameters(prefix) if id(parameter) not in read]

    def embed(self, tokens_BTS: Tensor, masked_BTS: Tensor, *, first_slot: int) -> Tensor:
        """Token vectors of slots first_slot ..., the mask vector where True, plus positions, (T, B, S, D)."""
        x_TBSD = self.vocabulary.embed(tokens_BTS.transpose(0, 1))
        x_TBSD = torch.where(masked_BTS.transpose(0, 1)[..., None], self.mask.to(x_TBSD.dtype), x_TBSD)
        if self.positions is None:
            return x_TBSD
        return x_TBSD + self.positions[first_slot : first_slot + len(x_TBSD), None]

    def trunk(
        self, tokens_BTS: Tensor, masked_BTS: Tensor, state_BGD: Tensor, *, newest: int, cache: KVCache | None = None
    ) -> Tensor:
        """Tokens of consecutive slots -> inputs of the head for the `newest` last ones, (newest, B, S, D).

        masked_BTS: bool, True hides the token.  state_BGD: action tokens of all grids.
        With a cache, the slots follow the ones already in it.
        """
        first = cache.num_grids if cache is not None else 0
        end = first + tokens_BTS.shape[1]
        num_past = max(0, self.context_grids - first)
        video_TBSD = self.embed(tokens_BTS, masked_BTS, first_slot=first)
        state_TBD = state_BGD[:, first:end].transpose(0, 1)
        actions_TB1D: Tensor = state_TBD[:, :, None]
        places_S2 = grid_positions(*self.config.grid).to(tokens_BTS.device)
        times_T1 = torch.arange(first, end, device=tokens_BTS.device)[:, None]
        window = Window(
            num_past=num_past, place_angles_SP=rope_angles(places_S2, self.head_width),
            time_angles_TP=rope_angles(times_T1, self.head_width), visible_2T2U=self.visible_2G2G[:, first:end, :, :end],
            same_TU=self.same_GG[first:end, :end], cache=cache,
        )
        *blocks, last = self.blocks
        for block in blocks:
            video_TBSD, actions_TB1D = block(video_TBSD, actions_TB1D, state_TBD, window)
        video_TBSD, _ = last(video_TBSD, actions_TB1D, state_TBD, window, read=newest)
        return self.norm(video_TBSD)

    def loss(self, batch: Batch, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Cross-entropy in nats of the masked future tokens and the share of them guessed right ("accuracy").

        Context and future tokens are corrupted, then future tokens masked.  "loss" is the cross-entropy, with
        config.code_loss also the error of the expected codes.  Corruption, masks and dropout draw from `generator`
        alone.  Raises ValueError for clips of another shape.
        """
        tokens_BTHW = self._check_tokens(batch.tokens_BTHW, self.num_grids)
        inputs_BTHW = corrupt(
            tokens_BTHW, vocab_size=self.config.vocab_size, max_rate=self.config.max_corruption, generator=generator
        )
        shape = (len(tokens_BTHW), self.future_grids, *self.config.grid)
        hidden_BTS = random_mask(shape, generator=generator).to(tokens_BTHW.device).flatten(2)
        shown_BTS = torch.zeros(len(tokens_BTHW), self.context_grids, self.num_places).to(hidden_BTS)
        masked_BTS = torch.cat([shown_BTS, hidden_BTS], 1)
        with dropout_from(generator, device=tokens_BTHW.device, active=self.training and self.config.dropout > 0):
            states_BGD = self.actions(batch.states_BFA)
            x_TBSD = self.trunk(inputs_BTHW.flatten(2), masked_BTS, states_BGD, newest=self.future_grids)
        rows_TBS = hidden_BTS.transpose(0, 1)
        targets_TBS = tokens_BTHW[:, self.context_grids :].flatten(2).transpose(0, 1)
        loss, nll, accuracy = self.vocabulary.loss(x_TBSD[rows_TBS], targets_TBS[rows_TBS], code_weight=self.config.code_loss)
        return {"loss": loss, "cross_entropy": nll, "accuracy": accuracy}

    @torch.no_grad()
    def validate(self, batch: Batch, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Scores (B,): "ce_masked", nats a token of wholly masked grids after true ones; "accuracy" of the prediction.

        With several future grids also "ce_auto", nats a token of wholly masked grids after predicted ones.
        """
        ce_B, accuracy_B = self._scores(batch, generator, teacher_forced=True)
        if self.future_grids == 1:
            return {"ce_masked": ce_B, "accuracy": accuracy_B}
        ce_auto_B, accuracy_B = self._scores(batch, generator, teacher_forced=False)
        return {"ce_masked": ce_B, "ce_auto": ce_auto_B, "accuracy": accuracy_B}

    def _follow(self, context_BTHW: Tensor, states_BFA: Tensor, asked: Asked) -> tuple[list[Tensor], list[TokenReading]]:
        """What is said of a grid is its first pass's, when all of it is masked; a place's expected code is its last pass's."""
        decided_at_random = self.config.remask == "random" and self._passes()[0] > 0
        draws = asked.num_samples if asked.sampling.temperature or decided_at_random else 1
        draft, drawn, readings = Draft.of(context_BTHW, self.actions(states_BFA)), [], []
        for t in range(self.future_grids):
            grid = self.context_grids + t
            filled, reading = self._fill(draft, grid, draws=draws, asked=asked)
            drawn.append(filled.tokens_RGS[:, grid].clone().view(-1, len(context_BTHW), *self.config.grid))
            readings.append(reading)
            if asked.teacher_forced:
                assert asked.targets_BTHW is not None
                draft.write(grid, asked.targets_BTHW[:, t])
            else:
                draft = filled
        return drawn, readings

    def _fill(self, draft: Draft, grid: int, *, draws: int, asked: Asked) -> tuple[Draft, TokenReading]:
        """Decide all places of a grid for every sample, pass by pass: look, draw what is masked, mask some of it again.

        A draft that all samples share is repeated for each when they begin to differ, after its first pass.
        """
        by_confidence, said = self.config.remask == "confidence", None
        about = asked.about(grid - self.context_grids)
        for left in self._passes():
            hidden_RSD = self._look(draft, grid, finished=not left)
            masked_RS = draft.masked_RGS[:, grid]
            reading, ids_N, sure_N = self._read(
                hidden_RSD[masked_RS], copies=draft.copies, draws=draws, asked=asked, confidence=by_confidence and left > 0,
                about=about if said is None else {"codes_VC": asked.codes_VC},
            )
            if said is None:
                said = reading
            elif said.codes_NC is not None and reading.codes_NC is not None:
                own_RS = masked_RS[: len(masked_RS) // draft.copies]  # of the first sample
                said.codes_NC[own_RS.flatten()] = reading.codes_NC
            if draft.copies < draws:
                draft = draft.repeat(draws)
                masked_RS = draft.masked_RGS[:, grid]
            draft.tokens_RGS[:, grid][masked_RS] = ids_N
            draft.masked_RGS[:, grid] = self._mask_again(masked_RS, sure_N, left, asked)
        assert said is not None
        return draft, said

    def _look(self, draft: Draft, grid: int, *, finished: bool) -> Tensor:
        """Inputs of the head at all places of a grid (R, S, D), given what the draft holds.

        Slots in the cache are not computed again.  finished: whether this is the grid's last pass.
        """
        first, (end, settled) = draft.cache.num_grids, self._reach(grid)
        x_TRSD = self.trunk(
            draft.tokens_RGS[:, first:end], draft.masked_RGS[:, first:end], draft.state_RGD, newest=end - grid, cache=draft.cache
        )
        draft.cache.keep(0 if finished and grid + 1 == self.num_grids else settled)
        return x_TRSD[0]

    def _reach(self, grid: int) -> tuple[int, int]:
        """To predict `grid`: the end of the slots that it depends on, and how many first slots depend on no later one.

        The latter stay in the cache.  Where future grids see later ones, these take part, masked.
        """
        if self.config.visibility == "causal":
            return grid + 1, grid
        return self.num_grids, self.context_grids if self.config.attention == "split" else 0

    def _mask_again(self, masked_RS: Tensor, sure_N: Tensor | None, left: int, asked: Asked) -> Tensor:
        """The `left` places of every sample that are predicted again: those least sure, or any of those just drawn."""
        if not left:
            return torch.zeros_like(masked_RS)
        if sure_N is None:
            chance_RS = self._chance(masked_RS.shape, asked)
            return remask(masked_RS, chance_RS.to(masked_RS.device), left)
        sure_RS = sure_N.new_zeros(masked_RS.shape)
        sure_RS[masked_RS] = sure_N
        return remask(masked_RS, sure_RS, left)

    def _chance(self, shape: torch.Size, asked: Asked) -> Tensor:
        """Uniform numbers (R, S), of several generators each sample's own."""
        if isinstance(asked.generator, torch.Generator):
            return torch.rand(shape, generator=asked.generator, device=asked.generator.device)
        rows = [g for clips in asked.by_sample for g in clips]
        return torch.stack([torch.rand(shape[1:], generator=g, device=g.device) for g in rows])

    def _passes(self) -> list[int]:
        """Places still masked after each pass over a grid."""
        return masks_left(self.config.steps, self.num_places)
