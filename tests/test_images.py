"""Readers of image files, generators of shapes, and deformed images."""

import gzip
import itertools
import math
import os
import re
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import slide
from slide.data import (
    DeformedDigits,
    deform,
    digits,
    images,
    load_mnist,
    load_norb,
    make_convex,
    make_rectangles,
    make_rectangles_images,
    read_idx,
    read_norb,
)

IDX_CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}
NORB_MAGIC = {
    "f4": 0x1E3D4C51,
    "f8": 0x1E3D4C53,
    "i4": 0x1E3D4C54,
    "u1": 0x1E3D4C55,
    "i2": 0x1E3D4C56,
}
NORB_NAMES = (
    "smallnorb-5x46789x9x18x6x2x96x96-training",
    "smallnorb-5x01235x9x18x6x2x96x96-testing",
)
same_folder = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)


def idx_bytes(array, code=None):
    code = IDX_CODES[array.dtype.str[1:]] if code is None else code
    header = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def norb_bytes(array, rest=1):
    shape = [*array.shape, rest, rest, rest][: max(array.ndim, 3)]
    header = struct.pack(f"<Ii{len(shape)}i", NORB_MAGIC[array.dtype.str[1:]], array.ndim, *shape)
    return header + array.astype(array.dtype.newbyteorder("<")).tobytes()


READERS = [(read_idx, idx_bytes), (read_norb, norb_bytes)]
both_formats = pytest.mark.parametrize(("read", "as_bytes"), READERS, ids=["idx", "norb"])


def put(path, content):
    path.write_bytes(content)
    return path


def some_values(code, shape, seed=0):
    """Any bits, NaN and the like included."""
    dtype = np.dtype(code)
    n = math.prod(shape) * dtype.itemsize
    return (
        np.random.default_rng(seed).integers(256, size=n, dtype=np.uint8).view(dtype).reshape(shape)
    )


def refused(read, path, message):
    with pytest.raises(ValueError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)


# Files of arrays --------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 4), (2, 1, 3, 2), (0,), (3, 0, 2)])
@pytest.mark.parametrize(
    ("read", "as_bytes", "code"),
    [(read_idx, idx_bytes, code) for code in IDX_CODES]
    + [(read_norb, norb_bytes, code) for code in NORB_MAGIC],
)
def test_arrays_come_back(tmp_path, read, as_bytes, code, shape, packed):
    array = some_values(code, shape)
    content = as_bytes(array)
    got = read(put(tmp_path / "a", gzip.compress(content) if packed else content))
    assert got.dtype == np.dtype(code)
    assert got.dtype.isnative
    assert got.shape == shape
    assert got.tobytes() == array.tobytes()
    assert got.flags.c_contiguous
    got[...] = 0  # the array is the caller's own


def test_the_formats_byte_for_byte(tmp_path):
    """As the formats' descriptions have it, without help of the functions above."""
    path = put(
        tmp_path / "a", b"\0\0\x0b\x02" + b"\0\0\0\x01" + b"\0\0\0\x02" + b"\x01\x02\xff\xfe"
    )
    np.testing.assert_array_equal(read_idx(path), np.int16([[0x0102, -2]]))
    header = b"\x56\x4c\x3d\x1e" + b"\x02\0\0\0" + b"\x01\0\0\0" + b"\x02\0\0\0" + b"\x01\0\0\0"
    path = put(tmp_path / "b", header + b"\x02\x01\xfe\xff")
    np.testing.assert_array_equal(read_norb(path), np.int16([[0x0102, -2]]))


def test_norb_ignores_dimensions_beyond_their_number(tmp_path):
    array = np.arange(3, dtype=np.int32)
    assert read_norb(put(tmp_path / "a", norb_bytes(array, rest=-9))).tolist() == [0, 1, 2]


@both_formats
def test_gzip_is_known_by_its_bytes(tmp_path, read, as_bytes):
    array = some_values("u1", (50, 60))
    content = as_bytes(array)
    parts = gzip.compress(content[:99]) + gzip.compress(content[99:]) + bytes(50)
    for name, packed in (("a.gz", content), ("b", gzip.compress(content)), ("c.mat", parts)):
        np.testing.assert_array_equal(read(put(tmp_path / name, packed)), array)


@both_formats
def test_a_large_file(tmp_path, read, as_bytes):
    array = some_values("u1", (3, 1 << 20))
    for content in (as_bytes(array), gzip.compress(as_bytes(array), 1)):
        np.testing.assert_array_equal(read(put(tmp_path / "a", content)), array)


@both_formats
def test_truncated_anywhere(tmp_path, read, as_bytes):
    content = as_bytes(some_values("i2", (2, 3)))
    for n in range(len(content)):
        refused(
            read, put(tmp_path / "a", content[:n]), r"offset \d+: expected \d+ bytes of .*, found"
        )
    packed = gzip.compress(content)
    for n in range(2, len(packed)):
        refused(read, put(tmp_path / "a", packed[:n]), r"damaged or truncated gzip file|expected")


@both_formats
def test_damaged_gzip(tmp_path, read, as_bytes):
    array = some_values("u1", (40,))
    packed = gzip.compress(as_bytes(array), mtime=0)
    unnoticed = 0
    for at in range(10, len(packed)):  # the first bytes hold a time and the like
        broken = bytearray(packed)
        broken[at] ^= 0x10
        path = put(tmp_path / "a", broken)
        try:
            got = read(path)
        except ValueError:
            refused(read, path, "damaged or truncated gzip file|expected")
        else:
            np.testing.assert_array_equal(got, array)
            unnoticed += 1
    assert unnoticed <= 1  # bits that fill up the last byte before the check sum


