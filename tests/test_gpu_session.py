"""The GPU session in miniature: what is packed comes back, and a dry run goes the whole way."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from artifixer.pairs.loader import open_pairs
from artifixer.pairs.sample_file import encode_sample
from artifixer.pairs.shards import describe, write_index, write_shard
from artifixer.recipes import curate as curate_recipes
from artifixer.recipes import train as train_recipes
from artifixer.runtime.errors import InputError
from artifixer.video.model_files import load_model

ROOT = Path(__file__).parents[1]


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for folder in ("benchmarks", "tests/training", "tests/curation"):
        monkeypatch.syspath_prepend(str(ROOT / folder))
    return importlib.import_module("gpu_session")


@pytest.fixture
def packing(session: ModuleType) -> ModuleType:
    return importlib.import_module("packed_pairs")


@pytest.fixture
def made(session: ModuleType, tmp_path: Path) -> Path:
    """A folder of three pairs."""
    from made_pairs import made_pair

    samples = []
    for seed in range(3):
        pair = made_pair(seed, height=32, width=48, views=seed)
        data = encode_sample(pair)
        samples.append((describe(pair, data), data))
    shard = write_shard(tmp_path / "made" / "pairs-00000.tar", samples)
    write_index(tmp_path / "made", [shard], complete=True)
    return tmp_path / "made"


def test_a_packed_pair_is_smaller_and_nearly_the_same(
    packing: ModuleType, made: Path, tmp_path: Path
) -> None:
    pairs = open_pairs(made)
    assert packing.write_bundle(tmp_path / "bundle", [pairs], 60e6, crf=18) == 3
    stored, packed = pairs.pairs[2], packing.open_bundle(tmp_path / "bundle").pairs[2]
    assert packed.entry.bytes < stored.entry.bytes
    assert packed.entry.name == stored.entry.name and packed.size == stored.size
    before, after = stored.read(), packed.read()
    for name in ("clean_frames", "renders", "opacity", "reference_photos"):
        ours, theirs = (getattr(pair, name).float() for pair in (before, after))
        assert (ours - theirs).square().mean() < 30, name
    assert torch.equal(before.cameras.viewmats, after.cameras.viewmats)
    assert torch.equal(before.reference_cameras.Ks, after.reference_cameras.Ks)
    assert before.camera_scale == after.camera_scale


def test_equal_pairs_give_equal_bundles(packing: ModuleType, made: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        packing.write_bundle(tmp_path / name, [open_pairs(made)], 60e6, crf=18)
    for file in ("index.json", "pairs-00000.tar"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_bundle_keeps_within_its_limit_and_takes_from_every_source(
    packing: ModuleType, made: Path, tmp_path: Path
) -> None:
    pairs = open_pairs(made)
    sizes = [len(packing.packed(made_bytes(packing, stored), 18)) for stored in pairs.pairs]
    limit = 2 * sizes[0] + 1
    assert packing.write_bundle(tmp_path / "bundle", [pairs, pairs], limit, crf=18) == 2
    names = [stored.entry.name for stored in packing.open_bundle(tmp_path / "bundle").pairs]
    assert names == ["made-0", "made-0"], "one of each source"
    assert packing.write_bundle(tmp_path / "none", [pairs], 1, crf=18) == 0
    with pytest.raises(InputError, match="no pairs"):
        packing.open_bundle(tmp_path / "none")


def made_bytes(packing: ModuleType, stored: object) -> bytes:
    data: bytes = packing.read_sample_bytes(stored.folder, stored.shard, stored.entry)  # type: ignore[attr-defined]
    return data


def test_a_damaged_bundle_is_refused_with_its_sample(
    packing: ModuleType, made: Path, tmp_path: Path
) -> None:
    packing.write_bundle(tmp_path / "bundle", [open_pairs(made)], 60e6, crf=18)
    shard = tmp_path / "bundle" / "pairs-00000.tar"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 255
    shard.write_bytes(content)
    with pytest.raises(InputError, match=r"pairs-00000.tar: sample made-1: .*checksum"):
        [stored.read() for stored in packing.open_bundle(tmp_path / "bundle").pairs]


def test_colours_and_edges_survive_the_video(packing: ModuleType) -> None:
    """No colour is subsampled: red and blue pixels beside each other stay what they are."""
    frames = np.zeros((5, 32, 48, 3), np.uint8)
    frames[:, :, ::2, 0], frames[:, :, 1::2, 2] = 255, 255
    back = packing.decode_video(packing.encode_video(frames, crf=10), "rgb24").reshape(frames.shape)
    assert np.abs(back.astype(int) - frames).mean() < 8


def test_a_dry_run_goes_from_scenes_to_a_run_with_the_weights(
    session: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from short_fits import CONFIG as SHORT_FITS
    from test_job import small_recipe

    monkeypatch.setitem(train_recipes.RECIPES, "tiny", small_recipe())
    monkeypatch.setitem(curate_recipes.RECIPES, "tiny", SHORT_FITS)
    words = ["dry-run", "--out", str(tmp_path), "--minutes", "0.1"]
    assert session.main(words) == 0
    back = tmp_path / "back"
    assert {path.name for path in back.iterdir()} == {
        *("weights", "metrics.jsonl", "validation.json", "validation.png")
    }
    lines = [json.loads(line) for line in (back / "metrics.jsonl").read_text().splitlines()]
    steps = {line["stage"] for line in lines if "step" in line}
    ends = [line["stage"] for line in lines if "seconds" in line]
    assert steps == set(session.STAGES) and ends == list(session.STAGES)
    assert load_model(back / "weights").config.name == small_recipe().model.name
    assert (tmp_path / "run" / "report.html").is_file()
    # the same command finds everything done
    before = (back / "metrics.jsonl").read_bytes()
    assert session.main(words) == 0 and (back / "metrics.jsonl").read_bytes() == before


def test_minutes_and_limits_out_of_range_are_refused(
    session: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = ["--work", str(tmp_path / "w"), "--out", str(tmp_path / "o")]
    making = ["prepare", "procedural:1:1", "--validation", "procedural:1:2", *folders]
    training = ["train", str(tmp_path / "none"), *folders, "--device", "cpu"]
    for words, message in (
        ([*making, "--megabytes", "61"], "--megabytes 61: expected above 0, at most 60"),
        ([*making, "--crf", "52"], "--crf 52: expected 0 to 51"),
        ([*training, "--minutes", "1", "--reserve", "1"], "--reserve 1: expected above 0, below"),
        (training, "none/training: has no index.json"),
    ):
        assert session.main(words) == 2
        assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
