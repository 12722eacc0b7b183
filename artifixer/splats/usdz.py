"""USDZ with OpenUSD's schema for Gaussian splats (``ParticleField3DGaussianSplat``, since OpenUSD
26.03; written only).

One zip with one binary USD layer. Values are as rendered: positions, unit quaternions, standard
deviations, opacities in [0,1], and the harmonics of each Gaussian one after the other, the constant
one first, as a splat PLY has them. The Gaussians keep the file's world; the prim above them turns
it by half a turn about x, so that -y of the world, which is up in most captures, is up in a viewer.
USD is not read: its layers can refer to any other file.
"""

from __future__ import annotations

import io
import struct
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch

from artifixer.geometry.local_origin import WORLD, Origin
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import write_bytes
from artifixer.splats.splats import Splats

LAYER = "splats.usdc"

#: In a USDZ the bytes of each file start at a multiple of this.
ALIGNMENT = 64

#: Bytes in front of a file in a zip, without its name and extra field.
LOCAL_HEADER = 30

#: How far a Gaussian reaches, standard deviations: its share of the extent.
REACH = 3.0

#: The first time that a zip can hold.
TIME = (1980, 1, 1, 0, 0, 0)


def check_usd() -> None:
    """Raises ``InputError`` naming the extra when OpenUSD is not installed or has no schema for
    splats.
    """
    try:
        from pxr import UsdVol
    except ImportError:
        raise InputError("USDZ needs the extra formats: pip install 'artifixer[formats]'") from None
    if not hasattr(UsdVol, "ParticleField3DGaussianSplat"):
        raise InputError(
            "USDZ needs usd-core 26.3 or newer: pip install --upgrade 'artifixer[formats]'"
        )


def write_usdz(path: Path, splats: Splats, origin: Origin = WORLD) -> None:
    """Write the splats as USDZ, atomically; the same splats give the same bytes with the same
    OpenUSD.

    origin: what ``means`` are relative to; it becomes a translation in float64.
    """
    check_usd()
    from pxr import Gf, Usd, UsdGeom, UsdVol, Vt

    splats = splats.map(lambda tensor: tensor.detach().cpu().to(torch.float32).contiguous())
    stage = Usd.Stage.CreateInMemory()
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.y)
    UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    world = UsdGeom.Xform.Define(stage, "/World")
    world.AddRotateXOp().Set(180.0)
    stage.SetDefaultPrim(world.GetPrim())
    field = UsdVol.ParticleField3DGaussianSplat.Define(stage, "/World/Splats")
    if origin != WORLD:
        field.AddTranslateOp(UsdGeom.XformOp.PrecisionDouble).Set(Gf.Vec3d(*origin))
    field.CreatePositionsAttr().Set(Vt.Vec3fArray.FromNumpy(splats.means.numpy()))
    xyzw = splats.unit_quats[:, [1, 2, 3, 0]].contiguous().numpy()  # the order of Gf's memory
    field.CreateOrientationsAttr().Set(Vt.QuatfArray.FromNumpy(xyzw))
    field.CreateScalesAttr().Set(Vt.Vec3fArray.FromNumpy(splats.scales.numpy()))
    field.CreateOpacitiesAttr().Set(Vt.FloatArray.FromNumpy(splats.opacities.numpy()))
    field.CreateRadianceSphericalHarmonicsDegreeAttr().Set(splats.sh_degree)
    field.CreateRadianceSphericalHarmonicsCoefficientsAttr().Set(
        Vt.Vec3fArray.FromNumpy(splats.sh.reshape(-1, 3).numpy())
    )
    reach = REACH * splats.scales.max(dim=1, keepdim=True).values
    corners = np.stack(
        [
            (splats.means - reach).min(dim=0).values.numpy(),
            (splats.means + reach).max(dim=0).values.numpy(),
        ]
    )
    field.CreateExtentAttr().Set(Vt.Vec3fArray([Gf.Vec3f(*corner) for corner in corners.tolist()]))
    with tempfile.TemporaryDirectory() as scratch:
        layer = Path(scratch) / LAYER
        stage.Export(str(layer))
        write_bytes(path, _zipped(LAYER, layer.read_bytes()))


def _zipped(name: str, data: bytes) -> memoryview:
    """A zip of one file, not compressed, its bytes aligned as USDZ asks."""
    entry = zipfile.ZipInfo(name, TIME)
    start = LOCAL_HEADER + len(name) + 4  # the extra field begins with its kind and length
    padding = -start % ALIGNMENT
    # the field that Pixar's own packages use
    entry.extra = struct.pack("<HH", 0x1986, padding) + bytes(padding)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(entry, data)
    return buffer.getbuffer()
