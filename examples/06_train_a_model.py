"""Training in miniature: scenes -> pairs -> a few steps of the first stage.

    python examples/06_train_a_model.py [OUT]

A real training differs only in size: more scenes, the recipe `paper`, many GPUs (docs/training.md).
"""

import sys
from pathlib import Path

from artifixer.cli import main

out = Path(sys.argv[1] if len(sys.argv) > 1 else "training")

# Small and short clips, so that it finishes soon.
clips = ["--size", "64", "--frames", "21"]
code = main(["curate", "procedural:1", "--out", f"{out}/pairs", *clips])
if code == 0:
    # Starts from the weights of the package; both commands resume after an interruption.
    tiny = Path(__file__).parent.parent / "artifixer" / "weights" / "tiny"
    stage = ["train", "bidirectional", "--pairs", f"{out}/pairs", "--init", str(tiny)]
    code = main([*stage, "--out", f"{out}/teacher", "--steps", "2", "--batch", "1"])
sys.exit(code)
