"""Parts of a scoring: whole or absent, checked, measured once, the same result whoever measured them."""

import hashlib
import json

import numpy as np
import pytest
import torch
from refusing import refused
from stopping import Stopping

from hwm.contracts import Batch
from hwm.evaluate import perceptual
from hwm.evaluate.perceptual import PerceptualScorer
from hwm.evaluate.protocols import COMPRESSION, SAMPLING, Scoring
from hwm.evaluate.scenes import View
from hwm.evaluate.scoring import evaluate
from hwm.evaluate.token_scores import unigram_counts
from hwm.work.parts import Columns, Elsewhere, Finished, PartsFolder, Work, fingerprint, names_of, progress_of, sizes_of, sources
from hwm.work.share import Share
from hwm.work.signals import Stopped

ARRAYS = {
    "b/scores": np.linspace(0, 1, 6).reshape(2, 3), "a": np.array([3], np.int64),
    "picture": np.arange(24, dtype=np.uint8).reshape(2, 4, 3)[:, ::2], "none": np.zeros((0, 5), np.float32),
    "yes": np.array([True, False])
}


def test_a_part_is_read_as_it_was_written_and_in_its_order(tmp_path):
    folder = PartsFolder(tmp_path / "parts", "key")
    folder.write("part-00003", ARRAYS)
    found = folder.read("part-00003")
    assert list(found) == list(ARRAYS) and folder.have("part-00003") and not folder.have("part-00004")
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype and np.array_equal(found[name], array) and found[name].flags.writeable
    assert [file.name for file in folder.folder.iterdir()] == ["part-00003.bin"]


@pytest.mark.fault("L9", "same numbers to the last bit, at most one batch redone")
def test_every_flipped_bit_and_every_cut_is_noticed(tmp_path, capsys):
    folder = PartsFolder(tmp_path, "key")
    folder.write("part", {"x": np.arange(3.0)})
    file = tmp_path / "part.bin"
    whole = file.read_bytes()
    damaged = [whole[:length] for length in range(len(whole))] + [whole + b"\0"]
    damaged += [whole[:i] + bytes([whole[i] ^ 1 << i % 8]) + whole[i + 1 :] for i in range(len(whole))]
    for content in damaged:
        file.write_bytes(content)
        refused("part.bin: damaged .* run the same command again", folder.read, "part")
    assert not folder.have("part") and not file.exists()
    assert "part.bin: damaged, is measured again" in capsys.readouterr().err


def test_a_part_of_another_scoring_or_place_is_not_taken(tmp_path):
    PartsFolder(tmp_path, "key").write("part-00000", ARRAYS)
    content = (tmp_path / "part-00000.bin").read_bytes()
    (tmp_path / "part-00001.bin").write_bytes(content)
    assert not PartsFolder(tmp_path, "key").have("part-00001")
    assert not PartsFolder(tmp_path, "other").have("part-00000")


def test_the_fingerprint_knows_weights_settings_and_data():
    def model(**change):
        torch.manual_seed(0)
        found = torch.nn.Linear(3, 2, **change)
        return found

    facts = {"clips": torch.arange(4), "settings": {"seed": 1, "members": (1, 5)}}
    first = fingerprint(model(), **facts)
    assert first == fingerprint(model(), **facts)
    changed = model()
    with torch.no_grad():
        changed.weight[1, 2] += 1e-6
    others = [fingerprint(changed, **facts), fingerprint(model().bfloat16(), **facts), fingerprint(model(bias=False), **facts)]
    others.append(fingerprint(model(), **facts | {"clips": torch.arange(4).float()}))
    others.append(fingerprint(model(), **facts | {"clips": torch.arange(4).view(2, 2)}))
    others.append(fingerprint(model(), **facts | {"settings": {"seed": 2, "members": (1, 5)}}))
    assert len({first, *others}) == 7


def test_sources_are_told_by_their_content_and_use(tmp_path):
    first, other = tmp_path / "first.pt", tmp_path / "other.pt"
    first.write_bytes(b"abc")
    other.write_bytes(b"abd")
    found = sources(data="1", video=None, weights=[first])
    assert found == ["data 1", f"weights {hashlib.sha256(b'abc').hexdigest()}"]
    others = [sources(data="1", weights=[other]), sources(data="2", weights=[first]), sources(video="1", weights=[first])]
    assert all(found != other for other in others)
    assert found == sources(data="1", weights=[first.rename(other)])


