"""The protocols as values: which clip, what is seen of it and what is scored; and the settings of a scoring.

One loop (`scoring.evaluate`) scores every family by any of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from hwm.clock import LEGACY_FRAMES, LEGACY_STRIDE, SAMPLING_CONTEXT, SAMPLING_FRAMES
from hwm.config import Seed
from hwm.data.windows import Window
from hwm.evaluate.scores import ALL, LAST, ORIGINAL, RECONSTRUCTION
from hwm.work.ranges import Range

Warmth = Annotated[float | None, Range(0, 1000)]
"""A temperature of samples; None: the model's own."""


@dataclass(frozen=True)
class Protocol:
    """Which clip, what is seen and what is scored.

    name: as `--protocol` and results.json have it.  title: for people.
    clip: the window that a clip is.  num_seen: frames of it that are given, the first ones.
    scored: frames held against the truth, counted from the clip's first.
    references: what they are held against, the verdict's first; "original" only where the recorded video is at hand.
    span: the verdict's: the last scored frame, or the mean over all.
    ensembles: whether predictions are drawn as ensembles, each sample from a generator of its own clip and number.
    examples: number of clips that are shown.
    results, report: names of the files that are written.
    kept: logits of a token to which truncated cross-entropies look, as many as a submission holds; 0: there are none.
    forced: whether the verdict on tokens is teacher-forced, each grid given the true ones before it, with other states too.
    """

    name: str
    title: str
    clip: Window
    num_seen: int
    scored: tuple[int, ...]
    references: tuple[str, ...]
    span: str
    ensembles: bool
    examples: int
    results: str
    report: str
    kept: int = 500
    forced: bool = False

    def expect_clips(self, clip: Window, *, grids: tuple[int, int], stride: int, run: Path) -> None:
        """Raise ValueError where a run learned from other clips of grids than these, of so many seen and future grids."""
        own = own_protocol(clip)
        if own != self:
            raise ValueError(f"{run}: the run learned from clips that are scored by --protocol {own.name}")
        wanted = (self.num_seen, len(self.scored), LEGACY_STRIDE)
        if clip == "frames" and (*grids, stride) != wanted:
            here, there = (f"{seen} + {future} frames, one every {step}" for seen, future, step in (wanted, (*grids, stride)))
            raise ValueError(f"{run}: --protocol {self.name} is of {here}; the run has {there}")

    def at(self, ahead: Sequence[int]) -> "Protocol":
        """The same with those frames alone scored which lie so many frames after the last seen one; of none: as it is."""
        return replace(self, scored=tuple(sorted({self.num_seen - 1 + frames for frames in ahead}))) if ahead else self

    @property
    def in_a_row(self) -> bool:
        """Whether what is scored are several frames of a video, those that follow the seen ones."""
        return len(self.scored) > 1 and self.scored == tuple(range(self.num_seen, self.scored[-1] + 1))

    def refuse(self, given: dict[str, Any]) -> None:
        """Raise ValueError for options that would do nothing here.  given: values of options, an empty one is not given."""
        other: tuple[str, ...] = OF_ONE_PREDICTION if self.ensembles else OF_ENSEMBLES
        if given.get("doubt"):
            other = tuple(name for name in other if name not in OF_TUNING)
        names = [f"--{name.replace('_', '-')}" for name in other if given.get(name)]
        if names:
            others = (protocol for protocol in PROTOCOLS.values() if protocol is not MOTION)
            kinds = [protocol.name for protocol in others if protocol.ensembles != self.ensembles]
            raise ValueError(f"{', '.join(names)}: only with --protocol {' or '.join(kinds)}")