@both_formats
def test_how_much_was_expected_and_found(tmp_path, read, as_bytes):
    content = as_bytes(some_values("i2", (2, 3)))
    start = len(content) - 12
    for end, what in ((content[:-1], "11"), (gzip.compress(content[:-1]), "11")):
        message = rf", offset {start}: expected 12 bytes of data of shape \(2, 3\), found {what}$"
        refused(read, put(tmp_path / "a", end), message)
    for end in (content + b"\0", gzip.compress(content + b"\0"), gzip.compress(content) * 2):
        message = rf", offset {start + 12}: expected the end of the file after .*, found more bytes"
        refused(read, put(tmp_path / "a", end), message)


IDX = bytes([0, 0, 0x08, 1, 0, 0, 0, 1, 5])
NORB = struct.pack("<Ii3iB", 0x1E3D4C55, 1, 1, 1, 1, 5)


@pytest.mark.parametrize(
    ("read", "content", "message"),
    [
        (read_idx, b"", "offset 0: expected 4 bytes of magic number, found 0"),
        (read_idx, b"\0\0\x08", "offset 0: expected 4 bytes of magic number, found 3"),
        (read_idx, b"\0\1" + IDX[2:], "offset 0: expected the magic number .*; found 00 01 08 01"),
        (read_idx, b"\0\0\x0a" + IDX[3:], "a type .one of 08, 09, 0b.* found 00 00 0a 01"),
        (read_idx, NORB, "offset 0: expected the magic number of an IDX file.*found 55 4c 3d 1e"),
        (read_idx, IDX[:3] + b"\0" + IDX[4:], "offset 3: expected 1 to 32 dimensions, found 0"),
        (read_idx, IDX[:3] + b"\x21" + bytes(999), "offset 3: expected 1 to 32 .*, found 33"),
        (read_idx, IDX[:6], "offset 4: expected 4 bytes of dimensions, found 2"),
        (read_norb, b"", "offset 0: expected 8 bytes of magic number and .*, found 0"),
        (read_norb, IDX, r"offset 0: .*NORB matrix, one of 0x1e3d4c51, .*; found 0x01080000"),
        (read_norb, b"\x52" + NORB[1:], r"offset 0: found a packed matrix \(0x1e3d4c52\)"),
        (read_norb, NORB[3::-1] + NORB[4:], "offset 0: .*; found 0x554c3d1e"),  # big-endian
        (read_norb, NORB[:4] + struct.pack("<i", 0) + NORB[8:], "offset 4: .*, found 0"),
        (read_norb, NORB[:4] + struct.pack("<i", -1) + NORB[8:], "offset 4: .*, found -1"),
        (read_norb, NORB[:4] + struct.pack("<i", 33) + bytes(999), "offset 4: .*, found 33"),
        (read_norb, NORB[:15], "offset 8: expected 12 bytes of dimensions, found 7"),
        (
            read_norb,
            struct.pack("<Ii4i", 0x1E3D4C55, 4, 1, 2, 3, -7),
            "offset 20: expected a dimension >= 0, found -7",
        ),
    ],
)
def test_wrong_headers(tmp_path, read, content, message):
    refused(read, put(tmp_path / "a", content), message)
    if content:
        refused(read, put(tmp_path / "a", gzip.compress(content)), message)


