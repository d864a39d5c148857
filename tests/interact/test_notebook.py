"""The notebook of docs runs from top to bottom, on a tiny world: its code cells, one after another, as a kernel would."""

import ast
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

NOTEBOOK = Path(__file__).parents[2] / "docs/notebooks/first-dream.ipynb"


def run(source, names):
    """A cell; what its last line comes to, where that is an expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, NOTEBOOK.name, "exec"), names)
    return eval(compile(ast.Expression(last.value), NOTEBOOK.name, "eval"), names) if last else None


@pytest.mark.parametrize("name", ["direct", "st"])
def test_the_notebook_runs(place, name, capsys):
    pytest.importorskip("gymnasium")
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert cells[0]["metadata"]["tags"] == ["parameters"]
    names, pictures = {}, []
    run("".join(cells[0]["source"]), names)
    names |= {"RUN": str(place.root / name), "DATA": str(place.raw)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for cell in cells[1:]:
            found = run("".join(cell["source"]), names)
            pictures += [found] if isinstance(found, Image.Image) else []
    assert [picture.height for picture in pictures] == [64, 4 * 64, 2 * 64, 64]
    assert np.array_equal(names["future"].frames.shape, (4, 34, 32, 32, 3)) and names["rewards"].shape == (4,)
    printed = capsys.readouterr().out
    assert printed.startswith("a model of 1x-eve: sees") and "\nright_arm horizon (25,)\nTrue\n(4,)" in printed


def test_its_pictures_are_kept_and_nothing_of_the_machine(place):
    text = NOTEBOOK.read_text()
    outputs = [out for cell in json.loads(text)["cells"] for out in cell.get("outputs", [])]
    assert sum("image/png" in out.get("data", {}) for out in outputs) == 4
    assert not any(out["output_type"] == "error" for out in outputs)
    assert "/home/" not in text and "/tmp/" not in text and "/root/" not in text
    assert NOTEBOOK.stat().st_size < 1_000_000
