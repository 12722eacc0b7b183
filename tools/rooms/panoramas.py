"""Unpack the panoramas of @pmndrs/assets: JavaScript modules that hold EXR files in base64.

python panoramas.py PACKAGE/hdri OUT
"""

import base64
import re
import sys
from pathlib import Path


def unpack(modules: Path, out: Path) -> list[Path]:
    """Write <name>.exr for every <name>.exr.js; the code in them is not run."""
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for module in sorted(modules.glob("*.exr.js")):
        data = re.search(r"base64,([A-Za-z0-9+/=]+)", module.read_text())
        if data is None:
            raise SystemExit(f"{module} holds no base64 data")
        written.append(out / module.name.removesuffix(".js"))
        written[-1].write_bytes(base64.b64decode(data[1]))
    return written


if __name__ == "__main__":
    print("\n".join(str(p) for p in unpack(Path(sys.argv[1]), Path(sys.argv[2]))))
