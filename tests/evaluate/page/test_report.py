"""The page of an evaluation by its properties, from tables of scores made here."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import CHROMIUM, Browser

from hwm.data.video import read_video
from hwm.evaluate import metrics
from hwm.evaluate.intervals import Interval, few
from hwm.evaluate.page import report
from hwm.evaluate.page.pictures import GAP, HOLD, STRIP, comparison, error, film_strip, heat, side_by_side, stills, strip_columns
from hwm.evaluate.page.plots import Panel, draw, training_plot
from hwm.evaluate.page.report import render, write_report
from hwm.evaluate.protocols import COMPRESSION, HWM, SAMPLING
from hwm.evaluate.scores import (
    ALL,
    ALL_GRIDS,
    LAST,
    RECONSTRUCTION,
    TOKENS,
    Cost,
    Difference,
    Example,
    Row,
    Score,
    Scores,
    frame_span,
    grid_span,
)  # fmt: skip
from hwm.evaluate.table import Table, text_table, verdict

HOSTILE = "<script>alert('[1]')</script>"
COPY = "copy last frame"


class Page(HTMLParser):
    """Text outside of style and script, attributes that load something, and whether tags are closed in order."""

    VOID = ("meta", "img", "br")

    def __init__(self, text):
        super().__init__()
        self.open, self.sources, self.links, self.words, self.policy, self.scripts = [], [], [], [], "", []
        self.feed(text)
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        assert tag not in ("link", "iframe", "object") and not any(name.startswith("on") for name, _ in attrs)
        assert tag != "script" or not attrs
        self.policy += dict(attrs).get("content", "") if dict(attrs).get("http-equiv") == "Content-Security-Policy" else ""
        self.sources += [value for name, value in attrs if name in ("src", "poster")]
        self.links += [value for name, value in attrs if name == "href"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "script" in self.open:
            self.scripts.append(data)
        elif "style" not in self.open:
            self.words.append(data)


def scores_of(protocol, *, width=0.5, gain=1.0, loss=1.0):
    """A whole table: every metric of every row, with numbers of its own, and two examples."""
    rng = np.random.default_rng(0)
    several, ensembles = len(protocol.scored) > 1, protocol.ensembles
    means = ["one sample", "mean of 2", "mean of 4"] if ensembles else []
    headline = means[-1] if ensembles else HOSTILE
    states = [f"{headline}, states zeroed", f"{headline}, states permuted"]
    rows = [Row(n, "model") for n in (means or [headline, "model, sampled"])] + [Row(n, "states") for n in states]
    rows += [Row(COPY, "baseline"), Row("mean of context", "baseline"), Row("tokenizer alone", "ceiling")]
    ahead = protocol.scored[-1] - protocol.num_seen + 1
    scores, differences = [], []

    def add(row, metric, reference, span, note=""):
        mean = rng.uniform(20, 30) if "psnr" in metric else rng.uniform(0.1, 0.9)
        ends = (None, None) if "pooled" in metric or width == 0 else (mean - 0.05, mean + 0.05)
        scores.append(Score(row, metric, reference, span, Interval(mean, *ends), note))

    for row in [row.name for row in rows]:
        for reference in protocol.references:
            for metric in ("psnr", "pooled psnr", "ssim", "gmsd", "sharpness"):
                frames = [frame_span(k) for k in range(1, ahead + 1) if metric in ("psnr", "ssim")]
                for span in [LAST, ALL, *frames] if several else [LAST]:
                    add(row, metric, reference, span)
        add(row, "TFD", protocol.references[0], ALL if several else LAST, note="too few clips" if row == COPY else "")
        if several:
            for metric in ("cross-entropy", "accuracy"):
                for span in (ALL_GRIDS, grid_span(1), grid_span(2)):
                    add(row, metric, TOKENS, span)
    for row in states:
        for span in [LAST, ALL] if several else [LAST]:
            add(row, "change", protocol.references[0], span)
    if several:
        add(headline, "coverage", TOKENS, ALL_GRIDS)
        scores.append(Score(headline, "top-500 cross-entropy, floor", TOKENS, ALL_GRIDS, Interval(3.25, 3.0, 3.5)))
        unknown = Interval(float("nan"), None, None)
        scores.append(Score(headline, "top-500 cross-entropy, min", TOKENS, ALL_GRIDS, unknown, "no log-probabilities"))
        value = Interval(-0.5, -0.625, -0.25)
        differences.append(Difference(headline, states[1], "cross-entropy", TOKENS, ALL_GRIDS, value, 0.25))
    pairs = {COPY: gain, "mean of context": 2.0, states[0]: 0.125, states[1]: loss} | ({"one sample": 0.75} if ensembles else {})
    for reference in protocol.references:
        for second, value in pairs.items():
            interval = Interval(value, *((None, None) if width == 0 else (value - width, value + width)))
            for span in (LAST, ALL)[: 1 + several]:
                differences.append(Difference(headline, second, "psnr", reference, span, interval, 0.75))
    sizes, recordings = [1, 2, 4] if ensembles else [], 6 if width else 2
    settings = {
        "protocol": protocol.name, "span": protocol.span, "reference": protocol.references[0], "copy": COPY, "control": headline,
        "controls": dict(zip(("zeroed", "permuted"), states)), "ensembles": sizes, "members": sizes, "perceptual": ["TFD"],
        "num_clips": 12, "num_segments": recordings, "hz": 30, "no_intervals": few(recordings), "future_frames": ahead,
        "context_grids": 3, "future_grids": 2, "seed": 7, "own_sampling": True,
        "predicts": "tokens", "frame_step": 1, "recorded_size": [64, 80], "image_size": [64, 64], "score_size": [20, 20],
        "sampling": {"temperature": 1.0, "top_k": 0, "top_p": 1.0}, "tokenizer": HOSTILE, "tokenizer_fingerprint": "ab" * 16,
        "confidence": 0.95, "zeroed_states": [0.5, -1.0], "vocab_size": 16, "uniform_cross_entropy": 2.75,
    }  # fmt: skip
    examples = []
    for clip in (3, 9):
        seen, truth, own = rng.integers(0, 256, (3, 17 if several else 1, 20, 20, 3), dtype=np.uint8)
        truth, own = truth[: len(protocol.scored)], own[: len(protocol.scored)]
        pictures = {"seen": seen, "truth": truth, "original": truth, headline: own}
        spread = rng.uniform(0, 90, (20, 20)) if ensembles else None
        examples.append(Example(clip, pictures, {headline: 20.5 + clip, COPY: 19.25 + clip}, spread))
    facts = {}
    if ensembles:
        share = {"predicted": [1.0, 2.0], "rmse": [1.0, 3.0], "fractions": [0.0, 0.5], "sparsification": [4.0, 3.0]}
        share |= {"oracle": [4.0, 1.0], "random": [4.0, 4.0]}
        share |= {"ranks": [0.2] * 5, "error_to_spread": None, "pixel_correlation": 0.125, "ause": 0.25}
        share |= {"clip_correlation": 0.375, "ause_random": 0.75, "expected_calibration_error": 1.5}
        facts = {"calibration": share, "saturation": {"floor": 300.0, "variance": 100.0, "psnr_limit": 23.36, "clipped": False}}
        facts["tuning"] = {"source": "other clips", "num_clips": 4, "sigma_sample": 1.4, "sigma_copy": 0.7, "tolerance": 2.0}
    cost = Cost(12345, 2**20, "cpu", {"samples/s": 12.5, "seconds, 1 sample": 0.125}, 3 * 2**20, "all of it", "median of 3")
    return Scores(protocol.name, headline, settings, rows, scores, differences, facts, {"total": 2.5}, cost, examples)


@pytest.fixture(scope="module", params=[HWM, SAMPLING], ids=lambda p: p.name)
def written(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    (folder / "config.toml").write_text('recipe = "tiny <b>"\nseed = 3\n')
    lines = [{"step": i, "loss": 3.0 / i, "accuracy": 0.1} for i in range(1, 1001)]
    lines += [{"step": i, "val/ce_teacher": 2.0, "val/ce_auto": 2.5} for i in (500, 1000)]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 1001, "lo')
    scores = scores_of(request.param)
    path = write_report(folder / "out", scores, protocol=request.param, run_folder=folder, command=f"hwm evaluate {HOSTILE}")
    assert sorted(p.name for p in path.parent.iterdir()) == sorted([request.param.report, request.param.results])
    return scores, path.read_text(), json.loads((path.parent / request.param.results).read_text()), request.param


def test_the_page_is_whole_loads_nothing_and_takes_names_as_text(written):
    scores, html, _, protocol = written
    found = Page(html)
    assert found.links == [] and len(found.sources) >= 7
    for source in found.sources:
        head, _, data = source.partition(",")
        assert re.fullmatch(r"data:(image/png|image/jpeg|video/mp4);base64", head)
        assert base64.b64decode(data, validate=True)
    player = (Path(report.__file__).parent / "player.js").read_text() if len(protocol.scored) > 1 else ""
    assert "".join(found.scripts) == player and len(found.scripts) <= 1  # and nothing else may run or be loaded:
    digest = base64.b64encode(hashlib.sha256(player.encode()).digest()).decode()
    source = f"'sha256-{digest}'" if player else "'none'"
    policy = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; script-src"
    assert found.policy == f"{policy} {source}"
    assert "url(" not in html and "tiny <b>" in found.text and f"hwm evaluate {HOSTILE}" in found.text
    assert protocol.title in found.text and scores.headline in found.text


def test_every_row_and_score_of_the_table_is_shown(written):
    scores, html, _, _ = written
    text = Page(html).text
    for score in scores.scores:
        if not score.span.startswith(("frame ", "grid ")):
            look = metrics.shown(score.metric)
            assert score.row in text and look.title in text and look.about.split(";")[0] in text
            assert score.value.text(look.digits).partition(" [")[0].replace("–", score.note) in text
    for difference in scores.differences:
        assert f"{difference.value.mean:+.{metrics.shown(difference.metric).digits}f}" in text


def test_every_number_shown_is_in_the_json(written):
    _, html, record, _ = written
    text = Page(html).text
    shown = re.findall(r"\d+\.\d+", text[: text.index("How this was measured")])
    assert len(shown) > 100

    def numbers_in(value):
        values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
        if values is not None:
            return [n for v in values for n in numbers_in(v)]
        return [float(value)] if isinstance(value, (int, float)) and not isinstance(value, bool) else []

    scales = (1, 100, 2**-20)  # as they are, as percentages, as mebibytes
    known = {d: {f"{abs(k * n):.{d}f}" for n in numbers_in(record) for k in scales} for d in (1, 2, 3, 4)}
    assert [n for n in shown if n not in known[len(n.partition(".")[2])]] == []


def test_a_new_score_and_a_new_row_appear_by_themselves(tmp_path, monkeypatch):
    scores, new = scores_of(HWM), metrics.Metric("warp", "Warp error", "px", 1, "lower", metrics.ssim, about="Of flow.")
    monkeypatch.setattr(metrics, "METRICS", (*metrics.METRICS, new))
    monkeypatch.setattr("hwm.evaluate.table.OF_PICTURES", ("psnr", "warp"))
    monkeypatch.setattr("hwm.evaluate.page.plots.OF_PICTURES", ("psnr", "warp"))
    scores.rows.append(Row("model, dreaming", "model"))
    scores.scores.append(Score("model, dreaming", "warp", RECONSTRUCTION, ALL, Interval(3.75, 3.0, 4.0)))
    text = Page(write_report(tmp_path, scores, protocol=HWM).read_text()).text
    assert "model, dreaming" in text and "Warp error, px" in text and "3.8 3.0 to 4.0" in text and "Of flow." in text
    assert "Warp error, px" in text_table(scores)


def test_json_repeats_the_scores_and_their_origin(written):
    scores, _, record, _ = written
    for key, value in scores.to_json().items():
        assert record[key] == json.loads(json.dumps(value))
    assert [e["gain"] for e in record["examples"]] == [1.25, 1.25] and record["verdict"] == verdict(scores)
    assert record["config"] == {"recipe": "tiny <b>", "seed": 3} and record["environment"]["torch"] == torch.__version__
    steps = [r["step"] for r in record["training"]]
    assert steps == sorted(steps) and len(steps) <= 402
    assert [r["step"] for r in record["training"] if "val/ce_auto" in r] == [500, 1000]
    again = Scores.from_json(record)
    assert again.to_json() == scores.to_json() and text_table(again) == text_table(scores)


def test_what_there_is_not_has_no_section(tmp_path):
    scores = scores_of(HWM)
    kept = [s for s in scores.scores if s.reference == RECONSTRUCTION and s.metric != "TFD"]
    bare = replace(scores, scores=kept, cost=None, examples=[], settings=scores.settings | {"perceptual": []})
    bare.differences = [d for d in scores.differences if d.reference == RECONSTRUCTION]
    html = write_report(tmp_path, bare, protocol=HWM).read_text()
    headings = re.findall("<h2>(.*?)</h2>", html)
    assert headings == ["Quality over the horizon", "Against every baseline, clip by clip", "How this was measured"]
    assert "<video" not in html and "FID" not in Page(html).text and "Configuration of the run" not in html


def test_one_frame_is_shown_as_pictures_and_several_as_videos(written, tmp_path):
    scores, html, _, protocol = written
    headings, videos = re.findall("<h2>(.*?)</h2>", html), re.findall(r'src="data:video/mp4;base64,([^"]+)"', html)
    only = {"Averaging samples", "Does it know where it is guessing"}
    assert only <= set(headings) if protocol.ensembles else not only & set(headings)
    assert "Training" in headings and "As networks see it" in headings and "It is not an FID" in Page(html).text
    if protocol.ensembles:
        assert videos == [] and "spread" in Page(html).text and "Tokens" not in headings and "infinite" in html
        return
    assert "Tokens" in headings and len(videos) == 2
    (tmp_path / "v.mp4").write_bytes(base64.b64decode(videos[0]))
    panels = comparison(scores.examples[0], scores.headline)
    frames, expected = read_video(tmp_path / "v.mp4"), side_by_side(panels.values(), 17)
    assert frames.shape == expected.shape == (17 + len(protocol.scored) + HOLD, 220 + STRIP, 4 * 220 + 3 * GAP, 3)
    assert np.abs(frames.astype(int) - expected).mean() < 20


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_videos_are_stepped_through_in_a_browser(written, tmp_path):
    pytest.importorskip("websockets", reason="the extra serve is not installed")
    scores, html, _, protocol = written
    if protocol.ensembles:
        return
    (tmp_path / "page.html").write_text(html)
    browser = Browser(tmp_path)

    def levels():
        """The mean level of the red of every panel of the first video."""
        data = "c.getContext('2d').getImageData(0, 0, c.width, c.height).data.filter((_, i) => i % 4 == 0)"
        mean = f"(c => {{ const d = {data}; return d.reduce((a, b) => a + b) / d.length; }})"
        return browser.js(f"[...document.querySelector('figure').querySelectorAll('canvas')].map({mean})")

    def at(words):
        browser.until(lambda: browser.js("document.querySelector('output').textContent") == words)

    try:
        browser.go(f"file://{tmp_path}/page.html")
        browser.until(lambda: browser.js("document.querySelectorAll('figure canvas').length") == 2 * 4)
        assert browser.js("document.querySelectorAll('video[controls]').length") == 0
        browser.js("document.querySelector('.bar input').value = 17; document.querySelector('.bar input').oninput()")
        at("seen 17 of 17")
        pictures = scores.examples[0].pictures
        expected = [pictures["seen"][-1][..., 0].mean()] * 3
        browser.until(lambda: np.abs(np.array(levels()[:3]) - expected).max() < 6 and levels()[3] < 6)
        browser.js("document.querySelector('.bar [title=\"one frame on\"]').click()")
        at(f"predicted 1 of {len(protocol.scored)}, 0.03 s ahead")
        expected = [pictures[name][0][..., 0].mean() for name in ("truth", HOSTILE)]
        browser.until(lambda: np.abs(np.array(levels()[1:3]) - expected).max() < 6 and levels()[3] > 20)
        browser.js("document.querySelector('.bar [title=\"one frame back\"]').click()")
        at("seen 17 of 17")
        assert not [said for said in browser.said if said.get("entry", {}).get("level") != "warning"]  # of reading pixels back
    finally:
        browser.close()


def test_wide_tables_scroll_in_a_box_of_their_own(written):
    assert written[1].count("<table class=numbers>") == written[1].count("<div class=wide><table class=numbers>") >= 3


def test_panels_are_seen_truth_prediction_error():
    example = scores_of(COMPRESSION).examples[0]
    seen, truth, own = (example.pictures[name] for name in ("seen", "truth", HOSTILE))
    panels = comparison(example, HOSTILE)
    assert list(panels) == ["seen", "truth", HOSTILE, "error"]
    assert all(np.array_equal(panel[:17], seen) for panel in list(panels.values())[:3]) and (panels["error"][:17] == 0).all()
    assert (panels["seen"][17:] == seen[-1]).all() and np.array_equal(panels["truth"][17:], truth)
    assert np.array_equal(panels[HOSTILE][17:], own) and np.array_equal(panels["error"][17:], heat(error(own, truth)))
    frames = side_by_side(panels.values(), 17)
    assert np.array_equal(frames[:34, :220:11, 226:446:11], panels["truth"]) and (frames[34:] == frames[33]).all()
    strip = film_strip(example, HOSTILE)
    assert list(strip) == ["truth", HOSTILE, "error", "seen"] and np.array_equal(strip[HOSTILE][-1], own[-1])
    assert strip_columns(17, 6).tolist() == [0, 3, 6, 10, 13, 16] and strip_columns(2, 6).tolist() == [0, 1]


def test_error_and_spread_grow_from_black_to_pale_yellow():
    assert heat(np.array([[0.0, 16, 32, 64, 200]]))[0].tolist()[0] == [0, 0, 4]
    assert heat(np.array([[0.0, 16, 32, 64, 200]]))[0].tolist()[3:] == [[252, 255, 164]] * 2
    assert error(np.full((1, 1, 3), 3, np.uint8), np.zeros((1, 1, 3), np.uint8)).tolist() == [[3.0]]
    example = scores_of(SAMPLING).examples[0]
    shown = stills(example, "mean of 4", COPY)
    assert list(shown) == ["last seen", "truth", "mean of 4", "spread", "error"] and shown["last seen"][1] == 22.25
    assert np.array_equal(shown["spread"][0], heat(example.spread))


def test_the_verdict_says_what_happened():
    said = verdict(scores_of(COMPRESSION))
    ahead, gain = "17 frames (0.57 s) ahead the prediction", "1.00 dB (95 % interval 0.50 to 1.50)"
    assert said[0] == f"{ahead} beats repeating the last frame by {gain}."
    assert said[1] == "Given another clip's states it scores lower by 1.00 dB (95 % interval 0.50 to 1.50): it uses the states."
    assert "against the tokenizer's reconstruction of the truth, over 12 clips from 6 segments" in said[2] and len(said) == 3
    assert verdict(scores_of(HWM))[0].startswith("Over 8 frames (0.27 s) the prediction beats")
    assert "is not shown to differ" in verdict(scores_of(HWM, gain=0.25))[0]
    assert "loses to repeating the last frame by 1.00 dB (95 % interval 0.50" in verdict(scores_of(HWM, gain=-1))[0]
    assert verdict(scores_of(HWM, loss=0.25))[1] == (
        "Given another clip's states it changes by -0.25 dB (95 % interval -0.75 to +0.25): use of the states is not shown."
    )
    assert "higher by 1.00 dB" in verdict(scores_of(HWM, loss=-1))[1] and "mislead" in verdict(scores_of(HWM, loss=-1))[1]
    said = verdict(scores_of(HWM, width=0))
    assert said[0] == "Over 8 frames (0.27 s) the prediction differs by +1.00 dB from repeating the last frame."
    assert said[1] == "Given another clip's states it changes by -1.00 dB: use of the states is not shown."
    assert said[3] == "No intervals: 2 recordings, and an interval needs at least 5." and len(said) == 4
    said = verdict(scores_of(SAMPLING))
    assert said[0].startswith("60 frames (2.00 s) ahead the mean of 4 beats")
    assert "Given another clip's states it scores" in said[1]
    assert "against the recorded video" in said[2]
    assert said[3].startswith("Averaging gains 0.75 dB (95 % interval 0.25 to 1.25) over one sample")


def test_the_text_table_holds_the_scores(written):
    scores, _, _, protocol = written
    text = text_table(scores)
    assert scores.of(COPY, "psnr").text(2) in text and scores.select(row=COPY, metric="TFD")[0].value.text(4) in text
    assert verdict(scores)[0] in text and "12.500" not in text and "12.50" in text and "median of 3" in text
    assert ("against the reconstruction" in text) == (RECONSTRUCTION in protocol.references)
    assert max(map(len, text.split("\n\n")[0].splitlines())) <= 140 and f"{scores.headline} *" in text


def test_training_curves_are_drawn_by_what_was_logged():
    assert training_plot([]) is None and training_plot([{"step": 1, "lr": 0.1, "loss": 2.0}]) is None
    flow = [{"step": 1, "flow_mse": 1.0}, {"step": 2, "val/flow_mse": 0.5, "val/latent_mse": 0.5, "val/latent_mse_copy": 1.0}]
    assert training_plot(flow) == training_plot(flow) != training_plot([*flow, {"step": 2, "val/psnr": 20.0}])


def test_plots_take_curves_rows_bars_and_columns():
    points = [(n, Interval(20 + n, 19 + n, 21 + n)) for n in (1.0, 2.0, 4.0)]
    rows = [("ours", Interval(21, 20, 22)), ("theirs", Interval(22, None, None))]
    png = draw([Panel("a", curves={"one": points}, levels={"copy": 20.5}, marks={"one": "abc"}, log=True, ticks=(1, 2, 4)),
                Panel("b", rows=rows, levels={"_zero": 0}), Panel("c", rows=rows, bars=True, limits=(18, 24)),
                Panel("d", columns=(1, 2))])  # fmt: skip
    assert png.startswith(b"\x89PNG") and int.from_bytes(png[16:20], "big") == 1564


def test_an_experiment_has_a_page_in_the_same_look(written):
    table = Table("ours", ["variant", "PSNR, dB"], [[HOSTILE, "1.23 [0.90, 1.60]"], ["b", "–"], ["c", "77 [66, 88] %"]],
                  strong="b")  # fmt: skip
    png = draw([Panel(columns=(1, 2))])
    part = {"title": "Steps", "about": "About them.", "plots": {"two": png}, "tables": [table]}
    part |= {"pictures": [{"seen": (b"jpeg", ""), "truth": (b"jpeg", "20.00 dB")}], "links": {"Reports": {"a": "a/r.html"}}}
    html = render("experiments/experiment.html.j2", title=HOSTILE, lead="Lead & more.", sections=[part], record={"x": HOSTILE})
    found = Page(html)
    assert found.links == ["a/r.html"] and "Lead & more." in found.text and found.text.count(HOSTILE) == 4
    assert "1.23 0.90 to 1.60" in found.text and "77 % 66 to 88" in found.text  # a unit stays with its value
    assert "20.00 dB" in found.text and "About them." in found.text
    assert all(source.startswith("data:image/") for source in found.sources) and len(found.sources) == 3
    style = re.compile("<style>.*?</style>", re.DOTALL)
    assert style.search(html)[0] == style.search(written[1])[0]
    assert table.markdown().splitlines()[2] == f"| {HOSTILE} | 1.23 [0.90, 1.60] |"
