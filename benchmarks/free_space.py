"""Effect of the free-space loss: mean opacity of held-out renders where no training camera sees the
true surface, and where at least two do.

    python benchmarks/free_space.py [--scenes 8] [--first-seed 100] [--size 96] [--recipe tiny]
    [--weight 0.3]

Procedural captures, 3 to 6 training views by Algorithm 1, every held-out view. Weight 0: the plain
fit. The bars: <= 0.3 where unseen, >= 0.9 where seen twice.
"""

from __future__ import annotations

import argparse
import time

import torch

from artifixer.pipeline.capture import CaptureChoice, load_capture
from artifixer.pipeline.reconstruct import ReconstructionJob, initial_splats, view_quality
from artifixer.recipes.reconstruct import RECIPES
from artifixer.scenes.procedural import seen_by, world_of
from artifixer.scenes.view import views_of
from artifixer.splats.reconstruct import reconstruct
from artifixer.splats.training_view import TrainingView


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=8)
    parser.add_argument("--first-seed", type=int, default=100)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--weight", type=float, default=0.3)
    arguments = parser.parse_args()
    print("seed  views  PSNR seen  unseen pixels  opacity unseen  opacity seen by >=2   seconds")
    unseen_all, seen_all = [], []
    for number in range(arguments.scenes):
        seed, views = arguments.first_seed + number, 3 + number % 4
        name = f"procedural:{seed}:frames=24,width={arguments.size},height={arguments.size}"
        started = time.process_time()
        job = ReconstructionJob(
            CaptureChoice(name, views=views),
            RECIPES[arguments.recipe].with_free_space_loss(arguments.weight),
        )
        capture = load_capture(job.choice, work_folder=None)  # type: ignore[arg-type]
        scene = capture.scene
        training = [TrainingView.of(view) for view in views_of(scene, capture.training)]
        initial, extent = initial_splats(job, capture)
        splats = reconstruct(training, initial, extent, job.config, job.seed)
        counts = seen_by(
            world_of(name), scene.batch(capture.heldout), scene.batch(capture.training)
        )
        results = list(view_quality(splats, views_of(scene, capture.heldout)))
        opacity = torch.stack([renders.opacity[0] for _, renders in results])
        unseen, seen = opacity[counts == 0], opacity[counts >= 2]
        unseen_all.append(unseen)
        seen_all.append(seen)
        psnr = sum(result.psnr for result, _ in results) / len(results)
        print(
            f"{seed:4d} {views:6d} {psnr:10.2f} {unseen.numel() / opacity.numel():13.1%} "
            f"{unseen.mean():15.3f} {seen.mean():18.3f}"
            f" {time.process_time() - started:12.0f}",
            flush=True,
        )
    print(
        f"all scenes: unseen {torch.cat(unseen_all).mean():.3f}, seen by at least two "
        f"{torch.cat(seen_all).mean():.3f}"
    )


if __name__ == "__main__":
    main()
