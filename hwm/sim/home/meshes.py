"""Procedural triangle meshes with normals and texture coordinates, from NumPy alone."""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

BREAK = None
"""In a lathe profile: a hard edge, so that the normals on both sides of it are not smoothed together."""


class Mesh(NamedTuple):
    """vertices, normals (N, 3) and texture coordinates (N, 2), float64; faces (M, 3), int, counter-clockwise."""

    vertices: np.ndarray
    normals: np.ndarray
    uv: np.ndarray
    faces: np.ndarray


def lathe(profile: Sequence[tuple[float, float] | None], *, sectors: int = 28) -> Mesh:
    """Surface of revolution about z.

    profile: points (radius, height) in metres, outside seen to the right of the direction of travel; BREAK
    between two points makes a hard edge.  Texture u runs around, v down.
    """
    smooth_parts = _split(profile)
    heights = np.concatenate([part[:, 1] for part in smooth_parts])
    bottom, extent = heights.min(), max(float(np.ptp(heights)), 1e-9)
    angle = np.linspace(0, 2 * np.pi, sectors + 1)
    cos, sin = np.cos(angle), np.sin(angle)
    return _cleaned(merge(*[_revolve(part, cos, sin, bottom, extent) for part in smooth_parts]))


def _split(profile: Sequence[tuple[float, float] | None]) -> list[np.ndarray]:
    parts: list[list[tuple[float, float]]] = [[]]
    for point in profile:
        if point is BREAK:
            parts.append([])
        else:
            parts[-1].append(point)
    return [np.array(part, float) for part in parts]


def _revolve(part: np.ndarray, cos: np.ndarray, sin: np.ndarray, bottom: float, extent: float) -> Mesh:
    radius, height = part[:, :1], part[:, 1:]
    along = np.gradient(part, axis=0)
    normal_r, normal_z = along[:, 1:], -along[:, :1]
    length = np.hypot(normal_r, normal_z)
    length[length == 0] = 1
    normal_r, normal_z = normal_r / length, normal_z / length
    rows, columns = len(part), len(cos)
    around = np.linspace(0, 1, columns)[None]
    vertices = np.stack([radius * cos, radius * sin, height.repeat(columns, 1)], -1)
    normals = np.stack([normal_r * cos, normal_r * sin, normal_z.repeat(columns, 1)], -1)
    uv = np.stack([around.repeat(rows, 0), (1 - (height - bottom) / extent).repeat(columns, 1)], -1)
    return Mesh(vertices.reshape(-1, 3), normals.reshape(-1, 3), uv.reshape(-1, 2), _grid_faces(rows, columns))


def _grid_faces(rows: int, columns: int) -> np.ndarray:
    """Two triangles per cell of a rows x columns grid of vertices stored row by row."""
    row, column = np.meshgrid(np.arange(rows - 1), np.arange(columns - 1), indexing="ij")
    corner = (row * columns + column).ravel()
    right, below, across = corner + 1, corner + columns, corner + columns + 1
    return np.concatenate([np.stack([corner, right, across], -1), np.stack([corner, across, below], -1)])


def _cleaned(mesh: Mesh) -> Mesh:
    """Without degenerate triangles (at the poles of a lathe) and unused vertices."""
    a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
    faces = mesh.faces[np.linalg.norm(np.cross(b - a, c - a), axis=1) > 1e-12]
    used, faces = np.unique(faces, return_inverse=True)
    return Mesh(mesh.vertices[used], mesh.normals[used], mesh.uv[used], faces.reshape(-1, 3))


def merge(*meshes: Mesh) -> Mesh:
    """One mesh made of several."""
    offsets = np.cumsum([0] + [len(m.vertices) for m in meshes[:-1]])
    vertices, normals, uv = (np.concatenate([m[k] for m in meshes]) for k in range(3))
    return Mesh(vertices, normals, uv, np.concatenate([m.faces + k for m, k in zip(meshes, offsets)]))


def shift(mesh: Mesh, offset: Sequence[float]) -> Mesh:
    """The mesh moved by `offset` metres."""
    return mesh._replace(vertices=mesh.vertices + np.asarray(offset, float))


