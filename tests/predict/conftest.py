"""Tiny models of every kind and what decodes them."""

import pytest
import torch

from hwm.contracts import Prediction
from hwm.model_config import DirectConfig, FlowConfig, FSQConfig, MaskedConfig, STConfig
from hwm.models.direct import Direct
from hwm.models.flow import FlowHWM
from hwm.models.masked import MaskedHWM
from hwm.models.st_transformer import STTransformer
from hwm.tokenizers.open import PIXELS, new_tokenizer


class Mover:
    """A frame is the context's last, brighter by the change of the first state since then, and by one for being predicted."""

    predicts, frame_step, reach, temperature, draws = "video", 1, 5, 0.0, False
    context_grids, future_grids, num_states = 2, 2, 4

    def __init__(self):
        self.seen = []

    def predict(self, context_BFHWC, states_BFA, *, generator, num_samples=1, sampling=None, only=None):
        assert context_BFHWC.shape[1] == 2 and 3 <= states_BFA.shape[1] <= 2 + self.reach
        self.seen.append((context_BFHWC[0, :, 0, 0, 0].tolist(), states_BFA[0, :, 0].tolist()))
        change_BF = (states_BFA[:, 2:, 0] - states_BFA[:, 1:2, 0] + 1).to(torch.uint8)
        return Prediction(video_BKFHWC=(context_BFHWC[:, -1:] + change_BF[..., None, None, None])[:, None, [n - 1 for n in only]])


@pytest.fixture
def family(strided):
    """By name a tiny model and its tokenizer; the real ones have weights large enough that context and states decide."""

    def make(name):
        if name == "mover":
            return Mover(), PIXELS
        if name == "strided":
            return strided.Model(temperature=30.0), strided.Tokenizer()
        torch.manual_seed(0)
        coder = new_tokenizer(FSQConfig(channels=8, depth=1, levels=(8, 5, 5), continuous=name == "flow"), name="tiny").eval()
        common = {"grid": (4, 4), "num_layers": 2, "num_heads": 2, "width": 16}
        if name == "st":
            model = STTransformer(STConfig(vocab_size=200, state_hidden=16, num_states=34, init_std=0.5, **common))
        elif name == "direct":
            model, coder = Direct(DirectConfig(**common | {"grid": (32, 32)}, map_hidden=16)), PIXELS
            torch.nn.init.normal_(model.out.weight, std=0.1)
        elif name == "direct, noised":
            model, coder = Direct(DirectConfig(**common | {"grid": (32, 32)}, map_hidden=16, reach=12, noised=0.5)), PIXELS
            for parameter in (*model.out.parameters(), *model.noised.parameters()):
                torch.nn.init.normal_(parameter, std=0.1)
        elif name == "masked":
            model = MaskedHWM(MaskedConfig(vocab_size=200, steps=2, unshared_blocks=1, init_std=0.5, **common))
        else:
            model = FlowHWM(FlowConfig(channels=3, steps=2, guidance=1.0, unshared_blocks=1, **common))
        return model.eval(), coder

    return make
