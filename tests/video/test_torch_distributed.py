"""Sharded checkpoints of ``torch.distributed.checkpoint``: written by torch itself, read without
running what is in them.
"""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata, MetadataIndex

from artifixer.runtime.distributed import joined_processes
from artifixer.runtime.errors import InputError
from artifixer.video.checkpoints.release_names import release_name
from artifixer.video.checkpoints.tensor_files import open_tensors
from artifixer.video.checkpoints.torch_distributed import ANCHOR
from artifixer.video.model import Model
from artifixer.video.model_files import convert_model, load_model, locate_model
from artifixer.video.transformer import VideoTransformer
from tests.training.forked import run_ranks
from tests.video.test_model_files import release_checkpoint


def save(folder: Path, state: dict[str, Any]) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about saving without a process group, which is meant
        dcp.save(state, checkpoint_id=folder, no_dist=True)
    return folder


def network() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    return {
        ANCHOR: torch.randn(5, 3, generator=random),
        "layers.0.bias": torch.randn(4, generator=random).to(torch.bfloat16),
        "scale": torch.tensor(2.5),
    }


def assert_tensors(folder: Path, expected: dict[str, Tensor]) -> None:
    stored = open_tensors(folder)
    assert stored.shapes == {name: tuple(tensor.shape) for name, tensor in expected.items()}
    for name, tensor in expected.items():
        found = stored.read(name)
        assert found.dtype == tensor.dtype and torch.equal(found, tensor), name


# --------------------------------------------------------------------------------------------------
# good checkpoints


@pytest.mark.parametrize("prefix", ["", "model", "state.net"])
def test_the_network_of_a_training_state_is_read_under_its_own_names(
    prefix: str, tmp_path: Path
) -> None:
    state: dict[str, Any] = network()
    for part in reversed(prefix.split(".") if prefix else []):
        state = {part: state}
    moments = {f"{name}.exp_avg": torch.zeros_like(tensor) for name, tensor in network().items()}
    state |= {"optim": {"state": moments, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999)}]}}
    assert_tensors(save(tmp_path / "c", state), network())


def test_what_several_processes_wrote_is_put_together(tmp_path: Path) -> None:
    """Rows that two processes share unevenly, one of which has nothing of a tensor."""
    shapes = {ANCHOR: (5, 3), "one.row": (1, 4), "even": (6, 2, 3)}
    whole = {
        name: torch.randn(shape, generator=torch.Generator().manual_seed(1))
        for name, shape in shapes.items()
    }

    def process() -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor import Shard, distribute_tensor

        with joined_processes("cpu"):
            mesh = init_device_mesh("cpu", (2,))
            parts: dict[str, Any] = {
                name: distribute_tensor(tensor, mesh, [Shard(0)]) for name, tensor in whole.items()
            }
            dcp.save({"model": parts | {"same": torch.ones(3)}}, checkpoint_id=tmp_path / "c")

    assert run_ranks([process, process]) == [0, 0]
    assert len(list((tmp_path / "c").glob("*.distcp"))) == 2
    assert_tensors(tmp_path / "c", whole | {"same": torch.ones(3)})


@pytest.fixture
def release(tmp_path: Path) -> tuple[Path, Model]:
    """The release's transformer as its training saves it, with the optimizer, and the same as a
    ``.pt``; Wan's autoencoder beside.
    """
    _, model = release_checkpoint(tmp_path)
    weights = {
        release_name(name): tensor for name, tensor in model.transformer.state_dict().items()
    }
    optimizer = {
        f"state.{name}.exp_avg": torch.zeros_like(tensor) for name, tensor in weights.items()
    }
    return save(tmp_path / "sharded", {"model": weights, "optim": optimizer, "iteration": 7}), model


def test_a_sharded_checkpoint_is_a_model_wherever_a_pt_is(
    release: tuple[Path, Model], tmp_path: Path
) -> None:
    folder, model = release
    whole, sharded = load_model(tmp_path / "release.pt"), load_model(folder)
    assert sharded.config.transformer == whole.config.transformer
    for name, tensor in whole.transformer.state_dict().items():
        assert torch.equal(sharded.transformer.state_dict()[name], tensor), name
    locate_model(folder).check_weights()
    (tmp_path / "release.pt").unlink()
    assert locate_model(tmp_path).transformer == folder  # the folder with vae/ in it, as for a .pt
    before = locate_model(folder).identity
    convert_model(folder, tmp_path / "ours")
    assert isinstance(load_model(tmp_path / "ours").transformer, VideoTransformer)
    assert_same_modules(load_model(tmp_path / "ours").transformer, model.transformer)
    (tmp_path / "vae").rename(folder / "vae")
    assert locate_model(folder).identity == before


def assert_same_modules(ours: nn.Module, theirs: nn.Module) -> None:
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor), name


