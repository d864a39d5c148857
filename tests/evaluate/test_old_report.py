import base64
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from hwm.data.video import read_video
from hwm.evaluate.baselines import CopyLastGrid, unigram_counts
from hwm.evaluate.blocks import evaluate
from hwm.evaluate.old_pictures import GAP, HOLD, STRIP, comparison_frames, error_picture, film_strip, strip_columns
from hwm.evaluate.old_report import write_report
from hwm.evaluate.old_table import text_table, verdict
from hwm.evaluate.results import Example


def evaluated(world, model, **options):
    return evaluate(
        model,
        world.tokenizer,
        world.clips,
        video=world.clips.video,
        segments=world.segments,
        unigram_counts=unigram_counts([world.clips.tokens], vocab_size=world.vocab_size),
        **{"num_examples": 0, "cost_repeats": 0, **options},
    )


class CellLevels:
    """Grey levels of 4x4 cells in every future frame: what the tests' tokenizer sees."""

    name = "TFD"

    def __call__(self, video_BFHWC, *, num_future_frames):
        cells = video_BFHWC[:, -num_future_frames:, ::4, ::4, 0].float() / 255
        return cells.flatten(1)[..., None].unfold(1, 2, 2).squeeze(2)


@pytest.fixture(scope="module")
def written(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    run = folder / "run"
    run.mkdir()
    (run / "config.toml").write_text('recipe = "tiny <b>"\nseed = 3\n')
    lines = [{"step": i, "loss": 3.0 / i, "accuracy": 0.1} for i in range(1, 1001)]
    lines += [{"step": i, "val/ce_teacher": 2.0, "val/ce_auto": 2.5} for i in (500, 1000)]
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 1001, "lo')
    result = evaluated(world, world.Mover(doubt=0.2), features=[CellLevels()], num_examples=2, cost_repeats=1)
    page = write_report(folder / "out", result, run_folder=run, command="hwm evaluate run")
    return result, page.read_text(), json.loads((folder / "out" / "results.json").read_text()), folder / "out"


class Page(HTMLParser):
    """Text outside of style, attributes that load something, and whether tags are closed in order."""

    VOID = ("meta", "img", "br")

    def __init__(self, text):
        super().__init__()
        self.open, self.sources, self.words = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert tag != "script" and not any(name.startswith("on") for name, _ in attrs)
        self.sources += [value for name, value in attrs if name in ("src", "href", "poster")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)


def test_the_page_is_whole_and_loads_nothing(written):
    page = Page(written[1])
    assert len(page.sources) >= 4 + 2 * 2
    for source in page.sources:
        head, _, data = source.partition(",")
        assert re.fullmatch(r"data:(image/png|image/jpeg|video/mp4);base64", head)
        assert base64.b64decode(data, validate=True)
    text = " ".join(page.words)
    assert "url(" not in written[1] and "tiny <b>" in text and "hwm evaluate run" in text


def numbers_in(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [n for v in value for n in numbers_in(v)]
    return [float(value)] if isinstance(value, (int, float)) and not isinstance(value, bool) else []


def test_every_number_shown_is_in_the_json(written):
    _, html, record, _ = written
    text = " ".join(Page(html).words)
    text = text[: text.index("How this was measured")]
    shown = re.findall(r"\d+\.\d+", text)
    assert len(shown) > 150
    scales = (1, 100, 2**-20)  # as they are, as percentages, as mebibytes
    known = {d: {f"{abs(k * n):.{d}f}" for n in numbers_in(record) for k in scales} for d in (1, 2, 3, 4)}
    assert [n for n in shown if n not in known[len(n.partition(".")[2])]] == []


def test_json_repeats_the_result_and_its_origin(written):
    result, _, record, folder = written
    for key, value in json.loads(json.dumps(result.to_json())).items():
        assert record["examples" if key == "examples" else key] == value
    assert record["config"] == {"recipe": "tiny <b>", "seed": 3} and record["environment"]["torch"] == torch.__version__
    steps = [r["step"] for r in record["training"]]
    assert steps == sorted(steps) and len(steps) <= 402
    assert [r["step"] for r in record["training"] if "val/ce_auto" in r] == [500, 1000]
    assert sorted(p.name for p in folder.iterdir()) == ["report.html", "results.json"]


def test_videos_play_the_whole_clip(written, tmp_path):
    result, html = written[:2]
    videos = re.findall(r'src="data:video/mp4;base64,([^"]+)"', html)
    assert len(videos) == len(result.examples) == 2
    (tmp_path / "v.mp4").write_bytes(base64.b64decode(videos[0]))
    frames, expected = read_video(tmp_path / "v.mp4"), comparison_frames(result.examples[0])
    assert frames.shape == expected.shape == (34 + HOLD, 32 * 7 + STRIP, 4 * 224 + 3 * GAP, 3)
    assert np.abs(frames.astype(int) - expected).mean() < 6


def example(height=20):
    rng = np.random.default_rng(0)
    context, truth, prediction = rng.integers(0, 256, (3, 17, height, height, 3), dtype=np.uint8)
    return Example(clip=1, context=context, truth=truth, prediction=prediction, psnr=20.0, psnr_copy=21.0)


def test_panels_are_context_truth_prediction_error():
    clip = example()
    frames, side = comparison_frames(clip), 220
    panels = [frames[:, :side:11, i * (side + GAP) : i * (side + GAP) + side : 11] for i in range(4)]
    assert all(np.array_equal(panel[:17], clip.context) for panel in panels[:3]) and (panels[3][:17] == 0).all()
    assert (panels[0][17:] == clip.context[-1]).all()
    assert np.array_equal(panels[1][17:34], clip.truth) and np.array_equal(panels[2][17:34], clip.prediction)
    assert np.array_equal(panels[3][17:34], error_picture(clip.prediction, clip.truth))
    assert (frames[34:] == frames[33]).all()


def test_error_grows_from_black_to_white():
    truth = np.zeros((4, 1, 1, 3), np.uint8)
    pred = truth + np.array([0, 16, 40, 64], np.uint8).reshape(4, 1, 1, 1)
    red, green, blue = error_picture(pred, truth).reshape(4, 3).T
    assert red.tolist() == [0, 191, 255, 255] and green.tolist() == [0, 0, 223, 255] and blue.tolist() == [0, 0, 0, 255]


def test_film_strip_ends_at_the_scored_frame():
    clip = example()
    assert strip_columns(17, 6).tolist() == [0, 3, 6, 10, 13, 16] and strip_columns(2, 6).tolist() == [0, 1]
    rows = film_strip(clip)
    assert list(rows) == ["truth", "prediction", "error", "last context frame"]
    assert np.array_equal(rows["prediction"][-1], clip.prediction[-1])


def test_the_verdict_says_what_happened(world):
    good = verdict(evaluated(world, world.Mover()))
    assert good[0].startswith("17 frames ahead the prediction beats repeating the last frame by")
    assert "it uses the states" in good[1] and "12 clips from 6 segments" in good[2]
    copy = verdict(evaluated(world, CopyLastGrid(vocab_size=16), decode="sample"))
    assert "not shown to differ" in copy[0] and "use of the states is not shown" in copy[1]
    lone = evaluate(world.Mover(), world.tokenizer, world.clips, segments=[0] * 12, num_examples=0, cost_repeats=0)
    assert "one segment gives no interval" in verdict(lone)[0]
    bad = CopyLastGrid(vocab_size=16)
    bad.stay_logit_T.data -= 20  # never stays, so predicts id 0 or 1
    assert "loses to" in verdict(evaluated(world, bad, decode="sample"))[0]


def test_the_text_table_holds_the_scores(world):
    result = evaluated(world, world.Mover(doubt=0.2))
    text = text_table(result)
    row = result.pixel_row("copy last frame")
    assert f"{row.psnr_scored.mean:.2f} [{row.psnr_scored.low:.2f}, {row.psnr_scored.high:.2f}]" in text
    assert "against the original" in text and verdict(result)[0] in text and "unigram" in text
    assert max(map(len, text.split("\n\n")[0].splitlines())) <= 110


def test_without_a_run_there_is_no_training_section(world, tmp_path):
    result = evaluate(CopyLastGrid(vocab_size=16), world.tokenizer, world.clips, num_examples=0, cost_repeats=0)
    page = write_report(tmp_path, result).read_text()
    assert "<h2>Training</h2>" not in page and "<video" not in page and "against the recorded" not in page.lower()
    Page(page)


@pytest.fixture(scope="module")
def of_latents(world):
    return evaluate(
        world.LatentMover(),
        world.latent_tokenizer,
        world.latents,
        video=world.latents.video,
        segments=world.segments,
        num_examples=2,
        features=[CellLevels()],
        lpips=lambda a, b: (a.float() - b.float()).abs().mean((2, 3, 4)) / 255,
    )


@pytest.fixture(scope="module")
def page_of_latents(of_latents, tmp_path_factory):
    folder = tmp_path_factory.mktemp("latents")
    lines = [{"step": i, "loss": 1.0, "flow_mse": 1.0 / i} for i in range(1, 20)]
    lines += [{"step": 20, "val/flow_mse": 0.1, "val/latent_mse": 0.1, "val/latent_mse_copy": 0.2}]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    html = write_report(folder / "out", of_latents, run_folder=folder).read_text()
    return html, " ".join(Page(html).words), json.loads((folder / "out" / "results.json").read_text())


def test_a_model_of_latents_has_a_page_without_tokens(page_of_latents):
    html, text, _ = page_of_latents
    assert "<h2>Tokens</h2>" not in html and "cross-entropy" not in text and "<h2>Training</h2>" in html
    assert "model, latents at temperature 0" in text and "PSNR, frames 1–8" in text and "hwm: 2 context grids (9 frames)" in text
    assert len(re.findall("<video", html)) == 2


def test_what_networks_see_is_explained_and_never_called_fid(of_latents, page_of_latents, written):
    text, table = page_of_latents[1], text_table(of_latents)
    assert "As networks see it" in text and "LPIPS" in text and "LPIPS" not in written[1]
    assert text.count("FID") == text.count("It is not an FID") == 1
    assert "TFD frames 1-8" in table and "LPIPS frames 1-8" in table and "FID" not in table


def test_what_a_prediction_costs_is_shown(of_latents, page_of_latents):
    cost, record = of_latents.cost, page_of_latents[2]
    assert record["cost"]["parameters"] == cost.parameters == 3 and record["cost"]["batch_size"] == 8
    for text in (text_table(of_latents), page_of_latents[1]):
        assert "predictions a second" in text and f"{cost.samples_per_second:.2f}" in text
        assert "8 clips at a time, median of 3" in text and cost.peak_meaning in text


def test_the_verdict_is_about_all_frames_of_a_block(of_latents):
    said, row = verdict(of_latents), of_latents.pixel_row(of_latents.headline)
    assert said[0].startswith("Over 8 frames the prediction beats repeating the last frame by")
    assert f"It reaches {row.psnr_mean.mean:.2f} dB" in said[2]
