"""Imports run downwards: every module knows only floors below its own, or its own floor, and nothing runs in a circle."""

import ast
import typing
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import hwm
from hwm.model_config import ModelConfig

HOUSE = Path(hwm.__file__).parent
FLOORS = (
    "safe_load work", "clock robot contracts", "model_config", "config", "data", "nn", "models recipes sim training",
    "publish.folder", "tokenizers", "predict prepare", "evaluate", "publish.trained publish.hub", "runs",
    "publish.card publish.export publish.loaded", "watch", "apply doctor interact", "experiments", "cli", "__main__",
)  # fmt: skip
"""From the ground up; a name stands for the module and all that lie in it."""
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names.split()}


def floor_of(module):
    """The floor of "hwm.publish.folder", by the longest name that is in the list."""
    name = module.removeprefix("hwm.")
    while name not in FLOOR_OF:
        name, _, last = name.rpartition(".")
        assert name, f"{module}: say in FLOORS on which floor hwm/{last} lies"
    return FLOOR_OF[name]


def imports_of(source, known):
    """Modules of the package that a file imports anywhere in it, but for those that only its annotations need."""
    tree = ast.parse(source)
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    unseen = {id(node) for block in blocks for node in ast.walk(block)}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in unseen:
            found |= {inner if (inner := f"{node.module}.{name.name}") in known else node.module for name in node.names}
        elif isinstance(node, ast.Import) and id(node) not in unseen:
            found |= {name.name for name in node.names}
    return found & known.keys() - {"hwm"}


@pytest.fixture(scope="module")
def house():
    """Every module and what it imports."""
    files = {".".join(path.relative_to(HOUSE.parent).with_suffix("").parts): path for path in HOUSE.rglob("*.py")}
    known = {name.removesuffix(".__init__"): path for name, path in files.items()}
    return {name: imports_of(path.read_text(), known) - {name} for name, path in known.items()}


def test_imports_run_downwards(house):
    upwards = [f"{name} imports {other}" for name, others in house.items() if name != "hwm"
               for other in others if floor_of(other) > floor_of(name)]  # fmt: skip
    assert upwards == []


def test_nothing_runs_in_a_circle(house):
    try:
        TopologicalSorter(house).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_a_world_model_is_known_by_its_contract_alone(house):
    families = [config for config in typing.get_args(ModelConfig) if config.role == "world model"]
    models = {config.module.partition(":")[0] for config in families}
    assert len(models) == len(families) and models <= house.keys()
    for room in ("nn", "training", "predict", "evaluate"):
        assert [name for name, others in house.items() if name.startswith(f"hwm.{room}.") and others & models] == []


def test_an_import_upwards_is_seen():
    known = dict.fromkeys(("hwm.cli", "hwm.nn.losses", "hwm.nn"))
    source = "from hwm.nn import losses\ndef f():\n    import hwm.cli\nif TYPE_CHECKING:\n    import hwm.nn\n"
    assert imports_of(source, known) == {"hwm.nn.losses", "hwm.cli"}
    assert floor_of("hwm.publish.folder") < floor_of("hwm.tokenizers.open") < floor_of("hwm.publish.export")
