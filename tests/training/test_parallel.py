"""Several processes learn what one learns: every family, whole copies and shares, kept and recomputed activations."""

from dataclasses import replace

import pytest
import torch
from families import FAMILIES, among_others, batch_of, build, gen, write_base
from ranks import ranks
from tiny_training import CONFIG

from hwm.training.identity import decisive
from hwm.training.parallel import Parallel
from hwm.training.processes import ALONE
from hwm.training.run_folder import dealt_out


@pytest.mark.timeout(900)
def test_gradients_scores_and_predictions_of_two_processes_are_those_of_one(tmp_path):
    write_base(tmp_path / "base")
    modes, chosen = ["ddp", "fsdp+recompute"], ["st-sampled", "masked-base", "flow-split", "flow-context", "wan-lora", "fsq"]
    told = ranks(2, among_others, modes, chosen, tmp_path / "base", log=tmp_path)
    equal = [line for line in told.splitlines() if line.endswith(" equal")]
    assert equal == [f"{mode} {name} equal" for mode in modes for name in chosen]


@pytest.mark.parametrize("name", list(FAMILIES))
def test_recomputed_activations_give_the_same_gradients_and_are_not_kept(name):
    config, saved = FAMILIES[name], {}
    for recompute in (False, True):
        model, count = build(config), [0]
        parallel = Parallel(model, replace(CONFIG.train, recompute=recompute), ALONE, torch.device("cpu"))

        def keep(tensor, count=count):
            count[0] += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = parallel.loss(batch_of(config, 0), generator=gen(1))["loss"]
        kept = count[0]
        loss.backward()
        saved[recompute] = kept, loss.detach(), [p.grad for p in model.parameters()]
    assert saved[True][0] < 0.9 * saved[False][0]
    torch.testing.assert_close(saved[True][1:], saved[False][1:], rtol=0, atol=0)


@pytest.mark.full
def test_compiled_blocks_learn_the_same():
    config = replace(FAMILIES["st"], num_layers=1, dropout=0.0)
    plain, compiled = build(config), build(config)
    parallel = Parallel(compiled, replace(CONFIG.train, compile=True), ALONE, torch.device("cpu"))
    for number in range(2):
        expected = plain.loss(batch_of(config, number), generator=gen(1))["loss"]
        found = parallel.loss(batch_of(config, number), generator=gen(1))["loss"]
        torch.testing.assert_close(found, expected)
        expected.backward()
        found.backward()
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(compiled.get_parameter(name).grad, parameter.grad, rtol=1e-4, atol=1e-6)
    assert list(compiled.state_dict()) == list(plain.state_dict())


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match=r"train\.compile on a CPU needs a C\+\+ compiler"):
        Parallel(build(FAMILIES["st"]), replace(CONFIG.train, compile=True), ALONE, torch.device("cpu"))


@pytest.mark.parametrize(("batch_size", "accumulate", "world", "dealt"), [
    (8, 1, 1, (8, 1)), (8, 1, 2, (4, 2)), (8, 4, 3, (8, 4)), (6, 1, 4, (1, 6)), (6, 1, 3, (2, 3)), (5, 1, 2, (1, 5))
])
def test_clips_are_dealt_out_to_all_and_stay_as_many(tmp_path, batch_size, accumulate, world, dealt):
    config = replace(CONFIG, train=replace(CONFIG.train, batch_size=batch_size, accumulate=accumulate))
    found = dealt_out(config, tmp_path, world=world)
    assert (found.train.batch_size, found.train.accumulate) == dealt
    assert decisive(found) == decisive(config)


def test_a_step_too_small_for_its_processes_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a step of 4 clips .* is too small for 5 processes: start at most 4"):
        dealt_out(CONFIG, tmp_path, world=5)