def memory_of(function):
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def header(read, *shape):
    if read is read_idx:
        return bytes([0, 0, 0x0E, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)
    return struct.pack(f"<Ii{len(shape)}i", 0x1E3D4C53, len(shape), *shape)


@both_formats
@pytest.mark.parametrize("n", [1000, 2**31 - 1])
def test_absurd_dimensions_take_no_memory(tmp_path, read, as_bytes, n):
    content = header(read, n, n, n)
    path = put(tmp_path / "a", content + bytes(100))
    message = rf"expected {8 * n**3} bytes of data of shape \({n}, {n}, {n}\), found 100"
    assert memory_of(lambda: refused(read, path, message)) < 1e6
    path = put(tmp_path / "a", gzip.compress(content + bytes(100)))
    message = rf"expected {8 * n**3} bytes .*, found at most \d+ in so small a gzip file"
    assert memory_of(lambda: refused(read, path, message)) < 1e6


@both_formats
def test_a_gzip_bomb_is_not_unpacked(tmp_path, read, as_bytes):
    """Much in a small file: the header announces little of it, or a little more than there is."""
    zeros = bytes(30_000_000)
    path = put(tmp_path / "a", gzip.compress(header(read, 5, 5, 5) + zeros, 6))
    assert memory_of(lambda: refused(read, path, "expected the end of the file")) < 3e6
    path = put(tmp_path / "a", gzip.compress(header(read, 1, 1, 15_000) + bytes(100_000), 6))
    assert memory_of(lambda: refused(read, path, r"expected 120000 .*, found 100000")) < 3e6
    noise = np.random.default_rng(0).bytes(200_000)
    path = put(tmp_path / "a", gzip.compress(header(read, 1, 1, 12_500_000) + noise, 1))
    assert memory_of(lambda: refused(read, path, r"expected 100000000 .*, found 200000")) < 5e6


@both_formats
def test_an_empty_array_of_too_many_bytes(tmp_path, read, as_bytes):
    """NumPy's limit counts the dimensions that are not 0."""
    for n, message in ((1000, None), (2**31 - 1, "array is too big")):
        path = put(tmp_path / "a", header(read, 0, n, n, n))
        if message is None:
            assert read(path).shape == (0, n, n, n)
        else:
            refused(read, path, message)


@both_formats
def test_what_is_no_regular_file(tmp_path, read, as_bytes):
    with pytest.raises(FileNotFoundError, match="missing"):
        read(tmp_path / "missing")
    refused(read, tmp_path, "expected a regular file, found a folder")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        refused(read, tmp_path / "pipe", "expected a regular file, found something else")
    with pytest.raises(TypeError):
        read(3.5)


@same_folder
@given(
    start=st.sampled_from([b"", b"\0\0", b"\0\0\x08", IDX, NORB[:4], NORB, b"\x1f\x8b\x08\0"]),
    rest=st.binary(max_size=60),
    packed=st.booleans(),
)
def test_any_bytes_are_read_or_refused(tmp_path, start, rest, packed):
    content = gzip.compress(start + rest) if packed else start + rest
    path = put(tmp_path / "a", content)
    for read in (read_idx, read_norb):
        try:
            array = read(path)
        except ValueError:
            refused(read, path, "expected|damaged or truncated gzip file|packed matrix|array is")
        else:
            assert array.nbytes <= len(start + rest)


# Image sets -------------------------------------------------------------------------------------


def mnist_parts(n_train=5, n_test=3, shape=(28, 28)):
    rng = np.random.default_rng(1)
    parts = {}
    for part, n in (("train", n_train), ("t10k", n_test)):
        pixels = rng.integers(256, size=(n, *shape), dtype=np.uint8)
        pixels.flat[:2] = 0, 255
        parts[f"{part}-images", 3] = pixels
        parts[f"{part}-labels", 1] = rng.integers(10, size=n, dtype=np.uint8)
    return parts


def put_mnist(folder, parts, name="{}-idx{}-ubyte"):
    folder.mkdir(exist_ok=True)
    for (stem, ndim), array in parts.items():
        content = idx_bytes(array)
        path = folder / name.format(stem, ndim)
        put(path, gzip.compress(content) if path.suffix == ".gz" else content)
    return folder


@pytest.mark.parametrize(
    "name", ["{}-idx{}-ubyte", "{}-idx{}-ubyte.gz", "{}.idx{}-ubyte", "{}.idx{}-ubyte.gz"]
)
def test_mnist(tmp_path, name):
    parts = mnist_parts()
    got = load_mnist(put_mnist(tmp_path / "some-set", parts, name))
    for x, y, part in ((got.x_train, got.y_train, "train"), (got.x_test, got.y_test, "t10k")):
        pixels = parts[f"{part}-images", 3]
        assert x.dtype == np.float32
        assert x.flags.c_contiguous
        np.testing.assert_array_equal(x, np.float32(pixels.reshape(-1, 784)) / np.float32(255))
        assert (x.min(), x.max()) == (0, 1)
        assert y.dtype == np.int32
        assert y.tolist() == parts[f"{part}-labels", 1].tolist()
    assert (got.shape, got.name) == ((28, 28), "some-set")
    assert repr(got) == "ImageSet(some-set: 5 training and 3 test images of 28 x 28)"
    with pytest.raises(AttributeError):
        got.name = "another"


def test_mnist_of_other_sizes(tmp_path, monkeypatch):
    put_mnist(tmp_path / "a", mnist_parts(2, 0, (3, 4)))
    monkeypatch.chdir(tmp_path / "a")
    got = load_mnist(".")
    assert (got.x_train.shape, got.x_test.shape, got.shape) == ((2, 12), (0, 12), (3, 4))
    assert got.name == "a"


def test_mnist_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere: there is no such folder"):
        load_mnist(tmp_path / "nowhere")
    for missing in mnist_parts():
        folder = put_mnist(tmp_path / missing[0], mnist_parts())
        path = folder / f"{missing[0]}-idx{missing[1]}-ubyte"
        path.unlink()
        names = f"{path.name}, {path.name}.gz, {missing[0]}.idx{missing[1]}-ubyte or "
        with pytest.raises(FileNotFoundError, match=re.escape(f"{folder}: found no file {names}")):
            load_mnist(folder)


@pytest.mark.parametrize(
    ("stem", "ndim", "array", "message"),
    [
        ("train-labels", 1, np.zeros(4, "u1"), r"labels of .* \(5\), found uint8 and \(4,\)"),
        ("t10k-labels", 1, np.zeros(4, "u1"), r"labels of .* \(3\), found uint8 and \(4,\)"),
        ("t10k-labels", 1, np.zeros((3, 1), "u1"), r"\(3\), found uint8 and \(3, 1\)"),
        ("train-labels", 1, np.zeros(5, "i4"), r"labels of dtype uint8 .*, found int32"),
        (
            "train-images",
            3,
            np.zeros((5, 784), "u1"),
            r"\(any, any, any\), found uint8 and \(5, 78",
        ),
        ("train-images", 3, np.zeros((5, 28, 28), "f4"), "images of dtype uint8 .*, found float32"),
        ("t10k-images", 3, np.zeros((3, 28, 27), "u1"), r"\(any, 28, 28\), found .*\(3, 28, 27\)"),
    ],
)
def test_mnist_of_parts_that_do_not_fit(tmp_path, stem, ndim, array, message):
    folder = put_mnist(tmp_path, {**mnist_parts(), (stem, ndim): array})
    path = re.escape(str(folder / f"{stem}-idx{ndim}-ubyte"))
    with pytest.raises(ValueError, match=f"^{path}: expected .*{message}"):
        load_mnist(folder)


def put_norb(folder, train, test, end=""):
    for name, (dat, cat) in zip(NORB_NAMES, (train, test), strict=True):
        for kind, array in (("dat", dat), ("cat", cat)):
            content = norb_bytes(array)
            path = folder / f"{name}-{kind}.mat{end}"
            put(path, gzip.compress(content, 1) if end else content)
    return folder


def norb_part(n, seed):
    rng = np.random.default_rng(seed)
    dat = rng.integers(256, size=(n, 2, 96, 96), dtype=np.uint8)
    return dat, rng.integers(5, size=n, dtype=np.int32)


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("size", [32, 96, 8])
@pytest.mark.parametrize("cameras", ["first", "both"])
def test_norb(tmp_path, monkeypatch, cameras, size, end):
    monkeypatch.setattr(images, "IMAGES_AT_ONCE", 2)
    train, test = norb_part(3, 0), norb_part(1, 1)
    got = load_norb(put_norb(tmp_path, train, test, end), size, cameras)
    n_cameras = 1 if cameras == "first" else 2
    step = 96 // size
    for x, y, (dat, cat) in ((got.x_train, got.y_train, train), (got.x_test, got.y_test, test)):
        assert x.dtype == np.float32
        assert x.flags.c_contiguous
        assert x.shape == (len(dat), n_cameras * size * size)
        assert y.dtype == np.int32
        assert y.tolist() == cat.tolist()
        for i, camera, row, column in np.random.default_rng(2).integers(
            [len(dat), n_cameras, size, size], size=(40, 4)
        ):
            square = dat[i, camera, row * step :, column * step :][:step, :step]
            value = x[i, camera * size**2 + row * size + column]
            # Two roundings of float32.
            assert value == pytest.approx(square.astype(float).mean() / 255, rel=2e-7)
    assert got.shape == ((size, size) if cameras == "first" else (2, size, size))
    assert repr(got).startswith("ImageSet(small NORB: 3 training and 1 test images of ")


def test_norb_has_the_features_of_the_paper(tmp_path):
    folder = put_norb(tmp_path, norb_part(1, 0), norb_part(1, 1))
    assert load_norb(folder, cameras="both").x_train.shape == (1, 2048)
    white = np.full((1, 2, 96, 96), 255, np.uint8)
    put_norb(folder, (white, np.int32([4])), (1 - white // 255, np.int32([0])))
    got = load_norb(folder)
    assert got.x_train.shape == (1, 1024)
    assert (got.x_train == 1).all()
    assert (got.x_test == 0).all()


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"size": 64}, ValueError, "size must divide 96, got 64"),
        ({"size": 0}, ValueError, "size must be between 1 and 96, got 0"),
        ({"size": 97}, ValueError, "size must be between 1 and 96, got 97"),
        ({"size": 32.0}, TypeError, "size must be an integer, got 32.0"),
        ({"cameras": "second"}, ValueError, "cameras must be one of 'first', 'both'; got 'second'"),
        ({}, FileNotFoundError, "found no file smallnorb-.*-training-dat.mat or smallnorb-.*.gz"),
    ],
)
def test_norb_arguments(tmp_path, kwargs, error, message):
    with pytest.raises(error, match=message):
        load_norb(tmp_path, **kwargs)


