"""Deformed images in any number, like those of MNIST8M."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from slide import _validation as check
from slide.data.shapes import IMAGES_AT_ONCE, MOST_SEED, PIXELS, SIDE, check_images

__all__ = ["DeformedDigits", "deform"]

N_FIELDS = 1024  # of which each image takes two
MOST_LABEL = 2**31 - 1


def deform(images: np.ndarray, seed: int = 0, alpha: float = 1.5, sigma: float = 4.0) -> np.ndarray:
    """Deform images a little, each in a random way of its own: MNIST8M-like.

    An image x becomes ``clip(x + alpha * (F1 * Tx + F2 * Ty), 0, 1)``, where Tx and Ty are its
    horizontal and vertical gradients (central differences) and F1 and F2 smooth random fields:
    to first order, each pixel is displaced by ``alpha * (F1, F2)``. Then it is shifted by -1, 0
    or 1 pixels in each direction, equally likely; zeros come in.

    Parameters
    ----------
    images : array-like of shape (n, 784) or (n, 28, 28)
        Images of 28 x 28 pixels with values in [0, 1].
    seed : int, default 0
        The same seed gives the same deformations.
    alpha : float, default 1.5
        Root mean square of a displacement's components in pixels, at most 28; 0 leaves only the
        shift.
    sigma : float, default 4.0
        Standard deviation, in pixels, of the Gaussian filter that makes the fields of noise, at
        most 28: displacements of pixels that are closer than that go together.

    Returns
    -------
    ndarray of shape (n, 784), float32
        Values in [0, 1].

    Raises
    ------
    TypeError
        `images` is not an array of real numbers, or another argument not a number.
    ValueError
        `images` has another shape or a value that is not in [0, 1], or `seed`, `alpha` or `sigma`
        is out of range: [0, 2**63 - 1], [0, 28], and (0, 28].

    Notes
    -----
    After the infinite MNIST set of Loosli, Canu and Bottou, *Training invariant support vector
    machines using selective sampling*, 2007, of which MNIST8M is the first 8.1 million images.
    As there, the pairs F1, F2 are drawn from a fixed number of fields (1,024), which are made
    once. Fields and gradients are not those of that set, and so the images are not, either.

    Examples
    --------
    >>> from slide.data import deform, make_rectangles
    >>> X, y = make_rectangles(3)
    >>> deform(X).shape
    (3, 784)
    """
    images = check_images("images", images)
    fields, seeds = _fields_and_seeds(seed, alpha, sigma)
    rng = np.random.default_rng(seeds)
    X = np.empty((len(images), PIXELS), np.float32)
    for start in range(0, len(images), IMAGES_AT_ONCE):
        part = slice(start, start + IMAGES_AT_ONCE)
        X[part] = _deformed(images[part], fields, rng)
    return X


class DeformedDigits:
    """Batches of randomly deformed images, any number of them: MNIST8M-like.

    The images are gone through in a random order, then in another one, and so on, and each is
    deformed anew every time; see `deform` for how. Every iteration gives the same batches, from
    the first one on.

    Parameters
    ----------
    images : array-like of shape (n, 784) or (n, 28, 28)
        Images of 28 x 28 pixels with values in [0, 1], such as ``load_mnist(folder).x_train``.
        They are not copied if they are float32 already.
    labels : array-like of shape (n,), integers
        Their classes.
    n_samples : int, optional
        How many images to make, fewer or more than n; endlessly many by default.
    batch_size : int, default 256
        Images a batch; the last one may have fewer.
    seed : int, default 0
        The same seed gives the same batches.
    alpha, sigma : float, default 1.5 and 4.0
        Size and smoothness of the deformations in pixels, as in `deform`.

    Yields
    ------
    X : ndarray of shape (batch_size, 784), float32
        Values in [0, 1].
    y : ndarray of shape (batch_size,), int32
        The labels.

    Raises
    ------
    TypeError
        An argument is not of the type above.
    ValueError
        As in `deform`; or there are no images, another number of labels than of images, or
        `n_samples` or `batch_size` is less than 1.

    Notes
    -----
    ``model.fit(stream, epochs=5, steps_per_epoch=100)`` sees 500 batches. A stream of
    ``n_samples=100 * batch_size`` is gone through in every epoch: the same 100, five times.

    Examples
    --------
    >>> from slide.data import DeformedDigits, make_rectangles
    >>> stream = DeformedDigits(*make_rectangles(3), n_samples=10, batch_size=4)
    >>> [len(y) for X, y in stream]
    [4, 4, 2]
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        n_samples: int | None = None,
        batch_size: int = 256,
        seed: int = 0,
        alpha: float = 1.5,
        sigma: float = 4.0,
    ) -> None:
        self._images = check_images("images", images)
        if not len(self._images):
            raise ValueError("images is empty")
        self._labels = _check_labels(labels, len(self._images))
        if n_samples is not None:
            n_samples = check.check_positive_int("n_samples", n_samples)
        self._n_samples = n_samples
        self._batch_size = check.check_positive_int("batch_size", batch_size)
        self._fields, self._seeds = _fields_and_seeds(seed, alpha, sigma)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        rng = np.random.default_rng(self._seeds)
        order = np.empty(0, np.int64)
        left = self._n_samples
        while left is None or left > 0:
            size = self._batch_size if left is None else min(self._batch_size, left)
            while len(order) < size:
                order = np.concatenate([order, rng.permutation(len(self._images))])
            chosen, order = order[:size], order[size:]
            yield _deformed(self._images[chosen], self._fields, rng), self._labels[chosen]
            if left is not None:
                left -= size


