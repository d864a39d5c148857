"""Verbs of the Wan family."""

from __future__ import annotations

from pathlib import Path


def text_embedding(base: str, out: Path, /) -> int:
    """Compute the embedding of the empty prompt, the one text that Wan models are trained with.

    Reads the text encoder's weights file by file; the encoder is never in memory as a whole.

    Args:
        base: Wan model in diffusers' layout, a folder or a hub name, e.g. Wan-AI/Wan2.2-TI2V-5B-Diffusers.
        out: Safetensors file to write; a model's configuration names it as model.text.
    """
    from hwm.nn.wan_text import digest, embed_empty_prompt, write_text_embedding

    embedding = embed_empty_prompt(base)
    write_text_embedding(out, embedding, source=base)
    print(f"{out}  shape {tuple(embedding.shape)}  sha256 {digest(embedding)}")
    return 0