@pytest.mark.parametrize(
    ("which", "change", "message"),
    [
        (0, lambda dat, cat: (dat[:1], cat), r"-dat.mat: .*\(2, 2, 96, 96\), found .*\(1, 2, 96"),
        (
            1,
            lambda dat, cat: (dat, cat[:1]),
            r"testing-dat.mat: .*\(1, 2, 96, 96\), found .*\(2, 2",
        ),
        (
            0,
            lambda dat, cat: (dat[:, :1], cat),
            r"-dat.mat: .*\(2, 2, 96, 96\), found .*\(2, 1, 96",
        ),
        (0, lambda dat, cat: (dat.astype("i2"), cat), "-dat.mat: .*uint8 .*, found int16"),
        (0, lambda dat, cat: (dat, cat.astype("u1")), "-cat.mat: .*int32 .*, found uint8"),
        (1, lambda dat, cat: (dat, cat * 0 + [0, 5]), "from 0 to 4, found 5 at position 1"),
        (0, lambda dat, cat: (dat, cat * 0 - 1), "from 0 to 4, found -1 at position 0"),
    ],
)
def test_norb_of_parts_that_do_not_fit(tmp_path, which, change, message):
    parts = [norb_part(2, 0), norb_part(2, 1)]
    dat, cat = change(*parts[which])
    parts[which] = dat, cat.astype(np.int32) if cat.dtype == np.int64 else cat
    with pytest.raises(ValueError, match=message):
        load_norb(put_norb(tmp_path, *parts))


# Rectangles -------------------------------------------------------------------------------------


def assert_balanced(y):
    """Five standard deviations: one seed in two million fails for a fair coin."""
    assert abs(y.mean() - 0.5) < 5 * 0.5 / math.sqrt(len(y))


def assert_uniform(counts):
    """Chi-square within six standard deviations of its mean."""
    expected = counts.sum() / len(counts)
    chi_square = ((counts - expected) ** 2 / expected).sum()
    degrees = len(counts) - 1
    assert abs(chi_square - degrees) < 6 * math.sqrt(2 * degrees) + 6