COMPRESSION = Protocol(
    "compression", "Compression track", "block_pairs", 17, tuple(range(17, 34)),
    (RECONSTRUCTION, ORIGINAL), LAST, False, 6, "results.json", "report.html",
)  # fmt: skip
"""Two blocks of 17 frames: the second predicted from the first, its last frame scored (SYSTEMS.md section 1)."""
HWM = Protocol(
    "hwm", "Humanoid World Models", "blocks", 9, tuple(range(9, 17)),
    (RECONSTRUCTION, ORIGINAL), ALL, False, 6, "results.json", "report.html",
)  # fmt: skip
"""One block: 8 frames predicted from 9, their mean scored (HWM paper section 3)."""
SAMPLING = Protocol(
    "sampling", "Sampling track", "sampling", SAMPLING_CONTEXT, (SAMPLING_FRAMES - 1,),
    (ORIGINAL,), LAST, True, 4, "results_sampling.json", "report_sampling.html",
)  # fmt: skip
"""77 frames of which 17 are seen and the last is scored, as a picture (SYSTEMS.md section 4)."""
V1_1 = Protocol(
    "v1.1", "1X v1.1", "frames", 1, tuple(range(1, LEGACY_FRAMES)),
    (RECONSTRUCTION,), ALL, False, 6, "results.json", "report.html", kept=0, forced=True,
)  # fmt: skip
"""16 frames at 2 Hz, each predicted from the true ones before it; the cross-entropy is the sum over both factors of an id
(reference B.5)."""
MOTION = Protocol(
    "twin", "Joint-state twin", "motion", 1, (1,), (ORIGINAL,), LAST, False, 0, "results.json", "report.html", kept=0,
)  # fmt: skip
"""Of twins, by seconds rather than frames (`hwm.evaluate.motion`)."""
PROTOCOLS = {protocol.name: protocol for protocol in (COMPRESSION, HWM, SAMPLING, V1_1, MOTION)}
OF_TUNING = ("tuning", "tuning_clips")
"""Options that do nothing where nothing is chosen on other clips."""
OF_ONE_PREDICTION = ("doubt", "video", "decode")
"""Options that do nothing where ensembles are drawn."""
OF_ENSEMBLES = ("tuning", "members", "score_size", "tuning_clips", "ahead")
"""Options that do nothing where they are not."""


def own_protocol(clip: Window) -> Protocol:
    """The protocol of a model that learned from these clips."""
    return next((protocol for protocol in PROTOCOLS.values() if protocol.clip == clip), HWM)


# Names of rows.
EXPECTED_CODE = "model, expected code"
LIKELY_TOKENS, SAMPLED_TOKENS = "model, most likely tokens", "model, sampled tokens"
STILL_LATENTS, SAMPLED_LATENTS = "model, latents at temperature 0", "model, sampled latents"
STILL_FRAMES, SAMPLED_FRAMES = "model, frames", "model, sampled frames"
TEACHER_FORCED, AUTOREGRESSIVE = "model, teacher-forced", "model, autoregressive"
UNIGRAM = "unigram"
CEILING = "tokenizer alone"
TRUE_FRAMES = "true frames"
"""Row of what is read off the frames that a reference holds: no prediction is read more surely."""
EARLIER = "the truth 300 frames before"
"""Row of a rollout: the truth itself as it was ten seconds before, at 30 frames a second."""
COPY_FRAME, COPY_GRID, MEAN_OF_CONTEXT = "copy last frame", "copy last grid", "mean of context"
COPY_BLURRED = f"{COPY_FRAME}, blurred"
ONE_SAMPLE = "one sample"
BLURRED, MATCHED = "one sample, blurred", "one sample, histogram matched"
BLURRED_MATCHED = "one sample, blurred and matched"
STILL = "one prediction at temperature 0"
"""Of models of tokens the most likely future, of models of latents the mean of all."""


# Names of scores.
SURE_SHARPNESS = "sharpness where sure"
"""Over the pixels in which the samples of an ensemble differ least."""
COLOUR, ENTROPY, TOLD_APART, MARGIN = "colour drift", "entropy", "told apart", "margin"
MASK_IOU, STATE_ERROR = "robot mask IoU", "state error"


