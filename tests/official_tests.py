"""1X's two test sets in small: samples whose future is withheld."""

from pathlib import Path

from hwm.data import layout
from hwm.data.checksums import write_checksums
from hwm.data.video import VideoWriter
from hwm.work.files import write_array


def write_compression_test_set(root, *, tokens_NTHW, states_NFA, flat=True):
    """Samples 0..N-1: one block of tokens and F >= 17 rows of states each (the official set: 450 and 64)."""
    written = _write_states(Path(root), states_NFA, flat)
    for i, tokens_THW in enumerate(tokens_NTHW):
        written.append(layout.TOKENS.place(Path(root), i, flat=flat))
        write_array(written[-1], tokens_THW, "<i4")
    write_checksums(Path(root) / "checksums.json", written)


def write_sampling_test_set(root, *, videos, states_NFA, flat=False):
    """Samples 0..N-1: 17 frames of video, uint8 RGB (17, H, W, 3), and F >= 17 rows of states each (official: 250, 97)."""
    written = _write_states(Path(root), states_NFA, flat)
    for i, frames_FHWC in enumerate(videos):
        written.append(layout.VIDEO.place(Path(root), i, flat=flat))
        with VideoWriter(written[-1], height=frames_FHWC.shape[1], width=frames_FHWC.shape[2]) as writer:
            writer.write(frames_FHWC)
    write_checksums(Path(root) / "checksums.json", written)


def _write_states(root, states_NFA, flat):
    paths = [layout.STATES.place(root, i, flat=flat) for i in range(len(states_NFA))]
    for path, states_FA in zip(paths, states_NFA):
        write_array(path, states_FA, "<f4")
    return paths
