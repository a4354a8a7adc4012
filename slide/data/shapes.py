"""Generators of image sets: tall and wide rectangles, convex and other shapes."""

from __future__ import annotations

import numpy as np

from slide import _validation as check

__all__ = ["make_convex", "make_rectangles", "make_rectangles_images"]

SIDE = 28  # pixels
PIXELS = SIDE * SIDE
MOST_SEED = 2**63 - 1
IMAGES_AT_ONCE = 2048  # so that temporary arrays stay small
INWARD = np.array([[1], [-1]])

WAVES = 6  # of a texture
SLOWEST, FASTEST = 0.5, 3.0  # their periods an image

CONVEX_SIDES, CONVEX_PIXELS = 0.195, 19
PART_SIDES, PART_PIXELS = 0.07, 10
MOST_PARTS = 4
# Found by simulation with 400,000 images of each class, for equal mean numbers of pixels.
THINNING = 1 / 495


def make_rectangles(n_samples: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw images of rectangles, to be told apart by whether they are wide or tall.

    A white outline, one pixel thick, on black. Width and height are uniform among the pairs from
    1 to 28 pixels that differ by 3 or more, and the place is uniform among those where the
    rectangle fits in. Both classes are equally likely.

    Parameters
    ----------
    n_samples : int
        Number of images.
    seed : int, default 0
        The same seed gives the same images: take another one for a test set.

    Returns
    -------
    X : ndarray of shape (n_samples, 784), float32
        Images of 28 x 28 pixels, rows one after the other, of values 0 and 1.
    y : ndarray of shape (n_samples,), int32
        1 for a rectangle that is wider than it is high, 0 for the others.

    Raises
    ------
    TypeError
        An argument is not an integer.
    ValueError
        `n_samples` is less than 1, or `seed` is negative or more than 2**63 - 1.

    Notes
    -----
    RECTANGLES of Larochelle et al., *An empirical evaluation of deep architectures on problems
    with many factors of variation*, ICML 2007: 1,200 training and 50,000 test images there.

    Examples
    --------
    >>> from slide.data import make_rectangles
    >>> X, y = make_rectangles(100)
    >>> X.shape, set(y.tolist())
    ((100, 784), {0, 1})
    """
    n_samples, rng = _checked(n_samples, seed)
    rows, columns, y = _place_rectangles(rng, n_samples, shortest=1, difference=3)
    X = np.empty((n_samples, SIDE, SIDE), np.float32)
    for part in _parts(n_samples):
        filled = _fill(rows[:, part], columns[:, part])
        # The outline is the rectangle without the one that is a pixel smaller on each side.
        inner = _fill(rows[:, part] + INWARD, columns[:, part] + INWARD)
        X[part] = filled & ~inner
    return X.reshape(n_samples, PIXELS), y


def make_rectangles_images(
    n_samples: int, seed: int = 0, patches: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Draw rectangles cut from one image and laid on another, to be told apart as wide or tall.

    There is no outline: what is inside the rectangle comes from one grey image, what is around it
    from another one. Width and height are uniform among the pairs from 10 to 28 pixels that differ
    by 5 or more, and the place is uniform among those where the rectangle fits in. Both classes
    are equally likely.

    Parameters
    ----------
    n_samples : int
        Number of images.
    seed : int, default 0
        The same seed and patches give the same images: take another seed for a test set.
    patches : array-like of shape (m, 28, 28) or (m, 784), optional
        Two or more grey images with values in [0, 1], such as parts of photographs. Each sample
        takes two different ones at random. By default every sample has two textures of its own,
        which are drawn from the seed: a sum of 6 cosine waves of uniform direction and phase, of
        0.5 to 3 periods an image, with amplitudes that fall with the frequency; it is stretched
        between two uniform grey values, so that brightness and contrast differ.

    Returns
    -------
    X : ndarray of shape (n_samples, 784), float32
        Images of 28 x 28 pixels, rows one after the other, with values in [0, 1].
    y : ndarray of shape (n_samples,), int32
        1 for a rectangle that is wider than it is high, 0 for the others.

    Raises
    ------
    TypeError
        `n_samples` or `seed` is not an integer, or `patches` are not real numbers in an array.
    ValueError
        `n_samples` is less than 1, `seed` is negative or more than 2**63 - 1; or `patches` has
        another shape, less than two images, or a value that is not in [0, 1].

    Notes
    -----
    RECTANGLES-IMAGES of Larochelle et al., ICML 2007 (12,000 training and 50,000 test images
    there), but for the patches: theirs were cut from photographs.

    Examples
    --------
    >>> from slide.data import make_rectangles_images
    >>> X, y = make_rectangles_images(100)
    >>> X.shape, set(y.tolist())
    ((100, 784), {0, 1})
    """
    n_samples, rng = _checked(n_samples, seed)
    if patches is not None:
        patches = check_images("patches", patches)
        if len(patches) < 2:
            raise ValueError(f"patches must be two images or more, got {len(patches)}")
    rows, columns, y = _place_rectangles(rng, n_samples, shortest=10, difference=5)
    X = np.empty((n_samples, SIDE, SIDE), np.float32)
    for part in _parts(n_samples):
        n = len(y[part])
        if patches is None:
            inside, around = _textures(rng, 2 * n).reshape(2, n, SIDE, SIDE)
        else:
            first = rng.integers(len(patches), size=n)
            second = (first + rng.integers(1, len(patches), size=n)) % len(patches)
            inside, around = patches[first], patches[second]
        X[part] = np.where(_fill(rows[:, part], columns[:, part]), inside, around)
    return X.reshape(n_samples, PIXELS), y


def make_convex(n_samples: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw white shapes on black, to be told apart by whether they are convex.

    A convex shape is an intersection of half-planes, a geometric number of them with parameter
    0.195 (1, 2, ...; 5.1 on average), and has 19 pixels or more. A shape that is not convex is
    the union of 2, 3 or 4 such intersections, equally likely, but with parameter 0.07 (14.3
    half-planes on average) and each of 10 pixels or more, which fails the test of convexity: there
    are two white pixels such that the pixel in the middle between them is black. Both classes are
    equally likely.

    Parameters
    ----------
    n_samples : int
        Number of images.
    seed : int, default 0
        The same seed gives the same images: take another one for a test set.

    Returns
    -------
    X : ndarray of shape (n_samples, 784), float32
        Images of 28 x 28 pixels, rows one after the other, of values 0 and 1.
    y : ndarray of shape (n_samples,), int32
        1 for a convex shape, 0 for the others.

    Raises
    ------
    TypeError
        An argument is not an integer.
    ValueError
        `n_samples` is less than 1, or `seed` is negative or more than 2**63 - 1.

    Notes
    -----
    CONVEX of Larochelle et al., ICML 2007 (8,000 training and 50,000 test images there), after
    the published description. What that leaves open is done as follows.

    - The edge of a half-plane is a line through a uniform point of the image at a uniform angle,
      and a pixel belongs to a half-plane if its centre does. The half-planes of an intersection
      all hold one point, which is uniform in the image, too. Of half-planes without a common point
      only few would intersect, and the number of them would be far from geometric.
    - The test of convexity looks at all pairs of white pixels that have a pixel in the middle. A
      convex shape cannot fail it: if two centres are in a half-plane, so is what is between them.
      The few unions that pass it are drawn again.
    - The classes have the same mean number of white pixels, 274 of 784. For that, a union of n
      pixels is kept with probability exp(-n / 495); of all unions the mean is 353.

    Examples
    --------
    >>> from slide.data import make_convex
    >>> X, y = make_convex(100)
    >>> X.shape, set(y.tolist())
    ((100, 784), {0, 1})
    """
    n_samples, rng = _checked(n_samples, seed)
    y = rng.integers(2, size=n_samples, dtype=np.int32)
    X = np.empty((n_samples, SIDE, SIDE), np.float32)
    for label, draw in ((0, _other_shapes), (1, _convex_shapes)):
        places = np.flatnonzero(y == label)
        while len(places):
            shapes = draw(rng)[: len(places)]
            X[places[: len(shapes)]] = shapes
            places = places[len(shapes) :]
    return X.reshape(n_samples, PIXELS), y


def check_images(name: str, images: np.ndarray) -> np.ndarray:
    """Return images as float32 of shape (n, 28, 28), or raise in the words of `name`."""
    try:
        array = np.asarray(images)
    except ValueError as error:
        raise ValueError(f"{name} is not a rectangular array: {error}") from error
    if array.shape[1:] not in ((SIDE, SIDE), (PIXELS,)):
        raise ValueError(
            f"{name} must have shape (n, {SIDE}, {SIDE}) or (n, {PIXELS}), got {array.shape}"
        )
    values = check.check_features(array.reshape(len(array), PIXELS), PIXELS, name)
    wrong = (values < 0) | (values > 1)
    if wrong.any():
        row, pixel = np.argwhere(wrong)[0]
        raise ValueError(f"{name}[{row}] is {values[row, pixel]:g} at pixel {pixel}, not in [0, 1]")
    return values.reshape(-1, SIDE, SIDE)


def _checked(n_samples: int, seed: int) -> tuple[int, np.random.Generator]:
    n_samples = check.check_positive_int("n_samples", n_samples)
    return n_samples, np.random.default_rng(
        check.check_positive_int("seed", seed, low=0, high=MOST_SEED)
    )


def _parts(n: int) -> list[slice]:
    return [slice(start, start + IMAGES_AT_ONCE) for start in range(0, n, IMAGES_AT_ONCE)]


# Rectangles -------------------------------------------------------------------------------------


def _place_rectangles(
    rng: np.random.Generator, n: int, shortest: int, difference: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows (first, end) and the columns (first, end) of n rectangles, and their classes."""
    height, width = np.mgrid[shortest : SIDE + 1, shortest : SIDE + 1].reshape(2, -1)
    allowed = np.flatnonzero(np.abs(width - height) >= difference)
    chosen = rng.choice(allowed, n)
    height, width = height[chosen], width[chosen]
    top = rng.integers(SIDE - height + 1)
    left = rng.integers(SIDE - width + 1)
    y = (width > height).astype(np.int32)
    return np.stack([top, top + height]), np.stack([left, left + width]), y


def _fill(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Masks of rectangles, shape (n, 28, 28)."""
    pixels = np.arange(SIDE)
    (top, bottom), (left, right) = rows[..., np.newaxis], columns[..., np.newaxis]
    inside_rows = (pixels >= top) & (pixels < bottom)
    inside_columns = (pixels >= left) & (pixels < right)
    return inside_rows[:, :, np.newaxis] & inside_columns[:, np.newaxis, :]


def _textures(rng: np.random.Generator, n: int) -> np.ndarray:
    angle, phase = 2 * np.pi * rng.random((2, n, WAVES, 1))
    frequency = rng.uniform(SLOWEST, FASTEST, (n, WAVES, 1))
    position = 2 * np.pi * np.arange(SIDE) / SIDE
    # cos(a + b) = cos a cos b - sin a sin b: a sum of waves is one product of matrices.
    down = frequency * np.sin(angle) * position + phase
    across = frequency * np.cos(angle) * position
    left = np.concatenate([np.cos(down), -np.sin(down)], axis=1)
    right = np.concatenate([np.cos(across), np.sin(across)], axis=1) / np.tile(frequency, (1, 2, 1))
    textures = left.astype(np.float32).transpose(0, 2, 1) @ right.astype(np.float32)
    textures -= textures.min(axis=(1, 2), keepdims=True)
    textures /= textures.max(axis=(1, 2), keepdims=True)
    dark, light = np.sort(rng.random((2, n, 1, 1), np.float32), axis=0)
    return dark + (light - dark) * textures


# Convex and other shapes ------------------------------------------------------------------------


def _convex_shapes(rng: np.random.Generator) -> np.ndarray:
    return _intersections(rng, CONVEX_SIDES, CONVEX_PIXELS)


def _other_shapes(rng: np.random.Generator) -> np.ndarray:
    sets = _intersections(rng, PART_SIDES, PART_PIXELS)
    starts = np.cumsum(rng.integers(2, MOST_PARTS + 1, size=len(sets) // MOST_PARTS))
    starts = np.concatenate([[0], starts])
    unions = np.logical_or.reduceat(sets[: starts[-1]], starts[:-1])
    kept = rng.random(len(unions)) < np.exp(-THINNING * np.count_nonzero(unions, axis=(1, 2)))
    unions = unions[kept]
    return unions[_fails_convexity(unions)]


def _intersections(rng: np.random.Generator, parameter: float, least: int) -> np.ndarray:
    """Intersections of half-planes with `least` pixels or more, shape (some, 28, 28), bool."""
    n = IMAGES_AT_ONCE
    n_planes = rng.geometric(parameter, n)
    common = SIDE * rng.random((2, n))
    sets = np.ones((n, SIDE, SIDE), bool)
    centres = np.arange(SIDE) + 0.5
    drawn = 0
    unfinished = np.arange(n)
    while len(unfinished):
        angle = 2 * np.pi * rng.random(len(unfinished))
        normal = np.stack([np.cos(angle), np.sin(angle)])
        edge = (normal * SIDE * rng.random((2, len(unfinished)))).sum(axis=0)
        side = np.where((normal * common[:, unfinished]).sum(axis=0) < edge, -1, 1)
        x, y = (side * normal)[:, :, np.newaxis] * centres
        limit = (side * edge)[:, np.newaxis] - y
        sets[unfinished] &= x[:, np.newaxis, :] >= limit[:, :, np.newaxis]
        drawn += 1
        # What is too small already stays so.
        goes_on = np.count_nonzero(sets[unfinished], axis=(1, 2)) >= least
        unfinished = unfinished[goes_on & (n_planes[unfinished] > drawn)]
    return sets[np.count_nonzero(sets, axis=(1, 2)) >= least]


def _fails_convexity(images: np.ndarray) -> np.ndarray:
    """Whether two white pixels have a black one in the middle between them, for each image.

    The convolution of an image with itself counts, at 2p, the pairs of white pixels p + d, p - d.
    """
    from scipy import fft  # here: `import slide` would wait for it

    size = fft.next_fast_len(2 * SIDE - 1, real=True)
    spectrum = fft.rfft2(images.astype(np.float32), (size, size))
    pairs = fft.irfft2(spectrum * spectrum, (size, size))[:, : 2 * SIDE : 2, : 2 * SIDE : 2]
    # Counts of up to 784 in float32: far from being off by a half.
    return ((pairs[:, :SIDE, :SIDE] > 0.5) & ~images).any(axis=(1, 2))
