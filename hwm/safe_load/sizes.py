"""What a configuration asks for, before it is built: a model on paper, whose tensors have shapes and types but no numbers.

A few digits in a configuration can ask for more memory than any machine has, or for layers without end.  On paper the
first costs nothing, and building ends where there is more than a file holds or the machine could keep.
"""

import math
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from hwm.safe_load.paths import hub_folder, inside, is_dir, reason
from hwm.safe_load.text import read_json
from hwm.safe_load.weights import read_header

MAX_PARTS = 10_000
"""Parameters and buffers of one model; the largest here has some eight hundred."""
TABLES = 64e6
"""Bytes of tables that are made and not stored."""
SMALLER = "lower what decides the size, such as the number of layers or the width"


def on_paper(
    make: Callable[[], Any], *, where: object, remedy: str = SMALLER, tensors: int = MAX_PARTS, nbytes: float = float("inf")
) -> Any:
    """The module that `make` builds, on torch's meta device.

    where: begins messages.  tensors, nbytes: parameters and buffers that it may have, by number and together in memory.
    Raises ValueError for more than that, and where no such module can be built.
    """
    left, thread = [tensors, nbytes], threading.get_ident()

    def count(module: nn.Module, name: str, tensor: Tensor | None) -> None:
        if tensor is None or threading.get_ident() != thread:
            return
        left[0] -= 1
        left[1] -= tensor.nbytes
        if left[0] < 0:
            raise _TooMuchError(f"more than {tensors} tensors")
        if left[1] < 0:
            raise _TooMuchError(f"more than {nbytes / 1e9:.3g} GB")

    hooks = register_module_parameter_registration_hook(count), register_module_buffer_registration_hook(count)
    try:
        with torch.device("meta"):
            return make()
    except _TooMuchError as error:
        raise ValueError(f"{where}: asks for {error}; {remedy}") from None
    except ValueError:
        raise
    except Exception as error:  # sizes from elsewhere can raise anything
        raise ValueError(f"{where}: no model can be built so ({reason(error)}); {remedy}") from None
    finally:
        for hook in hooks:
            hook.remove()


def room_for(listed: Mapping[str, tuple[Any, tuple[int, ...]]]) -> dict[str, Any]:
    """Bounds for a module that is to be filled by the tensors that a header lists, and for tables that it makes itself."""
    numbers = sum(math.prod(shape) for _, shape in listed.values())
    return {"tensors": 2 * len(listed) + 64, "nbytes": 8 * numbers + TABLES}


def check_model_folder(source: str | Path, subfolder: str | None = None, *, model: Any = None) -> None:
    """Hold a local folder in diffusers' layout against what the library does not check before it opens the files itself.

    Its JSON is small and sane, weights are listed inside the folder (or the hub's cache), headers are those of whole files, and
    the configuration asks `model`, the class that is to be built of it, for no more than the weights can fill.
    Raises ValueError naming the file; a `source` that is no folder is a hub name and is left to the library.
    """
    folder = Path(source) / (subfolder or "")
    if not is_dir(folder):
        return
    config: dict[str, Any] = {}
    for path in sorted(folder.glob("*.json")):
        table = read_json(path)
        config = table if path.name == "config.json" else config
        listed = table.get("weight_map", {})
        if not isinstance(listed, dict):
            raise ValueError(f"{path}: its weight_map is no table; fetch the file again")
        for name in {str(name): name for name in listed.values()}.values():
            inside(folder, name, source=path, links_within=hub_folder(folder))
    held = {name: size for path in sorted(folder.glob("*.safetensors")) for name, size in read_header(path).items()}
    if config and held and model is not None:
        where, remedy = folder / "config.json", "it does not fit the weights beside it; fetch the folder again"
        try:
            on_paper(lambda: model.from_config(config), where=where, remedy=remedy, **room_for(held))
        except ValueError as error:
            raise error if str(error).startswith(str(where)) else ValueError(f"{where}: {reason(error)}; {remedy}") from None


class _TooMuchError(Exception):
    pass