def _check_labels(labels: np.ndarray, n: int) -> np.ndarray:
    array = np.asarray(labels)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise TypeError(
            f"labels must be a vector of integers, got {array.ndim} dimensions of {array.dtype}"
        )
    if len(array) != n:
        raise ValueError(f"labels must have length {n}, one per image; got {len(array)}")
    wrong = (array < 0) | (array > MOST_LABEL)
    if wrong.any():
        at = int(wrong.argmax())
        raise ValueError(f"labels[{at}] is {array[at]}; it must be in [0, {MOST_LABEL}]")
    # A copy: the stream must not change when the caller's vector does.
    return array.astype(np.int32)


def _fields_and_seeds(
    seed: int, alpha: float, sigma: float
) -> tuple[np.ndarray, np.random.SeedSequence]:
    """Displacements in pixels, shape (N_FIELDS, 28, 28), and seeds for what else is random."""
    seed = check.check_positive_int("seed", seed, low=0, high=MOST_SEED)
    alpha = check.check_finite_float("alpha", alpha, at_least=0, at_most=SIDE)
    sigma = check.check_finite_float("sigma", sigma, above=0, at_most=SIDE)
    from scipy import ndimage  # here: `import slide` would wait for it

    of_fields, of_images = np.random.SeedSequence(seed).spawn(2)
    noise = np.random.default_rng(of_fields).standard_normal((N_FIELDS, SIDE, SIDE), np.float32)
    # Wrapped around the edges: displacements are as large there as in the middle.
    fields = ndimage.gaussian_filter(noise, (0, sigma, sigma), mode="wrap")
    return fields * np.float32(alpha / fields.std()), of_images


def _deformed(images: np.ndarray, fields: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each image deformed by two of the fields, and shifted; shape (n, 784)."""
    n = len(images)
    first, second = fields[rng.integers(len(fields), size=(2, n))]
    vertical, horizontal = np.gradient(images, axis=(1, 2))
    padded = np.zeros((n, SIDE + 2, SIDE + 2), np.float32)
    padded[:, 1:-1, 1:-1] = np.clip(images + first * horizontal + second * vertical, 0, 1)
    rows, columns = rng.integers(3, size=(2, n, 1)) + np.arange(SIDE)
    image = np.arange(n)[:, np.newaxis, np.newaxis]
    return padded[image, rows[:, :, np.newaxis], columns[:, np.newaxis, :]].reshape(n, PIXELS)