def bounds(mask):
    """First and end of rows and columns where a mask is true."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1


def is_rectangle(mask):
    top, bottom, left, right = bounds(mask)
    return mask[top:bottom, left:right].all()


GENERATORS = [make_rectangles, make_rectangles_images, make_convex]
each_generator = pytest.mark.parametrize("make", GENERATORS)


@each_generator
def test_generated_arrays(make):
    X, y = make(600, seed=5)
    assert (X.shape, X.dtype, X.flags.c_contiguous) == ((600, 784), np.float32, True)
    assert (y.shape, y.dtype) == ((600,), np.int32)
    assert X.min() >= 0
    assert X.max() <= 1
    assert set(np.unique(y)) == {0, 1}
    again, same_y = make(600, seed=5)
    np.testing.assert_array_equal(X, again)
    np.testing.assert_array_equal(y, same_y)
    other, other_y = make(600, seed=6)
    assert (other == X).all(axis=1).mean() < 0.01
    assert (y != other_y).any()
    assert make(1)[0].shape == (1, 784)


@each_generator
@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((0,), ValueError, "n_samples must be at least 1, got 0"),
        ((2.0,), TypeError, "n_samples must be an integer, got 2.0"),
        ((True,), TypeError, "n_samples must be an integer, got True"),
        ((1, -1), ValueError, "seed must be between 0 and 9223372036854775807, got -1"),
        ((1, 2**63), ValueError, "seed must be between 0 and 9223372036854775807, got 922"),
        ((1, None), TypeError, "seed must be an integer, got None"),
    ],
)
def test_generators_refuse(make, args, error, message):
    with pytest.raises(error, match=message):
        make(*args)


def test_rectangles_are_outlines():
    X, y = make_rectangles(10_000, seed=1)
    assert_balanced(y)
    assert set(np.unique(X)) == {0, 1}
    sizes = np.zeros((29, 29))
    places = []
    for i, image in enumerate(X.reshape(-1, 28, 28) > 0):
        top, bottom, left, right = bounds(image)
        height, width = bottom - top, right - left
        assert abs(width - height) >= 3
        assert y[i] == (width > height)
        assert image.sum() == width * height - max(width - 2, 0) * max(height - 2, 0)
        assert image[[top, bottom - 1], left:right].all()
        assert image[top:bottom, [left, right - 1]].all()
        sizes[height, width] += 1
        places += [top / (28 - height)] if height < 28 else []
        places += [left / (28 - width)] if width < 28 else []
    side = np.arange(1, 29)
    allowed = np.abs(side[:, np.newaxis] - side) >= 3
    assert_uniform(sizes[1:, 1:][allowed])
    # A mean over places of standard deviation 0.5 at most.
    assert abs(np.mean(places) - 0.5) < 5 * 0.5 / math.sqrt(len(places))
    assert (min(places), max(places)) == (0, 1)


def test_rectangles_of_patches():
    """Patches that differ in every pixel say what comes from where."""
    patches = np.random.default_rng(0).permuted(
        np.linspace(0, 1, 4, dtype=np.float32).repeat(784).reshape(4, 784), axis=0
    )
    X, y = make_rectangles_images(3000, seed=2, patches=patches.reshape(4, 28, 28))
    assert_balanced(y)
    pairs = np.zeros((4, 4))
    for image, label in zip(X, y, strict=True):
        equal = (image == patches).reshape(4, 28, 28)
        used = np.flatnonzero(equal.any(axis=(1, 2)))
        fits = []
        # Other patches have the value of one of the two, too: look for two that make up all of it.
        for inside, around in itertools.permutations(used, 2):
            mask = equal[inside]
            if (mask ^ equal[around]).all() and is_rectangle(mask):
                top, bottom, left, right = bounds(mask)
                fits.append((inside, around, bottom - top, right - left))
        # Around may be a rectangle as well: then the label says which one is meant.
        fits = [fit for fit in fits if (fit[3] > fit[2]) == label and min(fit[2:]) >= 10]
        assert fits
        inside, around, height, width = fits[0]
        assert abs(width - height) >= 5
        if len(fits) == 1:
            pairs[inside, around] += 1
    assert pairs.sum() > 2500
    assert_uniform(pairs[~np.eye(4, dtype=bool)])


def test_textures_are_smooth_and_all_different():
    X, y = make_rectangles_images(4000, seed=3)
    assert_balanced(y)
    assert len(np.unique(X, axis=0)) == len(X)
    inner = X.reshape(-1, 28, 28)
    for a, b in ((inner[:, 1:], inner[:, :-1]), (inner[:, :, 1:], inner[:, :, :-1])):
        # Within an image, what varies does so slowly, but for the rectangle's edge.
        within = inner - inner.mean(axis=(1, 2), keepdims=True)
        assert np.mean((a - b) ** 2) < 0.2 * np.mean(within**2)
    # Grey values over all the range, and a uniform mean of two uniform levels.
    assert np.histogram(X, 10, (0, 1))[0].min() > 0.02 * X.size
    assert X.mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    ("patches", "error", "message"),
    [
        (np.zeros((1, 28, 28)), ValueError, "patches must be two images or more, got 1"),
        (np.zeros((0, 784)), ValueError, "patches must be two images or more, got 0"),
        (np.zeros((5, 27, 28)), ValueError, r"patches must have shape .*, got \(5, 27, 28\)"),
        (np.zeros(784), ValueError, r"patches must have shape .*, got \(784,\)"),
        (3, ValueError, r"patches must have shape .*, got \(\)"),
        ([[1, 2], [3]], ValueError, "patches is not a rectangular array"),
        (np.full((2, 784), 255, np.uint8), ValueError, r"patches\[0\] is 255 at pixel 0, not in"),
        (np.full((2, 784), -0.5), ValueError, r"patches\[0\] is -0.5 at pixel 0, not in \[0, 1\]"),
        (np.full((2, 784), np.nan), ValueError, r"patches\[0, 0\] is nan, not a finite number"),
        (np.full((2, 784), "a"), TypeError, "patches must hold real numbers, got dtype <U1"),
    ],
)
def test_patches_are_refused(patches, error, message):
    with pytest.raises(error, match=message):
        make_rectangles_images(1, patches=patches)


# Convex shapes ----------------------------------------------------------------------------------


def is_convex(image):
    """Whether the convex hull of the white pixels' centres holds no other pixel's centre.

    Exact, in whole numbers. The hull is that of Andrew's monotone chain; a set is cut out by
    half-planes if and only if it is all of its hull.
    """
    white = [tuple(point) for point in np.argwhere(image).tolist()]

    def half(points):
        chain = []
        for p in points:
            while len(chain) > 1 and cross(chain[-2], chain[-1], p) <= 0:
                chain.pop()
            chain.append(p)
        return chain[:-1]

    def cross(a, b, p):
        return (b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0])

    corners = half(white) + half(white[::-1])
    pixels = np.mgrid[:28, :28]
    inside = np.ones((28, 28), bool)
    for a, b in zip(corners, corners[1:] + corners[:1], strict=True):
        inside &= cross(a, b, pixels) >= 0
    if len(corners) == 2:  # both edges are the line through all of them
        (a, b), (c, d) = corners
        inside &= (pixels[0] >= a) & (pixels[0] <= c)
        inside &= (pixels[1] >= min(b, d)) & (pixels[1] <= max(b, d))
    return not (inside & ~image).any()


def has_black_middle(image):
    """Whether a black pixel is in the middle between two white ones: pair by pair."""
    white = np.argwhere(image)
    sums = (white[:, np.newaxis] + white).reshape(-1, 2)
    middles = sums[(sums % 2 == 0).all(axis=1)] // 2
    return not image[tuple(middles.T)].all()


def test_the_oracle():
    disc = np.hypot(*(np.mgrid[:28, :28] - 13.5)) < 9
    assert is_convex(disc)
    assert not has_black_middle(disc)
    for hole in ((13, 13), (5, 13), (13, 22)):
        assert disc[hole]
        image = disc.copy()
        image[hole] = False
        assert not is_convex(image)
    for line in (np.eye(28, dtype=bool), np.eye(28, dtype=bool)[::-1]):
        assert is_convex(line)
        line = line.copy()
        line[5] = False
        assert not is_convex(line)


@pytest.fixture(scope="module")
def convex():
    X, y = make_convex(6_000, seed=4)
    return X.reshape(-1, 28, 28) > 0, y


def test_convex_and_other_shapes(convex):
    shapes, y = convex
    assert set(np.unique(make_convex(50)[0])) == {0, 1}
    assert_balanced(y)
    for image in shapes[y == 1][:400]:
        assert is_convex(image)
    for image in shapes[y == 0][:400]:
        assert not is_convex(image)
    for image in shapes[y == 0][:40]:
        assert has_black_middle(image)


def test_sizes_of_shapes(convex):
    shapes, y = convex
    n_white = shapes.sum(axis=(1, 2))
    sizes, other_sizes = n_white[y == 1], n_white[y == 0]
    assert 19 <= sizes.min() < 22
    assert 10 < other_sizes.min() < 35
    # Means within five standard errors of each other, and of what the documentation says.
    error = math.hypot(*(s.std() / math.sqrt(len(s)) for s in (sizes, other_sizes)))
    assert error < 6
    assert abs(sizes.mean() - other_sizes.mean()) < 5 * error
    assert abs(sizes.mean() - 274) < 5 * error


def one_intersection(rng, parameter):
    """An intersection of half-planes, written as it is described."""
    y, x = np.mgrid[:28, :28] + 0.5
    common_x, common_y = rng.uniform(0, 28, 2)
    image = np.ones((28, 28), bool)
    for _ in range(rng.geometric(parameter)):
        through_x, through_y = rng.uniform(0, 28, 2)
        angle = rng.uniform(0, 2 * math.pi)
        side = (x - through_x) * math.cos(angle) + (y - through_y) * math.sin(angle)
        common_side = (common_x - through_x) * math.cos(angle) + (common_y - through_y) * math.sin(
            angle
        )
        image &= side * common_side >= 0
    return image


def one_shape(rng, parameter, least):
    while True:
        image = one_intersection(rng, parameter)
        if image.sum() >= least:
            return image


def one_union(rng):
    while True:
        image = np.logical_or.reduce([one_shape(rng, 0.07, 10) for _ in range(rng.integers(2, 5))])
        if rng.random() < math.exp(-image.sum() / 495) and not is_convex(image):
            return image


def assert_same_distribution(a, b):
    """The test of Kolmogorov and Smirnov, at one in a million."""
    at = np.concatenate([a, b])
    below = [np.searchsorted(np.sort(s), at, side="right") / len(s) for s in (a, b)]
    limit = math.sqrt(math.log(2e6) / 2 * (1 / len(a) + 1 / len(b)))
    assert np.abs(below[0] - below[1]).max() < limit


def perimeter(shapes):
    return (shapes[:, 1:] ^ shapes[:, :-1]).sum(axis=(1, 2)) + (
        shapes[:, :, 1:] ^ shapes[:, :, :-1]
    ).sum(axis=(1, 2))


def test_shapes_are_distributed_as_described(convex):
    """Sizes, outlines and places, against shapes that are made one at a time."""
    shapes, y = convex
    rng = np.random.default_rng(8)
    for label, reference in (
        (1, np.stack([one_shape(rng, 0.195, 19) for _ in range(800)])),
        (0, np.stack([one_union(rng) for _ in range(400)])),
    ):
        generated = shapes[y == label]
        for statistic in (
            lambda s: s.sum(axis=(1, 2)),
            perimeter,
            lambda s: np.argmax(s.any(axis=2), axis=1),  # the first row
            lambda s: np.argmax(s.any(axis=1)[:, ::-1], axis=1),  # the last column
        ):
            assert_same_distribution(statistic(generated), statistic(reference))


# Deformed images --------------------------------------------------------------------------------


def blobs(n, seed=0):
    """Smooth blobs near the middle, n of them, each at a place of its own."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:28, :28]
    centre = rng.uniform(10, 18, (2, n, 1, 1))
    return np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / 18).astype(np.float32)


