"""Pictures of the head camera: a ray tracer on the CPU that needs no graphics system, or MuJoCo's OpenGL renderer.

The ray tracer (mujoco-warp) costs time in proportion to pixels and repeats bit for bit; OpenGL has a fixed cost per
picture and pays from 256 pixels a side.  Both are chosen before MuJoCo is imported, by MUJOCO_GL.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hwm.sim.body.robot import CAMERA, SIDES
from hwm.sim.home.mjcf import VISIBLE_GROUP
from hwm.work.cache import cache_folder

Choice = Literal["auto", "warp", "gl"]
WARP_UP_TO = 128
"""Largest side in pixels for which the ray tracer is the faster one."""
NO_OPENGL = "disable"
WARP_ERRORS_ONLY = 40
SHADOW_LIGHT = 0.25
"""Share of a lamp's light that still reaches a shadow."""
BLACK = (0.0, 0.0, 0.0, 1.0)
PROBE_SECONDS = 60
GL_PACKAGES = "apt install libegl1 libgl1 (or libosmesa6)"
PROBE = """
import mujoco
model = mujoco.MjModel.from_xml_string(
    "<mujoco><worldbody><light pos='0 0 3'/><geom type='plane' size='9 9 1' rgba='1 1 1 1'/></worldbody></mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 64, 64) as renderer:
    renderer.update_scene(data)
    assert renderer.render().max() > 0
"""


