"""A row of frames for each capture.

python contact_sheet.py OUT.png CAPTURE... [--columns 6] [--scale 1.0]
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

GAP = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("captures", type=Path, nargs="+")
    parser.add_argument("--columns", type=int, default=6)
    parser.add_argument("--scale", type=float, default=1.0)
    a = parser.parse_args()
    rows = []
    for folder in a.captures:
        photos = sorted((folder / "images").glob("*.png"))
        chosen = np.linspace(0, len(photos) - 1, a.columns).astype(int)
        rows.append([Image.open(photos[k]) for k in chosen])
    width, height = (int(s * a.scale) for s in rows[0][0].size)
    size = a.columns * (width + GAP), len(rows) * (height + GAP)
    sheet = Image.new("RGB", size, "white")
    for j, row in enumerate(rows):
        for i, photo in enumerate(row):
            small = photo.resize((width, height), Image.LANCZOS)
            sheet.paste(small, (i * (width + GAP), j * (height + GAP)))
    sheet.save(a.out)


if __name__ == "__main__":
    main()
