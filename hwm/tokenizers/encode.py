"""From raw video to shards of tokens or latents: one raw shard after the other, each written whole or not at all.

A shard that is finished is not made again, so a killed job goes on where it was; several processes, or several jobs with
different shares, write into one folder, and who finds all shards finished makes it a dataset, of what the shards alone say.
The bytes do not depend on who made what, or how often it was killed.  With `phases` > 1 every raw shard is also cut from
later first frames, which multiplies the aligned clips that can be made of little data.

A continuous tokenizer by Wan's clock is for the sampling track: it encodes not blocks but sampling clips, each by itself
and one from every 8th frame (`every`), because shifted windows share no latents (reference wan 1, E.1).
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from hwm.clock import SAMPLING_HOP
from hwm.config import to_toml
from hwm.contracts import LatentTokenizer, Tokenizer
from hwm.data import layout, quarantine, video
from hwm.data.checksums import verify
from hwm.data.dataset import Dataset, ShardFault, source_of
from hwm.data.layout import clip_hop, read_tokenizer_info
from hwm.data.moments import write_statistics
from hwm.data.onex import open_dataset, read_robot
from hwm.data.quarantine import Account, Rule
from hwm.data.recordings.excerpt import WHOLE as WHOLE_VIEW
from hwm.data.recordings.excerpt import View
from hwm.data.writers import write_dataset_metadata, write_tokenizer_info
from hwm.robot import EVE
from hwm.tokenizers.open import open_tokenizer
from hwm.tokenizers.shard_job import KINDS, Outcome, ShardEncoder, ShardJob, encodes_clips, open_encoder, sizes_of
from hwm.work.claim import GONE, Kept, expect_apart
from hwm.work.files import read_count, read_json, remove_torsos, write_text
from hwm.work.share import Share
from hwm.work.signals import StopFlag
from hwm.work.workers import work_off

WHOLE = Share()


def tokenize(
    raw: str | Path, out: str | Path,
    *, tokenizer: str, size: int = 0, phases: int = 1, every: int = SAMPLING_HOP, workers: int = 1, share: Share = WHOLE,
    max_bad: int = 0, trust: bool = False, device: str = "cpu", view: View = WHOLE_VIEW,
    progress: Callable[[int, int], None] | None = None, say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Encode a raw dataset into tokens of the v2.0 layout, or into latents beside their statistics; return the folder.

    Which of the two follows from the tokenizer, and so does whether latents are of blocks or of sampling clips.

    view: what of the recordings is taken.  size: side in pixels to which frames are resized then, 0 keeps them (Cosmos tokens
    of 1X: 256).
    phases: how many first frames, spread over the 17 of a block, every raw shard is cut from; 1 for sampling clips.
    every: sampling clips start at multiples of this frame number; must not be given for blocks.
    workers: processes.  share: the part of the shards that is made here; other calls make the others.
    max_bad: so many faulty raw shards are left out, each with a line in `quarantine.jsonl`; they are tried again by the next
    call.  progress: called with (shards done, shards of this share).  say: given lines about what is left to others, what was
    left out and whether clips in and out add up.
    Raises ValueError when `out` holds what another tokenizer made, or other clips, and for one faulty shard more than
    `max_bad`; Stopped after SIGTERM, SIGINT or SIGHUP; ChildProcessError when a worker was killed.
    """
    raw, out = Path(raw), Path(out)
    if not 1 <= phases <= 17 or every < 1 or max_bad < 0:
        expected = "phases must be 1..17, every at least 1 and max_bad at least 0"
        raise ValueError(f"{expected}, got {phases}, {every} and {max_bad}")
    for place in (out, *(out / kind.folders[0] for kind in KINDS)):
        expect_apart(place, raw, tokenizer)
    with StopFlag() as flag:
        dataset, faults = _open_raw(raw, view)
        encoder = open_tokenizer(tokenizer, trust=trust, device=device)
        if encoder.kind == "video":
            raise ValueError(f"{tokenizer}: leaves frames as they are; a model of video learns from the raw dataset itself")
        if encodes_clips(encoder):
            if phases > 1:
                raise ValueError(f"{encoder.name} encodes sampling clips, which start everywhere already; leave phases at 1")
        elif every != SAMPLING_HOP:
            raise ValueError(f"{encoder.name} encodes blocks; `every` is for sampling clips: leave it at {SAMPLING_HOP}")
        rule = Rule(encoder.clock, phases, every if encodes_clips(encoder) else 0)
        work = Work(out, dataset, faults, rule, max_bad)
        if len(faults) > max_bad:  # before anything is written
            raise work.too_many(faults[0], len(faults))
        frame_size = _frame_size(dataset)
        if size:
            video.expect_proportions(raw, frame_size, (size, size))
        claim(out, encoder, dataset, frame_size=frame_size, rule=rule, size=size)
        work.expect_own()
        kept = Kept(out)
        flat = not (raw / "videos").is_dir() and phases == 1
        shards = {shard.index: replace(shard) for shard in dataset.shards}
        mine = [
            ShardJob(raw, out, shards[index], phase, rule, size, None if size else frame_size, flat)
            for index, phase in share.of(work.places)
            if index in shards and rule.offset(phase) < shards[index].num_frames
        ]
        todo = [job for job in mine if not job.finished]
        for job in todo:
            quarantine.take_back(out, job.shard.index)
        for fault in faults:
            work.leave_out(fault)
        for finding in (finding for shard in shards.values() for finding in shard.remarks()):
            say(f"{finding.file}: {finding.message}")
        done, rates = len(mine) - len(todo), {}

        def hear(outcome: Outcome) -> None:
            nonlocal done
            kept.expect_there()
            if outcome.fault:
                work.leave_out(outcome.fault)
            elif abs(outcome.rate - dataset.hz) > 0.5:
                rates[outcome.job.shard.index] = outcome.rate
            done += 1
            if progress:
                progress(done, len(mine))

        if workers > 1 and len(todo) > 1:
            prepare = partial(open_encoder, tokenizer, trust, device)
            work_off(todo, prepare, workers=workers, hear=hear, flag=flag, folders=[out])
        else:
            encode = ShardEncoder(encoder, device=device, poll=flag.check)
            for job in todo:
                flag.check()
                kept.expect_there()
                encode(job, hear)
        if rates:
            about = f"{len(rates)} videos, the first of shard {min(rates)}, play at {rates[min(rates)]:g} frames/s"
            say(f"warning: {about}, metadata.json says {dataset.hz} Hz; frame k was taken for row k of the states")
        kept.expect_there()
        for line in work.finish(shared=share.count > 1, channels=sizes_of(encoder).get("channels", 0)):
            say(line)
    return out


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

    def leave_out(self, fault: ShardFault) -> None:
        """Put a shard into quarantine.  Raises ValueError when there are more than `max_bad` then."""
        if not self.max_bad:
            raise self.too_many(fault, 1)
        if any(place[0] == fault.shard for place in self._missing()):
            quarantine.put(self.out, fault, raw=self.dataset.root, rule=self.rule)
            if (count := len(quarantine.recorded(self.out))) > self.max_bad:
                raise self.too_many(fault, count)

    def too_many(self, fault: ShardFault, count: int) -> ValueError:
        """The error of more faulty shards than `max_bad`."""
        remedy = f"that makes {count} faulty shards; --max-bad is {self.max_bad}"
        return ValueError(f"{fault} ({remedy if self.max_bad else 'or leave out up to N such shards with --max-bad N'})")

    def expect_own(self) -> None:
        """Raise ValueError where something finished in `out` was made of other data than the raw shard of that number.

        What was made by older versions does not tell; of a raw shard that was damaged since, nothing is known.
        """
        known, opened = {index for index, _ in self.places}, {shard.index: shard for shard in self.dataset.shards}
        for target in layout.METADATA.indices(self.out):
            index, source = self.rule.cut_from(target)[0], source_of(self.out, target)
            if index in opened:
                another = source not in ("", opened[index].fingerprint) and not verify(self.dataset.root, only=index)
            else:
                another = source != "" and index not in known
            if another:
                fault = f"shard {target} was made of other data than shard {index} of {self.dataset.root}"
                raise ValueError(f"{self.out}: {fault}; choose a new output folder, or delete what lies here")

    def _missing(self) -> list[tuple[int, int]]:
        """The places of which nothing lies on the disk although something should."""
        there = set(layout.METADATA.indices(self.out))
        frames = {shard.index: shard.num_frames for shard in self.dataset.shards}
        return [
            (index, phase)
            for index, phase in self.places
            if index * self.rule.phases + phase not in there and self.rule.offset(phase) < frames.get(index, 1 << 62)
        ]

    def finish(self, *, channels: int, shared: bool) -> list[str]:
        """Write what makes the folder a dataset if no shard is missing; lines that say how things stand.

        channels: of latents, 0 for tokens.  shared: whether other processes may still make what is missing.
        Raises ValueError when nothing could be made, more than `max_bad` shards are faulty, or clips do not add up.
        """
        self.expect_own()
        written = None  # written again until no other process has changed anything meanwhile
        while (view := (self._missing(), quarantine.recorded(self.out))) != written:
            missing, faulty = set(view[0]), set(view[1])
            left = sorted({index for index, _ in missing} - faulty)
            if left:
                count = sum(index in left for index, _ in missing)
                if not shared:
                    raise ValueError(f"{self.out}: {count} shards are missing: part of it {GONE}")
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


