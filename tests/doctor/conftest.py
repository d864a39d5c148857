import pytest
import torch
from tiny_doctor import write_tokens

from hwm.model_config import FSQConfig
from hwm.tokenizers.autoencoder import FSQTokenizer
from hwm.tokenizers.open import load_tokenizer, save_tokenizer


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """A tokenizer, and training and held-out tokens of its."""
    root = tmp_path_factory.mktemp("doctor")
    torch.manual_seed(0)
    save_tokenizer(FSQTokenizer(FSQConfig(levels=(8, 5, 5), channels=8, depth=1)), root / "coder")
    coder = load_tokenizer(root / "coder")
    for seed, name in enumerate(("train", "val")):
        write_tokens(root / name, seed, coder.fingerprint())
    return root
