import torch

from artifixer.imaging import blur
from tests.textured_wall import blurred


def test_wide_blurs_on_reduced_images_are_those_of_the_whole():
    picture = torch.rand(301, 403, 3, generator=torch.Generator().manual_seed(2))
    exact = blurred(picture, 20.0)
    inner = (slice(40, -40), slice(40, -40))  # single pixels of noise are repeated at the border
    deviation = (blur.blurred(picture, 20.0) - exact)[inner]
    assert float(deviation.std()) < 0.1 * float(exact[inner].std())
    assert blur.blurred(picture[..., :1], 20.0).shape == (301, 403, 1)