def _open_raw(raw: Path, view: View) -> tuple[Dataset, list[ShardFault]]:
    """The shards that can be opened, and what is wrong with the others.  Raises ValueError for faults of the whole."""
    found: list[ValueError] = []
    dataset = open_dataset(raw, faults=found, view=view)
    if dataset.kind != "video":
        raise ValueError(f"{raw}: holds tokens or latents already; tokenizing needs a raw dataset (videos as .mp4)")
    for fault in verify(raw, only=None):
        raise fault
    faults = [fault for fault in found if isinstance(fault, ShardFault)]
    for fault in found:
        if not isinstance(fault, ShardFault):
            count = read_count(read_json(raw / "metadata.json"), "num_shards", raw / "metadata.json")
            known = {shard.index for shard in dataset.shards} | {f.shard for f in faults}
            absent = set(range(count)) - known
            if not absent or len(absent) + len(known) != count:
                raise fault
            what = f"no such file, nor any other of this shard, though metadata.json counts {count}; fetch it"
            faults += [ShardFault(f"{layout.VIDEO.place(raw, i, flat=False)}: {what}", shard=i) for i in sorted(absent)]
    return dataset, faults


def _frame_size(dataset: Dataset) -> tuple[int, int]:
    """Stored height and width in pixels, of most videos: one that is odd is a faulty shard."""
    sizes: Counter[tuple[int, int]] = Counter()
    first: ValueError | None = None
    for shard in dataset.shards:
        try:
            sizes[shard.probed[:2]] += 1
        except ValueError as error:
            first = first or error
    if not sizes:
        raise first or ValueError(f"{dataset.root}: not one shard is whole; fetch or record the data again")
    return sizes.most_common(1)[0][0]