def find_gl() -> str | None:
    """A value of MUJOCO_GL with which OpenGL works here, or None; tried in processes of their own, as it may abort."""
    for name in ("egl", "osmesa") if sys.platform.startswith("linux") else ("glfw",):
        environment = {**os.environ, "MUJOCO_GL": name, "LP_NUM_THREADS": "0"}
        try:
            done = subprocess.run([sys.executable, "-c", PROBE], env=environment, capture_output=True, timeout=PROBE_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        if done.returncode == 0:
            return name
    return None


def choose_backend(choice: Choice, size: int) -> str:
    """Value of MUJOCO_GL for this work: "disable" for the ray tracer, or the name of an OpenGL system.

    Raises ValueError if OpenGL was asked for and does not work here.
    """
    cache_folder()  # where Warp keeps its compiled kernels
    if choice == "warp" or (choice == "auto" and size <= WARP_UP_TO):
        return NO_OPENGL
    found = find_gl()
    if found is None and choice == "gl":
        raise ValueError(f"renderer gl: OpenGL does not work here; {GL_PACKAGES}, or choose renderer warp")
    return found or NO_OPENGL


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Keep what native code writes to file descriptor 2 from the user; Python's exceptions still get through."""
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def lens(light_HWC: np.ndarray) -> np.ndarray:
    """Blur of a plain lens, weights 1 2 1 both ways: takes out the aliasing of one ray per pixel, keeps the mean light."""
    for axis in (0, 1):
        edges = np.pad(light_HWC, [(1, 1) if a == axis else (0, 0) for a in range(3)], mode="edge")
        before, after = (edges.take(range(k, k + light_HWC.shape[axis]), axis) for k in (0, 2))
        light_HWC = 0.5 * light_HWC + 0.25 * (before + after)
    return light_HWC


def arm_geoms(model: Any) -> np.ndarray:
    """Which geoms are of the robot's arms and hands, bool (geoms,): of the bodies that hang from a shoulder."""
    of_arm = np.zeros(model.nbody, bool)
    for side in SIDES:
        of_arm[model.body(f"{side}_upper_arm").id] = True
    for body in range(1, model.nbody):  # a body comes after the one that it hangs from
        of_arm[body] |= of_arm[model.body_parentid[body]]
    return np.array(of_arm[model.geom_bodyid])


def robot_mask(objects_HW2: np.ndarray, robot: np.ndarray) -> np.ndarray:
    """Which pixels show these geoms, bool (H, W).  objects_HW2: number and kind of what each pixel shows; -1: nothing."""
    import mujoco

    numbers, kinds = objects_HW2[..., 0], objects_HW2[..., 1]
    return np.array((kinds == int(mujoco.mjtObj.mjOBJ_GEOM)) & robot[np.maximum(numbers, 0)])


class WarpRenderer:
    """Ray tracing on the CPU: textures, hard shadows, one ray per pixel, or 2 x 2 of them with `antialias`.

    One ray samples a point where a sensor gathers light from an area: the picture then passes a lens, see `lens`.

    model: mjModel of a scene.  size: side of the picture in pixels.  Physics stays in MuJoCo; per picture only
    poses are handed over.  masks: also tell which pixels of a picture show the arms, by one ray of each.
    """

    def __init__(self, model: Any, *, size: int, antialias: bool = False, masks: bool = False) -> None:
        import mujoco

        cache_folder()  # where Warp keeps its compiled kernels
        with quiet_stderr():
            import warp

            warp.config.log_level = WARP_ERRORS_ONLY
            import mujoco_warp

            warp.set_device("cpu")
        self._engine = mujoco_warp
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        self._model, self._data = mujoco_warp.put_model(model), mujoco_warp.put_data(model, data)
        self._context = mujoco_warp.create_render_context(
            model, cam_res=(size, size), render_rgb=True, use_textures=True, use_shadows=True,
            enabled_geom_groups=[VISIBLE_GROUP], samples_per_pixel=2 if antialias else 1, background_color=BLACK,
            shadow_light_fraction=SHADOW_LIGHT, render_seg=masks,
        )  # fmt: skip
        self._objects = warp.zeros((1, size, size), dtype=warp.vec2i) if masks else None
        self._robot = arm_geoms(model)
        self._picture = warp.zeros((1, size, size), dtype=warp.vec3f)
        self._through_lens = not antialias

    def render(self, data: Any) -> np.ndarray:
        """Picture of the head camera, uint8 (size, size, 3)."""
        for name in ("geom_xpos", "cam_xpos", "light_xpos", "light_xdir"):
            getattr(self._data, name).numpy()[0] = getattr(data, name)
        for name in ("geom_xmat", "cam_xmat"):
            getattr(self._data, name).numpy()[0] = getattr(data, name).reshape(-1, 3, 3)
        self._engine.refit_bvh(self._model, self._data, self._context)
        self._engine.render(self._model, self._data, self._context)
        self._engine.get_rgb(self._context, 0, self._picture)
        light = np.clip(self._picture.numpy()[0], 0, 1)
        return ((lens(light) if self._through_lens else light) * 255 + 0.5).astype(np.uint8)

    def mask(self) -> np.ndarray | None:
        """Which pixels of the last picture show the robot's arms, bool (size, size); None without `masks`."""
        if self._objects is None:
            return None
        self._engine.get_segmentation(self._context, 0, self._objects)
        return robot_mask(self._objects.numpy()[0], self._robot)

    def close(self) -> None:
        """Nothing to give back."""


class GLRenderer:
    """MuJoCo's OpenGL renderer; `antialias` renders at twice the size and averages.  masks: as `WarpRenderer`."""

    def __init__(self, model: Any, *, size: int, antialias: bool = False, masks: bool = False) -> None:
        import mujoco

        self._scale = 2 if antialias else 1
        self._renderer = mujoco.Renderer(model, size * self._scale, size * self._scale)
        self._options = mujoco.MjvOption()
        self._options.geomgroup[:] = 0
        self._options.geomgroup[VISIBLE_GROUP] = 1
        self._options.sitegroup[:] = 0
        self._masks, self._robot = masks, arm_geoms(model)

    def render(self, data: Any) -> np.ndarray:
        """Picture of the head camera, uint8 (size, size, 3)."""
        self._renderer.update_scene(data, CAMERA, self._options)
        picture = self._renderer.render()
        if self._scale == 1:
            return picture.copy()
        height, width = (side // self._scale for side in picture.shape[:2])
        parts = picture.reshape(height, self._scale, width, self._scale, 3)
        return (parts.mean((1, 3)) + 0.5).astype(np.uint8)

    def mask(self) -> np.ndarray | None:
        """Which pixels of the last picture show the robot's arms, by half or more, bool (size, size); None without `masks`."""
        if not self._masks:
            return None
        self._renderer.enable_segmentation_rendering()
        shown = robot_mask(self._renderer.render(), self._robot)
        self._renderer.disable_segmentation_rendering()
        height, width = (side // self._scale for side in shown.shape)
        return np.array(shown.reshape(height, self._scale, width, self._scale).mean((1, 3)) >= 0.5)

    def close(self) -> None:
        """Give the graphics context back."""
        self._renderer.close()


def make_renderer(
    backend: str, model: Any, *, size: int, antialias: bool, masks: bool = False
) -> WarpRenderer | GLRenderer:
    """The renderer for a value of MUJOCO_GL from `choose_backend`."""
    kind = WarpRenderer if backend == NO_OPENGL else GLRenderer
    return kind(model, size=size, antialias=antialias, masks=masks)
