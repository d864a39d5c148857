"""What can run a file, or opens one from elsewhere without care, is called in hwm/safe_load only.

Names are banned by ruff's TID251 (pyproject.toml); here is what no name tells: builtins, modes, keywords, templates.
"""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import hwm

ROOT = Path(hwm.__file__).parent
BUILTINS = {"eval", "exec", "compile", "__import__"}
SAFE = {"allow_pickle": False, "weights_only": True, "trust_remote_code": False, "shell": False}
"""Keywords that may be given with this value only."""
READERS = ("zipfile.ZipFile", "av.open", "np.memmap")
"""Calls that may only write."""
ALLOWED = {
    ("work/files.py", "np.memmap"): "bare numbers, the exact size compared first",
    ("tokenizers/shard_job.py", "np.memmap"): "reads what this package wrote itself, in a folder of its own",
}


def is_constant(node, value):
    return isinstance(node, ast.Constant) and node.value is value


def fault(node):
    """What is wrong with a node of the tree, or None."""
    if isinstance(node, ast.Name) and node.id in BUILTINS and isinstance(node.ctx, ast.Load):
        return node.id
    if isinstance(node, ast.ImportFrom) and any(f"{node.module}.{a.name}" in ("zipfile.ZipFile", "av.open") for a in node.names):
        return "an import that hides what is called"
    if not isinstance(node, ast.Call):
        return None
    name, keywords = ast.unparse(node.func), {k.arg: k.value for k in node.keywords}
    for key in SAFE.keys() & keywords.keys():
        if not is_constant(keywords[key], SAFE[key]):
            return key
    if name in READERS:
        mode = keywords.get("mode", node.args[1] if len(node.args) > 1 else None)
        return None if isinstance(mode, ast.Constant) and mode.value == "w" else name
    if name == "getattr" and len(node.args) > 1 and isinstance(node.args[1], ast.Constant):
        return "getattr of a loader" if str(node.args[1].value) in ("load", "loads", "system", *BUILTINS) else None
    attribute = node.func.attr if isinstance(node.func, ast.Attribute) else ""
    if attribute in ("format", "format_map", "vformat") and not isinstance(node.func.value, ast.Constant):
        return ".format of a template that is not written here"
    if attribute == "from_pretrained" and not is_constant(keywords.get("use_safetensors"), True):
        return "from_pretrained without use_safetensors"
    return None


def faults(source):
    return [(node.lineno, found) for node in ast.walk(ast.parse(source)) if (found := fault(node))]


def banned(*what, **options):
    """Lines in which ruff finds a banned name."""
    command = [sys.executable, "-m", "ruff", "check", "--select", "TID251", "--output-format", "concise", "--no-cache", *what]
    done = subprocess.run(command, cwd=ROOT.parent, capture_output=True, text=True, **options)
    assert done.returncode in (0, 1), done.stderr
    return [line for line in done.stdout.splitlines() if "TID251" in line]


def test_files_from_elsewhere_are_opened_by_safe_load_only():
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        for line, what in faults(path.read_text(encoding="utf-8")) if not name.startswith("safe_load/") else ():
            found.setdefault((name, what), line)
    assert found.keys() == ALLOWED.keys(), "open it with hwm/safe_load, or give a reason in ALLOWED"


def test_safe_load_itself_unpickles_nothing():
    sources = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "safe_load").glob("*.py")}
    assert not [name for name, text in sources.items() if "torch.load(" in text]
    assert [name for name, text in sources.items() if "torch.jit.load(" in text] == ["program_child.py"]
    words = ("import pickle", "np.load(", "allow_pickle", "import yaml")
    assert not any(word in text for text in sources.values() for word in words)
    assert not {what for text in sources.values() for _, what in faults(text)} - set(READERS)


BAD_NAMES = """\
import pickle
from pickle import loads
import os, marshal
import yaml
from tarfile import open as o
import torch; x = torch.load("f", weights_only=True)
from torch import load as quick
import torch.jit as tj; tj.load("f")
from torch import jit; opener = jit.load
import numpy as np; np.load("f", allow_pickle=False)
import numpy as np; f = np.fromfile
import numpy; numpy.lib.format.open_memmap("f")
import importlib; importlib.import_module(name)
from importlib import import_module
import json; json.load(f)
import json as j; j.loads(path.read_text())
import tomllib; tomllib.loads(text)
from PIL import Image; Image.open(p)
from safetensors import safe_open
from safetensors.torch import load_file, save_file
import shutil; shutil.unpack_archive(p)
import os; os.system("x")
import torch.distributed.checkpoint as dcp; dcp.load(s)
"""


@pytest.mark.skipif(importlib.util.find_spec("ruff") is None, reason="ruff is not installed")
def test_banned_names_are_found():
    assert not banned("hwm")
    found = {int(line.split(":")[1]) for line in banned("--stdin-filename", "hwm/x.py", "-", input=BAD_NAMES)}
    assert found == set(range(1, 1 + len(BAD_NAMES.splitlines())))


@pytest.mark.parametrize("bad", [
    "f('x', allow_pickle=True)", "f('x', allow_pickle=trusted)", "f('x', weights_only=False)", "eval('1')", "run = exec",
    "compile('1', '', 'eval')", "__import__(name)", "av.open(p)", "av.open(p, 'r')", "av.open(p, mode=mode)",
    "zipfile.ZipFile(p)", "zipfile.ZipFile(p, 'a')", "from zipfile import ZipFile", "template.format(i=1)",
    "'{}'.join(x).format(1)", "str.format(t, 1)", "getattr(torch, 'load')('f')", "subprocess.run('x', shell=True)",
    "Model.from_pretrained(folder)", "Model.from_pretrained(folder, use_safetensors=True, trust_remote_code=True)",
])  # fmt: skip
def test_the_rules_find_what_they_forbid(bad):
    assert faults(bad)


@pytest.mark.parametrize("good", [
    "re.compile('x')", "torch.compile(model)", "model.eval()", "'{:.2f}'.format(x)", "zipfile.ZipFile(p, 'w', ZIP_STORED)",
    "def f(z: zipfile.ZipFile) -> zipfile.ZipFile: return z", "av.open(p, 'w', format='mp4')", "isinstance(x, np.memmap)",
    "optimizer.load_state_dict(x)", "Model.from_pretrained(folder, use_safetensors=True)", "load = own.load\nx.load()",
])  # fmt: skip
def test_the_rules_leave_the_rest_alone(good):
    assert not faults(good)
