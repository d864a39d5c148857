"""The loop on worlds in closed form, for the families of tokens and of latents, by the protocols of one prediction."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest
import torch
from copying import CopyLastGrid
from refusing import refused
from scored import Filmed, Held, score

from hwm.clock import COSMOS
from hwm.contracts import Batch
from hwm.evaluate.metrics import METRICS, PSNR_CAP, Metric, psnr, ssim
from hwm.evaluate.protocols import (
    AUTOREGRESSIVE,
    CEILING,
    COMPRESSION,
    COPY_FRAME,
    COPY_GRID,
    ENTROPY,
    EXPECTED_CODE,
    HWM,
    LIKELY_TOKENS,
    MARGIN,
    MEAN_OF_CONTEXT,
    SAMPLED_LATENTS,
    SAMPLED_TOKENS,
    SAMPLING,
    STILL_LATENTS,
    TEACHER_FORCED,
    TOLD_APART,
    UNIGRAM,
)
from hwm.evaluate.scores import ALL, ALL_GRIDS, LAST, ORIGINAL, RECONSTRUCTION, TOKENS, Scores, frame_span
from hwm.evaluate.table import text_table, verdict
from hwm.evaluate.token_scores import unigram_counts
from hwm.tokenizers.open import Undecoded

BASELINES = (COPY_FRAME, COPY_GRID, MEAN_OF_CONTEXT)
ZEROED, PERMUTED = "model, states zeroed", "model, states permuted"
NEXT_TOKEN = {"reference": TOKENS, "span": ALL_GRIDS}


@pytest.fixture(scope="module")
def perfect(world):
    """A mover over tokens that knows the future, on pairs of blocks."""
    counts = unigram_counts([world.clips.tokens[:, :3]], vocab_size=world.vocab_size)
    options = {"video": world.clips.video, "segments": world.segments, "unigram_counts": counts}
    return score(world.Mover(doubt=0.01), world.tokenizer, world.clips, batch_size=5, num_examples=3, **options)


@pytest.fixture(scope="module")
def of_tokens(world):
    model = world.Mover(doubt=0.01, context_grids=2, future_grids=1)
    options = {"video": world.blocks.video, "segments": world.segments}
    return score(model, world.tokenizer, world.blocks, HWM, batch_size=5, **options)


@pytest.fixture(scope="module")
def of_latents(world):
    options = {"video": world.latents.video, "segments": world.segments, "cost_repeats": 1}
    return score(world.LatentMover(), world.latent_tokenizer, world.latents, HWM, batch_size=5, **options)


@pytest.mark.parametrize(("kind", "best", "protocol"), [
    ("perfect", LIKELY_TOKENS, COMPRESSION), ("of_tokens", LIKELY_TOKENS, HWM), ("of_latents", STILL_LATENTS, HWM)
])
def test_a_perfect_model_scores_perfectly(kind, best, protocol, request):
    scores = request.getfixturevalue(kind)
    settings, num_frames = scores.settings, len(protocol.scored)
    assert (scores.protocol, settings["protocol"]) == (protocol.name, protocol.name) and settings["span"] == protocol.span
    assert settings["context_frames"] == protocol.num_seen and settings["future_frames"] == num_frames
    for reference in protocol.references:
        at = {"reference": reference}
        for metric in ("psnr", "pooled psnr"):
            assert {scores.of(best, metric, span=span, **at).mean for span in (LAST, ALL)} == {PSNR_CAP}
        assert scores.of(best, "ssim", span=ALL, **at).mean == scores.of(best, "sharpness", **at).mean == 1
        assert scores.of(best, "gmsd", **at).mean == 0
        frames = [score.span for score in scores.select(row=best, metric="psnr", **at)]
        assert frames == [LAST, ALL, *(frame_span(f + 1) for f in range(num_frames))]
    assert scores.of(CEILING, "psnr", reference=ORIGINAL).mean == PSNR_CAP
    for name in (ZEROED, PERMUTED):
        assert scores.difference(scores.headline, name).value.low > 0


OF_FEW = (ENTROPY, TOLD_APART, MARGIN)
"""Metrics of rollouts of tokens, and of clips that begin alike."""


def test_every_metric_is_measured_of_every_row(perfect, of_latents):
    for scores in (perfect, of_latents):
        rows = set(scores.names("model", "states", "baseline", "ceiling"))
        for reference in (RECONSTRUCTION, ORIGINAL):
            of_frames = {score.row for score in scores.select(metric="psnr", reference=reference)}
            of_others = {TEACHER_FORCED, AUTOREGRESSIVE, UNIGRAM} | ({CEILING} if reference == RECONSTRUCTION else set())
            assert of_frames == rows - of_others
            for metric in METRICS:
                found = {score.row for score in scores.select(metric=metric.name, reference=reference)}
                assert found == (set() if metric.name in OF_FEW else of_frames), metric.name


def test_tokens_are_scored_where_there_is_no_tokenizer(perfect, world):
    """The same numbers as beside the pixels, a verdict in nats, and a page that says what is missing."""
    counts = unigram_counts([world.clips.tokens[:, :3]], vocab_size=world.vocab_size)
    options = {"segments": world.segments, "unigram_counts": counts, "cost_repeats": 1, "batch_size": 5}
    scores = score(world.Mover(doubt=0.01), Undecoded(COSMOS, world.vocab_size), world.clips, **options)
    assert scores.scores == perfect.select(reference=TOKENS) and scores.examples == []
    assert {d.second: d for d in scores.differences} == {d.second: d for d in perfect.differences if d.reference == TOKENS}
    assert {(d.metric, d.second) for d in scores.differences} == {
        ("cross-entropy", ZEROED), ("cross-entropy", PERMUTED), ("cross-entropy", TEACHER_FORCED), ("cross-entropy", UNIGRAM),
        ("accuracy", COPY_GRID),
    }
    nats = -math.log(1 - 0.01)
    assert scores.headline == AUTOREGRESSIVE and scores.of(AUTOREGRESSIVE, "cross-entropy").mean == pytest.approx(nats)
    copied, other, cost, *_ = verdict(scores)
    assert re.match(r"Over 17 frames the likeliest token beats repeating the last grid by [\d.]+ of accuracy", copied)
    assert re.match(r"Given another clip's states it scores worse by [\d.]+ nats .* it uses the states", other)
    assert "0.010 nats" in cost and "uniform guess 2.773" in cost
    assert set(scores.cost.figures) == {"samples/s"} and "samples/s" in text_table(scores)
    assert Scores.from_json(json.loads(json.dumps(scores.to_json()))).of(AUTOREGRESSIVE, "accuracy").mean == 1


@pytest.mark.parametrize("protocol", [COMPRESSION, HWM, SAMPLING])
def test_a_new_metric_is_one_line(protocol, monkeypatch, world, strided):
    def brightness(pred, truth):
        return (pred.double() - truth.double()).abs().flatten(-3).mean(-1)

    added = (*METRICS, Metric("brightness", "brightness", "levels", 1, "lower", brightness, lambda x: 2 * x))
    monkeypatch.setattr("hwm.evaluate.measures.METRICS", added)
    if protocol is SAMPLING:
        video, states = torch.randint(0, 256, (6, 77, 32, 32, 3), dtype=torch.uint8), torch.zeros(6, 77, 2)
        options = {"members": (1, 2), "tuning_clips": 2}
        scores = score(strided.Model(), strided.Tokenizer(), Filmed(video, states), protocol, **options)
    elif protocol is HWM:
        scores = score(world.LatentMover(), world.latent_tokenizer, world.latents, protocol)
    else:
        scores = score(world.Mover(), world.tokenizer, world.clips, protocol)
    assert {s.row for s in scores.select(metric="brightness")} == {s.row for s in scores.select(metric="psnr")}
    found, pooled = (scores.of(COPY_FRAME, name).mean for name in ("brightness", "pooled brightness"))
    assert found > 1 and found == pytest.approx(pooled)


def test_the_states_matter_to_a_model_that_uses_them(perfect):
    for name in (ZEROED, PERMUTED):
        assert perfect.of(name, "accuracy", **NEXT_TOKEN).mean < 0.7
        gap = perfect.difference(EXPECTED_CODE, name).value
        assert gap.low > 0 and gap.mean > 5
        nats = perfect.difference(AUTOREGRESSIVE, name, "cross-entropy", **NEXT_TOKEN)
        assert nats.value.high < 0 and nats.share_higher == 0
    # Zeroed states stop this world.
    assert perfect.of(ZEROED, "psnr").mean == pytest.approx(perfect.of(COPY_GRID, "psnr").mean, abs=0.2)


def test_baselines_equal_a_direct_computation(perfect, of_latents, world):
    for scores, clips, seen in ((perfect, world.clips, 17), (of_latents, world.latents, 9)):
        frames = clips.video(np.arange(12))
        past, future = frames[:, :seen], frames[:, seen:]
        last, mean = past[:, -1:], past.float().mean(1, keepdim=True).round().to(torch.uint8)
        for reference in (RECONSTRUCTION, ORIGINAL):  # these tokenizers lose nothing
            for name, picture in ((COPY_FRAME, last), (MEAN_OF_CONTEXT, mean)):
                copied, at = picture.expand_as(future), {"reference": reference}
                assert scores.of(name, "psnr", span=LAST, **at).mean == pytest.approx(psnr(copied, future)[:, -1].mean().item())
                assert scores.of(name, "ssim", span=ALL, **at).mean == pytest.approx(ssim(copied, future).mean().item())
                for f, expected in enumerate(psnr(copied, future).mean(0).tolist()):
                    assert scores.of(name, "psnr", span=frame_span(f + 1), **at).mean == pytest.approx(expected)
    stays = (world.clips.tokens[:, 3:] == world.clips.tokens[:, 2:3]).double().mean().item()
    assert perfect.of(COPY_GRID, "accuracy", **NEXT_TOKEN).mean == pytest.approx(stays)


def test_the_protocol_is_the_same_for_both_kinds(of_tokens, of_latents):
    def of_baselines(scores):
        return [score for score in scores.scores if score.row in BASELINES and score.reference != TOKENS]

    assert of_baselines(of_tokens) == of_baselines(of_latents)
    own = {"predicts", "top_k", "vocab_size", "uniform_cross_entropy", "tokenizer", "tokenizer_fingerprint", "sampling"}
    own |= {"fingerprint", "control"}
    same = [{k: v for k, v in scores.settings.items() if k not in own} for scores in (of_tokens, of_latents)]
    assert same[0] == same[1]


def test_scores_of_tokens(perfect, of_tokens, of_latents, world):
    for name in (TEACHER_FORCED, AUTOREGRESSIVE):
        assert perfect.of(name, "accuracy", **NEXT_TOKEN).mean == 1
        assert perfect.of(name, "cross-entropy", **NEXT_TOKEN).mean == pytest.approx(-math.log(0.99), rel=1e-5)
        assert perfect.of(name, "accuracy", reference=TOKENS, span="grid 3").mean == 1
    assert perfect.of(AUTOREGRESSIVE, "coverage", **NEXT_TOKEN).mean == 1 and perfect.settings["top_k"] == world.vocab_size
    top = [score for score in perfect.scores if score.metric.startswith("top-16 cross-entropy, ")]
    assert [score.metric.partition(", ")[2] for score in top] == ["floor", "min", "uniform_rest", "fill_min", "ignore"]
    full = perfect.of(AUTOREGRESSIVE, "cross-entropy", **NEXT_TOKEN).mean
    assert all(score.value.mean == pytest.approx(full, abs=1e-5) for score in top)
    with_one_grid = {score.row for score in of_tokens.select(metric="accuracy")}  # there is nothing to force
    assert with_one_grid == {AUTOREGRESSIVE, ZEROED, PERMUTED, COPY_GRID}
    assert not of_latents.select(reference=TOKENS) and "vocab_size" not in of_latents.settings


def test_coverage_counts_what_a_small_top_k_holds(world):
    scores = score(CopyLastGrid(vocab_size=16), world.tokenizer, world.clips, kept_logits=1)
    copied = scores.of(COPY_GRID, "accuracy", **NEXT_TOKEN).mean
    assert scores.of(AUTOREGRESSIVE, "coverage", **NEXT_TOKEN).mean == pytest.approx(copied)
    ce = {s.metric.partition(", ")[2]: s.value.mean for s in scores.scores if s.metric.startswith("top-1 ")}
    assert ce["floor"] == pytest.approx((1 - copied) * math.log(1e8))
    assert ce["min"] == pytest.approx((1 - copied) * math.log(2))
    assert ce["ignore"] == pytest.approx(0)
    full = scores.of(AUTOREGRESSIVE, "cross-entropy", **NEXT_TOKEN).mean
    assert ce["uniform_rest"] == pytest.approx(full, rel=1e-5)  # the rest of this model is uniform


def test_copying_as_a_model_equals_copying_as_a_baseline(world):
    scores = score(CopyLastGrid(vocab_size=16), world.tokenizer, world.clips, decode="sample")
    assert scores.headline == LIKELY_TOKENS
    gap = scores.difference(LIKELY_TOKENS, COPY_GRID, span=ALL).value
    assert (gap.mean, gap.low, gap.high) == (0, 0, 0)
    assert scores.of(PERMUTED, "psnr", span=ALL) == scores.of(LIKELY_TOKENS, "psnr", span=ALL)
    assert scores.settings["references"] == [RECONSTRUCTION]


def test_samples_are_drawn_at_the_models_own_temperature(of_latents):
    assert of_latents.settings["sampling"]["temperature"] == 1.0 and of_latents.settings["own_sampling"]
    assert of_latents.headline == STILL_LATENTS
    mse = 10 ** (-of_latents.of(SAMPLED_LATENTS, "pooled psnr").mean / 10)
    # Noise of 0.05 that is cut off at black and white, which half of two of sixteen levels loses.
    assert mse == pytest.approx(0.05**2 * 15 / 16, rel=0.05)


@pytest.mark.parametrize(("options", "headline", "rows"), [
    ({"decode": "sample"}, SAMPLED_LATENTS, {SAMPLED_LATENTS, STILL_LATENTS}),
    ({"decode": "sample", "temperature": 0.0}, STILL_LATENTS, {STILL_LATENTS}),
    ({"temperature": 0.0}, STILL_LATENTS, {STILL_LATENTS}),
    ({"temperature": 2.0}, STILL_LATENTS, {SAMPLED_LATENTS, STILL_LATENTS})
])
def test_the_headline_follows_from_what_was_asked(world, options, headline, rows):
    scores = score(world.LatentMover(), world.latent_tokenizer, world.latents, HWM, **options)
    assert scores.headline == headline and scores.names("model", "states", "baseline") == [row.name for row in scores.rows]
    assert {row.name for row in scores.rows} == rows | {ZEROED, PERMUTED, *BASELINES}
    if options.get("temperature") == 2.0:
        noise = 10 ** (-scores.of(SAMPLED_LATENTS, "pooled psnr").mean / 20)
        assert noise == pytest.approx(0.1, rel=0.1)


def test_both_readings_are_held_against_copying(of_tokens, of_latents):
    for scores in (of_tokens, of_latents):
        for row in scores.names("model"):
            if scores.select(row=row, metric="psnr"):
                gain, own = scores.difference(row, COPY_FRAME).value.mean, scores.of(row, "psnr").mean
                assert gain == pytest.approx(own - scores.of(COPY_FRAME, "psnr").mean, abs=1e-6)


def test_sampled_tokens_have_a_name_of_their_own(world):
    scores = score(CopyLastGrid(vocab_size=16), world.tokenizer, world.clips, temperature=1.0, decode="sample")
    assert scores.headline == SAMPLED_TOKENS and not scores.settings["own_sampling"]


def test_rows_with_other_states_are_made_like_the_headline_from_the_same_noise(world):
    class Deaf(world.LatentMover):
        def predict(self, context_BTCHW, states_BFA, **options):
            return super().predict(context_BTCHW, torch.zeros_like(states_BFA), **options)

    for decode in ("mean", "sample"):
        scores = score(Deaf(), world.latent_tokenizer, world.latents, HWM, decode=decode)
        for name in (ZEROED, PERMUTED):
            assert scores.of(name, "psnr") == scores.of(scores.headline, "psnr")


@pytest.mark.parametrize("kind", ["tokens", "latents"])
def test_everything_but_time_and_memory_repeats(kind, world):
    def run(seed):
        options = {"seed": seed, "batch_size": 4, "decode": "sample", "cost_repeats": 1}
        if kind == "tokens":
            model, options = CopyLastGrid(vocab_size=16), options | {"temperature": 1.0}
            found = score(model, world.tokenizer, world.clips, **options).to_json()
        else:
            found = score(world.LatentMover(), world.latent_tokenizer, world.latents, HWM, **options).to_json()
        assert found.pop("seconds") and found.pop("cost")["parameters"] == 3
        return json.dumps(found, allow_nan=False)

    assert run(3) == run(3) != run(4)


def test_the_batch_size_changes_nothing_for_a_greedy_model(world, perfect):
    counts = unigram_counts([world.clips.tokens[:, :3]], vocab_size=world.vocab_size)
    options = {"video": world.clips.video, "segments": world.segments, "unigram_counts": counts}
    again = score(world.Mover(doubt=0.01), world.tokenizer, world.clips, batch_size=12, num_examples=3, **options)
    assert again.scores == perfect.scores
    assert [e.clip for e in again.examples] == [e.clip for e in perfect.examples]


def test_examples_are_what_they_say(perfect, world):
    assert len(perfect.examples) == 3
    for part, example in enumerate(perfect.examples):
        assert part * 4 <= example.clip < (part + 1) * 4
        frames, shown = world.clips.video([example.clip])[0].numpy(), example.pictures
        assert np.array_equal(shown["seen"], frames[:17])
        assert np.array_equal(shown["truth"], frames[17:]) and np.array_equal(shown[ORIGINAL], frames[17:])
        expected = psnr(torch.from_numpy(shown[EXPECTED_CODE][-1]), torch.from_numpy(frames[-1])).item()
        assert example.psnr[EXPECTED_CODE] == pytest.approx(expected)
        expected = psnr(torch.from_numpy(frames[16]), torch.from_numpy(frames[-1])).item()
        assert example.psnr[COPY_FRAME] == pytest.approx(expected) and example.spread is None


def test_json_holds_every_number_and_no_nan_and_is_read_again(perfect):
    table = json.loads(json.dumps(perfect.to_json(), allow_nan=False))
    assert "examples" not in table and table["schema"] == 2 and len(table["scores"]) == len(perfect.scores)
    assert Scores.from_json(table) == dataclasses.replace(perfect, examples=[])
    for old, found in (({"headline": "x", "pixels": []}, 1), ({"schema": 3}, 3)):
        with pytest.raises(ValueError, match=f"r.json: its schema is {found}, this version reads 2; score the run again"):
            Scores.from_json(old, where="r.json")


def test_what_does_not_fit_is_refused(world):
    class Short:
        def __len__(self):
            return 4

        def batch(self, indices):
            whole = world.clips.batch(indices)
            return Batch(states_BFA=whole.states_BFA[:, :20], tokens_BTHW=whole.tokens_BTHW)

    refused("34 state rows", score, world.Mover(), world.tokenizer, Short())
    refused("9 token grids", score, CopyLastGrid(vocab_size=16, future_grids=6), world.tokenizer, world.clips)
    parted = Held(world.clips.tokens[:, :4], world.clips.states)
    with pytest.raises(ValueError, match="whole blocks of 3 grids; the model has 2 context and 2 future grids"):
        score(world.Mover(context_grids=2, future_grids=2), world.tokenizer, parted)
    refused("3 latent grids", score, world.LatentMover(), world.latent_tokenizer, world.blocks)
    refused("does not decode", score, world.LatentMover(), world.tokenizer, world.latents)
    refused("does not decode", score, world.Mover(), world.latent_tokenizer, world.clips)
    small = lambda indices: world.clips.video(indices)[:, :, ::2]  # noqa: E731
    refused("recorded video", score, world.Mover(), world.tokenizer, world.clips, video=small)
