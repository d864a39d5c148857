"""Controls of the states in closed form, and as rows of a table."""

import pytest
import torch
from refusing import refused

from hwm.evaluate.controls import controls
from hwm.evaluate.protocols import HWM, SAMPLING, Scoring
from hwm.evaluate.scoring import evaluate

GROUPS = {"drive": (0,), "noise": (1,)}


def states(word):
    """Of two clips of five rows; row f holds (f, 10 + f), its place in the clip; neutral are 7s, others are 100 more."""
    own_BFA = torch.stack([torch.arange(5.0), 10 + torch.arange(5.0)], -1).expand(2, 5, 2)
    control = next(control for control in controls([word], GROUPS) if control.name == word)
    return control(own_BFA, neutral_A=torch.full((2,), 7.0), others_BFA=own_BFA + 100)[1], own_BFA[1]


def test_shifted_states_are_those_of_other_rows():
    for word, rows in (("late-1", [0, 0, 1, 2, 3]), ("late-3", [0, 0, 0, 0, 1]), ("early-2", [2, 3, 4, 4, 4])):
        found, own = states(word)
        assert torch.equal(found, own[rows])


def test_a_group_changes_alone():
    for word in ("zeroed", "permuted", "late-2"):
        whole, own = states(word)
        for group, column in (("drive", 0), ("noise", 1)):
            found, _ = states(f"{word}:{group}")
            assert torch.equal(found[:, column], whole[:, column]) and torch.equal(found[:, 1 - column], own[:, 1 - column])
            assert not torch.equal(found, own)


def test_other_words_are_refused():
    for word in ("late", "late-0", "late--1", "later-2", "zeroed-3", ""):
        refused("controls must be of the form zeroed, .*late-4", controls, [word], GROUPS)
    refused("controls must name a group of this robot \\(drive, noise\\), got 'zeroed:hands'", controls, ["zeroed:hands"], GROUPS)
    refused("it has none", controls, ["late-1:hands"], {})
    assert [control.name for control in controls(["late-1", "zeroed"], {})] == ["zeroed", "permuted", "late-1"]


def test_every_control_is_a_row_beside_the_true_states(world):
    model = world.Mover(doubt=0.01, context_grids=2, future_grids=1)
    asked = Scoring(clips=0, batch_size=5, controls=("late-8", "permuted:noise", "zeroed:drive"))
    options = {"segments": world.segments, "state_groups": GROUPS, "cost_repeats": 0, "num_examples": 0}
    scores = evaluate(model, world.tokenizer, world.blocks, HWM, asked, **options)
    rows = scores.settings["controls"]
    assert list(rows) == ["zeroed", "permuted", "late-8", "permuted:noise", "zeroed:drive"]
    assert rows["late-8"] == "model, states 8 frames late" and rows["zeroed:drive"] == "model, states zeroed: drive"
    assert scores.names("states") == list(rows.values())
    lost = {name: scores.difference(scores.headline, row).value.mean for name, row in rows.items()}
    nats = {name: scores.difference("model, autoregressive", row, "cross-entropy", reference="tokens", span="all grids")
            for name, row in rows.items()}  # fmt: skip
    # The speed of these clips never changes, so that late states are as good; state 1 moves nothing.
    assert lost["late-8"] == lost["permuted:noise"] == nats["late-8"].value.mean == 0
    change = {name: scores.of(row, "change", reference="reconstruction").mean for name, row in rows.items()}
    assert change["late-8"] == change["permuted:noise"] == 0 and change["zeroed:drive"] == change["zeroed"] > 1
    assert lost["zeroed:drive"] == lost["zeroed"] > 1 and nats["zeroed:drive"].value.mean == nats["zeroed"].value.mean < 0


def test_filters_are_refused_where_they_would_do_nothing(world, strided):
    def asked(model, tokenizer, clips, protocol, **options):
        evaluate(model, tokenizer, clips, protocol, Scoring(clips=2, tuning_clips=2, **options))

    token_model = world.Mover(doubt=0.01, context_grids=2, future_grids=1)
    refused("top_k needs a temperature above 0", asked, token_model, world.tokenizer, world.blocks, HWM, top_k=3)
    cold = {"top_p": 0.5, "temperature": 0.0}
    refused("top_p needs a temperature above 0", asked, token_model, world.tokenizer, world.blocks, HWM, **cold)
    for protocol in (HWM, SAMPLING):
        refused("top_p chooses among tokens; the model predicts latents", asked, world.LatentMover(), world.latent_tokenizer,
                world.latents, protocol, top_p=0.5)  # fmt: skip


@pytest.mark.parametrize("word", ["late-4", "zeroed:drive"])
def test_ensembles_have_the_same_controls(strided, word):
    video, rows = torch.randint(0, 256, (6, 77, 32, 32, 3), dtype=torch.uint8), torch.rand(6, 77, 2)

    class Filmed:
        __len__ = lambda self: 6  # noqa: E731

        def batch(self, numbers):
            from hwm.contracts import Batch

            return Batch(states_BFA=rows[numbers], video_BFHWC=video[numbers])

    asked = Scoring(members=(1, 2), tuning_clips=2, clips=0, controls=(word,))
    scores = evaluate(strided.Model(), strided.Tokenizer(), Filmed(), SAMPLING, asked, state_groups=GROUPS, cost_repeats=0)
    row = scores.settings["controls"][word]
    assert row.startswith("mean of 2, states ") and scores.difference("mean of 2", row).metric == "psnr"
    assert "mean of 2, states zeroed" in scores.names("states")
