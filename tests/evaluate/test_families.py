"""Every family's own network, scored, against a direct computation."""

import math

import numpy as np
import pytest
import torch
from scored import Filmed, Held, score

from hwm.contracts import Batch, Sampling
from hwm.evaluate.metrics import psnr, ssim
from hwm.evaluate.protocols import (
    AUTOREGRESSIVE,
    CEILING,
    COMPRESSION,
    COPY_GRID,
    EXPECTED_CODE,
    HWM,
    ONE_SAMPLE,
    SAMPLING,
    STILL_FRAMES,
    STILL_LATENTS,
    TEACHER_FORCED,
)
from hwm.evaluate.scores import ALL, ALL_GRIDS, LAST, ORIGINAL, TOKENS
from hwm.evaluate.ways import seed_of
from hwm.model_config import DirectConfig, FlowConfig, FSQConfig, MaskedConfig, STConfig
from hwm.models.direct import Direct
from hwm.models.flow import FlowHWM
from hwm.models.masked import MaskedHWM
from hwm.models.st_transformer import STTransformer
from hwm.predict.last_frame import draw
from hwm.tokenizers.autoencoder import ContinuousTokenizer, FSQTokenizer
from hwm.tokenizers.open import PIXELS

NEXT_TOKEN = {"reference": TOKENS, "span": ALL_GRIDS}


def network(family):
    """A network with random weights, its tokenizer, grids of it, states, and the frames they were made of."""
    torch.manual_seed(0)
    num_frames = 34 if family == "st" else 17
    video, states = torch.randint(0, 256, (6, num_frames, 16, 16, 3), dtype=torch.uint8), torch.randn(6, 64, 25)
    code = {"levels": (3, 3, 2), "channels": 8, "depth": 1}
    streams = {"grid": (2, 2), "num_layers": 2, "num_heads": 2, "width": 24}
    tokenizer = FSQTokenizer(FSQConfig(**code)).eval()
    if family == "st":
        sizes = {"grid": (2, 2), "num_layers": 1, "num_heads": 2, "width": 16, "state_hidden": 8, "num_states": 34}
        model = STTransformer(STConfig(vocab_size=18, **sizes))
    elif family == "masked":
        model = MaskedHWM(MaskedConfig(vocab_size=18, remask="confidence", **streams))
    else:
        tokenizer = ContinuousTokenizer(FSQConfig(continuous=True, **code)).eval()
        model = FlowHWM(FlowConfig(channels=3, patch=1, steps=2, **streams))
    for parameter in model.parameters():
        parameter.data.normal_(std=0.3)
    with torch.no_grad():
        grids = torch.cat([tokenizer.encode(block) for block in video.split(17, 1)], 1)
    return model.eval(), tokenizer, grids, states, video


