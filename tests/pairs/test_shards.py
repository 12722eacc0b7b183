"""Shards: there and back, plain tar, the same bytes for the same pairs, and damage that
is named.
"""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_pairs import same_pair, small_pair, write_pairs

from artifixer.pairs.sample_file import decode_sample, encode_sample
from artifixer.pairs.shards import read_index, read_sample
from artifixer.runtime.errors import InputError
from artifixer.runtime.json_io import read_json, write_json


@pytest.mark.parametrize("views", [0, 3])
@pytest.mark.parametrize("captioned", [False, True])
def test_a_pair_comes_back_to_the_bit(views: int, captioned: bool) -> None:
    pair = small_pair(views=views)
    if captioned:
        pair = replace(
            pair,
            caption="a room, möbliert",
            caption_embedding=torch.randn(4, 6, generator=torch.Generator().manual_seed(0)),
        )
    assert same_pair(decode_sample(encode_sample(pair)), pair)


def test_a_shard_is_a_tar_archive_in_the_webdataset_convention(tmp_path: Path) -> None:
    pairs = [small_pair("000001_0"), small_pair("000002_1", views=0)]
    write_pairs(tmp_path, [pairs])
    with tarfile.open(tmp_path / "pairs-00000.tar") as archive:
        members = archive.getmembers()
        keys = [member.name.partition(".")[0] for member in members]
        assert keys == ["000001_0"] * 5 + ["000002_1"] * 4, "members of a sample stand together"
        assert {
            (member.mtime, member.uid, member.gid, member.uname, member.mode) for member in members
        } == {(0, 0, 0, "", 0o644)}
        content = archive.extractfile("000001_0.clean.png")
        assert content is not None
        tall = np.array(Image.open(io.BytesIO(content.read())))
    assert np.array_equal(tall, pairs[0].clean_frames.reshape(-1, 32, 3).numpy())


def test_the_same_pairs_give_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write_pairs(tmp_path / folder, [[small_pair("a"), small_pair("b")], [small_pair("c")]])
    for name in ("index.json", "pairs-00000.tar", "pairs-00001.tar"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_samples_are_found_through_the_index(tmp_path: Path) -> None:
    shards = [[small_pair("a"), small_pair("b", height=32, frames=9)], [small_pair("c", views=1)]]
    write_pairs(tmp_path, shards, complete=False)
    index = read_index(tmp_path)
    assert read_json(tmp_path / "index.json")["complete"] is False
    for shard, pairs in zip(index, shards, strict=True):
        assert (tmp_path / shard.file).stat().st_size == shard.bytes
        for entry, pair in zip(shard.samples, pairs, strict=True):
            assert same_pair(read_sample(tmp_path, shard, entry), pair)
            assert (entry.frames, entry.height, entry.width, entry.views) == (
                pair.frames,
                *pair.opacity.shape[1:],
                pair.views,
            )


def test_a_changed_byte_is_named_with_shard_and_sample(tmp_path: Path) -> None:
    write_pairs(tmp_path, [[small_pair("a"), small_pair("b")]])
    (shard,) = read_index(tmp_path)
    path = tmp_path / shard.file
    data = bytearray(path.read_bytes())
    data[shard.samples[1].offset + 700] ^= 1
    path.write_bytes(data)
    assert same_pair(read_sample(tmp_path, shard, shard.samples[0]), small_pair("a"))
    with pytest.raises(InputError, match=r"pairs-00000\.tar: sample b: .*checksum"):
        read_sample(tmp_path, shard, shard.samples[1])


def test_a_cut_sample_is_named_with_shard_and_sample(tmp_path: Path) -> None:
    write_pairs(tmp_path, [[small_pair("a"), small_pair("b")]])
    (shard,) = read_index(tmp_path)
    path = tmp_path / shard.file
    path.write_bytes(path.read_bytes()[: shard.samples[1].offset + 100])
    with pytest.raises(InputError, match=r"pairs-00000\.tar: sample b: truncated: 100 of"):
        read_sample(tmp_path, shard, shard.samples[1])


def test_a_sample_of_another_version_is_refused() -> None:
    data = encode_sample(small_pair())
    changed = data.replace(b'"version": 2', b'"version": 7')
    assert changed != data
    with pytest.raises(InputError, match="version 7; this program reads version 2"):
        decode_sample(changed)


@pytest.mark.parametrize("length", [0, 100, 700, 3000])
def test_what_is_no_sample_is_refused(length: int) -> None:
    data = encode_sample(small_pair())
    assert length < len(data)
    with pytest.raises(InputError, match="cannot read"):
        decode_sample(data[:length])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 3}, "version 3; this program reads version 2"),
        ({"format": "shoes"}, 'expected "format": "artifixer pairs"'),
        ({"shards": [{"file": "x"}]}, "damaged list of shards"),
        ({"shards": None}, "damaged list of shards"),
    ],
)
def test_a_wrong_index_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    write_pairs(tmp_path, [[small_pair("a")]])
    write_json(tmp_path / "index.json", read_json(tmp_path / "index.json") | change)
    with pytest.raises(InputError, match=message):
        read_index(tmp_path)


def test_a_folder_without_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no index\.json"):
        read_index(tmp_path)
