"""Splat files of any tool: read, inspect, filter, write in another format.

    python examples/04_splat_files.py [OUT] [SCENE.ply]

Reads PLY, compressed PLY, SPZ, SOG and .splat; writes PLY, SPZ, SOG and USDZ (`artifixer convert`).
"""

import sys
from pathlib import Path

import artifixer as af
from artifixer.splats.files import read_splat_file, write_splat_file

out = Path(sys.argv[1] if len(sys.argv) > 1 else "splat_files")
out.mkdir(parents=True, exist_ok=True)

if len(sys.argv) > 2:
    splats = read_splat_file(Path(sys.argv[2])).splats
else:
    splats = af.reconstruct(af.load_scene("procedural:7:frames=16", size=64), iterations=100)

# `opacities` is in [0,1]; the stored, optimised form is `opacity_logits`.
kept = splats.opacities > 0.05
visible = splats.map(lambda tensor: tensor[kept])
print(f"{len(visible):,} of {len(splats):,} Gaussians have an opacity above 5 %")

for name in ("scene.ply", "scene.spz", "scene.sog"):
    write_splat_file(out / name, visible)
    read = read_splat_file(out / name).splats
    print(f"{name}: {(out / name).stat().st_size:,} bytes, {len(read):,} Gaussians")