@pytest.mark.parametrize("family", ["st", "masked", "flow"])
def test_the_networks_equal_a_direct_computation(family):
    model, tokenizer, grids, states, video = network(family)
    protocol = COMPRESSION if family == "st" else HWM
    options = {"video": lambda i: video[i], "kept_logits": 7, "batch_size": 6, "cost_repeats": 1}
    scores = score(model, tokenizer, Held(grids, states), protocol, **options)
    context, future = grids[:, : model.context_grids], grids[:, model.context_grids :]
    options = {"generator": torch.Generator().manual_seed(seed_of(0, 0))}
    if family == "flow":
        found = model.predict(context, states[:, :17], sampling=Sampling(temperature=0), **options)
        frames = tokenizer.decode(torch.cat([context, found.latents_BKTCHW[:, 0]], 1))
    else:
        options |= {"targets_BTHW": future, "codes_VC": tokenizer.codes_VC, "top_k_logits": 18}
        found = model.predict(context, states[:, : model.num_states], **options)
        frames = tokenizer.decode_codes(torch.cat([tokenizer.codes_VC[context], found.codes_BTHWC], 1))
    seen = protocol.num_seen
    frames, truth = frames[:, seen:], tokenizer.decode(grids)[:, seen:]
    assert scores.headline == (STILL_LATENTS if family == "flow" else EXPECTED_CODE)
    assert scores.of(scores.headline, "psnr", span=ALL).mean == pytest.approx(psnr(frames, truth).mean().item(), abs=1e-3)
    at = {"reference": ORIGINAL, "span": ALL}
    expected = ssim(frames, video[:, seen:]).mean().item()
    assert scores.of(scores.headline, "ssim", **at).mean == pytest.approx(expected, abs=1e-4)
    assert scores.of(CEILING, "psnr", **at).mean == pytest.approx(psnr(truth, video[:, seen:]).mean().item())
    assert scores.cost.parameters == sum(p.numel() for p in model.parameters())
    assert {"samples/s", "samples/s decoded"} == set(scores.cost.figures) and min(scores.cost.figures.values()) > 0
    if family != "flow":
        nll = scores.of(AUTOREGRESSIVE, "cross-entropy", **NEXT_TOKEN).mean
        assert nll == pytest.approx(found.nll_BTHW.mean().item(), rel=1e-5)
        hits = found.top_indices_BTHWK == future[..., None]
        for name, kept in (("accuracy", 1), ("coverage", 7)):
            expected = hits[..., :kept].any(-1).double().mean().item()
            assert scores.of(AUTOREGRESSIVE, name, **NEXT_TOKEN).mean == pytest.approx(expected)
        assert not any(math.isnan(s.value.mean) for s in scores.scores)  # the networks give log-probabilities


@pytest.mark.parametrize("protocol", [COMPRESSION, HWM, SAMPLING])
def test_a_model_of_frames_is_scored_by_every_protocol(protocol):
    torch.manual_seed(0)
    model = Direct(DirectConfig(grid=(16, 16), num_layers=1, num_heads=2, width=16, map_hidden=8, map_channels=2))
    for parameter in model.parameters():
        parameter.data.normal_(std=0.1)
    num_frames = protocol.scored[-1] + 1
    video = torch.randint(0, 256, (6, num_frames, 16, 16, 3), dtype=torch.uint8)
    clips = Filmed(video, torch.randn(6, num_frames, 25))
    scores = score(model.eval(), PIXELS, clips, protocol, members=(1, 2), tuning_clips=2, cost_repeats=1)
    settings = scores.settings
    assert settings["references"] == [ORIGINAL] and settings["image_size"] == [16, 16]
    assert not {COPY_GRID, CEILING} & {row.name for row in scores.rows} and scores.cost.parameters > 1000
    chosen = np.arange(2 if protocol is SAMPLING else 0, 6)  # the first two are tuned on
    seen, options = video[chosen][:, : protocol.num_seen], {"frames": protocol.scored, "seeds": [0] * len(chosen)}
    found = draw(model, PIXELS, seen, clips.states[chosen], **options)[:, 0]
    row = ONE_SAMPLE if protocol is SAMPLING else STILL_FRAMES
    expected = psnr(found, video[chosen][:, list(protocol.scored)])[:, -1].mean().item()
    assert scores.of(row, "psnr", span=LAST).mean == pytest.approx(expected)
    assert scores.of(settings["controls"]["permuted"], "psnr") != scores.of(settings["control"], "psnr")


def test_the_networks_agree_with_their_own_validation():
    model, tokenizer, grids, states, _ = network("st")
    scores = score(model, tokenizer, Held(grids, states))
    batch = Batch(states_BFA=states[:, :34], tokens_BTHW=grids)
    found = model.validate(batch, generator=torch.Generator().manual_seed(0))
    for name, key in ((TEACHER_FORCED, "teacher"), (AUTOREGRESSIVE, "auto")):
        for metric, own in (("cross-entropy", "ce"), ("accuracy", "accuracy")):
            expected = found[f"{own}_{key}"].mean().item()
            assert scores.of(name, metric, **NEXT_TOKEN).mean == pytest.approx(expected, rel=1e-5)
