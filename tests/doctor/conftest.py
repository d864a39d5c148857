import pytest
from tiny_doctor import write_tokens
from tiny_line import tokenizer

from hwm.tokenizers.open import load_tokenizer


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """A tokenizer, and training and held-out tokens of its."""
    root = tmp_path_factory.mktemp("doctor")
    coder = load_tokenizer(tokenizer(root / "coder"))
    for seed, name in enumerate(("train", "val")):
        write_tokens(root / name, seed, coder.fingerprint())
    return root