def test_deformed_images():
    given = blobs(1500)
    before = given.copy()
    X = deform(given, seed=1)
    np.testing.assert_array_equal(given, before)
    assert (X.shape, X.dtype, X.flags.c_contiguous) == ((1500, 784), np.float32, True)
    assert X.min() >= 0
    assert X.max() <= 1
    np.testing.assert_array_equal(X, deform(given.reshape(-1, 784), seed=1))
    changed = (X.reshape(given.shape) != given).any(axis=(1, 2))
    assert changed.all()
    assert (deform(given, seed=2) != X).any(axis=1).all()
    # Small: where x is exp(-r^2 / 18), the mean square of a derivative is 1/18 of that of x, and
    # both components of the displacement have the variance 1.5^2 + 2/3. Clipping makes it less.
    flat = given.reshape(-1, 784)
    change = ((X - flat) ** 2).sum() / (flat**2).sum()
    assert 0.2 < change < 2 * (1.5**2 + 2 / 3) / 18


def shifted(image, down, right):
    result = np.zeros_like(image)
    result[max(down, 0) : 28 + min(down, 0), max(right, 0) : 28 + min(right, 0)] = image[
        max(-down, 0) : 28 - max(down, 0), max(-right, 0) : 28 - max(right, 0)
    ]
    return result


