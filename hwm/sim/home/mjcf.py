"""MJCF text and the assets it names, collected piece by piece and compiled into a MuJoCo model."""

import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from hwm.sim.home.meshes import Mesh, bevel_box
from hwm.sim.home.textures import Painter

VISIBLE_GROUP = 2
"""Geom group that is drawn."""
HIDDEN_GROUP = 4
"""Geom group of collision shapes, never drawn."""
MIN_TEXTURE = 16
TEXTURE_STREAM = 77
"""Tells texture generators apart from all others made from the same seed."""


def tag(element: str, inner: str = "", /, **attributes: Any) -> str:
    """One XML element.  Sequences become numbers with spaces, None is left out, `class_` is written class."""
    written = [f' {key.rstrip("_")}="{_text(value)}"' for key, value in attributes.items() if value is not None]
    return f"<{element}{''.join(written)}>{inner}</{element}>"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (float, np.floating)):
        return f"{value:.6g}"
    if isinstance(value, (str, int, np.integer)):
        return str(value)
    return " ".join(_text(item) for item in value)


def body(name: str, pos: Iterable[float], inner: str, *, yaw: float = 0.0) -> str:
    """A body standing at `pos`, turned by `yaw` radians."""
    return tag("body", inner, name=name, pos=tuple(pos), euler=(0, 0, np.degrees(yaw)))


def visible(shape: str, material: str, **attributes: Any) -> str:
    """A geom that is seen and touches nothing."""
    return tag("geom", class_="visible", type=shape, material=material, **attributes)


def solid_box(half: Iterable[float], pos: Iterable[float], **attributes: Any) -> str:
    """An invisible box of furniture that things collide with."""
    return tag("geom", class_="furniture", type="box", size=tuple(half), pos=tuple(pos), **attributes)


class Assets:
    """Materials, textures and meshes of one part of a scene.

    seed: each texture is drawn by a generator made from (seed, name of its material), so that layout and physics
    never depend on texture size.  texture_size: side in texels of textures on large surfaces.  prefix: starts the
    names of meshes, unique among the parts of a scene.
    """

    def __init__(self, seed: int, *, texture_size: int, prefix: str) -> None:
        self.seed, self.texture_size, self.prefix = seed, texture_size, prefix
        self.materials: dict[str, str] = {}
        self.textures: dict[str, np.ndarray] = {}
        self.meshes: dict[str, Mesh] = {}

    def material(
        self, name: str, colour: Sequence[float] = (1, 1, 1), *, texture: Painter | None = None, detail: float = 1.0,
        repeat: tuple[float, float] | None = None, specular: float = 0.2, shininess: float = 0.3, emission: float = 0.0,
    ) -> str:  # fmt: skip
        """Add a material and return its name.  detail: texels relative to the texture size."""
        assert name not in self.materials, f"two materials named {name}"
        if texture is not None:
            self.textures[f"t_{name}"] = self._paint(name, texture, detail)
        self.materials[name] = tag(
            "material", name=name, rgba=(*colour, 1), texture=None if texture is None else f"t_{name}", texrepeat=repeat,
            specular=specular, shininess=shininess, emission=emission,
        )  # fmt: skip
        return name

    def _paint(self, name: str, texture: Painter, detail: float) -> np.ndarray:
        """uint8 (n, n, 3).  Drawn at twice the size and averaged: the renderers have no mipmaps of their own."""
        n = max(MIN_TEXTURE, int(self.texture_size * detail))
        rng = np.random.default_rng([TEXTURE_STREAM, self.seed, zlib.crc32(name.encode())])
        fine = texture(rng, 2 * n)
        coarse = fine.reshape(n, 2, n, 2, 3).mean((1, 3))
        return (np.clip(coarse, 0, 1) * 255 + 0.5).astype(np.uint8)

    def mesh(self, mesh: Mesh, name: str = "") -> str:
        """Add a mesh and return its name."""
        name = name or f"{self.prefix}_mesh{len(self.meshes)}"
        self.meshes[name] = mesh
        return name

    def box(
        self, half: Iterable[float], material: str, pos: Iterable[float] = (0, 0, 0), *, bevel: float = 0.006,
        repeats: float | None = 1.0,
    ) -> str:  # fmt: skip
        """A seen box with bevelled edges; see `bevel_box`."""
        mesh = self.mesh(bevel_box(tuple(half), bevel=bevel, repeats=repeats))
        return visible("mesh", material, mesh=mesh, pos=tuple(pos))


def compile_model(xml: str, parts: Sequence[Assets]) -> Any:
    """Compile MJCF text together with the meshes and textures of its parts into an mjModel."""
    import mujoco

    spec = mujoco.MjSpec.from_string(xml)
    for part in parts:
        for name, mesh in part.meshes.items():
            item = spec.add_mesh(name=name)
            item.uservert, item.usernormal = mesh.vertices.ravel(), mesh.normals.ravel()
            item.usertexcoord = mesh.uv.ravel()
            item.userface = mesh.faces.ravel().astype(np.int32)
            item.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL
        for name, image in part.textures.items():
            height, width, channels = image.shape
            kind = mujoco.mjtTexture.mjTEXTURE_2D
            spec.add_texture(name=name, type=kind, width=width, height=height, nchannel=channels).data = image.tobytes()
    return spec.compile()
