import pytest
import torch
import torch.nn.functional as F
from refusing import refused
from safetensors.torch import save_file
from torch import nn

from hwm.evaluate.networks import FIDInception, average_pool, inception_e, keep_max, load_inception


@pytest.fixture(scope="module")
def weights():
    """Random weights; statistics of the normalisation too, so that none is left at its neutral value."""
    g = torch.Generator().manual_seed(0)
    state = {}
    for key, value in FIDInception().state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue
        noise = torch.randn(value.shape, generator=g)
        if value.ndim == 4:
            state[key] = noise * (2 / value[0].numel()) ** 0.5
        elif key.endswith("running_var") or key.endswith("weight"):
            state[key] = 1 + 0.2 * noise.clamp(-2, 2)
        else:
            state[key] = 0.1 * noise
    return state


# From the layer list of the published network; torchvision's inception_v3 has the same names and shapes.
KNOWN_SHAPES = {
    "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3), "Conv2d_1a_3x3.bn.running_mean": (32,),
    "Conv2d_2b_3x3.conv.weight": (64, 32, 3, 3), "Conv2d_3b_1x1.conv.weight": (80, 64, 1, 1),
    "Conv2d_4a_3x3.conv.weight": (192, 80, 3, 3), "Mixed_5b.branch_pool.conv.weight": (32, 192, 1, 1),
    "Mixed_5c.branch5x5_2.conv.weight": (64, 48, 5, 5), "Mixed_5d.branch3x3dbl_3.bn.weight": (96,),
    "Mixed_6a.branch3x3.conv.weight": (384, 288, 3, 3), "Mixed_6b.branch7x7_2.conv.weight": (128, 128, 1, 7),
    "Mixed_6c.branch7x7_3.conv.weight": (192, 160, 7, 1), "Mixed_6d.branch7x7dbl_2.conv.weight": (160, 160, 7, 1),
    "Mixed_6e.branch7x7dbl_5.conv.weight": (192, 192, 1, 7), "Mixed_7a.branch3x3_2.conv.weight": (320, 192, 3, 3),
    "Mixed_7a.branch7x7x3_4.conv.weight": (192, 192, 3, 3), "Mixed_7b.branch3x3_2a.conv.weight": (384, 384, 1, 3),
    "Mixed_7b.branch3x3dbl_1.conv.weight": (448, 1280, 1, 1), "Mixed_7c.branch3x3dbl_3b.conv.weight": (384, 384, 3, 1),
    "Mixed_7c.branch_pool.conv.weight": (192, 2048, 1, 1), "Mixed_7c.branch_pool.bn.bias": (192,)
}


def test_names_and_shapes_of_the_published_network():
    state = FIDInception().state_dict()
    assert {key: tuple(state[key].shape) for key in KNOWN_SHAPES} == KNOWN_SHAPES
    assert len([key for key in state if key.endswith("conv.weight")]) == 94


