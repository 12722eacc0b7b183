"""Repair a capture in one call: splats, clean frames, splats fitted to them, report.html.

    python examples/01_repair_a_capture.py [CAPTURE] [OUT]

CAPTURE is a folder of photos (with COLMAP or nerfstudio poses, or none), a video, or a procedural
scene, which needs no data at all.
"""

import sys

import artifixer as af

capture = sys.argv[1] if len(sys.argv) > 1 else "procedural:7:frames=16"
out = sys.argv[2] if len(sys.argv) > 2 else "repaired"

# The options are those of `artifixer run`. The same call resumes an interrupted run. 400 iterations
# give a quick preview; without the option the recipe's number is used.
result = af.repair(
    capture, out, views=4, size=96, iterations=400, path="heldout", variants="artifixer"
)

for name, quality in result.variants.items():
    if quality.psnr is not None:
        print(f"{name:18} {quality.psnr:6.2f} dB in {len(quality.per_view)} held-out views")
print(f"open {result.report}")