def mean_of(num_members: int) -> str:
    """Name of the row of a pixel mean."""
    return ONE_SAMPLE if num_members == 1 else f"mean of {num_members}"


@dataclass(frozen=True)
class Scoring:
    """All that decides the numbers of an evaluation, beside the run and the data.

    The command line is made from these fields, and their values are part of the fingerprint: nothing else may decide.
    """

    protocol: Literal["own", "compression", "hwm", "sampling", "v1.1"] = "own"
    """What is predicted and scored.  compression, hwm: all future frames of clips as the model predicts them, reference and
    baselines through the same tokenizer.  sampling: the 77th frame after 17 seen ones, against the recorded picture, by one
    sample and by ensembles.  v1.1: tokens of 16 frames at 2 Hz, teacher-forced.  own: by the clips that the run learned from."""
    clips: Annotated[int, Range(0, 10**9)] = 96
    """Clips to score, spread evenly over the dataset; 0: all."""
    batch_size: Annotated[int, Range(1, 10**6)] = 16
    """Clips at a time; of ensembles, predictions at a time."""
    decode: Literal["mean", "sample"] = "mean"
    """compression, hwm: the reading that the verdict is about, the mean of what is predicted or a sample."""
    members: Annotated[tuple[int, ...], Range(1, 10_000, some=True)] = (1, 5, 20)
    """sampling: sizes of the ensembles."""
    tuning_clips: Annotated[int, Range(2, 10**6)] = 16
    """sampling: number of clips to choose blur and blend on; with --doubt those that its intervals are learned on."""
    ahead: Annotated[tuple[int, ...], Range(1, 10**6)] = ()
    """sampling: frames from the last seen one to those that are scored, of one rollout; the verdict is on the last.  More than 60
    take longer recordings.  Default: as in the challenge, 60."""
    doubt: Annotated[int, Range(0, 10_000)] = 0
    """compression, hwm: predictions by which ways of doubting are scored, at least 2; 0: they are not."""
    temperature: Warmth = None
    """Of the samples; default: the model's own, or for ensembles 1 where that is 0."""
    top_k: Annotated[int, Range(0, 2**28)] = 0
    """Of models of tokens: draw from that many most likely ones; 0: from all."""
    top_p: Annotated[float, Range(0, 1, above=True)] = 1.0
    """Of models of tokens: draw from the fewest most likely ones that together have this probability."""
    controls: tuple[str, ...] = ()
    """Further states to predict with, beside zeroed ones and those of another segment's clip: late-4, early-4 (each row holds
    the state of 4 frames before or later), zeroed:GROUP, permuted:GROUP, late-4:GROUP (only that group of the robot's state)."""
    score_size: Annotated[int, Range(0, 4096)] = 0
    """sampling: side in pixels at which pictures are scored; 0: as recorded."""
    seed: Seed = 0
    """Seed of sampling and of the confidence intervals."""
    which: Literal["best", "last"] = "best"
    """The best checkpoint of the validation while training, or the last."""
    set: tuple[str, ...] = ()
    """Changes to how the model predicts, such as model.steps=4 model.guidance=1."""
    inception: Path | None = None
    """Inception weights (pt_inception-2015-12-05-6726825d.pth) for FID; without them compression and hwm only give TFD, a
    distance in the features of the shipped tokenizer."""
    lpips: tuple[Path, ...] = ()
    """AlexNet weights and LPIPS heads (alexnet-owt-7be5be79.pth alex.pth) for LPIPS."""
    readout: str = ""
    """Run of the recipe state-readout, trained on other video of the same robot: its error in reading the robot's states off
    predicted frames, beside that on true ones, of all states and of each group."""
    tokenizer: str = ""
    """Tokenizer for the pixels; default: the one named by the run."""
    trust: bool = False
    """Allow a TorchScript tokenizer to run."""
    device: str = "auto"
    """auto (the first GPU where there is one), cpu, cuda or another."""

    def changed(self) -> dict[str, Any]:
        """The settings that are not the default."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
