"""Interactive views of splats on the page of a report.

The page holds the player once and the data of each scene; a click loads both into an iframe. Before
the click, and in browsers without WebGL, a picture is shown instead.
"""

from __future__ import annotations

import base64
import html
import io
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8


@dataclass(frozen=True)
class ReportScene:
    """title: what it is. caption: one line under it. data: what the player shows, as text. picture:
    the first view.
    """

    title: str
    caption: str
    data: str
    picture: UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True)
class ReportScenes:
    """player: an HTML document that shows a scene when ``place`` in it is replaced by the scene's
    data. missing: why there are no scenes, for the reader.
    """

    player: str = ""
    place: str = ""
    scenes: tuple[ReportScene, ...] = ()
    missing: str = ""

    @property
    def size(self) -> int:
        """Bytes that the scenes take in the page."""
        pictures = sum(len(_picture(scene)) for scene in self.scenes)
        return len(self.player) + pictures + sum(len(scene.data) for scene in self.scenes)


NO_SCENES = ReportScenes()


def scene_figures(scenes: ReportScenes) -> str:
    """The HTML section of the scenes; the page's script starts the player."""
    if not scenes.scenes:
        return f'<p class="soft">{html.escape(scenes.missing)}</p>' if scenes.missing else ""
    return f'<div class="scenes">{"".join(map(_figure, scenes.scenes))}</div>'


def _figure(scene: ReportScene) -> str:
    height, width = scene.picture.shape[:2]
    title = html.escape(scene.title)
    return (
        f'<figure><div class="scene" style="aspect-ratio: {width} / {height}; '
        f'--aspect: {width / height:.4f}"><img src="{_picture(scene)}" alt="{title}">'
        f"<button>Look around</button></div>"
        f"<figcaption>{title}: {html.escape(scene.caption)}</figcaption></figure>"
    )


def _picture(scene: ReportScene) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(scene.picture).save(buffer, "webp", quality=88, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
