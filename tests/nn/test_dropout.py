import pytest
import torch

from hwm.nn.dropout import dropout, dropout_from, kept_dropout, predicting, without_dropout


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_rate_scale_and_independence(rate):
    torch.manual_seed(0)
    x = torch.ones(400_003)
    y = dropout(x, rate, training=True)
    kept = (y != 0).double()
    assert kept.mean().item() == pytest.approx(1 - rate, abs=0.004)
    assert y.unique().tolist() == pytest.approx([0, 1 / (1 - rate)], rel=1e-4)
    # Elements that share one random number are independent of each other.
    quads = kept[:400_000].view(-1, 4)
    assert (torch.corrcoef(quads.t()) - torch.eye(4)).abs().max() < 0.015
    assert quads.mean(0).tolist() == pytest.approx([1 - rate] * 4, abs=0.006)


def test_gradient_follows_the_mask():
    torch.manual_seed(1)
    x = torch.randn(50, requires_grad=True)
    y = dropout(x, 0.5, training=True)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient * x, y)


def test_nothing_happens_outside_training_or_at_rate_zero():
    x = torch.randn(5)
    assert dropout(x, 0.5, training=False) is x and dropout(x, 0.0, training=True) is x


def test_dropout_draws_from_the_given_generator_and_leaves_no_trace():
    x, cpu = torch.ones(1000), torch.device("cpu")
    torch.manual_seed(3)
    before = torch.get_rng_state()

    def draw(seed):
        with dropout_from(torch.Generator().manual_seed(seed), device=cpu, active=True):
            return dropout(x, 0.5, training=True)

    first, again, other = draw(1), draw(1), draw(2)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)
    generator = torch.Generator().manual_seed(1)
    state = generator.get_state()
    with dropout_from(generator, device=cpu, active=False):
        pass
    assert torch.equal(generator.get_state(), state)


@pytest.mark.parametrize("training", [True, False])
def test_without_dropout_restores_the_mode_also_after_an_error(training):
    model = torch.nn.Sequential(torch.nn.Dropout(0.5)).train(training)
    with pytest.raises(KeyError), without_dropout(model):
        assert not model.training and not model[0].training
        raise KeyError
    assert model.training is model[0].training is training


def test_predictions_have_dropout_only_where_it_is_kept():
    model, x = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Dropout(0.5)), torch.ones(8, 3)
    model.train()

    def predict(seed):
        with predicting(model, torch.Generator().manual_seed(seed)):
            return model(x)

    without = predict(0)
    assert torch.equal(without, model.eval()(x)) and torch.equal(without, predict(1))
    before = torch.get_rng_state()
    with kept_dropout(model):
        first, again, other = predict(1), predict(1), predict(2)
        with predicting(model, [torch.Generator().manual_seed(s) for s in (1, 5)]):  # the first of several
            assert torch.equal(model(x), first)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert len(first.unique(dim=0)) > 1, "each row has its own"
    assert not model.training and torch.equal(predict(1), without) and torch.equal(torch.get_rng_state(), before)
