"""Time of procedural worlds and their photos: CPU milliseconds of one thread, medians; the bar is
50 ms per 128x128 frame.

    python benchmarks/procedural.py [--scenes 8] [--sheet sheet.png]

``--sheet`` also writes a contact sheet with four photos per scene.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from artifixer.scenes import procedural


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=8)
    parser.add_argument("--sheet", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    procedural.load("procedural:0:frames=2,width=16,height=16").photos[0].read()  # compiles
    rows = []
    print("seed  place  load ms  frame ms  mean  spread")
    for seed in range(arguments.scenes):
        place = "room" if seed % 2 == 0 else "yard"
        name = f"procedural:{seed}:frames=24,width=128,height=128,place={place}"
        started = time.process_time()
        scene = procedural.load(name)
        loading = time.process_time() - started
        times = []
        for photo in scene.photos:
            started = time.process_time()
            photo.read()
            times.append(time.process_time() - started)
        shown = np.stack([photo.read() for photo in scene.photos])
        print(
            f"{seed:4d}  {place}  {1e3 * loading:7.0f}  {1e3 * statistics.median(times):8.1f}  "
            f"{shown.mean():.0f}  {shown.std():.0f}",
            flush=True,
        )
        rows.append(np.concatenate(list(shown[[0, 8, 16, 23]]), axis=1))
    if arguments.sheet:
        from PIL import Image

        Image.fromarray(np.concatenate(rows)).save(arguments.sheet)


if __name__ == "__main__":
    main()
