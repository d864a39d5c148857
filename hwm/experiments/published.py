"""Figures printed in the papers, to stand beside ours: never mixed with them, never recomputed.

TABLES: HWM paper, Tables 1 and 2: 1X data at 256x256, 8 future frames, FID and PSNR over 21 000 frames of the validation
set; speed and memory on an NVIDIA A6000.  The two families were scored by different procedures in the authors' release
(reference B.6), and Flow-HWM was trained with a defect (reference D.2).
LEADERBOARD: Revontuli report, Table 1: the test values are the server's, the validation values the teams' own.
TRAINING_CURVES: Revontuli report, Fig. 3b, read off the picture, to about 0.2 nats.
ATTENTION: slides, "Memory Complexity": entries of attention, and the relative cost.
SAMPLING: Revontuli report, Table 2: frame 76 of 1X clips at 512x512 by Wan2.2 TI2V-5B; the slides draw the same figures
as bars.  The report prints one decimal of guidance and no intervals.
"""

from dataclasses import dataclass

from hwm.evaluate.scores import Table


@dataclass(frozen=True)
class Published:
    """One column of Table 1 or 2."""

    parameters_billion: float
    peak_memory_gb: float
    samples_per_second: float
    fid: float
    psnr_db: float

    def printed(self, name: str) -> str:
        """A figure with the digits that it is printed with."""
        digits = 2 if name != "parameters_billion" else 2 if self.parameters_billion > 1 else 3
        return f"{getattr(self, name):.{digits}f}"


TABLES: dict[str, dict[str, Published]] = {
    "masked": {
        "split": Published(0.220, 2.22, 2.09, 15.31, 29.37),
        "base": Published(0.321, 2.63, 2.27, 10.13, 29.02),
        "modality": Published(0.237, 2.30, 2.25, 11.67, 28.97),
        "full": Published(0.195, 2.12, 2.36, 14.21, 28.66),
    },
    "flow": {
        "split": Published(0.944, 4.37, 1.11, 111.12, 20.50),
        "base": Published(1.36, 5.94, 1.69, 111.59, 20.42),
        "modality": Published(0.886, 4.41, 1.89, 112.75, 20.50),
        "full": Published(0.648, 3.25, 1.91, 110.73, 20.43),
    },
}


@dataclass(frozen=True)
class PublishedSampling:
    """One row of Table 2 of the Revontuli report.

    block: 1 trained without condition dropout, 2 and 3 with it.  guidance: None in block 1.  PSNR in dB.
    remark: what the report's marks say.
    """

    block: int
    steps: int
    samples: int
    guidance: float | None
    val_psnr: float
    test_psnr: float
    val_ssim: float
    val_lpips: float
    val_fid: float
    remark: str = ""


@dataclass(frozen=True)
class Entry:
    """A line of Table 1: PSNR in dB of the sampling track; of the other in nats, the top-500 cross-entropy for the test set."""

    track: str
    team: str
    test: float
    val: float | None
    rank: str


LEADERBOARD: tuple[Entry, ...] = (
    Entry("sampling", "Revontuli", 23.00, 25.53, "1st"),
    Entry("sampling", "Duke", 21.56, 25.30, "2nd"),
    Entry("sampling", "Michael", 18.51, None, "3rd"),
    Entry("compression", "Revontuli", 6.64, 4.92, "1st"),
    Entry("compression", "Duke", 7.50, 5.60, "2nd"),
    Entry("compression", "a27sridh", 7.99, None, "3rd"),
)
TRAINING_CURVES: dict[str, dict[int, float]] = {
    "training, teacher-forced": {0: 8.0, 20_000: 5.5, 80_000: 4.9},
    "validation, teacher-forced": {0: 8.0, 80_000: 4.3},
    "validation, autoregressive": {0: 7.5, 80_000: 4.8},
}
CURVE_STEPS = 80_000
"""Where the axis of Fig. 3b ends."""
ATTENTION: dict[str, tuple[str, str]] = {"full": ("26.2e6", "100%"), "spatiotemporal": ("5.26e6", "20%")}


def leaderboard(track: str) -> Table:
    """Table 1 of a track as published."""
    unit = "PSNR, dB" if track == "sampling" else "cross-entropy, nats"
    test = f"test {unit}" if track == "sampling" else f"test top-500 {unit}"
    rows = [[e.team, f"{e.test:.2f}", "–" if e.val is None else f"{e.val:.2f}", e.rank] for e in LEADERBOARD if e.track == track]
    return Table("Published: Table 1 of the Revontuli report, 1X data", ["team", test, f"validation {unit}", "place"], rows)


_AFTER = "test after the deadline"
SAMPLING: tuple[PublishedSampling, ...] = (
    PublishedSampling(1, 20, 1, None, 22.63, 21.05, 0.707, 0.137, 40.23),
    PublishedSampling(1, 20, 5, None, 24.52, 22.11, 0.750, 0.165, 71.46),
    PublishedSampling(1, 20, 20, None, 24.88, 22.42, 0.762, 0.201, 90.71),
    PublishedSampling(1, 20, 20, None, 26.62, 23.00, 0.836, 0.082, 31.70, "1st submission, trained on validation data too"),
    PublishedSampling(2, 20, 20, 2.0, 24.20, 22.26, 0.734, 0.164, 71.83),
    PublishedSampling(2, 20, 20, 1.5, 24.59, 22.53, 0.746, 0.169, 74.10, "2nd submission"),
    PublishedSampling(3, 100, 20, 1.5, 25.07, 22.55, 0.762, 0.148, 65.76, _AFTER),
    PublishedSampling(3, 100, 20, 1.0, 25.53, 23.04, 0.773, 0.158, 69.25, _AFTER),
)
