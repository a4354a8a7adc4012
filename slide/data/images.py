"""Loaders of image sets: MNIST, Fashion-MNIST and their like, and the small NORB set."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from slide import _validation as check
from slide.data.binary import read_idx, read_norb

__all__ = ["ImageSet", "load_mnist", "load_norb"]

NORB_SIDE = 96  # pixels
NORB_CLASSES = 5
NORB_PARTS = (
    "smallnorb-5x46789x9x18x6x2x96x96-training",
    "smallnorb-5x01235x9x18x6x2x96x96-testing",
)
IMAGES_AT_ONCE = 1024  # scaled down together


@dataclass(frozen=True, repr=False, eq=False)
class ImageSet:
    """Images and their classes; see `load_mnist` and `load_norb`.

    Attributes
    ----------
    x_train, x_test : ndarray of shape (n, n_features), float32, C-contiguous
        One image a row, pixel rows one after the other, scaled to [0, 1].
    y_train, y_test : ndarray of shape (n,), int32
        The images' classes, counted from 0.
    shape : tuple of int
        The shape of one image: ``x_train[0].reshape(shape)``.
    name : str
        What the set is called.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    shape: tuple[int, ...]
    name: str

    def __repr__(self) -> str:
        return (
            f"ImageSet({self.name}: {len(self.y_train):,} training and {len(self.y_test):,} test "
            f"images of {' x '.join(map(str, self.shape))})"
        )


def load_mnist(folder: str | os.PathLike[str]) -> ImageSet:
    """Load MNIST, Fashion-MNIST or another set that comes in four files of the same names.

    The files are ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``,
    ``t10k-images-idx3-ubyte`` and ``t10k-labels-idx1-ubyte``, each perhaps with ``.gz`` at the
    end, perhaps with a dot in front of ``idx``. Nothing is downloaded.

    Parameters
    ----------
    folder : str or path-like
        Where the files are.

    Returns
    -------
    ImageSet
        ``x_train`` (60000, 784), ``x_test`` (10000, 784) and ``shape`` (28, 28) for MNIST; other
        sets may have other sizes. The grey values 0 to 255 become 0 to 1. Its name is that of
        the folder.

    Raises
    ------
    FileNotFoundError
        There is no such folder, or a file is missing.
    ValueError
        As in `read_idx`; or the images are not uint8 of 3 dimensions, the labels are not uint8 of
        1 dimension, their numbers differ, or test images have another size than training images.

    Examples
    --------
    >>> import os, tempfile
    >>> from slide.data import load_mnist
    >>> folder = os.path.join(tempfile.mkdtemp(), "tiny")
    >>> os.mkdir(folder)
    >>> for part in ("train", "t10k"):
    ...     with open(os.path.join(folder, f"{part}-images-idx3-ubyte"), "wb") as file:
    ...         _ = file.write(bytes([0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2, 0, 255]))
    ...     with open(os.path.join(folder, f"{part}-labels-idx1-ubyte"), "wb") as file:
    ...         _ = file.write(bytes([0, 0, 8, 1, 0, 0, 0, 1, 7]))
    >>> tiny = load_mnist(folder)
    >>> tiny
    ImageSet(tiny: 1 training and 1 test images of 1 x 2)
    >>> tiny.x_train.tolist(), tiny.y_train.tolist()
    ([[0.0, 1.0]], [7])
    """
    folder = os.fspath(folder)
    # All of them are looked for before the first one is read.
    train, test = (
        (_find_idx(folder, f"{part}-images", 3), _find_idx(folder, f"{part}-labels", 1))
        for part in ("train", "t10k")
    )
    x_train, y_train, shape = _read_mnist_part(*train, (None, None))
    x_test, y_test, _ = _read_mnist_part(*test, shape)
    name = os.path.basename(os.path.abspath(folder))
    return ImageSet(x_train, y_train, x_test, y_test, shape, name)


