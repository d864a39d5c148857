import pytest
import torch
from refusing import refused

from hwm.evaluate.networks import FIDInception
from hwm.evaluate.perceptual import TFD, InceptionFeatures, Moments, TokenizerFeatures, frechet_distance
from hwm.tokenizers import quantiser
from hwm.tokenizers.open import load_tokenizer


@pytest.fixture(scope="module")
def features():
    return TokenizerFeatures()


def video(seed, *shape):
    return torch.randint(0, 256, (*shape, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def split(video_BFHWC, num_future):
    """Seen and future frames."""
    return video_BFHWC[:, : len(video_BFHWC[0]) - num_future], video_BFHWC[:, len(video_BFHWC[0]) - num_future :]


def scene(seed, num):
    """Soft random blobs that drift: num clips of 17 frames of 32x32."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(num, 3, 6, 8, generator=g)
    wide = torch.nn.functional.interpolate(coarse, (32, 64), mode="bilinear")
    frames = torch.stack([wide[..., f : f + 32] for f in range(17)], 1)
    return (frames * 255).to(torch.uint8).movedim(2, -1)


@pytest.mark.parametrize(("num_frames", "num_future", "grids"), [(17, 8, 1), (17, 16, 2), (34, 17, 3), (34, 8, 1), (34, 25, 4)])
def test_one_feature_a_place_of_every_future_grid(features, num_frames, num_future, grids):
    found = features(*split(video(0, 2, num_frames, 32, 40), num_future))
    assert found.shape == (2, grids * 4 * 5, 192) and found.dtype == torch.float32


def test_they_are_what_the_code_is_projected_from(features):
    clip = video(1, 2, 34, 16, 24)
    tokenizer = load_tokenizer(TFD)
    found = features(*split(clip, 17))
    grid = tokenizer.features(clip)[:, 3:]
    assert torch.allclose(found, grid.movedim(2, -1).flatten(1, 3), atol=1e-5)
    z = found @ tokenizer.to_code.weight[:, :, 0, 0].mT + tokenizer.to_code.bias
    latents = tokenizer.encode_latents(clip)[:, 3:].movedim(2, -1).flatten(1, 3)
    assert torch.allclose(quantiser.bound(z, tokenizer.levels), latents, atol=1e-4)


def test_their_network_stays_the_one_that_all_published_distances_are_of():
    assert load_tokenizer(TFD).fingerprint() == "01a423293dd8b829fe757c1db99bc0fc7ff2652697cbf0aca4e9834f60436fb9"


def test_pictures_are_looked_at_one_by_one(features):
    still, clip = TokenizerFeatures(still=True), video(3, 2, 17, 18, 25)
    found = still(*split(clip, 2))
    assert still.name == "TFD of pictures" and found.shape == (2, 2 * 2 * 3, 192)
    alone = load_tokenizer(TFD).features(clip[:, -1:, :16, :24]).movedim(2, -1).flatten(1, 3)
    assert torch.allclose(found[:, 6:], alone, atol=1e-5)
    one_by_one = still(clip[:, :0], clip[:1, -2:])
    assert torch.allclose(one_by_one, found[:1], atol=1e-5)


def test_the_future_decides_and_earlier_blocks_do_not(features):
    clip = video(2, 1, 34, 16, 16)
    base = features(*split(clip, 17))
    past, future = clip.clone(), clip.clone()
    past[:, :17] = 255 - past[:, :17]
    future[:, 20] = 255 - future[:, 20]
    assert torch.equal(features(*split(past, 17)), base)
    assert not torch.equal(features(*split(future, 17)), base)


def test_distance_grows_with_blur(features):
    def moments(clips):
        return Moments.of(features(*split(clips, 8)).flatten(0, 1))

    def blurred(clips, width):
        frames = clips.flatten(0, 1).movedim(-1, 1).float()
        soft = torch.nn.functional.avg_pool2d(frames, width, stride=1, padding=width // 2, count_include_pad=False)
        return soft.round().to(torch.uint8).movedim(1, -1).unflatten(0, clips.shape[:2])

    truth, other = scene(0, 16), scene(1, 16)
    sharp, soft, softer = (frechet_distance(moments(truth), moments(blurred(truth, w))) for w in (1, 5, 11))
    assert sharp < 1e-6 < soft < softer
    assert frechet_distance(moments(truth), moments(other)) > 0


def test_videos_without_whole_blocks_or_future_are_refused(features):
    refused("whole blocks of 17 frames, got 18", features, *split(video(0, 1, 18, 16, 16), 8))
    refused("no future frames", features, *split(video(0, 1, 17, 16, 16), 0))


def test_inception_features_of_every_future_frame(tmp_path):
    torch.manual_seed(0)
    inception = FIDInception().eval()
    torch.save(inception.state_dict(), tmp_path / "weights.pth")
    features = InceptionFeatures(tmp_path / "weights.pth")
    clip = video(3, 1, 4, 20, 24)
    found = features(*split(clip, 2))
    assert found.shape == (1, 2, 2048) and found.dtype == torch.float32
    with torch.no_grad():
        expected = inception(clip[0, 2:].movedim(-1, 1))
    assert torch.allclose(found[0], expected, rtol=1e-4, atol=1e-6)
    assert features.name == "FID"
    refused("no future frames", features, *split(clip, 0))
