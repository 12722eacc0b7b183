"""Compare frames of any method with the photos that were held out.

    python examples/05_judge_your_own_frames.py

Here the method is the plain 3DGUT fit; replace `frames` by your own, one per held-out photo.
"""

import artifixer as af

scene = af.load_scene("procedural:7:frames=16", size=96)
names = [photo.name for photo in scene.photos]
train = names[:: len(names) // 4]
heldout = [name for name in names if name not in train][:8]

cameras = scene.batch([names.index(name) for name in heldout])
renders = af.render(af.reconstruct(scene, train, iterations=300), cameras)
frames = (renders.rgb.clamp(0, 1) * 255).round().byte().numpy()
opacity = (renders.opacity.clamp(0, 1) * 255).round().byte().numpy()
photos = [scene.photos[names.index(name)].read() for name in heldout]

quality = af.evaluate(photos, list(frames), list(opacity))
print(f"PSNR, mean of the views   {quality.psnr:6.2f} dB")
print(f"PSNR, pooled over pixels  {quality.psnr_pooled:6.2f} dB")
print(f"SSIM                      {quality.ssim:6.4f}")
for view, name in zip(quality.per_view, heldout, strict=True):
    print(f"  {name:24} {view.psnr:6.2f} dB, {100 * view.empty:3.0f} % empty")
