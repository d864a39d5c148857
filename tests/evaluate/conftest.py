"""Small exact parts for tests: tokenizers with a closed form, a world that moves as its states say, models of it.

Clips are pairs of blocks for the compression protocol, and their first block alone for that of the HWM families.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hwm.clock import COSMOS
from hwm.contracts import Batch, Prediction, Sampling

LEVELS = 16


class GreyTokenizer:
    """Ids are grey levels 17 * id of 4x4 cells, averaged over the frames of a grid; exact on such pictures."""

    name, kind, clock, spatial_stride, vocab_size = "grey", "tokens", COSMOS, 4, LEVELS

    @property
    def codes_VC(self):
        return torch.arange(LEVELS, dtype=torch.float32)[:, None] / (LEVELS - 1)

    def encode(self, video_BFHWC):
        cells = video_BFHWC.float().mean(-1).unflatten(2, (-1, 4)).unflatten(4, (-1, 4)).mean((3, 5))
        spans = [self.clock.span(g) for g in range(self.clock.num_grids(cells.shape[1]))]
        return torch.stack([(cells[:, a:b].mean(1) / 17).round().long() for a, b in spans], 1)

    def decode(self, tokens_BTHW):
        return self.decode_codes(self.codes_VC[tokens_BTHW])

    def decode_codes(self, codes_BTHWC):
        assert codes_BTHWC.shape[1] % self.clock.grids == 0, "only whole blocks can be decoded"
        frames = [self.clock.grid_of(f) for f in range(self.clock.num_frames(codes_BTHWC.shape[1]))]
        grey = (codes_BTHWC[:, frames, ..., 0] * 255).round().clamp(0, 255).to(torch.uint8)
        return grey.repeat_interleave(4, 2).repeat_interleave(4, 3)[..., None].expand(*[-1] * 4, 3).contiguous()

    def fingerprint(self):
        return "grey-16"


class GreyLatents:
    """Latents are the grey of the same cells, one channel from 0 to 1; so is what decodes to them."""

    name, kind, clock, spatial_stride, channels = "grey latents", "latents", COSMOS, 4, 1

    def encode(self, video_BFHWC):
        return GreyTokenizer().encode(video_BFHWC)[:, :, None].float() / (LEVELS - 1)

    def decode(self, latents_BTCHW):
        return GreyTokenizer().decode_codes(latents_BTCHW.movedim(2, -1))

    def fingerprint(self):
        return "grey-latents"


def move(grid_BHW, states_BFA, grid, first_frame=0):
    """Roll each picture along its rows by the sum of state 0 over the frames of `grid`."""
    a, b = COSMOS.span(grid)
    steps = states_BFA[:, a - first_frame : b - first_frame, 0].sum(1).round().long()
    return torch.stack([torch.roll(g, int(s), -1) for g, s in zip(grid_BHW, steps)])


class MovingClips:
    """Random grids that roll by what their states say; state 1 is noise.

    num_grids: 6, a pair of blocks, or 3.  latents: give them as latents instead of tokens.
    """

    def __init__(self, num=12, size=8, seed=0, num_states=40, num_grids=6, latents=False):
        self.num_grids, self.latents = num_grids, latents
        g = torch.Generator().manual_seed(seed)
        speed = torch.randint(1, 3, (num, 1, 1), generator=g) * (torch.randint(0, 2, (num, 1, 1), generator=g) * 2 - 1)
        self.states = torch.cat([(speed / 8).expand(-1, num_states, 1), torch.rand(num, num_states, 1, generator=g)], -1)
        grids = [torch.randint(0, LEVELS, (num, size, size), generator=g)]
        for t in range(1, 6):
            grids.append(move(grids[-1], self.states, t))
        self.tokens = torch.stack(grids, 1)

    def __len__(self):
        return len(self.tokens)

    def batch(self, indices):
        tokens = self.tokens[indices, : self.num_grids]
        if self.latents:
            return Batch(states_BFA=self.states[indices], latents_BTCHW=tokens[:, :, None].float() / (LEVELS - 1))
        return Batch(states_BFA=self.states[indices], tokens_BTHW=tokens)

    def video(self, indices):
        return GreyTokenizer().decode(self.tokens[indices, : self.num_grids])


class Mover(torch.nn.Module):
    """Predicts the roll that the states command, sure of it but for a share `doubt` spread over all other ids."""

    predicts, frame_step, reach, temperature, neutral_state_A = "tokens", 1, 0, 0.0, torch.zeros(2)

    def __init__(self, doubt=0.01, context_grids=3, future_grids=3):
        super().__init__()
        self.doubt = doubt
        self.context_grids, self.future_grids = context_grids, future_grids
        self.num_states = COSMOS.num_frames(context_grids + future_grids)

    def predict(
        self, context_BTHW, states_BFA, *, generator, num_samples=1, sampling=None, targets_BTHW=None, teacher_forced=False,
        top_k_logits=0, codes_VC=None
    ):
        assert states_BFA.shape[1] == self.num_states and (sampling or Sampling()).temperature == 0
        previous, grids = context_BTHW[:, -1], []
        for t in range(self.future_grids):
            grids.append(move(previous, states_BFA, self.context_grids + t))
            previous = targets_BTHW[:, t] if teacher_forced else grids[-1]
        tokens = torch.stack(grids, 1)
        probs = torch.full((*tokens.shape, LEVELS), self.doubt / (LEVELS - 1))
        probs.scatter_(-1, tokens[..., None], 1 - self.doubt)
        values, indices = probs.log().topk(max(top_k_logits, 1), -1)
        nll = None if targets_BTHW is None else -probs.gather(-1, targets_BTHW[..., None])[..., 0].log()
        return Prediction(
            tokens_BKTHW=tokens[:, None].expand(-1, num_samples, -1, -1, -1),
            nll_BTHW=nll,
            top_indices_BTHWK=indices,
            top_values_BTHWK=values,
            entropy_BTHW=-(probs * probs.log()).sum(-1),
            codes_BTHWC=None if codes_VC is None else probs @ codes_VC,
        )


class LatentMover(torch.nn.Module):
    """Predicts the roll that the states command; noise in proportion to the temperature, which is 1 by itself."""

    predicts, context_grids, future_grids, num_states = "latents", 2, 1, 17
    frame_step, reach, temperature, dropout_rate, neutral_state_A = 1, 0, 1.0, 0.0, torch.zeros(2)

    def __init__(self, noise=0.05):
        super().__init__()
        self.noise = torch.nn.Parameter(torch.full((3,), noise))

    @torch.no_grad()
    def predict(self, context_BTCHW, states_BFA, *, generator, num_samples=1, sampling=None, unrest=False):
        assert states_BFA.shape[1] == self.num_states
        temperature = self.temperature if sampling is None else sampling.temperature
        future = move(context_BTCHW[:, -1], states_BFA, 2)[:, None, None].expand(-1, num_samples, -1, -1, -1, -1)
        noise = torch.randn(future.shape, generator=generator) * self.noise[0] * temperature
        return Prediction(latents_BKTCHW=future + noise)


@pytest.fixture(scope="session")
def world():
    """The parts above, with clips in segments of two."""
    clips = MovingClips()
    return SimpleNamespace(
        Tokenizer=GreyTokenizer, Clips=MovingClips, Mover=Mover, clips=clips, tokenizer=GreyTokenizer(), LatentMover=LatentMover,
        latent_tokenizer=GreyLatents(), blocks=MovingClips(num_grids=3), latents=MovingClips(num_grids=3, latents=True),
        segments=np.arange(len(clips)) // 2, vocab_size=LEVELS
    )
