import math

import numpy as np
import pytest
import torch
from refusing import refused
from safetensors.torch import save_file
from torch import nn

from hwm.evaluate.networks import BACKBONE_SHAPES, HEAD_SHAPES, Lpips


def alexnet():
    """AlexNet up to its last ReLU as torchvision lays it out (Krizhevsky 2014), for its names and order."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(),
    )  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Random weights in the two published layouts: whole AlexNet with its classifier, and five non-negative heads."""
    folder = tmp_path_factory.mktemp("lpips")
    torch.manual_seed(0)
    network = alexnet()
    backbone = {f"features.{key}": value for key, value in network.state_dict().items()}
    backbone |= {"classifier.6.weight": torch.zeros(1000, 8), "classifier.6.bias": torch.zeros(1000)}
    heads = {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate((64, 192, 384, 256, 256))}
    torch.save(backbone, folder / "alexnet.pth")
    torch.save(heads, folder / "alex.pth")
    return folder, network, backbone, heads


def videos(seed, *shape):
    g = torch.Generator().manual_seed(seed)
    return (torch.randint(0, 256, (*shape, 3), generator=g, dtype=torch.uint8) for _ in range(2))


@torch.no_grad()
def by_definition(network, heads, a_HWC, b_HWC):
    """The distance of two pictures with loops over layers, places and channels."""
    def layers(picture_HWC):
        scaled = np.empty((3, *picture_HWC.shape[:2]), np.float32)
        for c, (shift, scale) in enumerate(zip((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450))):
            scaled[c] = (picture_HWC[..., c].numpy() / 255 * 2 - 1 - shift) / scale
        x, found = torch.from_numpy(scaled)[None], []
        for layer in network:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                found.append(x[0].double().numpy())
        return found

    total = 0.0
    for i, (u, v) in enumerate(zip(layers(a_HWC), layers(b_HWC))):
        weights = heads[f"lin{i}.model.1.weight"].flatten().double().numpy()
        over_places = []
        for y in range(u.shape[1]):
            for x in range(u.shape[2]):
                p, q = u[:, y, x], v[:, y, x]
                p, q = p / (math.sqrt(sum(p**2)) + 1e-10), q / (math.sqrt(sum(q**2)) + 1e-10)
                over_places.append(sum(weights * (p - q) ** 2))
        total += sum(over_places) / len(over_places)
    return total


def test_equals_the_definition(files):
    folder, network, _, heads = files
    lpips = Lpips(folder / "alexnet.pth", folder / "alex.pth")
    a, b = videos(1, 2, 2, 40, 63)
    found = lpips(a, b)
    assert found.shape == (2, 2) and found.dtype == torch.float32
    for i in range(2):
        for f in range(2):
            assert float(found[i, f]) == pytest.approx(by_definition(network, heads, a[i, f], b[i, f]), rel=1e-4)


def test_zero_for_equal_pictures_positive_else_and_symmetric(files):
    folder = files[0]
    lpips = Lpips(folder / "alexnet.pth", folder / "alex.pth")
    a, b = videos(2, 1, 3, 31, 31)
    assert torch.equal(lpips(a, a), torch.zeros(1, 3))
    assert bool((lpips(a, b) > 0).all())
    assert torch.allclose(lpips(a, b), lpips(b, a))
    # Black pictures have activations; flat grey ones must not divide by zero either.
    flat = torch.full_like(a, 128)
    assert bool(torch.isfinite(lpips(flat, torch.zeros_like(a))).all())


def test_many_pictures_equal_one_at_a_time(files):
    folder = files[0]
    lpips = Lpips(folder / "alexnet.pth", folder / "alex.pth")
    a, b = videos(3, 5, 8, 32, 32)
    assert torch.allclose(lpips(a, b)[4, 7], lpips(a[4:, 7:], b[4:, 7:])[0, 0], rtol=1e-4)


def test_one_file_may_hold_both(files, tmp_path):
    folder, _, backbone, heads = files
    save_file(backbone | heads, tmp_path / "both.safetensors")
    save_file({k: v for k, v in backbone.items() if k in BACKBONE_SHAPES} | heads, tmp_path / "small.safetensors")
    a, b = videos(4, 1, 1, 33, 35)
    expected = Lpips(folder / "alexnet.pth", folder / "alex.pth")(a, b)
    assert torch.equal(Lpips(tmp_path / "both.safetensors")(a, b), expected)
    assert torch.equal(Lpips(tmp_path / "small.safetensors")(a, b), expected)


def test_wrong_files_are_refused_and_the_right_ones_named(files, tmp_path):
    folder, _, backbone, heads = files
    with pytest.raises(ValueError, match=r"alex\.pth: features\.0\.weight.* missing: .*alexnet-owt-7be5be79\.pth"):
        Lpips(folder / "alex.pth", folder / "alexnet.pth")
    refused(r"alexnet\.pth: lin0\.model\.1\.weight.* missing: .*alex\.pth", Lpips, folder / "alexnet.pth")
    torch.save(heads | {"lin2.model.1.weight": torch.rand(1, 256, 1, 1)}, tmp_path / "vgg.pth")
    with pytest.raises(ValueError, match=r"vgg\.pth: lin2\.model\.1\.weight is float32 \(1, 256, 1, 1\), expected"):
        Lpips(folder / "alexnet.pth", tmp_path / "vgg.pth")
    torch.save(backbone | {"features.12.weight": torch.zeros(1)}, tmp_path / "other.pth")
    refused(r"other\.pth: features\.12\.weight unexpected", Lpips, tmp_path / "other.pth", folder / "alex.pth")
    torch.save(heads | {"lin5.model.1.weight": torch.zeros(1)}, tmp_path / "six.pth")
    refused(r"six\.pth: lin5\.model\.1\.weight unexpected", Lpips, folder / "alexnet.pth", tmp_path / "six.pth")


def test_wrong_pictures_are_refused(files):
    folder = files[0]
    lpips = Lpips(folder / "alexnet.pth", folder / "alex.pth")
    a, b = videos(5, 1, 2, 32, 32)
    for x, y, message in [
        (a, b[:, :1], r"videos \(B, F, H, W, 3\), got"), (a[0], b[0], r"videos \(B, F, H, W, 3\), got"),
        (a.float(), b, "as uint8"), (a[:, :, :30], b[:, :, :30], "at least 31x31 pixels")
    ]:
        refused(message, lpips, x, y)


def test_names_and_shapes_are_those_of_the_layout(files):
    _, _, backbone, heads = files
    assert BACKBONE_SHAPES == {k: tuple(v.shape) for k, v in backbone.items() if k.startswith("features")}
    assert HEAD_SHAPES == {k: tuple(v.shape) for k, v in heads.items()}
    assert sum(math.prod(shape) for shape in BACKBONE_SHAPES.values()) == 2_469_696  # AlexNet without its classifier