def claim(
    out: Path, encoder: Tokenizer | LatentTokenizer, dataset: Dataset, *, frame_size: tuple[int, int], rule: Rule, size: int
) -> None:
    """Write tokenizer.json, as the first of several processes, or check that the one there is of the same tokenizer and clips.

    frame_size: height and width of the stored frames.  size: side to which they are resized, 0 keeps them.
    """
    height, width = (size, size) if size else frame_size
    stride = encoder.spatial_stride
    if height % stride or width % stride:
        raise ValueError(f"{dataset.root}: frames of {height}x{width} do not divide by the tokenizer's stride {stride}; set size")
    grid, fingerprint = (height // stride, width // stride), encoder.fingerprint()
    if not (out / "tokenizer.json").is_file():
        if any(kind.indices(out) for kind in (layout.VIDEO, layout.TOKENS, layout.LATENTS, layout.METADATA)):
            raise ValueError(f"{out}: holds data that were not made by `hwm tokenize`; choose a new output folder")
        config = asdict(encoder.config) if hasattr(encoder, "config") else {}
        out.mkdir(parents=True, exist_ok=True)
        if dataset.robot != EVE:  # another robot's states keep their meaning
            write_text(out / "robot.toml", to_toml(dataset.robot))
        write_tokenizer_info(
            out, name=encoder.name, fingerprint=fingerprint, grid=grid, clock=encoder.clock, config=config, phases=rule.phases,
            every=rule.every, first=True, **sizes_of(encoder),
        )
    known = read_tokenizer_info(out) or {}  # by whichever process came first
    if known.get("fingerprint") != fingerprint or tuple(known.get("grid", ())) != grid:
        raise ValueError(
            f"{out}/tokenizer.json: what lies here was made by tokenizer {known.get('name')} on grid {known.get('grid')}, "
            f"not by {encoder.name} on grid {list(grid)}; choose a new output folder"
        )
    if (phases := known.get("phases", rule.phases)) != rule.phases:
        raise ValueError(f"{out}/tokenizer.json: was cut from {phases} phases, not {rule.phases}; choose a new output folder")
    if (hop := clip_hop(known, out)) != rule.every:
        every = f"its clips start every {hop} frames, not {rule.every}"
        raise ValueError(f"{out}/tokenizer.json: {every}; choose a new output folder")
    if (known_robot := read_robot(out)) != dataset.robot:
        robots = f"{known_robot.name}, not of {dataset.robot.name} as described now"
        raise ValueError(f"{out}: holds states of the robot {robots}; choose a new output folder")