def load_norb(folder: str | os.PathLike[str], size: int = 32, cameras: str = "first") -> ImageSet:
    """Load the small NORB set: photographs of toys by two cameras, in five classes.

    The files are ``smallnorb-5x46789x9x18x6x2x96x96-training-dat.mat`` and ``-cat.mat``,
    ``smallnorb-5x01235x9x18x6x2x96x96-testing-dat.mat`` and ``-cat.mat``, each perhaps with
    ``.gz`` at the end. Nothing is downloaded.

    Parameters
    ----------
    folder : str or path-like
        Where the files are.
    size : int, default 32
        Width and height of the images in the result, a divisor of 96. Each of its pixels is the
        mean of a square of pixels in the file.
    cameras : {"first", "both"}, default "first"
        "both" puts the second camera's image behind the first one's: 2048 features of size 32,
        as in Spring and Shrivastava (KDD 2017).

    Returns
    -------
    ImageSet
        24,300 training and 24,300 test images, scaled to [0, 1]. ``shape`` is (size, size), or
        (2, size, size) for both cameras. Classes are 0 animal, 1 human, 2 plane, 3 truck, 4 car.

    Raises
    ------
    TypeError
        `size` is not an integer.
    FileNotFoundError
        There is no such folder, or a file is missing.
    ValueError
        `size` does not divide 96, or `cameras` is neither of the two; as in `read_norb`; or the
        images are not uint8 of shape (n, 2, 96, 96), the classes not int32 of shape (n,), or a
        class is not one of 0 to 4.

    Examples
    --------
    >>> import os, struct, tempfile
    >>> from slide.data import load_norb
    >>> folder = tempfile.mkdtemp()
    >>> for part in ("5x46789x9x18x6x2x96x96-training", "5x01235x9x18x6x2x96x96-testing"):
    ...     with open(os.path.join(folder, f"smallnorb-{part}-dat.mat"), "wb") as file:
    ...         _ = file.write(struct.pack("<6i", 0x1E3D4C55, 4, 1, 2, 96, 96) + bytes(2 * 96**2))
    ...     with open(os.path.join(folder, f"smallnorb-{part}-cat.mat"), "wb") as file:
    ...         _ = file.write(struct.pack("<6i", 0x1E3D4C54, 1, 1, 1, 1, 3))
    >>> load_norb(folder, cameras="both")
    ImageSet(small NORB: 1 training and 1 test images of 2 x 32 x 32)
    """
    folder = os.fspath(folder)
    size = check.check_positive_int("size", size, high=NORB_SIDE)
    if NORB_SIDE % size:
        raise ValueError(f"size must divide {NORB_SIDE}, got {size}")
    n_cameras = 2 if check.check_in("cameras", cameras, ("first", "both")) == "both" else 1
    train, test = (
        (_find_norb(folder, f"{part}-dat"), _find_norb(folder, f"{part}-cat"))
        for part in NORB_PARTS
    )
    x_train, y_train = _read_norb_part(*train, size, n_cameras)
    x_test, y_test = _read_norb_part(*test, size, n_cameras)
    shape = (size, size) if n_cameras == 1 else (n_cameras, size, size)
    return ImageSet(x_train, y_train, x_test, y_test, shape, "small NORB")


def _read_mnist_part(
    images_path: str, labels_path: str, shape: tuple[int | None, ...]
) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    images = read_idx(images_path)
    _check_array(images_path, images, "images", np.uint8, (None, *shape))
    labels = read_idx(labels_path)
    _check_array(labels_path, labels, "labels", np.uint8, (len(images),))
    x = images.reshape(len(images), math.prod(images.shape[1:])).astype(np.float32)
    x /= 255
    return x, labels.astype(np.int32), images.shape[1:]


def _read_norb_part(
    images_path: str, labels_path: str, size: int, n_cameras: int
) -> tuple[np.ndarray, np.ndarray]:
    labels = read_norb(labels_path)
    _check_array(labels_path, labels, "classes", np.int32, (None,))
    wrong = (labels < 0) | (labels >= NORB_CLASSES)
    if wrong.any():
        at = int(wrong.argmax())
        raise ValueError(
            f"{labels_path}: expected classes from 0 to {NORB_CLASSES - 1}, "
            f"found {labels[at]} at position {at}"
        )
    images = read_norb(images_path)
    wanted = (len(labels), 2, NORB_SIDE, NORB_SIDE)
    _check_array(images_path, images, "images", np.uint8, wanted)
    return _scale_down(images[:, :n_cameras], size), labels


def _scale_down(images: np.ndarray, size: int) -> np.ndarray:
    """The means of squares of pixels over 255, one row for each of the images."""
    n, n_cameras, side, _ = images.shape
    factor = side // size
    x = np.empty((n, n_cameras, size, size), np.float32)
    for start in range(0, n, IMAGES_AT_ONCE):
        part = slice(start, start + IMAGES_AT_ONCE)
        squares = images[part].reshape(-1, n_cameras, size, factor, size, factor)
        # Sums of whole numbers, below 2^24: float32 holds them exactly.
        x[part] = squares.sum(axis=(3, 5), dtype=np.float32)
    x /= 255 * factor**2
    return x.reshape(n, n_cameras * size * size)


def _find_idx(folder: str, stem: str, ndim: int) -> str:
    names = (f"{stem}-idx{ndim}-ubyte", f"{stem}.idx{ndim}-ubyte")
    return _find(folder, [name + end for name in names for end in ("", ".gz")])


def _find_norb(folder: str, stem: str) -> str:
    return _find(folder, [f"{stem}.mat", f"{stem}.mat.gz"])


def _find(folder: str, names: Sequence[str]) -> str:
    """The path of the first file of these that exists."""
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{folder}: there is no such folder")
    for name in names:
        path = os.path.join(folder, name)
        if os.path.exists(path):
            return path
    raise FileNotFoundError(f"{folder}: found no file {', '.join(names[:-1])} or {names[-1]}")


def _check_array(
    path: str, array: np.ndarray, what: str, dtype: Any, shape: tuple[int | None, ...]
) -> None:
    """Refuse an array of another dtype or shape; None stands for any length."""
    if (
        array.dtype != dtype
        or array.ndim != len(shape)
        or any(wanted not in (None, n) for wanted, n in zip(shape, array.shape, strict=True))
    ):
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise ValueError(
            f"{path}: expected {what} of dtype {np.dtype(dtype)} and shape ({wanted}), "
            f"found {array.dtype} and {array.shape}"
        )
