import numpy as np
import pytest

from hwm.sim.home import objects
from hwm.sim.home.meshes import BREAK, bevel_box, lathe, limb, tube_arc


def volume(mesh):
    """Signed volume: positive when the triangles of a closed surface face outwards."""
    a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
    return np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6


def test_a_cylinder_has_the_volume_of_its_prism():
    radius, height, sectors = 0.5, 2.0, 64
    mesh = lathe([(1e-6, -1), (radius, -1), BREAK, (radius, -1), (radius, 1), BREAK, (radius, 1), (1e-6, 1)], sectors=sectors)
    prism = 0.5 * sectors * radius**2 * np.sin(2 * np.pi / sectors) * height
    assert volume(mesh) == pytest.approx(prism, rel=1e-4)


def test_a_box_with_a_small_bevel_has_almost_its_volume():
    assert volume(bevel_box((0.1, 0.2, 0.3), bevel=1e-5)) == pytest.approx(8 * 0.1 * 0.2 * 0.3, rel=1e-3)


def test_a_bevel_takes_volume_away():
    assert 0 < volume(bevel_box((0.1, 0.2, 0.3), bevel=0.02)) < 8 * 0.1 * 0.2 * 0.3


@pytest.mark.parametrize("mesh", [
    bevel_box((0.1, 0.1, 0.2)), limb(0.06, 0.05, 0.3), tube_arc(0.03, 0.006, -1.2, 1.2)
] + [make(np.random.default_rng(1)).mesh for make, _ in objects.KINDS.values()])
def test_meshes_are_sound(mesh):
    assert np.isfinite(mesh.vertices).all() and np.isfinite(mesh.uv).all()
    np.testing.assert_allclose(np.linalg.norm(mesh.normals, axis=1), 1, atol=1e-9)
    assert mesh.faces.min() == 0 and mesh.faces.max() == len(mesh.vertices) - 1
    a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
    facing = np.cross(b - a, c - a)
    agreement = np.einsum("ij,ij->i", facing, mesh.normals[mesh.faces].sum(1))
    assert (agreement > 0).mean() > 0.95


@pytest.mark.parametrize("kind", objects.KINDS)
def test_an_object_fits_its_height_and_stands_on_its_bottom(kind):
    shape = objects.KINDS[kind][0](np.random.default_rng(2))
    low, high = shape.mesh.vertices[:, 2].min(), shape.mesh.vertices[:, 2].max()
    assert low == pytest.approx(-shape.height / 2, abs=0.008)
    assert high == pytest.approx(shape.height / 2, abs=0.008)
