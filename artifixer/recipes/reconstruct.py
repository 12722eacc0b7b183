"""Named settings for ``artifixer reconstruct``.

``paper``    3DGUT with MCMC densification, 10,000 iterations (paper section 5.1, appendix
             B), up to a million Gaussians: for a GPU.
``release``  the settings of the public release for sparse captures: the same without the opacity
             and scale regularisers.
``tiny``     one or two minutes on two CPU cores at sizes around 200 to 300 pixels: fewer
             iterations and Gaussians, faster rates.

All are plain fits: no dropout, no free-space loss, no limit of Gaussians per pixel, no removal of
unseen Gaussians.
"""

from artifixer.splats.initial import InitialConfig
from artifixer.splats.mcmc import McmcConfig
from artifixer.splats.reconstruct import LearningRates, ReconstructConfig

RECIPES = {
    "paper": ReconstructConfig(),
    "release": ReconstructConfig(opacity_weight=0.0, scale_weight=0.0),
    "tiny": ReconstructConfig(
        iterations=1500,
        sh_degree=1,
        sh_every=500,
        scale_weight=0.1,
        learning_rates=LearningRates(
            means=1.2e-3,
            means_final=2.4e-5,
            quats=3e-3,
            log_scales=1.2e-2,
            opacity_logits=5e-2,
            sh=1e-2,
        ),
        initial=InitialConfig(points=4000),
        mcmc=McmcConfig(max_gaussians=12_000, growth=1.15, every=50, noise=7e1),
    ),
}
