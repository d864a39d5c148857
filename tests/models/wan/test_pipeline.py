"""Our sampler against diffusers' own image-to-video pipeline, which knows one context latent and no states.

The whole pipeline runs, `WanImageToVideoPipeline.__call__` with `expand_timesteps`: its image preprocessing, tiny
autoencoder, mask, timesteps, loop and decoding, around the stock transformer class with our weights.  Left out are the
text encoder, whose embedding is given, and its noise levels, which are replaced by Wan's (benchmarks/naive_wan.py says
why).  Several context latents and states, which it cannot do, are tested in test_wan.py.
"""

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.naive_wan import scheduler
from hwm.config import RunConfig
from hwm.model_config import WanConfig
from hwm.models.build import build_model
from hwm.tokenizers.wan import WanTokenizer

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("peft")

CHANNELS, SIDE, STEPS, FUTURE = 6, 64, 6, 2
CONFIG = WanConfig(
    base="", channels=CHANNELS, grid=(SIDE // 16, SIDE // 16), context_grids=1, future_grids=FUTURE, num_states=33, num_layers=2,
    num_heads=2, head_width=16, mlp_width=64, time_width=32, text_width=8, text_rows=3, lora_rank=0, steps=STEPS
)


def autoencoder():
    """Of Wan2.2's form: spatial stride 16, temporal stride 4."""
    torch.manual_seed(0)
    return diffusers.AutoencoderKLWan(
        base_dim=8, decoder_base_dim=12, z_dim=CHANNELS, dim_mult=[1, 2, 2, 2], num_res_blocks=1,
        temperal_downsample=[False, True, True], is_residual=True, patch_size=2, in_channels=12, out_channels=12,
        scale_factor_spatial=16, latents_mean=[0.1 * c for c in range(CHANNELS)],
        latents_std=[0.4 + 0.1 * c for c in range(CHANNELS)]
    ).eval()


def levels(solver):
    """The pipeline's scheduler on the levels that ours is given, with timesteps that are not rounded to whole numbers."""
    ours = scheduler(solver, num_steps=STEPS, shift=CONFIG.shift)

    class OnWansLevels(type(ours)):
        def set_timesteps(self, num_inference_steps=None, device=None, **other):
            spaced = np.linspace(1, 0, num_inference_steps + 1)[:-1]
            super().set_timesteps(sigmas=spaced if solver == "unipc" else spaced.tolist(), device=device)
            self.timesteps = 1000 * self.sigmas[:-1]

    return OnWansLevels.from_config(ours.config)


@pytest.mark.parametrize("solver", ["euler", "unipc"])
def test_one_context_latent_gives_what_the_pipeline_gives(solver):
    """Reference wan 3 measured 4.8e-7 with Euler's solver and 9.5e-7 with UniPC."""
    net = build_model(RunConfig(model=CONFIG)).eval()
    net.config = WanConfig(**{**vars(CONFIG), "solver": solver})
    torch.manual_seed(3)
    net.text_1RD.normal_()
    stock = diffusers.WanTransformer3DModel.from_config(net.transformer.config).eval()
    assert type(stock) is diffusers.WanTransformer3DModel
    stock.load_state_dict(net.transformer.state_dict())
    pixels = torch.randint(0, 256, (SIDE, SIDE, 3), dtype=torch.uint8)

    tokenizer = WanTokenizer(autoencoder())
    context = tokenizer.encode(pixels[None, None]).expand(2, -1, -1, -1, -1)
    assert context.shape == (2, 1, CHANNELS, SIDE // 16, SIDE // 16)
    guess = net.predict(context, torch.randn(2, 33, 25), generator=torch.Generator().manual_seed(7)).latents_BKTCHW[:, 0]
    ours = torch.cat([context, guess], 1)

    noise = torch.randn((2, 1, FUTURE, *context.shape[2:]), generator=torch.Generator().manual_seed(7))[:, 0]
    latents = torch.cat([torch.randn_like(context), noise], 1).transpose(1, 2)  # what is first does not matter
    pipeline = diffusers.WanImageToVideoPipeline(
        tokenizer=None, text_encoder=None, vae=autoencoder(), scheduler=levels(solver), transformer=stock, expand_timesteps=True
    )
    pipeline.set_progress_bar_config(disable=True)
    asked = {
        "image": Image.fromarray(pixels.numpy()), "height": SIDE, "width": SIDE, "num_frames": 1 + 4 * FUTURE,
        "num_inference_steps": STEPS, "guidance_scale": 1.0, "prompt_embeds": net.text_1RD.expand(2, -1, -1)
    }
    theirs = pipeline(**asked, latents=latents.clone(), output_type="latent").frames.transpose(1, 2)
    assert (ours - theirs).abs().max() < 2e-6 * theirs.abs().max().clamp(min=1)
    assert (guess - noise).abs().mean() > 0.1  # it went somewhere

    frames = pipeline(**asked, latents=latents.clone(), output_type="np").frames
    decoded = tokenizer.decode(ours).numpy() / 255
    assert np.abs(frames - decoded).max() <= 0.51 / 255 + 1e-4
