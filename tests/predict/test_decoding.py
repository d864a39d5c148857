import pytest
import torch

from hwm.model_config import FSQConfig
from hwm.predict.rollout import FrameDecoder
from hwm.tokenizers.autoencoder import ContinuousTokenizer, FSQTokenizer


@pytest.fixture(scope="module")
def tokenizers():
    """A quantised and a continuous tokenizer with the same random weights."""
    torch.manual_seed(0)
    config = {"levels": (3, 3, 2), "channels": 8, "depth": 1}
    quantised = FSQTokenizer(FSQConfig(**config)).eval()
    continuous = ContinuousTokenizer(FSQConfig(**config, continuous=True)).eval()
    continuous.load_state_dict(quantised.state_dict())
    return quantised, continuous


def frames(num, seed=0):
    return torch.randint(0, 256, (2, num, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("context, past", [(1, 1), (2, 9), (3, 17), (4, 18), (5, 26)])
def test_a_future_is_decoded_after_the_context_of_its_block(tokenizers, context, past):
    for tokenizer in tokenizers:
        grids = tokenizer.encode(frames(34))
        whole = tokenizer.decode(grids)
        decoder = FrameDecoder(tokenizer, context_grids=context, future_grids=6 - context)
        before, after = grids.split([context, 6 - context], 1)
        future = decoder.future(before, after)
        assert torch.equal(future, whole[:, past:])
        past_frames, repeated = decoder.past_and_repeated(before, before[:, -1:].repeat_interleave(6 - context, 1))
        assert torch.equal(past_frames, whole[:, :past]) and repeated.shape == future.shape


@pytest.mark.parametrize("context", [2, 3])
def test_code_points_decode_like_their_tokens(tokenizers, context):
    tokenizer = tokenizers[0]
    before, after = tokenizer.encode(frames(34 if context == 3 else 17)).split([context, 3 if context == 3 else 1], 1)
    decoder = FrameDecoder(tokenizer, context_grids=context, future_grids=after.shape[1])
    assert torch.equal(decoder.expected_future(before, tokenizer.codes_VC[after]), decoder.future(before, after))


def test_parts_of_blocks_are_refused(tokenizers):
    with pytest.raises(ValueError, match="whole blocks of 3 grids; the model has 2 context and 3 future grids"):
        FrameDecoder(tokenizers[0], context_grids=2, future_grids=3)
