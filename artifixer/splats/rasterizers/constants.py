"""Constants shared by all rasterizers, so that all of them render the same image.

The compiled kernels bake these in: after a change, delete the ``*.nbi`` and ``*.nbc`` files in
``__pycache__``.
"""

#: A single Gaussian never covers a pixel fully, so that what lies behind keeps a gradient. (gsplat
#: 1.5.3 has the same value.)
MAX_ALPHA = 0.999

#: Contributions under this are skipped: less than one step of an 8-bit image.
MIN_ALPHA = 1 / 255

#: A pixel is finished before the Gaussian that would bring its transmittance to this or below.
MIN_TRANSMITTANCE = 1e-4

#: Added to the variance of a projected Gaussian in square pixels, so that small ones still meet a
#: pixel centre.
EPS_2D = 0.3

#: Largest half side of a projected Gaussian's box in standard deviations; there even opacity 1
#: falls under ``MIN_ALPHA``.
MAX_EXTENT = 3.33

#: Unscented transform: spread, prior and second scaling of the sigma points (Wan and van der Merwe
#: 2000).
UT_ALPHA = 0.1
UT_BETA = 2.0
UT_KAPPA = 0.0

#: Derived, for three dimensions: distance of the sigma points from the mean in standard deviations,
#: and the weights of the central and the six outer points in the mean; the central point's weight
#: in the covariance.
UT_LAMBDA = UT_ALPHA**2 * (3 + UT_KAPPA) - 3
UT_SPREAD = (3 + UT_LAMBDA) ** 0.5
UT_OUTER_WEIGHT = 1 / (2 * (3 + UT_LAMBDA))
UT_CENTRAL_COVARIANCE_WEIGHT = UT_LAMBDA / (3 + UT_LAMBDA) + 1 - UT_ALPHA**2 + UT_BETA

#: Expected depth is undefined (NaN) where the accumulated opacity is under this.
MIN_DEPTH_OPACITY = 0.01

#: Near plane, where the caller gives none: this share of the median depth of the Gaussians in front
#: of the camera.
RELATIVE_NEAR = 0.02

#: Real spherical harmonics of degree 1, 2, 3 in the sign convention of 3DGS files.
SH_1 = 0.4886025119029199
SH_2 = (
    1.0925484305920792,
    -1.0925484305920792,
    0.31539156525252005,
    -1.0925484305920792,
    0.5462742152960396,
)
SH_3 = (
    -0.5900435899266435,
    2.890611442640554,
    -0.4570457994644658,
    0.3731763325901154,
    -0.4570457994644658,
    1.445305721320277,
    -0.5900435899266435,
)