# --------------------------------------------------------------------------------------------------
# hostile ones


class Payload:
    """Its unpickling makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def metadata_of(folder: Path) -> Metadata:
    # written by this test a moment ago
    content: Metadata = pickle.loads((folder / ".metadata").read_bytes())
    return content


def put(place: str, payload: Payload, metadata: Metadata) -> None:
    """Hide the payload somewhere in the metadata."""
    anything: Any = payload
    if place == "a name":
        metadata.state_dict_metadata[anything] = BytesStorageMetadata()
    elif place == "an entry":
        metadata.state_dict_metadata["more"] = anything
    elif place == "a field":
        metadata.planner_data = anything
    elif place == "a place":
        metadata.storage_data[MetadataIndex("more")] = anything
    elif place == "a path":
        metadata.storage_data[MetadataIndex("more")] = _StorageInfo(anything, 0, 0)


@pytest.mark.parametrize("place", ["a name", "an entry", "a field", "a place", "a path"])
def test_metadata_run_nothing(place: str, tmp_path: Path) -> None:
    folder, payload = save(tmp_path / "c", network()), Payload(tmp_path / "ran")
    metadata = metadata_of(folder)
    put(place, payload, metadata)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(
        InputError,
        match=r"\.metadata: not plain metadata.*nothing in it was run "
        r"\(it names (posix|nt).mkdir\)",
    ) as refused:
        open_tensors(folder)
    assert "\n" not in str(refused.value)
    assert not payload.mark.exists()
    pickle.loads((folder / ".metadata").read_bytes())
    assert payload.mark.exists(), "the payload is alive"


PICKLES = {
    "a whole object": pickle.dumps(Payload(Path("ran"))),
    "old protocol": pickle.dumps(Payload(Path("ran")), protocol=0),
    "torch's own loader": b"\x80\x04ctorch\nload\n(Vx\ntR.",
    "an attribute of a known class": b"\x80\x04ctorch\nSize.__class__\n(Vx\ntR.",
    "a class of builtins": b"\x80\x04cbuiltins\neval\n(Vx\ntR.",
    "an extension": b"\x80\x04\x82\x01.",
    "a persistent name": b"\x80\x04Vx\nQ.",
    "an instance": b"\x80\x04(ios\nmkdir\n.",
    "a type changed": b"\x80\x04ctorch\nSize\n}V__call__\nVx\ns\x86b.",
    "a record's class changed": b"\x80\x04ctorch.serialization\n"
    b"_get_layout\nN}V__init__\nVx\ns\x86b.",
    "a table of tables of names": b"\x80\x04}" + b")" + b"\x85" * 200_000 + b"Ns.",
    "memory by a number": b"\x80\x04Nr\xff\xff\xff\xff.",
    "a long text that is not there": b"\x80\x04X\xff\xff\xff\x7fabc",
    "a frame that is not there": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "nothing": b"",
    "a list": pickle.dumps([1, 2]),
    "no metadata": pickle.dumps({"state_dict_metadata": {}}),
    "a class for an object": b"\x80\x04ctorch.distributed.checkpoint.metadata\nMetadata\n.",
}


@pytest.mark.parametrize("name", PICKLES)
def test_other_pickles_in_its_place_are_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = save(tmp_path / "c", network())
    (folder / ".metadata").write_bytes(PICKLES[name])
    with pytest.raises(InputError, match=r"\.metadata: ") as refused:
        open_tensors(folder)
    assert "\n" not in str(refused.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c"]


def test_entries_of_parts_run_nothing(tmp_path: Path) -> None:
    folder, payload = save(tmp_path / "c", {"model": network()}), Payload(tmp_path / "ran")
    part = folder / "__0_0.distcp"
    torch.save(payload, part)
    metadata = metadata_of(folder)
    for info in metadata.storage_data.values():
        info.offset, info.length = 0, 0
    for index, info in metadata.storage_data.items():
        if index.fqn.endswith(ANCHOR):
            info.length = part.stat().st_size
    entries = metadata.state_dict_metadata
    metadata.state_dict_metadata = {
        name: entry for name, entry in entries.items() if name.endswith(ANCHOR)
    }
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    stored = open_tensors(folder)
    with pytest.raises(
        InputError,
        match=rf"distcp: model\.{ANCHOR}: holds more than a plain tensor and may run code",
    ):
        stored.read(ANCHOR)
    assert not payload.mark.exists()


def first_info(metadata: Metadata) -> Any:
    return next(info for index, info in metadata.storage_data.items() if index.fqn == ANCHOR)


def entry_of(metadata: Metadata) -> Any:
    return metadata.state_dict_metadata[ANCHOR]


#: What is changed in good metadata -> what is said about it.
WRONG: dict[str, tuple[Callable[[Metadata], Any], str]] = {
    "above the folder": (
        lambda m: setattr(first_info(m), "relative_path", "../c/__0_0.distcp"),
        r"is in '\.\./c/__0_0\.distcp', expected",
    ),
    "an absolute path": (
        lambda m: setattr(first_info(m), "relative_path", "/etc/passwd"),
        "is in '/etc/passwd', expected",
    ),
    "another file": (
        lambda m: setattr(first_info(m), "relative_path", "__9_0.distcp"),
        r"__9_0.distcp: does not exist",
    ),
    "beyond the end": (lambda m: setattr(first_info(m), "offset", 10**9), "too short for"),
    "a huge entry": (lambda m: setattr(first_info(m), "length", 10**400), "too short for"),
    "a negative place": (
        lambda m: setattr(first_info(m), "offset", -1),
        "a first byte and a length",
    ),
    "compressed": (
        lambda m: setattr(first_info(m), "transform_descriptors", ["zstd"]),
        "compressed or encrypted",
    ),
    "a huge tensor": (
        lambda m: setattr(entry_of(m), "size", torch.Size([2**40, 2**40])),
        "its chunks are not the whole of",
    ),
    "huge chunks": (
        lambda m: setattr(entry_of(m).chunks[0], "sizes", torch.Size([2**40, 3])),
        "is not inside",
    ),
    "a bad size": (
        lambda m: setattr(entry_of(m), "size", (10**300, 3)),
        "expected sizes and offsets",
    ),
    "no chunks": (lambda m: entry_of(m).chunks.clear(), "its chunks are not the whole of"),
    "a lost chunk": (
        lambda m: m.storage_data.pop(next(i for i in m.storage_data if i.fqn == ANCHOR)),
        "no file has its chunk",
    ),
    "no type": (
        lambda m: setattr(entry_of(m), "properties", None),
        "expected a tensor's type, size and chunks",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_metadata_are_refused_before_a_tensor_is_read(name: str, tmp_path: Path) -> None:
    folder = save(tmp_path / "c", network())
    metadata = metadata_of(folder)
    change, message = WRONG[name]
    change(metadata)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(InputError, match=message) as refused:
        open_tensors(folder)
    assert "\n" not in str(refused.value)


def test_two_networks_are_refused_by_name(tmp_path: Path) -> None:
    folder = save(tmp_path / "c", {"student": network(), "critic": network()})
    with pytest.raises(InputError, match=r"holds 2 networks \('critic', 'student'\); expected one"):
        open_tensors(folder)


@pytest.mark.parametrize("kind", ["truncated", "zeros", "another type", "another shape", "packed"])
def test_damaged_parts_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    import zipfile

    folder = save(tmp_path / "c", {ANCHOR: torch.zeros(64, 64)})
    part = folder / "__0_0.distcp"
    size = part.stat().st_size
    if kind == "truncated":
        part.write_bytes(part.read_bytes()[:-100])
        with pytest.raises(
            InputError, match=rf"__0_0\.distcp: {size - 100:,} bytes, too short for"
        ):
            open_tensors(folder)
        return
    if kind == "zeros":
        part.write_bytes(bytes(size))
    elif kind == "packed":
        with zipfile.ZipFile(part) as old:
            content = {name: old.read(name) for name in old.namelist()}
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as new:
            for name, data in content.items():
                new.writestr(name, data if not name.endswith("data/0") else bytes(10**7))
        # a comment of the archive would be smaller than the entry says
        with part.open("ab") as file:
            file.truncate(size)
    else:
        torch.save(
            torch.zeros(64, 64, dtype=torch.int32)
            if kind == "another type"
            else torch.zeros(32, 128),
            part,
        )
        with part.open("ab") as file:
            file.truncate(max(size, part.stat().st_size))
    stored = open_tensors(folder)
    with pytest.raises(InputError, match=rf"__0_0\.distcp: {ANCHOR}: ") as refused:
        stored.read(ANCHOR)
    assert "\n" not in str(refused.value)


def test_changed_bytes_are_read_or_refused(tmp_path: Path) -> None:
    """Five hundred metadata files with a few bytes changed: an error names the file, nothing else
    is raised.
    """
    folder = save(tmp_path / "c", network())
    good, random = (folder / ".metadata").read_bytes(), torch.Generator().manual_seed(0)
    refusals = []
    for _ in range(500):
        data = bytearray(good)
        for place, value in torch.randint(2**30, (3, 2), generator=random).tolist():
            data[place % len(data)] = value % 256
        (folder / ".metadata").write_bytes(bytes(data))
        try:
            open_tensors(folder)
        except InputError as error:
            refusals.append(str(error))
    assert len(refusals) > 250
    assert all(str(folder) in refusal and "\n" not in refusal for refusal in refusals)