def tube_arc(
    radius: float, thickness: float, start: float, end: float, *, stretch: float = 1.0, steps: int = 14, sectors: int = 8
) -> Mesh:
    """Tube of radius `thickness` bent along an arc in the x-z plane (a mug's handle), stretched in z."""
    turn = np.linspace(start, end, steps)[:, None]
    around = np.linspace(0, 2 * np.pi, sectors + 1)[None]
    cos_a, sin_a = np.cos(around), np.sin(around)
    flat = 0 * turn
    vertices = np.stack(
        [
            (radius + thickness * cos_a) * np.cos(turn),
            thickness * sin_a + flat,
            (radius * stretch + thickness * cos_a) * np.sin(turn),
        ],
        -1,
    ).reshape(-1, 3)
    normals = np.stack([cos_a * np.cos(turn), sin_a + flat, cos_a * np.sin(turn)], -1).reshape(-1, 3)
    uv = np.stack([turn.repeat(sectors + 1, 1), around.repeat(steps, 0)], -1).reshape(-1, 2) / (2 * np.pi)
    return _facing_out(Mesh(vertices, normals, uv, _grid_faces(steps, sectors + 1)))


def _facing_out(mesh: Mesh) -> Mesh:
    """The mesh with every triangle turned the way its normals point."""
    a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
    inwards = np.einsum("ij,ij->i", np.cross(b - a, c - a), mesh.normals[mesh.faces[:, 0]]) < 0
    faces = mesh.faces.copy()
    faces[inwards] = faces[inwards][:, ::-1]
    return mesh._replace(faces=faces)


def bevel_box(half: Sequence[float], *, bevel: float = 0.004, repeats: float | None = 1.0) -> Mesh:
    """Box of half sizes `half` (x, y, z) with chamfered edges.

    repeats: texture repeats per metre; None lays one whole texture on every side.
    """
    size = np.asarray(half, float)
    bevel = min(bevel, 0.45 * size.min())
    inner = size - bevel
    scale = repeats or 1.0
    parts = []
    for axis in range(3):
        u, v = [k for k in range(3) if k != axis]
        for sign in (-1, 1):
            parts.append(_box_side(axis, u, v, sign, size, inner, repeats))
        for a, b in product((-1, 1), repeat=2):
            parts.append(_box_edge(axis, u, v, a, b, size, inner, scale))
    for signs in product((-1, 1), repeat=3):
        parts.append(_box_corner(np.array(signs, float), size, inner))
    return _facing_out(merge(*parts))


QUAD = np.array([[0, 1, 2], [0, 2, 3]])


def _box_side(axis: int, u: int, v: int, sign: int, size: np.ndarray, inner: np.ndarray, repeats: float | None) -> Mesh:
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], float)
    vertices = np.zeros((4, 3))
    vertices[:, axis] = sign * size[axis]
    vertices[:, [u, v]] = corners * inner[[u, v]]
    if repeats is None:
        uv = np.stack([(corners[:, 0] + 1) / 2, 1 - (corners[:, 1] + 1) / 2], -1)
    else:
        uv = vertices[:, [u, v]] * [repeats, -repeats]
    normal = np.zeros(3)
    normal[axis] = sign
    return Mesh(vertices, np.tile(normal, (4, 1)), uv, QUAD)


def _box_edge(axis: int, u: int, v: int, a: int, b: int, size: np.ndarray, inner: np.ndarray, scale: float) -> Mesh:
    """Chamfer along `axis` between the sides at sign a of axis u and sign b of axis v."""
    vertices = np.zeros((4, 3))
    vertices[:, axis] = np.array([-1, 1, 1, -1]) * inner[axis]
    vertices[:, u] = a * np.array([size[u], size[u], inner[u], inner[u]])
    vertices[:, v] = b * np.array([inner[v], inner[v], size[v], size[v]])
    normal = np.zeros(3)
    normal[[u, v]] = np.array([a, b]) / np.sqrt(2)
    return Mesh(vertices, np.tile(normal, (4, 1)), vertices[:, [axis, u]] * scale, QUAD)


def _box_corner(signs: np.ndarray, size: np.ndarray, inner: np.ndarray) -> Mesh:
    vertices = signs * (inner + np.eye(3) * (size - inner))
    uv = np.array([(0.0, 0.0), (0.01, 0.0), (0.0, 0.01)])
    return Mesh(vertices, np.tile(signs / np.sqrt(3), (3, 1)), uv, np.array([[0, 1, 2]]))


def limb(top: float, bottom: float, length: float, *, bulge: float = 0.08, sectors: int = 24) -> Mesh:
    """Tapered shell of a robot's limb along -z, from 0 to -length, with rounded ends; radii in metres."""
    t = np.linspace(0, 1, 10)
    radii = top + (bottom - top) * t + bulge * top * np.sin(np.pi * t)
    heights = -0.014 - (length - 0.028) * t
    side = list(zip(radii.tolist(), heights.tolist()))
    ends_top = [(top * 0.55, 0.006), (top * 0.9, -0.004)]
    ends_bottom = [(bottom * 0.9, -length + 0.006), (bottom * 0.55, -length)]
    return lathe([*ends_top, *side, *ends_bottom][::-1], sectors=sectors)
