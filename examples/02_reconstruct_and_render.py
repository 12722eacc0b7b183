"""Photos -> 3D Gaussians -> renders from any camera, all in memory.

python examples/02_reconstruct_and_render.py [OUT]
"""

import sys
from pathlib import Path

from PIL import Image

import artifixer as af

out = Path(sys.argv[1] if len(sys.argv) > 1 else "reconstructed")
out.mkdir(parents=True, exist_ok=True)

scene = af.load_scene("procedural:7:frames=16", size=96)
names = [photo.name for photo in scene.photos]
train, heldout = names[::3], names[1::3]
print(f"{scene.name}: {len(names)} photos, {len(train)} of them for training")

# `report` receives the loss and the number of Gaussians after every iteration.
splats = af.reconstruct(scene, train, iterations=300)
print(f"{len(splats):,} Gaussians")

cameras = scene.batch([names.index(name) for name in heldout[:4]])
renders = af.render(splats, cameras)
# rgb is premultiplied by opacity; opacity is 0 where there is no Gaussian.
for index, rgb in enumerate(renders.rgb):
    pixels = (rgb.clamp(0, 1) * 255).round().byte().numpy()
    Image.fromarray(pixels).save(out / f"{index:05d}.png")
print(f"{len(renders)} renders in {out}")