def test_shifts_of_one_pixel():
    """Without displacements, an image is shifted in one of nine ways, all equally likely."""
    image = np.random.default_rng(0).random((28, 28), np.float32)
    X = deform(np.broadcast_to(image, (4500, 28, 28)), alpha=0).reshape(-1, 28, 28)
    ways = [shifted(image, *by) for by in itertools.product((-1, 0, 1), repeat=2)]
    counts = np.array([(way == X).all(axis=(1, 2)).sum() for way in ways])
    assert counts.sum() == 4500
    assert_uniform(counts)


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize(("alpha", "sigma"), [(1.5, 4.0), (0.5, 2.0)])
def test_displacements(axis, alpha, sigma):
    """On a slope, the change of grey is the slope times the displacement: its size and smoothness.

    A field of noise under a Gaussian filter has the correlation exp(-d^2 / 4 sigma^2) at distance
    d; the shift adds a displacement of variance 2/3 to all of an image.
    """
    slope = 0.4 / 27
    ramp = np.broadcast_to(0.3 + slope * np.arange(28, dtype=np.float32), (28, 28))
    image = ramp if axis == 2 else ramp.T
    X = deform(np.broadcast_to(image, (3000, 28, 28)), seed=3, alpha=alpha, sigma=sigma)
    moved = (X.reshape(-1, 28, 28) - image)[:, 1:-1, 1:-1] / slope
    assert abs(moved.mean()) < 0.1
    for lag in range(4):
        for a, b in (
            (moved[:, lag:], moved[:, : 26 - lag]),
            (moved[:, :, lag:], moved[:, :, : 26 - lag]),
        ):
            wanted = alpha**2 * math.exp(-(lag**2) / (4 * sigma**2)) + 2 / 3
            # 1024 fields of at least ten independent patches each: one or two percent.
            assert (a * b).mean() == pytest.approx(wanted, rel=0.06)


def test_displacements_along_and_across_are_independent():
    slope = 0.2 / 27
    ramp = 0.3 + slope * np.add.outer(np.arange(28), np.arange(28)).astype(np.float32)
    X = deform(np.broadcast_to(ramp, (3000, 28, 28)), seed=3)
    moved = (X.reshape(-1, 28, 28) - ramp)[:, 1:-1, 1:-1] / slope
    assert (moved**2).mean() == pytest.approx(2 * (1.5**2 + 2 / 3), rel=0.06)


def test_displacements_have_no_pattern():
    """No field is like the next one, and all together they go nowhere."""
    fields = digits._fields_and_seeds(seed=5, alpha=2.0, sigma=3.0)[0]
    assert fields.std() == pytest.approx(2, rel=1e-5)
    # Means over the fields; each of the fields is worth more than ten independent numbers.
    error = 4 / math.sqrt(10 * len(fields))
    assert abs((fields[1:] * fields[:-1]).mean()) < 5 * error
    assert np.abs(fields.mean(axis=0)).max() < 5 * 2 / math.sqrt(len(fields))


