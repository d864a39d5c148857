"""The code of docs/python.md and docs/environment.md runs as it stands, on a tiny world and its data."""

import re
import warnings
from pathlib import Path

import pytest

from hwm.evaluate import perceptual

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page, made", [("python.md", "future"), ("environment.md", "envs")])
def test_the_page_runs(page, made, place, tmp_path, monkeypatch):
    if page == "environment.md":
        pytest.importorskip("gymnasium")
    monkeypatch.setattr(perceptual, "NUM_RESAMPLES", 3)  # intervals of distances are tested elsewhere and take long
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    Path("data").mkdir()
    Path("runs/first").symlink_to(place.direct)
    for name in ("raw", "held_out"):
        Path("data", name).symlink_to(place.raw)
    names = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for code in blocks(page):
            exec(code, names)
    assert len(blocks(page)) >= 3 and made in names
    if page == "python.md":
        assert names["future"].frames.shape == (4, 34, 32, 32, 3) and Path("scores/report.html").is_file()
    else:
        assert names["envs"].num_envs == 8 and names["rewards"].shape == (8,)
