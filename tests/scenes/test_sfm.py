"""Steps of structure from motion that need no photos."""

from __future__ import annotations

from artifixer.scenes.sfm import SfmConfig, photo_pairs


def test_few_photos_are_all_matched_and_many_with_their_neighbours() -> None:
    config = SfmConfig(exhaustive_photos=20, neighbours=3)
    assert len(photo_pairs(20, config)) == 190
    pairs = photo_pairs(400, config)
    assert pairs == sorted(set(pairs))
    assert all(0 <= first < second < 400 for first, second in pairs)
    assert {
        (first, first + distance)
        for distance in (1, 2, 3, 16, 256)
        for first in range(400 - distance)
    } <= set(pairs)
    assert len(pairs) < 400 * 10
