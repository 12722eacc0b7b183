"""Renders along a camera path -> clean frames, streamed block by block from the video model.

python examples/03_stream_clean_frames.py [OUT]
"""

import sys
from pathlib import Path

from PIL import Image

import artifixer as af
from artifixer.geometry.paths import orbit

out = Path(sys.argv[1] if len(sys.argv) > 1 else "clean")
out.mkdir(parents=True, exist_ok=True)

scene = af.load_scene("procedural:7:frames=16", size=96)
names = [photo.name for photo in scene.photos]
train = names[:: len(names) // 4]
splats = af.reconstruct(scene, train, iterations=300)

# A circle around what the training photos look at; other paths are in `geometry/paths.py`.
cameras = orbit(scene.batch([names.index(name) for name in train]), frames=21).cameras
renders = af.render(splats, cameras)

model = af.load_model("tiny")
references = af.choose_references(scene, train)
# Frames arrive while later ones are being generated; closing the iterator cancels the rest.
for block in af.enhance_renders(renders, cameras, references, model):
    for offset, frame in enumerate(block.frames):
        Image.fromarray(frame).save(out / f"{block.first_index + offset:05d}.png")
    print(f"frames {block.first_index} to {block.first_index + len(block.frames) - 1}")
