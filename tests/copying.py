"""The simplest model of tokens: its predictions and probabilities are known in closed form."""

import torch
from torch import nn

from hwm.contracts import Prediction, Sampling


class CopyLastGrid(nn.Module):
    """A token stays what it was with a probability learned per future grid; all other ids share the rest equally."""

    predicts, frame_step, reach, temperature, neutral_state_A = "tokens", 1, 0, 0.0, torch.zeros(1)

    def __init__(self, *, vocab_size, context_grids=3, future_grids=3, num_states=34):
        super().__init__()
        self.vocab_size, self.context_grids = vocab_size, context_grids
        self.future_grids, self.num_states = future_grids, num_states
        self.stay_logit_T = nn.Parameter(torch.zeros(future_grids))

    def log_probabilities(self, previous_BHW, t):
        """Of every id (B, H, W, V) in future grid t."""
        stay, move = nn.functional.logsigmoid(self.stay_logit_T[t]), nn.functional.logsigmoid(-self.stay_logit_T[t])
        others = (move - torch.tensor(self.vocab_size - 1.0).log()).expand(*previous_BHW.shape, self.vocab_size)
        return others.scatter(-1, previous_BHW[..., None], stay.expand(*previous_BHW.shape, 1))

    @torch.no_grad()
    def predict(
        self, context_BTHW, states_BFA, *, generator, num_samples=1, sampling=None, targets_BTHW=None, teacher_forced=False,
        top_k_logits=0, codes_VC=None,
    ):
        temperature, samples, given = (sampling or Sampling()).temperature, [], []
        for _ in range(num_samples):
            previous, drawn = context_BTHW[:, -1], []
            for t in range(self.future_grids):
                log_BHWV = self.log_probabilities(previous, t)
                noise = -torch.empty_like(log_BHWV).exponential_(generator=generator).log() if temperature else 0
                drawn.append((log_BHWV / (temperature or 1) + noise).argmax(-1))
                given.append(log_BHWV)
                previous = targets_BTHW[:, t] if teacher_forced else drawn[-1]
            samples.append(torch.stack(drawn, 1))
        log_BTHWV = torch.stack(given[: self.future_grids], 1)
        values, indices = log_BTHWV.topk(min(max(top_k_logits, 1), self.vocab_size), -1)
        return Prediction(
            tokens_BKTHW=torch.stack(samples, 1),
            nll_BTHW=None if targets_BTHW is None else -log_BTHWV.gather(-1, targets_BTHW[..., None])[..., 0],
            top_indices_BTHWK=indices if top_k_logits else None,
            top_values_BTHWK=values if top_k_logits else None,
            codes_BTHWC=None if codes_VC is None else log_BTHWV.exp() @ codes_VC,
        )
