"""Procedural captures: random rooms and yards, photographed along smooth paths, with exact depth
and visibility. For tests, training pairs and demonstrations.
"""

from artifixer.scenes.procedural.camera_paths import PathSettings, sample_path
from artifixer.scenes.procedural.capture import (
    PREFIX,
    Place,
    ProceduralCapture,
    WorldSettings,
    load,
    sample_world,
    world_of,
)
from artifixer.scenes.procedural.views import NO_SURFACE, WorldViews, render_world, seen_by
from artifixer.scenes.procedural.world import World

__all__ = [
    "NO_SURFACE",
    "PREFIX",
    "PathSettings",
    "Place",
    "ProceduralCapture",
    "World",
    "WorldSettings",
    "WorldViews",
    "load",
    "render_world",
    "sample_path",
    "sample_world",
    "seen_by",
    "world_of",
]
