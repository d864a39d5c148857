"""Scores of pictures, PSNR, SSIM, how sharp one is beside the truth, and how every score is shown.

Everything is computed per picture; averaging over clips, with intervals, is `intervals.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from hwm.evaluate.protocols import COLOUR, ENTROPY, MARGIN, MASK_IOU, STATE_ERROR, SURE_SHARPNESS, TOLD_APART

if TYPE_CHECKING:
    from hwm.evaluate.scenes import View

PSNR_CAP = 100.0
"""PSNR in dB given to identical pictures, whose true value is infinite and would spoil every mean."""

MOVING = 16.0
"""Levels of 255 by which a pixel of the truth must differ from the last seen frame to count as moving (ours): above what video
compression does to a still picture, below what a hand does to a table."""

SSIM_WINDOW = 7

MISSES = {
    "floor": "softmax over the kept; a miss has probability 1e-8",
    "min": "a miss joins with the smallest kept logit",
    "uniform_rest": "a miss has an equal part of the probability left",
    "fill_min": "all others have the smallest kept logit",
    "ignore": "misses left out: optimistic, not for comparison",
}
"""What may become of a target outside of the ids kept, in words; the scoring server's rule is unknown (reference B.3)."""


def mean_squared_error(pred: Tensor, truth: Tensor) -> Tensor:
    """Mean squared difference of each picture, float64 of shape (...).

    pred, truth: uint8 (..., H, W, C).  Raises ValueError for other dtypes or different shapes.
    """
    _check(pred, truth)
    difference = pred.to(torch.int32) - truth.to(torch.int32)
    return difference.square_().flatten(-3).sum(-1).to(torch.float64) / math.prod(pred.shape[-3:])


def psnr_of_mse(mse: Tensor) -> Tensor:
    """PSNR in dB of a mean squared error on the 0..255 scale, at most `PSNR_CAP`."""
    return (10 * torch.log10(255.0**2 / mse)).clamp(max=PSNR_CAP)


