"""What is refused, in one line of a test."""

import pytest


def refused(message, call, *arguments, **options):
    """The call refuses by a ValueError of one line that matches the message, None any; returns the line."""
    with pytest.raises(ValueError, match=message) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)
