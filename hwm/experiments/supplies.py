"""What the runs of an experiment learn from and are seen with: data as they were given, simulated or encoded, and tokenizers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hwm.config import RunConfig

if TYPE_CHECKING:
    from hwm.experiments.experiment import Plan
    from hwm.prepare import Sets

Size = Literal["tiny", "medium", "full"]
IMAGE_SIZE = {"tiny": 64, "medium": 128, "full": 256}
"""Side of simulated frames in pixels."""


World = Path | Mapping[str, Any]
"""Other data, or what the simulator is told beside the plan: light, friction, camera_shift, val_minutes, masks, starts ..."""


class Supplies:
    """Data and tokenizers of a plan; each is found, made or opened once.  encoded: see `Experiment`.

    world: name of another world than the plan's, whose unseen rooms alone count.  told: what it is.
    """

    def __init__(self, plan: Plan, encoded: str, world: str = "", told: World | None = None) -> None:
        self.plan, self.encoded, self.world, self.told = plan, encoded, slug(world), told
        self.data = told if isinstance(told, Path) else None if world else plan.data
        self._opened: dict[str, Any] = {}

    @cached_property
    def raw(self) -> Path:
        """Folder of the raw data; simulated first where none was given."""
        from hwm.prepare import SEGMENT_SECONDS, simulated
        from hwm.sim.plan import SHORTEST_SPLIT
        from hwm.sim.simulate import validation

        plan, told = self.plan, self.told if isinstance(self.told, Mapping) else {}
        val_minutes = validation(plan.minutes, SEGMENT_SECONDS, share=plan.val_share)
        minutes = SHORTEST_SPLIT / 60 if self.world else plan.minutes
        return self.data or simulated(
            plan.out / self._own("raw"), minutes=minutes, size=IMAGE_SIZE[plan.size], seed=plan.seed, workers=plan.processes,
            commands=plan.commands, **{"val_minutes": val_minutes, **told},
        )  # fmt: skip

    def _own(self, folder: str) -> str:
        return f"{folder}-{self.world}" if self.world else folder

    def sets(self, label: str, config: RunConfig, *, training: bool) -> Sets:
        """Training, validation and test data of a run: as they were given, or encoded by its tokenizer; video as it is.

        training: whether it is to be trained on them.
        Raises ValueError where there is neither what the run learns from nor raw video and a tokenizer to make it of.
        """
        from hwm.prepare import encoded, found_sets, recorded
        from hwm.training.device import choose_device

        plan, model = self.plan, config.model
        if model.kind in ("video", "motion"):
            return recorded(self.raw, training=training)
        ready = found_sets(self.data, lambda folder: self._fits(folder, config)) if self.data else None
        if ready and (ready.training or not training):
            return ready
        if not (name := self.tokenizer(config)):
            how = "give data that are encoded already (--data), or raw video and what encodes it (--tokenizers)"
            raise ValueError(f"{label}: is of {model.kind} by a tokenizer that it does not name: {how}")
        place = self.encoded.replace("{tokenizer}", Path(name).name.replace(":", "-"))
        grid: tuple[int, int] = model.grid  # type: ignore[union-attr]
        return encoded(
            self.raw, plan.out / self._own(place), tokenizer=name, size=grid[0] * self.opened(name).spatial_stride,
            phases=plan.phases, workers=plan.processes, training=training, trust=plan.trust,
            device=str(choose_device(plan.device)),
        )  # fmt: skip

    def tokenizer(self, config: RunConfig) -> str:
        """Name or folder of a run's tokenizer: the first given one that fits, or what the run names; "" for none."""
        from hwm.tokenizers.shard_job import encodes_clips

        model: Any = config.model
        for name in self.plan.tokenizers:
            coder = self.opened(name)
            size = {"tokens": "vocab_size", "latents": "channels"}.get(coder.kind, "kind")
            alike = coder.kind == model.kind and encodes_clips(coder) == (config.data.clip == "sampling")
            if alike and getattr(coder, size) == getattr(model, size):
                return name
        return config.tokenizer

    def opened(self, name: str) -> Any:
        """A tokenizer."""
        from hwm.tokenizers.open import open_tokenizer

        if name not in self._opened:
            self._opened[name] = open_tokenizer(name, trust=self.plan.trust)
        return self._opened[name]

    def _fits(self, folder: Path, config: RunConfig) -> bool:
        """Whether a dataset holds what a run learns from: its kind, sizes and clips, by the tokenizer that the run names."""
        from hwm.data.onex import open_dataset, probe_kind

        model: Any = config.model
        if probe_kind(folder) != model.kind:
            return False
        dataset = open_dataset(folder, verified=False)
        try:
            dataset.expect_window(config.data.clip)
        except ValueError:
            return False
        if config.tokenizer and known_everywhere(config.tokenizer):
            if (dataset.tokenizer or {}).get("fingerprint") != self.opened(config.tokenizer).fingerprint():
                return False
        return all(getattr(model, name) == value for name, value in dataset.sizes().items())


def slug(words: str) -> str:
    """Words as part of a file's name."""
    return words.replace(" / ", " over ").replace(": ", "-").replace(", ", "-").replace(" ", "-")


def known_everywhere(tokenizer: str) -> bool:
    """Whether a run finds this tokenizer by itself: a shipped one, or one of the library's, of which it keeps a copy."""
    from hwm.publish.folder import is_published
    from hwm.tokenizers.open import own_names

    return not tokenizer or tokenizer in own_names() or is_published(tokenizer)
