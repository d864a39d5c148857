"""Figures printed in the papers, to stand beside ours: never mixed with them, never recomputed.

Source: HWM paper, Tables 1 and 2: 1X data at 256x256, 8 future frames, FID and PSNR over 21 000 frames of the validation
set; speed and memory on an NVIDIA A6000.  The two families were scored by different procedures in the authors' release
(reference B.6), and Flow-HWM was trained with a defect (reference D.2).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One column of Table 1 or 2."""

    parameters_billion: float
    peak_memory_gb: float
    samples_per_second: float
    fid: float
    psnr_db: float


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
