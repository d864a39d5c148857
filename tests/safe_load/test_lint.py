"""What can run a file, or opens one from elsewhere without care, is called in hwm/safe_load only."""

import ast
from fnmatch import fnmatch
from pathlib import Path

import pytest

import hwm

ROOT = Path(hwm.__file__).parent

MODULES = {"pickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "tarfile", "runpy", "code"}
"""Not to be imported at all."""

NAMES = {
    "eval", "exec", "compile", "__import__", "builtins.eval", "builtins.exec", "builtins.compile", "builtins.__import__",
    "importlib.import_module", "importlib.__import__", "os.system", "os.popen", "shutil.unpack_archive",
    "torch.load", "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter", "torch.export.load",
    "torch.distributed.checkpoint.load", "torch.distributed.checkpoint.load_state_dict",
    "torch.distributed.checkpoint.FileSystemReader", "torch.UntypedStorage.from_file", "torch.from_file",
    "numpy.load", "numpy.fromfile", "numpy.memmap", "numpy.loadtxt", "numpy.genfromtxt", "numpy.lib.format.open_memmap",
    "numpy.lib.format.read_array", "numpy.lib.format.read_array_header_1_0", "numpy.lib.npyio.NpzFile",
    "json.load", "json.loads", "tomllib.load", "tomllib.loads", "PIL.Image.open", "av.open",
    "safetensors.safe_open", "safetensors.deserialize", "safetensors.torch.load_file", "safetensors.torch.load",
    "safetensors.numpy.load_file", "safetensors.numpy.load", "zipfile.ZipFile", "zipfile.PyZipFile", "zipimport.zipimporter",
}  # fmt: skip
"""Not to be named, called or not."""

OWN = "reads what this package wrote itself, in a folder of its own"
CHECKED = "bytes that were held against a checksum or a cap, and every error is caught"
ALLOWED = {
    "config.py: json.loads": "a value that json.dumps gave in the same line",
    "config.py: tomllib.loads": "one value of the command line",
    "data/video.py: numpy.lib.format.open_memmap": "writes a new file",
    "work/files.py: numpy.memmap": "bare numbers, the exact size compared first",
    "data/checksums.py: json.loads": OWN,
    "work/parts.py: json.loads": CHECKED,
    "experiments/*: json.loads": OWN,
    "training/launch.py: json.loads": OWN,
    "models/build.py: importlib.import_module": "a module named by a class of this package",
    "tokenizers/shard_job.py: numpy.memmap": OWN,
    "training/*: json.loads": CHECKED,
}
"""Reasons for what stays outside, by file and name."""


class Finder(ast.NodeVisitor):
    """Collects lines and names of what the rules forbid in one module."""

    def __init__(self):
        self.found, self.aliases, self.writing, self.types = [], {}, set(), set()

    def note(self, node, name):
        self.found.append((node.lineno, name))

    def visit_Import(self, node):
        for alias in node.names:
            if alias.name.split(".")[0] in MODULES:
                self.note(node, alias.name)
            self.aliases[alias.asname or alias.name.split(".")[0]] = alias.name if alias.asname else alias.name.split(".")[0]

    def visit_ImportFrom(self, node):
        if (node.module or "").split(".")[0] in MODULES and not node.level:
            self.note(node, node.module)
        for alias in node.names:
            full = f"{node.module}.{alias.name}"
            self.aliases[alias.asname or alias.name] = full
            if full in NAMES and full not in ("zipfile.ZipFile", "av.open"):
                self.note(node, full)

    def name_of(self, node):
        """The dotted name behind an expression, imports and constant getattr undone, or nothing."""
        if isinstance(node, ast.Name):
            return self.aliases.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            inner = self.name_of(node.value)
            return inner and f"{inner}.{node.attr}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr" and len(node.args) > 1:
            inner, name = self.name_of(node.args[0]), node.args[1]
            return inner and isinstance(name, ast.Constant) and f"{inner}.{name.value}"
        return None

    def visit_Call(self, node):
        name, keywords = self.name_of(node.func), {k.arg: k.value for k in node.keywords}
        if name in ("zipfile.ZipFile", "av.open"):
            mode = keywords.get("mode", node.args[1] if len(node.args) > 1 else None)
            if isinstance(mode, ast.Constant) and mode.value == "w":
                self.writing.add(node.func)
        if "allow_pickle" in keywords and not is_constant(keywords["allow_pickle"], False):
            self.note(node, "allow_pickle")
        if "weights_only" in keywords and not is_constant(keywords["weights_only"], True):
            self.note(node, "weights_only")
        for flag in ("trust_remote_code", "shell"):
            if flag in keywords and not is_constant(keywords[flag], False):
                self.note(node, flag)
        if isinstance(node.func, ast.Attribute):
            if node.func.attr in ("format", "format_map", "vformat") and not isinstance(node.func.value, ast.Constant):
                self.note(node, ".format of a template that is not written here")
            if node.func.attr == "from_pretrained" and not is_constant(keywords.get("use_safetensors"), True):
                self.note(node, "from_pretrained without use_safetensors")
        elif isinstance(node.func, ast.Name) and node.func.id == "getattr" and (full := self.name_of(node)) in NAMES:
            self.note(node, full)
        self.generic_visit(node)

    def visit_annotation(self, node):
        self.types.update(ast.walk(node))

    def visit_arg(self, node):
        if node.annotation is not None:
            self.visit_annotation(node.annotation)
        self.generic_visit(node)

    def visit_FunctionDef(self, node):
        if node.returns is not None:
            self.visit_annotation(node.returns)
        self.generic_visit(node)

    def visit_Attribute(self, node):
        self.check(node)
        self.generic_visit(node)

    def visit_Name(self, node):
        self.check(node)

    def check(self, node):
        name = self.name_of(node)
        if name in NAMES and node not in self.writing and node not in self.types and isinstance(node.ctx, ast.Load):
            self.note(node, name)


def is_constant(node, value):
    return isinstance(node, ast.Constant) and node.value is value


def faults(source):
    finder = Finder()
    tree = ast.parse(source)
    for node in ast.walk(tree):  # imports inside functions count for the whole file
        if isinstance(node, ast.Import | ast.ImportFrom):
            finder.visit(node)
    finder.found.clear()
    finder.visit(tree)
    return sorted(set(finder.found))


def outside():
    """(module, line, name) of everything that the rules forbid outside safe_load."""
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith("safe_load/"):
            yield from ((name, line, fault) for line, fault in faults(path.read_text(encoding="utf-8")))


def reason(name, fault):
    """The exceptions that a place falls under."""
    return [rule for rule in ALLOWED if fnmatch(f"{name}: {fault}", rule)]


def test_files_from_elsewhere_are_opened_by_safe_load_only():
    wrong = [f"hwm/{name}:{line}: {fault}" for name, line, fault in outside() if not reason(name, fault)]
    assert not wrong, "open it with hwm/safe_load, or give a reason in ALLOWED:\n" + "\n".join(wrong)


def test_every_exception_is_used():
    assert set(ALLOWED) == {rule for name, _, fault in outside() for rule in reason(name, fault)}


def test_safe_load_unpickles_nothing_without_restriction():
    where = {}
    for path in sorted((ROOT / "safe_load").glob("*.py")):
        for _, fault in faults(path.read_text(encoding="utf-8")):
            where.setdefault(fault, set()).add(path.name)
    assert where["torch.load"] == {"weights.py"} and where["torch.jit.load"] == {"program_child.py"}
    banned = {"pickle", "eval", "exec", "compile", "allow_pickle", "weights_only", "numpy.load", "yaml", "os.system"}
    assert not where.keys() & banned


@pytest.mark.parametrize(
    "bad",
    [
        "import pickle",
        "from pickle import loads",
        "import os, marshal",
        "def f():\n    import shelve as s",
        "import yaml",
        "from tarfile import open as o",
        "import torch\nx = torch.load('f', weights_only=True)",
        "from torch import load as quick",
        "import torch.jit as tj\ntj.load('f')",
        "from torch import jit\nopener = jit.load",
        "import numpy as np\nnp.load('f', allow_pickle=False)",
        "import numpy as np\nf = np.fromfile",
        "import numpy\nnumpy.lib.format.open_memmap('f')",
        "f('x', allow_pickle=True)",
        "f('x', allow_pickle=trusted)",
        "f('x', weights_only=False)",
        "eval('1')",
        "run = exec",
        "compile('1', '', 'eval')",
        "__import__(name)",
        "import importlib\nimportlib.import_module(name)",
        "from importlib import import_module",
        "import json\njson.load(f)",
        "import json as j\nj.loads(path.read_text())",
        "import tomllib\ntomllib.loads(text)",
        "from PIL import Image\nImage.open(p)",
        "import av\nav.open(p)",
        "import av\nav.open(p, 'r')",
        "import av\nav.open(p, mode=mode)",
        "from safetensors import safe_open",
        "from safetensors.torch import load_file, save_file",
        "import zipfile\nzipfile.ZipFile(p)",
        "import zipfile\nzipfile.ZipFile(p, 'a')",
        "from zipfile import ZipFile\nwith ZipFile(p) as z: pass",
        "import shutil\nshutil.unpack_archive(p)",
        "template.format(i=1)",
        "'{}'.join(x).format(1)",
        "str.format(t, 1)",
        "import torch\ngetattr(torch, 'load')('f')",
        "import os\nos.system('x')",
        "import subprocess\nsubprocess.run('x', shell=True)",
        "Model.from_pretrained(folder)",
        "Model.from_pretrained(folder, use_safetensors=True, trust_remote_code=True)",
        "import torch.distributed.checkpoint as dcp\ndcp.load(s)",
    ],
)
def test_the_rules_find_what_they_forbid(bad):
    assert faults(bad)


@pytest.mark.parametrize(
    "good",
    [
        "import re\nre.compile('x')",
        "import torch\ntorch.compile(model)",
        "model.eval()",
        "'{:.2f}'.format(x)",
        "import zipfile\nwith zipfile.ZipFile(p, 'w', zipfile.ZIP_STORED) as z: pass",
        "import zipfile\ndef f(z: zipfile.ZipFile) -> zipfile.ZipFile: return z",
        "import av\nav.open(p, 'w', format='mp4')",
        "import json\njson.dumps(x)",
        "from PIL import Image\nImage.fromarray(x).save(p)",
        "from safetensors.torch import save_file",
        "optimizer.load_state_dict(x)",
        "Model.from_pretrained(folder, use_safetensors=True)",
        "from importlib.util import find_spec",
        "load = own.load\nx.load()",
    ],
)
def test_the_rules_leave_the_rest_alone(good):
    assert not faults(good)
