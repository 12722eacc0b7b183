"""Paths of the third-party files, from the environment variable ROOMS_SOURCES.

README.md describes how to fill the folder. ROOMS_LIBRARY and ROOMS_BPY override two of the paths.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

#: Studio panoramas that come with the Blender package, and those of @pmndrs/assets.
_BPY_HDRIS = "lib/python3.11/site-packages/bpy/4.5/datafiles/studiolights/world"


@dataclass(frozen=True)
class Sources:
    """The folders of one set-up."""

    root: Path

    @classmethod
    def from_environment(cls) -> "Sources":
        """Exit code 2 if ROOMS_SOURCES is not set or no folder."""
        value = os.environ.get("ROOMS_SOURCES", "")
        if not value or not Path(value).is_dir():
            message = f"ROOMS_SOURCES must name the folder that README.md fills: '{value}'"
            print(message, file=sys.stderr)
            raise SystemExit(2)
        return cls(Path(value))

    @property
    def furniture(self) -> Path:
        """One folder for each unzipped .sh3f archive."""
        return self.root / "furn"

    @property
    def library(self) -> Path:
        """Models converted by assets.py: <id>.npz and index.json."""
        return Path(os.environ.get("ROOMS_LIBRARY", self.root / "lib"))

    @property
    def robosuite_textures(self) -> Path:
        return self.root / "pk/robosuite/models/assets/textures"

    @property
    def ufo_textures(self) -> Path:
        return self.root / "tex/ufoai-textures/textures"

    @property
    def blender_python(self) -> Path:
        """Interpreter of the environment that holds bpy."""
        return Path(os.environ.get("ROOMS_BPY", self.root / "veb/bin/python"))

    def panorama(self, name: str) -> Path:
        """name: "bpy:courtyard" or "pm:park"."""
        pack, file = name.split(":")
        folder = self.root / "veb" / _BPY_HDRIS if pack == "bpy" else self.root / "pmh"
        return folder / f"{file}.exr"
