"""The pictures of a scene as layers of one array texture, and the mean colours for baking."""

import numpy as np
from PIL import Image, UnidentifiedImageError
from scene import Scene
from surfaces import SIZE


def load_layers(scene: Scene) -> np.ndarray:
    """All pictures of the scene as [layers, 512, 512, 4] uint8; sets each material's layer and
    mean linear colour. A picture of an unknown format leaves the plain colour.
    """
    layers, index = [], {"": -1}
    for mat in scene.materials:
        if mat.image not in index:
            picture = scene.surfaces.pictures.get(mat.image)
            if picture is None:
                picture = _read(scene, mat.image)
            index[mat.image] = -1 if picture is None else len(layers)
            if picture is not None:
                layers.append(picture)
        mat.layer = index[mat.image]
        linear = np.array(mat.color) ** 2.2
        if mat.layer >= 0:
            a = layers[mat.layer].astype(np.float32) / 255
            w = (a[..., 3:] > 0.5) + 1e-6
            linear = linear * ((a[..., :3] ** 2.2) * w).sum((0, 1)) / w.sum()
        mat.mean = np.clip(linear, 0.01, 0.88).tolist()
    return np.stack(layers) if layers else np.full((1, SIZE, SIZE, 4), 255, np.uint8)


def _read(scene: Scene, image: str) -> np.ndarray | None:
    """A model's picture. Raises RuntimeError where the furniture folder lacks it."""
    path = scene.surfaces.sources.furniture / image
    if not path.is_file():
        raise RuntimeError(f"{path} is missing: make the library anew with assets.py")
    try:
        with Image.open(path) as file:
            return np.asarray(file.convert("RGBA").resize((SIZE, SIZE), Image.LANCZOS))
    except UnidentifiedImageError:
        return None
