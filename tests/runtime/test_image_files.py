"""Images: there and back, same bytes for same pixels, unusual and damaged files."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from artifixer.runtime.errors import InputError
from artifixer.runtime.image_files import image_header, image_size, read_image, write_png


def random_photo(height: int = 12, width: int = 17) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_png_there_and_back_and_same_bytes(tmp_path: Path) -> None:
    photo = random_photo()
    write_png(tmp_path / "a.png", photo)
    write_png(tmp_path / "b.png", photo)
    assert np.array_equal(read_image(tmp_path / "a.png"), photo)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotated_photos_come_upright(tmp_path: Path, orientation: int) -> None:
    stored = random_photo()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "photo.png", exif=exif)
    turned = [stored, stored[:, ::-1], stored[::-1, ::-1], stored[::-1], stored.swapaxes(0, 1)]
    turned += [np.rot90(stored, -1), stored[::-1, ::-1].swapaxes(0, 1), np.rot90(stored)]
    upright = read_image(tmp_path / "photo.png")
    assert np.array_equal(upright, turned[orientation - 1])
    assert image_size(tmp_path / "photo.png") == (upright.shape[1], upright.shape[0])


def test_grey_16_bit_and_alpha(tmp_path: Path) -> None:
    grey = random_photo()[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    for name in ("grey.png", "deep.png"):
        assert np.array_equal(read_image(tmp_path / name), grey[..., None].repeat(3, axis=2))
    rgba = np.zeros((1, 2, 4), np.uint8)
    rgba[0, :] = [[200, 100, 50, 255], [200, 100, 50, 0]]
    Image.fromarray(rgba).save(tmp_path / "alpha.png")
    assert read_image(tmp_path / "alpha.png").tolist() == [[[200, 100, 50], [0, 0, 0]]]


@pytest.mark.parametrize("name", ["photo.png", "photo.jpg"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.6])
def test_damaged_photo_is_named(tmp_path: Path, name: str, share: float) -> None:
    Image.fromarray(random_photo(64, 64)).save(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match=rf"{name}: cannot read: .*, expected an image"):
        read_image(tmp_path / name)


def test_missing_files_are_named(tmp_path: Path) -> None:
    for read in (read_image, image_size):
        with pytest.raises(InputError, match="nothing"):
            read(tmp_path / "nothing")


def _smooth(width: int = 64, height: int = 48) -> np.ndarray:
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack([x, y, 255 - x], axis=2).astype(np.uint8)


@pytest.mark.parametrize("suffix", [".heic", ".avif", ".jfif", ".jpg"])
def test_photos_of_phones_are_read_by_content(tmp_path: Path, suffix: str) -> None:
    """HEIC also under the name of a JPEG."""
    path = tmp_path / f"photo{suffix}"
    if suffix in (".heic", ".jpg"):
        pillow_heif = pytest.importorskip("pillow_heif")
        pillow_heif.from_pillow(Image.fromarray(_smooth())).save(path, quality=95)
    else:
        kind = "AVIF" if suffix == ".avif" else "JPEG"
        Image.fromarray(_smooth()).save(path, kind, quality=95)
    assert image_size(path) == (64, 48)
    assert np.abs(read_image(path).astype(int) - _smooth()).mean() < 4
    assert not image_header(path).has_alpha


@pytest.mark.parametrize("suffix", [".heic", ".avif"])
def test_turned_photos_of_phones_come_upright(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(_smooth())))
    path = tmp_path / f"photo{suffix}"
    if suffix == ".heic":
        pytest.importorskip("pillow_heif").register_heif_opener()
        stored.save(path, "HEIF", quality=95, exif=exif.tobytes())
    else:
        stored.save(path, "AVIF", quality=95, exif=exif.tobytes())
    assert image_size(path) == (64, 48)
    assert np.abs(read_image(path).astype(int) - _smooth()).mean() < 4


def test_heic_without_its_library_names_the_extra(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 100)
    with pytest.raises(InputError, match=r"a\.jpg: cannot read"):
        read_image(tmp_path / "a.jpg")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs pillow-heif \(pip install 'artifixer\[formats\]'"):
        read_image(tmp_path / "a.jpg")