def test_sizes_inside_the_network_are_the_published_ones():
    # Szegedy et al. 2015, Table 1: 149, 147, 147, pool 73, 71, pool 35, then 35, 17 and 8 in the blocks.
    sizes, network = {}, FIDInception().eval()
    for name, layer in network.named_children():
        layer.register_forward_hook(lambda _m, _x, y, name=name: sizes.update({name: tuple(y.shape[1:])}))
    with torch.no_grad():
        network(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    assert list(sizes.values()) == [
        (32, 149, 149), (32, 147, 147), (64, 147, 147), (80, 73, 73), (192, 71, 71),
        (256, 35, 35), (288, 35, 35), (288, 35, 35), (768, 17, 17), (768, 17, 17), (768, 17, 17), (768, 17, 17),
        (768, 17, 17), (1280, 8, 8), (2048, 8, 8), (2048, 8, 8),
    ]  # fmt: skip


def test_number_of_parameters():
    # torchvision's inception_v3 has 27 161 264 with 1000 classes and the auxiliary head, which are not part of this one.
    classifier = 2048 * 1000 + 1000
    auxiliary = (768 * 128 + 2 * 128) + (128 * 768 * 25 + 2 * 768) + (768 * 1000 + 1000)
    assert sum(p.numel() for p in FIDInception().parameters()) == 27_161_264 - classifier - auxiliary == 21_785_568


def test_saved_weights_give_the_same_features_in_every_form(tmp_path, weights):
    # The published file has a classifier of 1008 classes; other versions keep the counter of training steps.
    counters = {f"{key.removesuffix('weight')}num_batches_tracked": torch.tensor(7) for key in weights if "bn.weight" in key}
    head = {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008), "AuxLogits.fc.bias": torch.zeros(1000)}
    torch.save(weights | head | counters, tmp_path / "a.pth")
    save_file(weights, tmp_path / "b.safetensors")
    pictures = torch.randint(0, 256, (2, 3, 24, 40), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    from_pickle = load_inception(tmp_path / "a.pth")
    assert not from_pickle.training and not any(p.requires_grad for p in from_pickle.parameters())
    features = from_pickle(pictures)
    assert features.shape == (2, 2048) and features.dtype == torch.float32
    assert bool(torch.isfinite(features).all()) and not torch.allclose(features[0], features[1])
    other = load_inception(tmp_path / "b.safetensors").state_dict()
    for key, value in from_pickle.state_dict().items():
        assert torch.equal(value, other[key]), key
    # The last channels are the branch that pools by maximum, never below 0 after its ReLU.
    assert features.min() >= 0


def test_files_of_another_network_are_refused(tmp_path, weights):
    torch.save({k: v for k, v in weights.items() if not k.startswith("Mixed_7c")}, tmp_path / "short.pth")
    refused(r"short\.pth: Mixed_7c\..* missing: .*pt_inception-2015-12-05-6726825d\.pth", load_inception, tmp_path / "short.pth")
    torch.save(weights | {"layer4.weight": torch.zeros(1)}, tmp_path / "more.pth")
    refused(r"more\.pth: layer4\.weight unexpected", load_inception, tmp_path / "more.pth")
    torch.save(weights | {"Conv2d_1a_3x3.conv.weight": torch.zeros(32, 1, 3, 3)}, tmp_path / "grey.pth")
    refused(r"grey\.pth: Conv2d_1a_3x3\.conv\.weight is float32 \(32, 1, 3, 3\), expected", load_inception, tmp_path / "grey.pth")
    # torchvision's own weights fit every layer, and would give a number that is no FID.
    torch.save(weights | {"fc.bias": torch.zeros(1000)}, tmp_path / "imagenet.pth")
    refused(r"imagenet\.pth: an Inception of 1000 classes, the FID's has 1008; fetch", load_inception, tmp_path / "imagenet.pth")


def test_average_pooling_does_not_count_the_padding():
    assert torch.allclose(average_pool(torch.ones(1, 1, 5, 4)), torch.ones(1, 1, 5, 4))
    x = torch.arange(9.0).view(1, 1, 3, 3)
    pooled = average_pool(x)[0, 0]
    assert pooled[0, 0] == (0 + 1 + 3 + 4) / 4 and pooled[1, 1] == 4 and pooled[0, 1] == (0 + 1 + 2 + 3 + 4 + 5) / 6


# What every block's output channels are made of, in their order: poolings and convolutions one after another.
DOUBLE_3, DOUBLE_7 = [f"branch3x3dbl_{i}" for i in (1, 2, 3)], [f"branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5)]
BLOCKS = {
    "Mixed_5c": [["branch1x1"], ["branch5x5_1", "branch5x5_2"], DOUBLE_3, ["mean", "branch_pool"]],
    "Mixed_6a": [["branch3x3"], DOUBLE_3, ["max/2"]],
    "Mixed_6c": [["branch1x1"], [f"branch7x7_{i}" for i in (1, 2, 3)], DOUBLE_7, ["mean", "branch_pool"]],
    "Mixed_7a": [["branch3x3_1", "branch3x3_2"], [f"branch7x7x3_{i}" for i in (1, 2, 3, 4)], ["max/2"]],
    "Mixed_7b": [
        ["branch1x1"], ["branch3x3_1", "branch3x3_2a"], ["branch3x3_1", "branch3x3_2b"],
        ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3a"], ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3b"],
        ["mean", "branch_pool"]
    ]
}


@pytest.mark.parametrize("name", BLOCKS)
@torch.no_grad()
def test_branches_of_every_kind_of_block(name):
    torch.manual_seed(0)
    block = getattr(FIDInception(), name).eval()
    pools = {"mean": average_pool, "max/2": lambda x: F.max_pool2d(x, 3, stride=2)}
    x = torch.randn(1, next(m.in_channels for m in block.modules() if isinstance(m, nn.Conv2d)), 9, 9)
    parts = []
    for chain in BLOCKS[name]:
        y = x
        for step in chain:
            y = pools[step](y) if step in pools else getattr(block, step)(y)
        parts.append(y)
    assert torch.equal(block(x), torch.cat(parts, 1))
    assert {step for chain in BLOCKS[name] for step in chain} - pools.keys() == {n for n, _ in block.named_children()}


@torch.no_grad()
def test_only_the_last_block_pools_by_maximum():
    torch.manual_seed(0)
    network = FIDInception()
    assert (network.Mixed_7b.pool, network.Mixed_7c.pool) == (average_pool, keep_max)
    x = torch.randn(1, 64, 8, 8)
    for pool, pooled in ((keep_max, F.max_pool2d(x, 3, stride=1, padding=1)), (average_pool, average_pool(x))):
        block = inception_e(64, pool).eval()
        assert torch.equal(block(x)[:, -192:], block.branch_pool(pooled))
        assert block(x).shape == (1, 2048, 8, 8)


@torch.no_grad()
def test_pictures_are_resized_and_scaled():
    seen = []
    network = FIDInception()

    class Stop(Exception):
        pass

    def look(_module, inputs):
        seen.append(inputs[0])
        raise Stop

    network.Conv2d_1a_3x3.register_forward_pre_hook(look)
    ramp = torch.zeros(1, 3, 1, 2, dtype=torch.uint8)
    ramp[..., 1] = 255
    with pytest.raises(Stop):
        network(ramp)
    # Pixel centres at halves: place i of 299 lies at (i + 1/2) * 2/299 - 1/2 between the two pixels, held at the ends.
    place = (torch.arange(299) + 0.5) * 2 / 299 - 0.5
    assert seen[0].shape == (1, 3, 299, 299)
    assert torch.allclose(seen[0][0, 0, 100], 2 * place.clamp(0, 1) - 1, atol=1e-5)
