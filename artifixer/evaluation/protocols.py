"""The table of benchmark protocols: scenes, training and held-out photos, masks, metric profiles.

In: a protocol's name, the folder of its data in the public layout, options, and a folder for the
capture that is written. Out: ``BenchmarkScene``: a capture that every verb reads, its split, and
masks. ``benchmarks/`` holds one file per data set; lists of scenes and splits are in
``data/*.json``.

::

    mipnerf360-3|6|9        ReconFusion's few-view splits, images_4; transforms.json of its package,
                            or the COLMAP models of 360_v2
    nerfbusters             split by file names; visibility masks with --masks
    dl3dv-difix             needs --train-ids and --masks from its authors to be comparable
    novel-content-release   the public release's split of 28 DL3DV scenes
    novel-content-paper     the same scenes by Algorithm 1 as printed (paper, appendix B)
    heldout                 any capture, or a folder of captures, by its own or a named split
    gap                     the same with a contiguous range of photos held out
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from artifixer.evaluation.benchmarks.captures import (
    captures,
    find_capture,
    open_gap,
    open_heldout,
)
from artifixer.evaluation.benchmarks.dl3dv import (
    find_dl3dv,
    open_dl3dv_difix,
    open_novel_content_paper,
    open_novel_content_release,
)
from artifixer.evaluation.benchmarks.lists import data, dl3dv_scenes
from artifixer.evaluation.benchmarks.mipnerf360 import open_mipnerf360
from artifixer.evaluation.benchmarks.nerfbusters import open_nerfbusters
from artifixer.evaluation.benchmarks.scene import BenchmarkScene, Options, folder_of
from artifixer.runtime.errors import InputError


@dataclass(frozen=True)
class Protocol:
    """One benchmark."""

    name: str

    title: str
    """For headings."""

    profiles: tuple[str, ...]
    """Names of metric profiles; that of the published table comes first."""

    published: str
    """Name of its rows in ``data/published.json``; "" without published figures."""

    scenes: tuple[str, ...] | None
    """Names of the scenes; None for benchmarks on any capture."""

    find: Callable[[Path, str], Path | None]
    """(data folder, scene) -> where the scene is; None when it is missing."""

    open: Callable[[Path, str, Options, Path], BenchmarkScene]
    """(data folder, scene, options, folder for the capture) -> the scene."""

    path: str
    """Target cameras of the run: a value of ``artifixer run --path``."""

    takes: tuple[str, ...] = ()
    """Names of the ``Options`` that it reads."""


@functools.cache
def protocols() -> dict[str, Protocol]:
    """All benchmarks by name."""
    few_views = [
        Protocol(
            name=f"mipnerf360-{count}",
            title=f"Mip-NeRF 360, {count} views",
            profiles=("genfusion",),
            published=f"mipnerf360-{count}",
            scenes=tuple(data("mipnerf360")["scenes"]),
            find=folder_of,
            open=functools.partial(open_mipnerf360, views=count),
            path="tour",
        )
        for count in (3, 6, 9)
    ]
    everything = [
        *few_views,
        Protocol(
            name="nerfbusters",
            title="Nerfbusters",
            profiles=("difix", "nerfbusters", "genfusion"),
            published="nerfbusters",
            scenes=tuple(data("nerfbusters")["scenes"]),
            find=folder_of,
            open=open_nerfbusters,
            path="heldout",
            takes=("masks",),
        ),
        Protocol(
            name="dl3dv-difix",
            title="DL3DV, Difix split",
            profiles=("difix", "genfusion"),
            published="dl3dv-difix",
            scenes=dl3dv_scenes("difix"),
            find=find_dl3dv,
            open=open_dl3dv_difix,
            path="heldout",
            takes=("masks", "train_ids"),
        ),
        Protocol(
            name="novel-content-release",
            title="Novel content (DL3DV), the release's split",
            profiles=("genfusion", "difix_unmasked"),
            published="novel-content",
            scenes=dl3dv_scenes("release"),
            find=find_dl3dv,
            open=open_novel_content_release,
            path="heldout",
            takes=("views", "half"),
        ),
        Protocol(
            name="novel-content-paper",
            title="Novel content (DL3DV), Algorithm 1",
            profiles=("genfusion", "difix_unmasked"),
            published="novel-content",
            scenes=dl3dv_scenes("release"),
            find=find_dl3dv,
            open=open_novel_content_paper,
            path="heldout",
            takes=("views",),
        ),
        Protocol(
            name="heldout",
            title="Held-out photos",
            profiles=("genfusion",),
            published="",
            scenes=None,
            find=find_capture,
            open=open_heldout,
            path="tour",
            takes=("split", "views"),
        ),
        Protocol(
            name="gap",
            title="A contiguous range held out",
            profiles=("genfusion",),
            published="",
            scenes=None,
            find=find_capture,
            open=open_gap,
            path="tour",
            takes=("gap",),
        ),
    ]
    return {entry.name: entry for entry in everything}


def protocol(name: str) -> Protocol:
    """A protocol by name; ``InputError`` for an unknown one."""
    known = protocols()
    if name not in known:
        raise InputError(f"protocol {name!r}: unknown, expected one of {', '.join(known)}")
    return known[name]


def find_scenes(entry: Protocol, root: Path, wanted: Sequence[str]) -> dict[str, Path]:
    """The folder or file of each scene. wanted: names; empty for all scenes of the protocol, or of
    the data folder.

    Raises InputError listing the scenes that are missing.
    """
    if not root.exists() and not str(root).startswith("procedural:"):
        raise InputError(f"{root}: does not exist, expected the data of {entry.title}")
    names = tuple(wanted)
    if not names:
        names = entry.scenes if entry.scenes is not None else tuple(captures(root))
    unknown = [name for name in names if entry.scenes is not None and name not in entry.scenes]
    if unknown:
        raise InputError(
            f"--scenes {unknown[0]}: no scene of {entry.name}, expected some of "
            f"{', '.join(short(name) for name in entry.scenes or ())}"
        )
    places = {name: entry.find(root, name) for name in names}
    missing = [name for name, place in places.items() if place is None]
    if missing:
        raise InputError(
            f"{root}: lacks {len(missing)} of {len(names)} scenes of {entry.name}: "
            f"{', '.join(short(name) for name in missing)}; --scenes evaluates some of them"
        )
    return {name: place for name, place in places.items() if place is not None}


def short(name: str) -> str:
    """A scene's name for tables: hashes are shortened to 8 characters."""
    return name[:8] if re.fullmatch(r"[0-9a-f]{64}", name) else name