def points(n):
    """Images of one white pixel each, three pixels from the next one's."""
    X = np.zeros((n, 28, 28), np.float32)
    rows, columns = np.divmod(np.arange(n), 8)
    X[np.arange(n), 3 * rows + 2, 3 * columns + 2] = 1
    return X.reshape(n, 784)


def which_point(X):
    at = X.argmax(axis=1)
    return (at // 28 - 1) // 3 * 8 + (at % 28 - 1) // 3


def test_stream_goes_through_all_images_again_and_again():
    n = 40
    stream = DeformedDigits(points(n), np.arange(n), 3 * n, batch_size=16, seed=1, alpha=0)
    batches = list(stream)
    assert [len(y) for _, y in batches] == [16] * 7 + [8]
    X, y = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    assert (X.shape, X.dtype, y.dtype) == ((3 * n, 784), np.float32, np.int32)
    np.testing.assert_array_equal(which_point(X), y)
    passes = y.reshape(3, n)
    np.testing.assert_array_equal(np.sort(passes, axis=1), [range(n)] * 3)
    assert (passes[0] != passes[1]).any()
    assert (passes[0] != range(n)).any()
    # Deformed anew in every pass.
    first, second = (X[i * n :][np.argsort(passes[i])] for i in (0, 1))
    assert (first != second).any(axis=1).mean() > 0.7


def test_stream_starts_over():
    X, y = blobs(30).reshape(30, 784), np.arange(30, dtype=np.int32)
    stream = DeformedDigits(X, y, batch_size=50, seed=7)
    y[:] = 99  # the stream has its own copy
    first = list(itertools.islice(stream, 4))
    interrupted = iter(stream)
    next(interrupted)
    for others in (stream, DeformedDigits(X, np.arange(30), 200, 50, seed=7)):
        for (a, b), (c, d) in zip(first, others, strict=False):
            np.testing.assert_array_equal(a, c)
            np.testing.assert_array_equal(b, d)
    np.testing.assert_array_equal(next(interrupted)[0], first[1][0])
    assert (first[0][0] != first[1][0]).any()
    other = next(iter(DeformedDigits(X, np.arange(30), batch_size=50, seed=8)))
    assert (other[0] != first[0][0]).any()


@pytest.mark.parametrize(("n_samples", "lengths"), [(1, [1]), (7, [7]), (8, [8]), (17, [8, 8, 1])])
def test_length_of_a_stream(n_samples, lengths):
    stream = DeformedDigits(points(5), np.zeros(5, int), n_samples, batch_size=8)
    assert [len(X) for X, _ in stream] == lengths


def test_an_endless_stream_trains_a_model():
    X, y = make_rectangles(200)
    model = slide.Sequential([slide.Input(784), slide.Dense(2, activation="softmax")], seed=0)
    model.compile("adam", "categorical_crossentropy")
    stream = DeformedDigits(X, y, batch_size=20)
    history = model.fit(stream, steps_per_epoch=3, epochs=2, verbose=0, n_jobs=1).history
    assert len(history["loss"]) == 2
    assert np.isfinite(history["loss"]).all()
    assert model.fit(iter(stream), steps_per_epoch=3, epochs=2, verbose=0, n_jobs=1)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"images": np.zeros((3, 783))}, ValueError, r"images must have .*, got \(3, 783\)"),
        ({"images": np.full((3, 784), 2)}, ValueError, r"images\[0\] is 2 at pixel 0, not in \[0"),
        ({"seed": -1}, ValueError, "seed must be between 0 and"),
        ({"alpha": -0.1}, ValueError, "alpha must be at least 0, got -0.1"),
        ({"alpha": 29}, ValueError, "alpha must be at most 28, got 29"),
        ({"alpha": math.nan}, ValueError, "alpha must be finite, got nan"),
        ({"sigma": 0}, ValueError, "sigma must be greater than 0, got 0"),
        ({"sigma": 1e9}, ValueError, "sigma must be at most 28, got 1000000000.0"),
        ({"sigma": "4"}, TypeError, "sigma must be a number, got '4'"),
    ],
)
def test_deformations_refuse(changes, error, message):
    with pytest.raises(error, match=message):
        deform(**{"images": np.zeros((3, 784)), **changes})
    with pytest.raises(error, match=message):
        DeformedDigits(**{"images": np.zeros((3, 784)), "labels": [0, 1, 2], **changes})


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"images": np.zeros((0, 784))}, ValueError, "images is empty"),
        ({"labels": [0, 1]}, ValueError, "labels must have length 3, one per image; got 2"),
        ({"labels": [0, 1, -2]}, ValueError, r"labels\[2\] is -2; it must be in \[0, 2147483647\]"),
        ({"labels": [0, 2**31, 0]}, ValueError, r"labels\[1\] is 2147483648; it must be in"),
        ({"labels": [0.0, 1.0, 2.0]}, TypeError, "vector of integers, got 1 dimensions of float64"),
        ({"labels": np.eye(3, dtype=int)}, TypeError, "integers, got 2 dimensions of int64"),
        ({"n_samples": 0}, ValueError, "n_samples must be at least 1, got 0"),
        ({"n_samples": 1.5}, TypeError, "n_samples must be an integer, got 1.5"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"batch_size": None}, TypeError, "batch_size must be an integer, got None"),
    ],
)
def test_streams_refuse(changes, error, message):
    with pytest.raises(error, match=message):
        DeformedDigits(**{"images": np.zeros((3, 784)), "labels": [0, 1, 2], **changes})
