"""ArtiFixer: repair and extend 3D captures.

The subpackages ("rooms") in the order of the data flow. A room imports from rooms of its own floor
and of lower floors, without cycles; there are at most 89 arrows from a room to one that it imports.
``tests/test_floors.py`` reads the floors and this number from here.

===========  =====  ==============================================================
room         floor  content
===========  =====  ==============================================================
runtime      F0     the process: run folders, seeds, images, progress, errors
geometry     F0     cameras, rigid transforms, rays, camera paths (tensors only)
imaging      F0     image metrics and resizing
scenes       F1     photos on disk -> ``Scene``
video        F1     the video diffusion model: conditions, network, sampling
splats       F2     ``Scene`` -> ``Splats`` -> ``Renders``
pairs        F2     training pairs on disk
enhance      F3     renders -> clean frames -> splats again
curation     F3     scenes -> training pairs
training     F3     one loop, one file per stage
evaluation   F4     protocols, metrics, reports
viewer       F4     the browser viewer
pipeline     F5     whole jobs: capture -> report
recipes      F6     named full settings
commands     F7     one file per verb
cli          F7     the command line
api          F8     the functions of ``import artifixer``
===========  =====  ==============================================================

The public API is in ``artifixer.api``; its names are attributes of this package::

    import artifixer as af

    af.repair("my_capture", out="repaired", views=6)

They are imported when they are first used, so importing this package imports nothing else.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from artifixer.api import (
        Cameras,
        EnhanceConfig,
        FrameBlock,
        InputError,
        Renders,
        Result,
        Scene,
        Splats,
        View,
        choose_references,
        enhance_renders,
        evaluate,
        load_model,
        load_scene,
        reconstruct,
        render,
        repair,
    )

__version__ = "0.1.0"

__all__ = [
    "Cameras",
    "EnhanceConfig",
    "FrameBlock",
    "InputError",
    "Renders",
    "Result",
    "Scene",
    "Splats",
    "View",
    "choose_references",
    "enhance_renders",
    "evaluate",
    "load_model",
    "load_scene",
    "reconstruct",
    "render",
    "repair",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("artifixer.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
