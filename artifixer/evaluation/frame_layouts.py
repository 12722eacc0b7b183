"""The folder layouts of programs whose frames can be scored.

=====================  ======================================  =======  =========================
producer               predictions, below FOLDER/SCENE         frames   beside them
=====================  ======================================  =======  =========================
artifixer-release      frames/batch_0000/pred/00000.png        index    gt/
difix3d-gsplat         renders/val/STEP/Pred/0000.png          rank     GT/, Alpha/ (1 - opacity)
difix3d-nerfstudio     renders/val/STEP/0000.png               rank
gsplat                 renders/STAGE_stepSTEP_0000.png         rank     photo in the left half
ns-eval                PREFIX_img_0000.png                     rank     photo in the left half
genfusion, gsfixer     test/renders/PHOTO                      name     gt/
3dgs                   test/ours_STEP/renders/00000.png        rank     gt/
3dgrut                 ours_STEP/renders/00000.png             index    opacity/
ns-render              SPLIT/rgb/PHOTO                         name     gt-rgb/
nerfbusters            rgb/00000.png                           rank     rgb_gt/, depth_raw/
plain                  any pictures                            any
=====================  ======================================  =======  =========================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Producer:
    """The folder layout of one program."""

    name: str

    folder: tuple[str, ...]
    """Patterns of the parts of the path to the predictions; of several matches, the one with the
    largest number is used."""

    naming: Literal["index", "rank", "name"]
    """What files are numbered or named by."""

    file: str | None = None
    """Pattern of a file name whose group is the number; None for names of photos."""

    side_by_side: bool = False
    """Whether the left half of a file is the photo."""

    truth: str | None = None
    """Folder of the photos beside that of the predictions; None without one, as for the next."""

    opacity: str | None = None
    """Folder of opacity."""

    inverted: bool = False
    """Whether opacity is stored as 1 - opacity."""

    depth: str | None = None
    """Folder of depth."""


_NUMBER = r"(\d+)\.(?:png|jpg|jpeg)"

PRODUCERS = (
    Producer("artifixer-release", ("frames", "batch_0000", "pred"), "index", _NUMBER, truth="gt"),
    Producer(
        "difix3d-gsplat",
        ("renders", "val", r"\d+", "Pred"),
        "rank",
        _NUMBER,
        truth="GT",
        opacity="Alpha",
        inverted=True,
    ),
    Producer("difix3d-nerfstudio", ("renders", "val", r"\d+"), "rank", _NUMBER),
    Producer("genfusion", ("test", "renders"), "name", truth="gt"),
    Producer("3dgs", ("test", r"ours_\d+", "renders"), "rank", _NUMBER, truth="gt"),
    Producer("3dgrut", (r"ours_\d+", "renders"), "index", _NUMBER, opacity="opacity"),
    Producer("ns-render", (r"test|val|eval", "rgb"), "name", truth="gt-rgb"),
    Producer("nerfbusters", ("rgb",), "rank", _NUMBER, truth="rgb_gt", depth="depth_raw"),
    Producer("gsplat", ("renders",), "rank", r"[A-Za-z]+_step\d+_(\d+)\.png", side_by_side=True),
    Producer("ns-eval", (), "rank", r".*_img_(\d+)\.(?:png|jpg)", side_by_side=True),
)