def test_shares_fill_all_parts_and_who_comes_last_reads_them(tmp_path):
    names, measured = names_of("part", 5), []

    def work(index):
        return Work(tmp_path / "results.json", share=Share(index, 3))

    def measure(part):
        measured.append(part)
        return {"x": np.array([part])}

    for index in range(3):
        one = work(index)
        folder, told = one.open("key"), []
        one.fill(folder, names, measure, done=progress_of(lambda *counts: told.append(counts), one.share.of(sizes_of(9, 2))))  # noqa: B023
        assert told[-1] == ((4, 4), (3, 3), (2, 2))[index]
        if index < 2:
            with pytest.raises(Elsewhere, match=rf"share {index + 1} of 3, .* {(2, 4)[index]} of 5 parts are there"):
                list(one.read(folder, names))
    assert sorted(measured) == [0, 1, 2, 3, 4] and measured != sorted(measured)
    assert [int(arrays["x"][0]) for arrays in one.read(folder, names)] == [0, 1, 2, 3, 4]
    (tmp_path / "results.json").write_text(json.dumps({"settings": {"fingerprint": "key"}}))
    one.remove("key")
    with pytest.raises(Elsewhere, match="another process has written it"):
        list(work(1).read(folder, names))
    with pytest.raises(Elsewhere, match="is there already; delete it"):
        work(0).open("key")
    work(0).open("another key")
    with pytest.raises(Finished) as told:  # alone it is not scored again
        Work(tmp_path / "results.json").open("key")
    assert told.value.found["settings"] == {"fingerprint": "key"}


def test_what_all_need_is_measured_once_by_whoever_finds_it_missing(tmp_path):
    names, measured = names_of("tuning", 4), []
    for index in (2, 0):
        work = Work(tmp_path / "results.json", share=Share(index, 6))
        work.fill(work.open("key"), names, lambda part: measured.append(part) or {"x": np.array([part])}, all_of_them=True)
    assert measured == [2, 3, 0, 1]


def test_columns_join_in_order():
    columns = Columns()
    for start in (0, 2):
        columns.add({"mse/a": np.arange(start, start + 2), "mse/b": np.zeros(2)})
    assert columns["mse/a"].tolist() == [0, 1, 2, 3] and list(columns.inside("mse")) == ["a", "b"] and "mse" not in columns


class Wide:
    """More features than a batch has frames."""

    name = "FID"

    def __call__(self, past_BFHWC, future_BFHWC):
        means = future_BFHWC.float().mean((2, 3, 4))
        return means[..., None] * torch.linspace(0, 1, 600)


