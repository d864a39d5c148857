"""The page that sets the documents beside the recipes says what the recipes are."""

import re
from pathlib import Path

import pytest

from hwm.config import override
from hwm.recipes import recipe

PAGE = Path(__file__).parents[2] / "docs" / "agreement.md"
SECTIONS = dict(re.findall(r"^## ([^\n]*`[^\n]*`)\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.S | re.M))


@pytest.mark.parametrize("title", SECTIONS)
def test_every_setting_on_the_page_is_the_recipe_s(title):
    settings = re.findall(r"`((?:model|data|train)\.\w+=[^`]+)`", SECTIONS[title])
    names = re.findall(r"`([^`]+)`", title)
    assert names and len(settings) > 5
    for name in names:
        for setting in settings:
            assert override(recipe(name), [setting]) == recipe(name), f"{name}: the page says {setting}"


def test_every_published_recipe_is_on_the_page():
    assert len(SECTIONS) == 5 and sum(len(re.findall(r"`([^`]+)`", title)) for title in SECTIONS) == 11
