"""From finished shards to a dataset, by whichever process finds that none is missing; several at once do no harm.

What is written follows from the shards alone, and each file is replaced whole, so that they write the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hwm.data import layout, quarantine
from hwm.data.dataset import Dataset, ShardFault
from hwm.data.latents import write_statistics
from hwm.data.onex import open_dataset
from hwm.data.quarantine import Account, Rule
from hwm.data.writers import write_dataset_metadata
from hwm.work.files import read_count, read_json, remove_torsos


@dataclass(frozen=True)
class Work:
    """All that is to be made of a raw dataset in the folder `out`.

    dataset: the shards that could be opened.  faults: of the others.  max_bad: how many faulty ones may be left out.
    """

    out: Path
    dataset: Dataset
    faults: list[ShardFault]
    rule: Rule
    max_bad: int

    @cached_property
    def places(self) -> list[tuple[int, int]]:
        """(raw shard, phase) of everything that could be made, in order, faulty or not: the same list for every process."""
        indices = {shard.index for shard in self.dataset.shards}
        indices |= {fault.shard for fault in self.faults if fault.shard is not None}
        return [(index, phase) for index in sorted(indices) for phase in range(self.rule.phases)]

    def expect_few_faults(self) -> None:
        """Raise ValueError, before anything is written, when more shards than `max_bad` cannot even be opened."""
        if len(self.faults) > self.max_bad:
            raise self._too_many(self.faults[0], len(self.faults))

    def leave_out(self, fault: ShardFault) -> None:
        """Put a shard into quarantine.  Raises ValueError when there are more than `max_bad` then."""
        if not self.max_bad:
            raise self._too_many(fault, 1)
        if any(place[0] == fault.shard for place in self._missing()):
            quarantine.put(self.out, fault, raw=self.dataset.root, rule=self.rule)
            if (count := len(quarantine.recorded(self.out))) > self.max_bad:
                raise self._too_many(fault, count)

    def _too_many(self, fault: ShardFault, count: int) -> ValueError:
        remedy = f"that makes {count} faulty shards; --max-bad is {self.max_bad}"
        return ValueError(f"{fault} ({remedy if self.max_bad else 'or leave out up to N such shards with --max-bad N'})")

    def _missing(self) -> list[tuple[int, int]]:
        """The places of which nothing lies on the disk although something should."""
        there = set(layout.METADATA.indices(self.out))
        frames = {shard.index: shard.num_frames for shard in self.dataset.shards}
        return [
            (index, phase)
            for index, phase in self.places
            if index * self.rule.phases + phase not in there and self.rule.offset(phase) < frames.get(index, 1 << 62)
        ]

    def finish(self, *, channels: int) -> list[str]:
        """Write what makes the folder a dataset if no shard is missing; lines that say how things stand.

        channels: of latents, 0 for tokens.
        Raises ValueError when nothing could be made, more than `max_bad` shards are faulty, or clips do not add up.
        """
        written = None
        while (view := self._view()) != written:  # until no other process has changed anything meanwhile
            missing, faulty = set(view[0]), set(view[1])
            left = sorted({index for index, _ in missing} - faulty)
            if left:
                count = sum(index in left for index, _ in missing)
                return [f"{count} of {len(self.places)} shards are left to others; metadata.json comes with the last of them"]
            if len(faulty) > self.max_bad:
                raise ValueError(
                    f"{self.out}: {len(faulty)} shards are in quarantine, and --max-bad is {self.max_bad}; "
                    "repair them and run this again for them, or allow as many"
                )
            self._write(missing, channels)
            written = view
        account = self.account()
        if account.given != account.made + account.lost:
            (self.out / "metadata.json").unlink(missing_ok=True)
            raise ValueError(
                f"{self.out}: clips do not add up: {account.given} in, {account.made} out and {account.lost} left out; "
                "what lies here was made of other raw data: choose a new output folder"
            )
        lines = [str(account)]
        if rows := quarantine.read_quarantine(self.out):
            lines.append(f"left out, see {self.out / quarantine.NAME}: " + ", ".join(str(row["file"]) for row in rows))
        return lines

    def _view(self) -> tuple[list[tuple[int, int]], list[int]]:
        return self._missing(), quarantine.recorded(self.out)

    def _write(self, missing: set[tuple[int, int]], channels: int) -> None:
        there = layout.METADATA.indices(self.out)
        if not there:
            raise ValueError(f"{self.dataset.root}: not one shard is whole; fetch or record the data again")
        remove_torsos(self.out)
        if channels:
            write_statistics(self.out, channels=channels)
        frames = 0
        for target in there:
            path = layout.METADATA.find(self.out, target)
            frames += read_count(read_json(path), "shard_num_frames", path)
        quarantine.merge(self.out, missing=lambda index, phase: (index, phase) in missing)
        write_dataset_metadata(self.out, num_shards=len(there), num_images=frames, hz=self.dataset.hz)

    def account(self) -> Account:
        """Clips by the raw segments, by the finished dataset, and by its quarantine."""
        made = dict.fromkeys((index for index, _ in self.places), 0)
        for shard in open_dataset(self.out, verified=False).shards:
            index = shard.index // self.rule.phases
            made[index] = made.get(index, 0) + shard.num_clips
        rows = {row["shard"]: row["clips"] for row in quarantine.read_quarantine(self.out)}
        given = 0
        opened = {shard.index: shard for shard in self.dataset.shards}
        for index in made:
            if index in opened and index not in rows:
                given += sum(self.rule.counts(opened[index]))
            else:  # what its segments say now may be part of the damage
                given += made[index] + (rows.get(index) or 0)
        lost = [count for count in rows.values() if count is not None]
        return Account(given, sum(made.values()), sum(lost), unknown=len(rows) - len(lost), shards=len(rows))