def test_few_wide_features_are_kept_as_they_are_and_give_the_same_moments():
    frames = torch.randint(0, 256, (6, 2, 4, 4, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    whole, parted = (PerceptualScorer([Wide()], None, segments=None, num_clips=6) for _ in range(2))

    def measure(scorer, these):
        rows = {"row": frames.flip(0)[these]}
        return scorer.measure(rows, View(frames[these], frames[these]), first_clip=these.start)

    whole.add(measure(whole, slice(0, 6)))
    for start in (0, 2, 4):
        arrays = measure(parted, slice(start, start + 2))
        assert arrays["moments/FID/row/features"].shape == (4, 600)
        parted.add(arrays)
    for key, (moments, *_) in whole._moments.items():
        assert torch.allclose(parted._moments[key][0].outer_DD, moments.outer_DD)
    distances = [scorer.summary("row", reference="", span="", seed=0)[0][0].value.mean for scorer in (whole, parted)]
    assert distances[0] == pytest.approx(distances[1])


class Brightness:
    """Mean and deviation of every future frame."""

    name = "TFD"

    def __call__(self, past_BFHWC, future_BFHWC):
        pixels = future_BFHWC.float().flatten(2)
        return torch.stack([pixels.mean(2), pixels.std(2)], -1)


def settled(result):
    """All of a result but its times, examples included."""
    found = result.to_json()
    found.pop("seconds")
    pictures = [[array.tolist() for array in example.pictures.values()] for example in result.examples]
    return json.dumps([found, pictures, [(example.clip, example.psnr) for example in result.examples]])


@pytest.fixture
def score_blocks(world, monkeypatch):
    monkeypatch.setattr(perceptual, "NUM_RESAMPLES", 3)  # intervals of distances are tested elsewhere and take long
    counts = unigram_counts([world.clips.tokens[:, :3]], vocab_size=world.vocab_size)

    def run(work=None, seed=0, batch_size=2):
        return evaluate(
            world.Mover(doubt=0.01), world.tokenizer, world.clips, COMPRESSION,
            Scoring(clips=0, batch_size=batch_size, seed=seed), video=world.clips.video, segments=world.segments,
            unigram_counts=counts, features=[Brightness()], num_examples=3, cost_repeats=0, work=work,
        )  # fmt: skip

    return run


@pytest.fixture
def score_frames(strided):
    class Clips:
        states = torch.randn(14, 77, 2, generator=torch.Generator().manual_seed(0)) * 5
        video = torch.randint(0, 256, (14, 18, 16, 16, 3), generator=torch.Generator().manual_seed(1)).to(torch.uint8)

        def __len__(self):
            return 14

        def batch(self, indices):
            return Batch(states_BFA=self.states[indices], video_BFHWC=self.video[indices])

    def run(work=None, seed=0):
        model = strided.Model(temperature=10.0)
        model.config.grid = (4, 4)
        return evaluate(
            model, strided.Tokenizer(), Clips(), SAMPLING, Scoring(tuning_clips=4, clips=0, members=(1, 3), seed=seed),
            num_examples=2, cost_repeats=0, work=work,
        )  # fmt: skip

    return run


@pytest.fixture(params=["score_blocks", "score_frames"])
def score(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def written(monkeypatch):
    """The names of the parts that are measured from now on."""
    names, write = [], PartsFolder.write

    def note(self, name, arrays):
        names.append(name)
        write(self, name, arrays)

    monkeypatch.setattr(PartsFolder, "write", note)
    return names


@pytest.mark.fault("L9", "same numbers to the last bit, at most one batch redone")
def test_stopped_at_many_places_it_goes_on_to_the_same_numbers(score, tmp_path, written):
    alone, looks, stops = settled(score()), 1, 0
    while True:
        try:
            result = score(Work(tmp_path / "results.json", stop=Stopping(looks)))
            break
        except Stopped:
            stops, looks = stops + 1, looks + 7
    assert settled(result) == alone and stops >= 3
    assert len(written) == len(set(written)) >= 4  # nothing twice: what is there is not measured again


@pytest.mark.fault("L9", "same numbers to the last bit, at most one batch redone")
def test_shared_by_three_it_gives_the_numbers_of_one(score, tmp_path, written):
    results, told = tmp_path / "results.json", 0
    for index in (2, 0, 1):
        try:
            result = score(Work(results, share=Share(index, 3)))
        except Elsewhere:
            told += 1
    assert told == 2 and settled(result) == settled(score()) and len(written) == len(set(written))


def test_a_damaged_part_is_measured_again_and_others_are_never_mixed_in(score, tmp_path, written, capsys):
    results = tmp_path / "results.json"
    first = settled(score(Work(results)))
    (folder,) = tmp_path.glob(".parts-results-*")
    files, parts = sorted(folder.iterdir()), len(written)
    content = bytearray(files[1].read_bytes())
    content[len(content) // 2] ^= 4
    files[1].write_bytes(content)
    assert settled(score(Work(results))) == first and written[parts:] == [files[1].stem]
    assert f"{files[1].name}: damaged, is measured again" in capsys.readouterr().err
    other = score(Work(results), seed=1)
    assert settled(other) != first and len(written) == 2 * parts + 1
    score(Work(results, sources=["another video"]))
    assert len(written) == 3 * parts + 1 and len(list(tmp_path.glob(".parts-results-*"))) == 3


def test_a_part_that_another_process_damaged_is_a_line(score_blocks, tmp_path):
    results = tmp_path / "results.json"
    with pytest.raises(Elsewhere):
        score_blocks(Work(results, share=Share(1, 2)))
    file = next(next(tmp_path.glob(".parts-results-*")).iterdir())
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="damaged .* run the same command again"):
        score_blocks(Work(results, share=Share(0, 2)))