def psnr(pred: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each picture in dB, float64 of shape (...); identical pictures give `PSNR_CAP`.

    pred, truth: uint8 (..., H, W, C); the maximum is 255 and the error runs over H, W and C (reference B.4).
    """
    return psnr_of_mse(mean_squared_error(pred, truth))


def moving(truth: Tensor, seen: Tensor) -> Tensor:
    """Which pixels move, bool (..., H, W): whose root mean squared difference over the channels is above `MOVING`.

    truth: uint8 (..., F, H, W, C).  seen: the last seen frame, uint8 (..., H, W, C).
    """
    difference = truth.to(torch.int32) - seen.to(torch.int32).unsqueeze(-4)
    return difference.square_().sum(-1) > MOVING**2 * truth.shape[-1]


def moving_error(pred: Tensor, view: View) -> Tensor:
    """Mean squared difference over the pixels that move, float64 (B, F); nan for a picture of which nothing moves (ours).

    pred: uint8 (B, F, H, W, C).  view: what it is held against, whose last seen frame tells what moves.
    """
    _check(pred, view.truth)
    where = moving(view.truth, view.past[:, -1])
    difference = (pred.to(torch.int32) - view.truth.to(torch.int32)).square_().sum(-1)
    return (difference * where).sum((-2, -1)).double() / (where.sum((-2, -1)) * pred.shape[-1])


def colour_drift(pred: Tensor, truth: Tensor) -> Tensor:
    """Root mean square over the channels of the difference of mean colours, in levels of 255, float64 of shape (...) (ours).

    pred, truth: uint8 (..., H, W, C).
    """
    _check(pred, truth)
    means = [x.flatten(-3, -2).to(torch.int32).sum(-2).to(torch.float64) / math.prod(x.shape[-3:-1]) for x in (pred, truth)]
    return (means[0] - means[1]).square().mean(-1).sqrt()


def _errors_of_all(pred: Tensor, view: View) -> tuple[Tensor, Tensor] | None:
    """Mean squared error to the own truth, (B, F), and to those of the clips that begin alike, (B, K - 1, F).

    nan where no future differs from the own one; None where clips share no beginning.
    """
    if view.others is None:
        return None
    own = mean_squared_error(pred, view.truth)
    differ = mean_squared_error(view.truth[:, None].expand_as(view.others), view.others).amax(1) > 0
    return own.masked_fill(~differ, torch.nan), mean_squared_error(pred[:, None].expand_as(view.others), view.others)


def told_apart(pred: Tensor, view: View) -> Tensor | None:
    """1 where a picture is nearer to its own truth than to any truth of the clips that begin alike, else 0, float64 (B, F).

    (ours) Of n nearest ones each counts as 1 / n.  nan and None as `_errors_of_all`.
    """
    if (errors := _errors_of_all(pred, view)) is None:
        return None
    own, others = errors
    nearest = (own <= others.amin(1)).double() / (1 + (others == own[:, None]).sum(1))
    return nearest.masked_fill(own.isnan(), torch.nan)


def margin(pred: Tensor, view: View) -> Tensor | None:
    """PSNR in dB against the own truth less that against the nearest other one, float64 (B, F); as `told_apart` (ours)."""
    if (errors := _errors_of_all(pred, view)) is None:
        return None
    return psnr_of_mse(errors[0]) - psnr_of_mse(errors[1].amin(1))


def ssim(pred: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity of each picture, averaged over channels, float64 of shape (...).

    pred, truth: uint8 (..., H, W, C), H and W at least 7.  A 7x7 uniform window with sample covariance and
    K1 = 0.01, K2 = 0.03: the default of scikit-image's `structural_similarity`, equal to it to 1e-6.
    Raises ValueError for smaller pictures.
    """
    _check(pred, truth)
    height, width, channels = pred.shape[-3:]
    if min(height, width) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs pictures of at least 7x7 pixels, got {height}x{width}")
    # A few pictures at a time stay in the processor's cache; large batches run several times slower.
    chunk = max(1, 2**17 // (height * width * channels))
    x, y = pred.reshape(-1, height, width, channels), truth.reshape(-1, height, width, channels)
    scores = [_ssim(a, b) for a, b in zip(x.split(chunk), y.split(chunk))]
    return torch.cat(scores).reshape(pred.shape[:-3]) if len(x) else torch.zeros(pred.shape[:-3], dtype=torch.float64)


def _ssim(x: Tensor, y: Tensor) -> Tensor:
    """SSIM from exact integer window sums: with n pixels a window, n^2 times every mean and covariance fits int32."""
    n = SSIM_WINDOW**2
    x, y = x.to(torch.int32), y.to(torch.int32)
    sum_x, sum_y, sum_xx, sum_yy, sum_xy = (_window_sums(z) for z in (x, y, x * x, y * y, x * y))
    product, squares = sum_x * sum_y, sum_x * sum_x + sum_y * sum_y
    covariance, variances = n * sum_xy - product, n * (sum_xx + sum_yy) - squares
    c1, c2 = (0.01 * 255 * n) ** 2, (0.03 * 255 * n) ** 2
    sample = n / (n - 1)
    similarity = (2.0 * product + c1) / (squares + c1) * ((2.0 * sample * covariance + c2) / (sample * variances + c2))
    return similarity.flatten(1).mean(1, dtype=torch.float64)


def _window_sums(x: Tensor) -> Tensor:
    """Sums over all 7x7 windows of axes H and W of (N, H, W, C), by doubling: 7 = 1 + 2 + 4."""
    for axis in (1, 2):
        length = x.shape[axis]
        two = x.narrow(axis, 0, length - 1) + x.narrow(axis, 1, length - 1)
        four = two.narrow(axis, 0, length - 3) + two.narrow(axis, 2, length - 3)
        out = length - SSIM_WINDOW + 1
        x = four.narrow(axis, 0, out) + two.narrow(axis, 4, out) + x.narrow(axis, 6, out)
    return x


LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in luminance (ITU-R BT.601)."""
GMSD_CONSTANT = 170.0
"""Keeps the similarity of nearly flat places near 1 (Xue et al. 2014, for 0..255)."""
ROUNDING_ENERGY = 1 / 3
"""Gradient energy that rounding to whole levels adds to a picture: two differences of two errors of variance 1/12."""


def gmsd(pred_BHWC: Tensor, truth_BHWC: Tensor) -> Tensor:
    """Gradient magnitude similarity deviation of each picture, float64 (B,): 0 is identical, lower is better.

    Xue et al. 2014, as in their code: luminance, averaged over 2x2 pixels, Prewitt gradients with zeros beyond the edge,
    sample standard deviation of the similarity.  pred_BHWC, truth_BHWC: uint8 (..., H, W, 3), at least 4x4.
    Raises ValueError for other pictures.
    """
    _check(pred_BHWC, truth_BHWC, least=4, colours=True)
    first, second = (_prewitt_magnitude(_halved(_luminance(x))) for x in (pred_BHWC, truth_BHWC))
    similarity = (2 * first * second + GMSD_CONSTANT) / (first.square() + second.square() + GMSD_CONSTANT)
    return similarity.flatten(-2).to(torch.float64).std(-1)


def sharpness(pred_BHWC: Tensor, truth_BHWC: Tensor, where_BHW: Tensor | None = None) -> Tensor:
    """Gradient energy of each picture as a ratio to the truth's, float64 (B,): 1 as sharp as the truth, 0 flat.

    (ours) The energy is the mean over pixels of dx^2 + dy^2, the differences of luminance to the next pixel right and
    below (the last row and column have none).  `ROUNDING_ENERGY` is added to both, so that flat pictures of a flat truth
    give 1.  Detail at half its contrast gives 1/4; noise counts as detail: read it beside PSNR or `gmsd`.
    where_BHW: bool (..., H, W), the pixels whose energy counts; None: all.
    pred_BHWC, truth_BHWC: uint8 (..., H, W, 3), at least 2x2.  Raises ValueError for other pictures.
    """
    _check(pred_BHWC, truth_BHWC, least=2, colours=True)
    pred, truth = (_gradient_energy(x).flatten(-2) for x in (pred_BHWC, truth_BHWC))
    weight = torch.ones_like(truth) if where_BHW is None else where_BHW[..., :-1, :-1].flatten(-2).to(truth)
    pred, truth = ((energy * weight).sum(-1) / weight.sum(-1).clamp(min=1) for energy in (pred, truth))
    return (pred + ROUNDING_ENERGY) / (truth + ROUNDING_ENERGY)


def _check(pred: Tensor, truth: Tensor, *, least: int = 1, colours: bool = False) -> None:
    if pred.dtype != torch.uint8 or truth.dtype != torch.uint8:
        raise ValueError(f"pictures are compared as uint8, got {pred.dtype} and {truth.dtype}")
    wrong = pred.shape != truth.shape or pred.ndim < 3
    if wrong or (colours and pred.shape[-1] != 3) or min(pred.shape[-3:-1]) < least:
        shapes, size = f"{tuple(pred.shape)} and {tuple(truth.shape)}", f", at least {least}x{least}" if least > 1 else ""
        raise ValueError(f"pictures must both be (..., H, W, {3 if colours else 'C'}){size}, got {shapes}")


def _luminance(x_BHWC: Tensor) -> Tensor:
    red, green, blue = x_BHWC.to(torch.float32).unbind(-1)
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def _gradient_energy(x_BHWC: Tensor) -> Tensor:
    y = _luminance(x_BHWC).to(torch.float64)
    right, below = y[..., :-1, 1:] - y[..., :-1, :-1], y[..., 1:, :-1] - y[..., :-1, :-1]
    return right.square() + below.square()


def _halved(y_BHW: Tensor) -> Tensor:
    """Means of 2x2 pixels; an odd last row or column is averaged with zeros, as their code does."""
    height, width = y_BHW.shape[-2:]
    even = F.pad(y_BHW, (0, width % 2, 0, height % 2))
    return (even[..., ::2, ::2] + even[..., 1::2, ::2] + even[..., ::2, 1::2] + even[..., 1::2, 1::2]) / 4


def _prewitt_magnitude(y_BHW: Tensor) -> Tensor:
    flat = F.pad(y_BHW, (1, 1, 1, 1))
    across, down = flat.unfold(-2, 3, 1).mean(-1), flat.unfold(-1, 3, 1).mean(-1)
    dx, dy = across[..., 2:] - across[..., :-2], down[..., 2:, :] - down[..., :-2, :]
    return (dx.square() + dy.square()).sqrt()


def _as_it_is(value: Tensor) -> Tensor:
    return value


Better = Literal["higher", "lower", "one"]


@dataclass(frozen=True)
class Metric:
    """A score of pictures against the truth.

    name: as the table of scores has it.  title, unit, digits: how it is shown.  better: which way, or "one" where 1 is best.
    of: uint8 pictures (..., H, W, 3) and their truth to float64 (...); this is what is averaged when clips are pooled.  None
    where something else gives the score: a feature network, or the distribution of tokens.
    of_view: the same from uint8 pictures (B, F, H, W, 3) and all that is known of their clips to (B, F), in the place of `of`;
    nan leaves a picture out, and None all of them.
    score: from that, also pooled, to the score.  limits: its least and its largest value.
    part: of which score it is one part, shown in a table of its own.
    left_out: of what clips there is no number, in words that follow "n of m clips".
    about: what a reader of the numbers has to know, in sentences.
    """

    name: str
    title: str
    unit: str = ""
    digits: int = 3
    better: Better = "higher"
    of: Callable[[Tensor, Tensor], Tensor] | None = None
    score: Callable[[Tensor], Tensor] = _as_it_is
    limits: tuple[float, float] = (0.0, math.inf)
    about: str = ""
    of_view: Callable[[Tensor, View], Tensor | None] | None = None
    left_out: str = ""
    part: str = ""

    def measure(self, frames: Tensor, view: View) -> Tensor | None:
        """Of predicted pictures of some clips, float64 (B, F); None where the clips do not tell enough."""
        if self.of_view is not None:
            return self.of_view(frames, view)
        assert self.of is not None
        return self.of(frames, view.truth)

    @property
    def head(self) -> str:
        """Title and unit."""
        return f"{self.title}, {self.unit}" if self.unit else self.title

    @property
    def pooled(self) -> str:
        """Name under which the score of the pooled measure is found; empty where it is the mean of the scores."""
        return "" if self.score is _as_it_is else f"pooled {self.name}"


UNBRANCHED = "go on like all others of their start and are left out"
METRICS = (
    Metric("psnr", "PSNR", "dB", 2, "higher", mean_squared_error, psnr_of_mse, (0, PSNR_CAP),
           f"PSNR is the mean over pictures, of which identical ones count as {PSNR_CAP:g} dB; pooled: of the mean error."),
    Metric("moving psnr", "PSNR, moving", "dB", 2, "higher", None, psnr_of_mse, (0, PSNR_CAP),
           f"PSNR, moving: over the pixels alone of which the truth differs from the last seen frame by more than {MOVING:g} of "
           f"255 levels; copying cannot pass {20 * math.log10(255 / MOVING):.1f} dB.",
           moving_error, "do not move and are left out"),
    Metric("ssim", "SSIM", "", 3, "higher", ssim, limits=(-1, 1), about="SSIM: uniform window of 7x7."),
    Metric("gmsd", "GMSD", "", 3, "lower", gmsd, about="GMSD: gradient magnitude similarity deviation, lower is better."),
    Metric("sharpness", "sharpness", "", 3, "one", sharpness,
           about="Sharpness: gradient energy over the truth's, 1 is as sharp; noise counts as detail."),
    Metric(COLOUR, COLOUR, "levels", 1, "lower", colour_drift,
           about="Colour drift: between the mean colours of a picture and of the truth, root mean square over the channels."),
    Metric(ENTROPY, ENTROPY, "nats", of_view=lambda frames, view: None,
           about="Entropy: of models of tokens, mean of that step's tokens whose frame is scored, of the first sample."),
    Metric(TOLD_APART, TOLD_APART, limits=(0, 1), of_view=told_apart, left_out=UNBRANCHED,
           about="Told apart: share of clips whose prediction resembles what truly followed their own states more than what "
           "followed those of any other clip of the same start, by mean squared error; by chance one of as many as there are."),
    Metric(MARGIN, MARGIN, "dB", 2, limits=(-PSNR_CAP, PSNR_CAP), of_view=margin, left_out=UNBRANCHED,
           about="Margin: PSNR against the own truth less that against the nearest of the others."),
)  # fmt: skip
"""Every score of pictures that an evaluation makes: a new one is a function and a line here."""


READ = (
    Metric(MASK_IOU, MASK_IOU, limits=(0, 1), left_out="do not show the robot and are left out",
           about="Robot mask IoU: overlap, intersection over union, of the pixels in which a small network finds the robot's "
           "arms with those where the simulator drew them; its own on true frames stands beside."),
    Metric(STATE_ERROR, STATE_ERROR, "", 3, "lower",
           about="State error: mean absolute error of the robot's states, velocities left out, in their standard deviations, "
           "as a small network reads them off the frames; its own on true frames stands beside."),
)  # fmt: skip
"""How scores are shown that hold what is read off predicted frames against what is known of the clips (`reading`)."""


_COMPARED = "A Fréchet distance compares sets of frames: it sees that a copied frame is sharp, not that it is the wrong one."
CHANGE = "change"
OTHERS = (
    Metric(CHANGE, "changes by", "levels", 1, limits=(0, 255),
           about="Changes by: root mean square over the pixels of what other states change in the prediction, of 255 levels."),
    Metric(SURE_SHARPNESS, SURE_SHARPNESS, "", 3, "one",
           about="Sharpness where sure: of the half of each picture's pixels in which the samples differ least."),
    Metric("TFD", "TFD", "", 4, "lower",
           about="TFD is the tokenizer Fréchet distance: the Fréchet distance between the features of a tokenizer's "
           "encoder on predicted and on true frames, at every place of every grid. It is not an FID: the features are of another "
           f"network, and its values compare with other TFDs only. {_COMPARED}"),
    Metric("TFD of pictures", "TFD of pictures", "", 4, "lower",
           about="TFD of pictures is that distance with every frame as the first of a video: appearance without motion."),
    Metric("FID", "FID", "", 2, "lower",
           about="FID is the Fréchet distance between the features of the Inception network of the given weight file, every "
           "frame by itself. It is biased upwards, the more the fewer frames: published values use many thousands. " + _COMPARED),
    Metric("LPIPS", "LPIPS", "", 4, "lower",
           about="LPIPS is the learned perceptual distance of two pictures, frame by frame, with the given weight files."),
    Metric("cross-entropy", "cross-entropy", "nats", 3, "lower"),
    Metric("accuracy", "accuracy", limits=(0, 1)),
    Metric("rank correlation, pixels", "rank correlation, pixels", limits=(-1, 1),
           about="Rank correlation, pixels: Spearman's, of doubt and true error over the pixels of a clip, mean over clips."),
    Metric("rank correlation, clips", "rank correlation, clips", limits=(-1, 1),
           about="Rank correlation, clips: of the mean doubt and the mean true error of clips."),
    *(Metric(f"held by {level}%", f"held by {level} %", limits=(0, 1), about=f"Held by {level} %: share of the pixels inside the "
             f"interval made to hold {level} %, learned on other clips; width: of that interval, of values in [0, 1].")
      for level in (50, 80, 95)),
    *(Metric(f"width of {level}%", f"width of {level} %", "", 4, "lower", limits=(0, 2)) for level in (50, 80, 95)),
    Metric("state error", "error", "std", 3, "lower",
           about="Error: root mean square over the state's numbers, each in its standard deviations over the training data."),
    Metric("angle error", "error of angles", "rad", 4, "lower", about="Error of angles: its mean size over joints."),
    Metric("error to spread", "error to spread", "", 2, "one",
           about="Error to spread: root mean square of the error over that of the members' standard deviation; 1 where it is as "
           "large as it says."),
    Metric("held by learned 95%", "held by 95 %", "", 3, limits=(0, 1),
           about="Held by 95 %: share of states inside as many spreads as hold 95 % of those of other recordings."),
    Metric("coverage", "coverage", "", 4, limits=(0, 1), about="share of the true tokens among the ids kept"),
)  # fmt: skip
"""How other scores are shown: those of feature networks and of token distributions."""


def shown(name: str) -> Metric:
    """How the score of this name is shown; one that is told nowhere like a known one whose name it holds, under its own."""
    for metric in METRICS + READ + OTHERS:
        if name in (metric.name, metric.pooled):
            return metric if name == metric.name else replace(metric, title=f"pooled {metric.title}")
    alike = next((metric for metric in READ + OTHERS if metric.name in name), Metric(name, name))
    return replace(alike, title=name, about=MISSES.get(name.rpartition(", ")[2], ""))
