"""Recipes: found by name, and the same after a file."""

import pytest

from hwm.config import RunConfig, from_toml, to_toml
from hwm.recipes import RECIPES, names, recipe


@pytest.mark.parametrize("entry", RECIPES, ids=lambda r: r.name)
def test_every_recipe_survives_toml(entry, tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(to_toml(entry.build()))
    assert from_toml(RunConfig, path) == entry.build() == recipe(entry.name)
    assert entry.build().recipe == entry.name and entry.summary.endswith(".")


def test_recipes_are_found_by_name():
    assert recipe("st-demo").recipe == "st-demo" and len(set(names())) == len(names())
    with pytest.raises(ValueError, match="did you mean 'st-demo'"):
        recipe("st-dmeo")
