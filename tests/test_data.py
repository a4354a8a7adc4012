"""Text readers and the writer, and the bundled WordNet set."""

import gzip
import math
import os
import random
import re
import zlib
from collections import Counter
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from scipy import sparse

from slide._kernels import textio
from slide.data import load_wordnet, read_svmlight, read_xmc, write_xmc, xmc
from slide.data import wordnet as wordnet_module

# Folder that holds the same WordNet set as XMC text, as wn-hyper/train.txt.gz and so on.
XMC_FOLDER = os.environ.get("SLIDE_TEST_DATA", "")
# Folder with WordNet 3.0's data.noun; the default is that of Debian's wordnet-base.
WORDNET_FOLDER = os.environ.get("SLIDE_TEST_WORDNET", "/usr/share/wordnet")

same_folder = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)


def nearest_float32(text):
    """The float32 nearest to a decimal, ties to even, by exact arithmetic on its definition."""
    exact = Fraction(Decimal(text))
    size = abs(exact)
    if not size:
        return np.float32(0.0)
    exponent = max(math.floor(math.log2(size)) if size > Fraction(1, 2**1000) else -2000, -126)
    while size >= Fraction(2) ** (exponent + 1):
        exponent += 1
    while size < Fraction(2) ** exponent and exponent > -126:
        exponent -= 1
    unit = Fraction(2) ** (exponent - 23)
    steps = round(size / unit)  # Python rounds ties to even
    value = float(steps * unit) if steps * unit < 2**128 else math.inf
    return np.float32(math.copysign(value, exact))


def put(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def one_value(path, text):
    """What the reader makes of a value."""
    X, _ = read_xmc(put(path, f"1 1 0\n 0:{text}\n"))
    return X.data[0]


def assert_same(A, B):
    assert A.shape == B.shape
    np.testing.assert_array_equal(A.indptr, B.indptr)
    np.testing.assert_array_equal(A.indices, B.indices)
    np.testing.assert_array_equal(A.data.view(np.uint32), B.data.view(np.uint32))


# Reading ----------------------------------------------------------------------------------------


def test_a_small_file(tmp_path):
    X, Y = read_xmc(put(tmp_path / "a.txt", "3 5 4\n3,0 1:0.5 4:-2e1\n 2:1\n1\n"))
    assert X.toarray().tolist() == [[0, 0.5, 0, 0, -20], [0, 0, 1, 0, 0], [0] * 5]
    assert Y.toarray().tolist() == [[1, 0, 0, 1], [0] * 4, [0, 1, 0, 0]]
    for M in (X, Y):
        assert M.format == "csr"
        assert M.dtype == np.float32
        assert M.indices.dtype == np.int32
        assert M.indptr.dtype == np.int32
        M.check_format(full_check=True)
    X.data[0] = 7  # the arrays are the caller's own
    X.sum_duplicates()


def test_unsorted_ids_are_sorted(tmp_path):
    X, Y = read_xmc(put(tmp_path / "a.txt", "1 9 9\n5,1,3 8:8 0:-1 3:3 1:1e-3\n"))
    assert X.indices.tolist() == [0, 1, 3, 8]
    np.testing.assert_array_equal(X.data, np.float32([-1, 1e-3, 3, 8]))
    assert Y.indices.tolist() == [1, 3, 5]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("2 3 3\r\n1 0:1\r\n 2:1\r\n", [([1], [0]), ([], [2])]),  # lines end as on Windows
        ("2 3 3\n1\t0:1 \t\n\t2:1  \n", [([1], [0]), ([], [2])]),  # tabs, blanks at the end
        ("2 3 3\n1 0:1\n 2:1", [([1], [0]), ([], [2])]),  # no newline at the end
        ("2 3 3\n1 0:1\n2:1\n", [([1], [0]), ([], [2])]),  # no blank before the first feature
        ("2 3 3\n1 0:1\n 2:1\n\n \n\n", [([1], [0]), ([], [2])]),  # blank lines at the end
        ("3 3 3\n\n1 \n \n", [([], []), ([1], []), ([], [])]),  # rows without features
        ("0 3 3\n", []),
        ("0 3 3", []),
        ("1 0 3\n1\n", [([1], [])]),
        ("1 3 0\n 1:1\n", [([], [1])]),
    ],
)
def test_forms_of_rows(tmp_path, text, rows):
    X, Y = read_xmc(put(tmp_path / "a.txt", text))
    assert [(Y[i].indices.tolist(), X[i].indices.tolist()) for i in range(X.shape[0])] == rows
    header = [int(n) for n in text.split()[:3]]
    assert [X.shape[0], X.shape[1], Y.shape[1]] == header


def test_wider_matrices_on_request(tmp_path):
    path = put(tmp_path / "a.txt", "1 3 2\n1 2:1\n")
    X, Y = read_xmc(path, n_features=7, n_labels=5)
    assert (X.shape, Y.shape) == ((1, 7), (1, 5))
    with pytest.raises(ValueError, match=r"line 1: the header announces 3, more than n_features=2"):
        read_xmc(path, n_features=2)
    with pytest.raises(ValueError, match=r"line 1: the header announces 2, more than n_labels=1"):
        read_xmc(path, n_labels=1)
    with pytest.raises(TypeError, match=r"n_labels must be an integer, not '5'"):
        read_xmc(path, n_labels="5")
    with pytest.raises(ValueError, match=r"n_features must be between 0 and 2147483647, not -1"):
        read_xmc(path, n_features=-1)


VALUES = [
    "0", "-0", "0.0", "1", "+1", "-1", "1.", ".5", "-.5e1", "1E2", "1e+2", "1e-2", "00012.5000",
    "0.1", "0.2934", "3.4028235e38", "1.17549435e-38", "1e-45",
    "7e-46", "7.0064923216240853e-46", "7.0064923216240854e-46",
    "7.00649232162408535461864791644958e-46", "2.1019476964872256e-45", "1e-46", "1e-400",
    "3.4028235677973366e38", "16777216", "16777217", "16777217.0", "16777219", "12345678e1",
    "16777217.00000000000000000000000000001", "16777216.99999999999999999999999999999",
    "33554434", "123456789012345678901234567890",
    "0.000000000000000000000000000000000000000000001", "0.12345678901234568",
    "9007199791611905", "9007199791611904.999999", "5e-324",
    "1.00000005960464477539062500000000001", "1.000000059604644775390625",
    "1.00000005960464477539062499999999999", "100000000000000000000e-20",
    "0." + "0" * 60 + "1e61", "1" + "0" * 60 + "e-60", "." + "3" * 400,
]  # fmt: skip


@pytest.mark.parametrize("text", VALUES)
def test_values_are_the_nearest_float32(tmp_path, text):
    assert one_value(tmp_path / "a.txt", text) == nearest_float32(text)


@pytest.mark.parametrize("text", ["0e99999999999999999999", "-1e-99999999999999999999", "-0"])
def test_zeros(tmp_path, text):
    value = one_value(tmp_path / "a.txt", text)
    assert value == 0
    assert np.signbit(value) == text.startswith("-")


@same_folder
@given(
    texts=st.lists(
        st.one_of(
            st.decimals(allow_nan=False, allow_infinity=False, min_value=-10**30, max_value=10**30)
            .map(str),
            st.floats(allow_nan=False, width=32, allow_infinity=False).map(repr),
            st.floats(-1e38, 1e38).map(repr),
        ),
        min_size=1,
        max_size=20,
    )
)  # fmt: skip
def test_any_value_is_the_nearest_float32(tmp_path, texts):
    row = " ".join(f"{i}:{text}" for i, text in enumerate(texts))
    X, _ = read_xmc(put(tmp_path / "a.txt", f"1 {len(texts)} 0\n {row}\n"))
    np.testing.assert_array_equal(X.data, [nearest_float32(text) for text in texts])


def test_values_halfway_between_float32_numbers(tmp_path):
    rng = random.Random(0)
    texts = []
    for _ in range(300):
        half = Fraction(2 * rng.randrange(2**23, 2**24) + 1) * Fraction(2) ** rng.randint(-70, 60)
        exact = Decimal(half.numerator).scaleb(0)
        # Exact decimal expansion: denominators are powers of 2.
        power = half.denominator.bit_length() - 1
        digits = str(half.numerator * 5**power)
        texts += [f"{digits}e-{power}", f"{digits}000001e-{power + 6}"]
        texts += [f"{int(digits) * 10**6 - 1}e-{power + 6}"]
        assert exact == half.numerator
    row = " ".join(f"{i}:{text}" for i, text in enumerate(texts))
    X, _ = read_xmc(put(tmp_path / "a.txt", f"1 {len(texts)} 0\n {row}\n"))
    np.testing.assert_array_equal(X.data, [nearest_float32(text) for text in texts])


@pytest.mark.parametrize("block", [16, 17, 64, 1000])
def test_blocks_may_end_anywhere(tmp_path, monkeypatch, block):
    rng = np.random.default_rng(block)
    X = sparse.random(60, 300, 0.05, "csr", np.float32, rng)
    Y = sparse.random(60, 20, 0.1, "csr", np.float32, rng)
    Y.data[:] = 1
    for name in ("a.txt", "a.txt.gz"):
        write_xmc(tmp_path / name, X, Y)
        monkeypatch.setattr(xmc, "BLOCK", block)
        monkeypatch.setattr(xmc, "READ_AT_ONCE", block)
        got = read_xmc(tmp_path / name)
        assert_same(got[0], X)
        assert_same(got[1], Y)
    bad = (tmp_path / "a.txt").read_bytes().split(b"\n")
    bad[40] += b" junk"
    with pytest.raises(ValueError, match=r"line 41: expected feature:value, found 'junk'"):
        read_xmc(put(tmp_path / "b.txt", b"\n".join(bad)))


@same_folder
@given(data=st.data())
def test_reader_against_a_plain_python_parser(tmp_path, data):
    n_features, n_labels = 50, 9
    lines, X, Y = [], [], []
    blank = st.sampled_from([" ", "  ", "\t"])
    for _ in range(data.draw(st.integers(0, 6))):
        labels = data.draw(st.lists(st.integers(0, n_labels - 1), unique=True, max_size=4))
        features = data.draw(st.lists(st.integers(0, n_features - 1), unique=True, max_size=6))
        numbers = data.draw(st.sampled_from(["{:.4g}", "{!r}", "{:.3f}", "{:e}"]))
        texts = [
            numbers.format(data.draw(st.floats(-1e30, 1e30, allow_subnormal=False)))
            for _ in features
        ]
        line = ",".join(map(str, labels))
        for i, text in zip(features, texts, strict=True):
            line += data.draw(blank) + f"{i}:{text}"
        lines.append(line + data.draw(st.sampled_from(["", " ", "\r"])))
        X.append(np.zeros(n_features, np.float32))
        Y.append(np.zeros(n_labels, np.float32))
        X[-1][features] = [nearest_float32(text) for text in texts]
        Y[-1][labels] = 1
    text = f"{len(lines)} {n_features} {n_labels}\n" + "\n".join(lines) + "\n"
    got_X, got_Y = read_xmc(put(tmp_path / "a.txt", text))
    np.testing.assert_array_equal(got_X.toarray(), np.reshape(X, (-1, n_features)))
    np.testing.assert_array_equal(got_Y.toarray(), np.reshape(Y, (-1, n_labels)))


@same_folder
@given(st.binary(max_size=200))
@example(b"\n 0:1\n")
@example(b"\x00")
def test_junk_is_read_or_refused(tmp_path, junk):
    for content in (junk, b"3 4 5\n" + junk, b"3 4 5\n1 1:1\n2 " + junk):
        for read in (read_xmc, read_svmlight):
            try:
                X, Y = read(put(tmp_path / "a.txt", content))
            except ValueError as error:
                assert str(tmp_path / "a.txt") in str(error)  # noqa: PT017
            else:
                X.check_format(full_check=True)
                Y.check_format(full_check=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ", the file is empty, expected a header 'points features labels'"),
        ("1 2\n", "line 1: expected a header 'points features labels', found '1 2'"),
        ("1 0:1\n", "line 1: expected a header 'points features labels', found '1 0:1'"),
        ("1 2 -3\n", "line 1: expected a header 'points features labels', found '1 2 -3'"),
        ("\n1 2 3\n", "line 1: expected a header 'points features labels', found ''"),
        ("1 3000000000 1\n 0:1\n", "line 1: 3000000000 features are more than 2147483647"),
        ("1 1 3000000000\n 0:1\n", "line 1: 3000000000 labels are more than 2147483647"),
        ("3 9 9\n1 0:1\n", "line 2: the file ends after 1 rows, but its header announces 3"),
        ("3 9 9\n", "line 1: the file ends after 0 rows, but its header announces 3"),
        ("1 9 9\n1 0:1\n2 0:1\n", "line 3: expected the end of the file after 1 rows, found '2'"),
        ("1 9 9\n1 0:1\n 0:1\n", "line 3: expected the end of the file after 1 rows, found '0:1'"),
        ("2 9 9\n1 0:1\n9 0:1\n", "line 3: a label id is outside the header's 0 to 8, found '9'"),
        (
            "1 9 9\n1,99999999999999999999999 0:1\n",
            "line 2: a label id is outside the header's 0 to 8, found '9999",
        ),
        ("1 9 9\n-1 0:1\n", "line 2: a label id is negative, found '-1'"),
        ("1 9 9\n1,-2 0:1\n", "line 2: a label id is negative, found '-2'"),
        ("1 9 9\n1, 0:1\n", "line 2: expected label ids (non-negative integers"),
        ("1 9 9\n,1 0:1\n", "separated by commas), found ',1'"),
        ("1 9 9\n1.0 0:1\n", "separated by commas), found '1.0'"),
        ("1 9 9\ncat 0:1\n", "separated by commas), found 'cat'"),
        ("1 9 9\n3,1,3 0:1\n", "line 2: label 3 occurs twice"),
        ("1 9 9\n1 9:1\n", "line 2: a feature id is outside the header's 0 to 8, found '9:1'"),
        (
            "1 9 9\n1 4294967296:1\n",
            "line 2: a feature id is outside the header's 0 to 8, found '4294967296:1'",
        ),
        ("1 9 9\n1 -1:1\n", "line 2: a feature id is negative, found '-1:1'"),
        ("1 9 9\n-1:1\n", "line 2: a feature id is negative, found '-1:1'"),
        ("1 9 9\n1 0:1 5\n", "line 2: expected feature:value, found '5'"),
        ("1 9 9\n 5 0:1\n", "line 2: expected feature:value, found '5'"),
        ("1 9 9\n1 a:1\n", "line 2: expected feature:value, found 'a:1'"),
        ("1 9 9\n1 0:1 # said\n", "line 2: expected feature:value, found '#'"),
        ("1 9 9\n1 1.5:1\n", "line 2: expected feature:value, found '1.5:1'"),
        ("1 9 9\n1 \x00\n", "line 2: expected feature:value, found '\\x00'"),
        ("1 9 9\n1 é:1\n", "line 2: expected feature:value, found '\\\\xc3\\\\xa9:1'"),
        ("1 9 9\n1 0:\n", "line 2: a feature's value is not a number, found '0:'"),
        ("1 9 9\n1 0: 1\n", "line 2: a feature's value is not a number, found '0:'"),
        ("1 9 9\n1 0:1:2\n", "line 2: a feature's value is not a number, found '0:1:2'"),
        ("1 9 9\n1 0:1,5\n", "line 2: a feature's value is not a number, found '0:1,5'"),
        ("1 9 9\n1 0:0x1\n", "line 2: a feature's value is not a number, found '0:0x1'"),
        ("1 9 9\n1 0:1e\n", "line 2: a feature's value is not a number, found '0:1e'"),
        ("1 9 9\n1 0:.\n", "line 2: a feature's value is not a number, found '0:.'"),
        ("1 9 9\n1 0:--1\n", "line 2: a feature's value is not a number, found '0:--1'"),
        ("1 9 9\n1 0:nano\n", "line 2: a feature's value is not a number, found '0:nano'"),
        ("1 9 9\n1 0:NaN\n", "line 2: a feature's value is not finite in float32, found '0:NaN'"),
        ("1 9 9\n1 0:-inf\n", "line 2: a feature's value is not finite in float32, found '0:-inf'"),
        ("1 9 9\n1 0:Infinity\n", "is not finite in float32, found '0:Infinity'"),
        ("1 9 9\n1 0:3.41e38\n", "is not finite in float32, found '0:3.41e38'"),
        ("1 9 9\n1 0:3.4028235677973367e38\n", "is not finite in float32, found '0:3.40282"),
        ("1 9 9\n1 0:1e999999999999999999999\n", "is not finite in float32, found '0:1e9999"),
        ("1 9 9\n1 3:1 1:2 3:1\n", "line 2: feature 3 occurs twice"),
        ("1 9 9\n1 3:1 3:1\n", "line 2: feature 3 occurs twice"),
        ("1 9 9\n1 0:" + "x" * 500 + "\n", "found '0:" + "x" * 58 + "'"),
    ],
)  # fmt: skip
def test_bad_lines_are_named(tmp_path, text, message):
    path = put(tmp_path / "a.txt", text)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read_xmc(path)
    assert str(caught.value).startswith(f"{path}, ")


def test_a_late_line_is_counted_right(tmp_path):
    n = 300_000  # several blocks
    text = f"{n} 2 2\n" + "0 1:0.123456789\n" * (n - 1) + "0 1:oops\n"
    with pytest.raises(ValueError, match=f"line {n + 1}: a feature's value is not a number"):
        read_xmc(put(tmp_path / "a.txt", text))


def test_missing_file(tmp_path):
    for read in (read_xmc, read_svmlight):
        with pytest.raises(FileNotFoundError, match=r"nowhere\.txt"):
            read(tmp_path / "nowhere.txt")


# Compressed files -------------------------------------------------------------------------------

PLAIN = b"500 1000 9\n" + b"".join(
    b"%d %d:0.%d %d:1\n" % (i % 9, i, i * 7919 % 1009 + 1, 501 + i % 400) for i in range(500)
)


def test_gzip_is_known_by_its_bytes(tmp_path):
    expected = read_xmc(put(tmp_path / "plain.gz", PLAIN))
    got = read_xmc(put(tmp_path / "packed.txt", gzip.compress(PLAIN)))
    parts = gzip.compress(PLAIN[:999]) + gzip.compress(PLAIN[999:]) + bytes(50)
    several = read_xmc(put(tmp_path / "parts.txt", parts))
    for a, b, c in zip(expected, got, several, strict=True):
        assert_same(a, b)
        assert_same(a, c)


@pytest.mark.parametrize("read", [read_xmc, read_svmlight])
def test_damaged_gzip(tmp_path, read):
    _, _, rows = PLAIN.partition(b"\n")
    packed = gzip.compress(PLAIN if read is read_xmc else rows)
    for n in (3, 10, 11, 100, len(packed) // 2, len(packed) - 9, len(packed) - 4, len(packed) - 1):
        with pytest.raises(ValueError, match="damaged or truncated gzip file") as caught:
            read(put(tmp_path / "cut.gz", packed[:n]))
        assert str(tmp_path / "cut.gz") in str(caught.value)
    wrong_sum = bytearray(packed)
    wrong_sum[-6] ^= 1
    for name, content in (("sum", bytes(wrong_sum)), ("tail", packed + b"junk after the end")):
        with pytest.raises(ValueError, match="damaged or truncated gzip file"):
            read(put(tmp_path / f"{name}.gz", content))


# svmlight ---------------------------------------------------------------------------------------


def test_svmlight_multilabel(tmp_path):
    text = "# a comment\n1,3 5:0.2 2:1 # said\n\n 0 7:1#x\n5:1 6:2\n4 # nothing\n"
    path = put(tmp_path / "a.svm", text)
    X, Y = read_svmlight(path)
    assert X.shape == (4, 7)  # ids from 1
    assert Y.shape == (4, 5)
    assert X.toarray()[0].tolist() == [0, 1, 0, 0, np.float32(0.2), 0, 0]
    assert X.toarray()[2].tolist() == [0, 0, 0, 0, 1, 2, 0]
    assert [Y[i].indices.tolist() for i in range(4)] == [[1, 3], [0], [], [4]]
    X, Y = read_svmlight(path, zero_based=True, n_features=9, n_labels=6)
    assert (X.shape, Y.shape) == ((4, 9), (4, 6))
    assert X[0].indices.tolist() == [2, 5]
    X, _ = read_svmlight(put(tmp_path / "b.svm", "1 0:1 2:1\n"))
    assert X[0].indices.tolist() == [0, 2]  # a feature 0: ids from 0


def test_a_shift_of_ids_that_may_be_wrong_is_said(tmp_path):
    path = put(tmp_path / "a.svm", "1 1:1 3:1\n")
    with pytest.warns(UserWarning, match=r"a\.svm: no feature 0 occurs.* say zero_based=False"):
        X, _ = read_svmlight(path, n_features=5)
    assert X.indices.tolist() == [0, 2]
    with pytest.warns(UserWarning, match="zero_based=True"):
        read_svmlight(path, n_features=5, cache=tmp_path / "cache")
    with pytest.warns(UserWarning, match="zero_based=True"):  # from the cache, too
        X, _ = read_svmlight(path, n_features=5, cache=tmp_path / "cache")
    assert (X.shape, X.indices.tolist()) == ((1, 5), [0, 2])
    for zero_based in (True, False):
        read_svmlight(path, n_features=5, zero_based=zero_based)


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_byte_order_mark_is_left_out(tmp_path, end):
    X, Y = read_svmlight(put(tmp_path / "a.svm", "\ufeff3 0:1 2:1" + end))
    assert (X.indices.tolist(), Y.indices.tolist()) == ([0, 2], [3])
    X, Y = read_xmc(put(tmp_path / "a.txt", "\ufeff1 3 4\n3 0:1 2:1" + end))
    assert (X.indices.tolist(), Y.indices.tolist()) == ([0, 2], [3])


def test_svmlight_targets(tmp_path):
    X, y = read_svmlight(put(tmp_path / "a.svm", "+1 1:1\n-1 2:1\n2.5e0\n"), multilabel=False)
    assert y.dtype == np.float32
    assert y.tolist() == [1, -1, 2.5]
    assert X.toarray().tolist() == [[1, 0], [0, 1], [0, 0]]


def test_svmlight_without_points(tmp_path):
    X, Y = read_svmlight(put(tmp_path / "a.svm", "# nothing\n\n"), n_features=3)
    assert (X.shape, Y.shape) == ((0, 3), (0, 0))


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, ", the file is empty"),
        ("1 1:1\n1 qid:3 1:1\n", {}, "line 2: query ids are not supported, found 'qid:3'"),
        ("-1 1:1\n", {}, "line 1: a label id is negative, found '-1'"),
        ("# c\n1 1:1\n1 x\n", {}, "line 3: expected feature:value, found 'x'"),
        ("9470 133599 13043\n", {}, "line 1: expected feature:value, found '133599'"),
        ("1 0:1\n", {"zero_based": False}, "line 1: a feature id is outside 1 to"),
        (
            "1 4:1\n",
            {"n_features": 4, "zero_based": True},
            "a feature id is outside 0 to 3, found '4:1'",
        ),
        ("1 5:1\n", {"n_features": 4, "zero_based": False}, "id is outside 1 to 4, found '5:1'"),
        (
            "1 1:1\n1 4:1\n1 0:1\n",
            {"n_features": 4},
            "line 2: a feature id is outside 0 to 3, found '4'",
        ),
        (
            "1 1:1\n1 5:1\n",
            {"n_features": 4},
            "line 2: a feature id is outside 0 to 4, found '5:1'",
        ),
        ("1 1:1\n3 1:1\n", {"n_labels": 3}, "line 2: a label id is outside 0 to 2, found '3'"),
        (
            "1 1:1\n1:1\n",
            {"multilabel": False},
            "line 2: expected a number before the features, found '1:1'",
        ),
        ("1,2 1:1\n", {"multilabel": False}, "line 1: expected a number, found '1,2'"),
        (
            "nan 1:1\n",
            {"multilabel": False},
            "line 1: a target is not finite in float32, found 'nan'",
        ),
        (
            "1e39 1:1\n",
            {"multilabel": False},
            "line 1: a target is not finite in float32, found '1e39'",
        ),
    ],
)  # fmt: skip
def test_bad_svmlight_lines_are_named(tmp_path, text, options, message):
    path = put(tmp_path / "a.svm", text)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read_svmlight(path, **options)
    assert str(caught.value).startswith(f"{path}, ")


def test_zero_based_is_checked(tmp_path):
    with pytest.raises(ValueError, match="zero_based must be True, False or 'auto', not 'maybe'"):
        read_svmlight(put(tmp_path / "a.svm", "1 1:1\n"), zero_based="maybe")


# Writing ----------------------------------------------------------------------------------------


@st.composite
def points(draw):
    """X and Y with empty rows, rows without labels, and every kind of float32."""
    n = draw(st.integers(0, 6))
    n_features, n_labels = draw(st.integers(0, 12)), draw(st.integers(0, 5))
    value = st.floats(width=32, allow_nan=False, allow_infinity=False)
    made = []
    for width, values in ((n_features, value), (n_labels, st.just(1.0))):
        ids = st.lists(st.integers(0, width - 1), unique=True) if width else st.just([])
        rows = [sorted(draw(ids)) for _ in range(n)]
        data = [draw(values) for row in rows for _ in row]
        indptr = np.cumsum([0] + [len(row) for row in rows]).astype(np.int32)
        indices = np.array([i for row in rows for i in row], np.int32)
        made.append(
            sparse.csr_matrix((np.array(data, np.float32), indices, indptr), shape=(n, width))
        )
    return made


@same_folder
@given(points(), st.sampled_from(["a.txt", "a.txt.gz"]), st.integers(1, 9))
def test_what_is_written_reads_back(tmp_path, data, name, piece):
    before = xmc.WRITTEN_AT_ONCE
    xmc.WRITTEN_AT_ONCE = piece
    try:
        write_xmc(tmp_path / name, *data)
    finally:
        xmc.WRITTEN_AT_ONCE = before
    for written, read in zip(data, read_xmc(tmp_path / name), strict=True):
        assert_same(read, written)
    assert sorted(os.listdir(tmp_path)) in (["a.txt"], ["a.txt.gz"], ["a.txt", "a.txt.gz"])


def test_values_are_written_in_the_fewest_digits(tmp_path):
    values = np.float32(
        [0.1, 1, -2, 0.2934, 1e-5, 1.5e-7, 1e9, 123456784, 16777216, 1e30, 1e-45, 3.4028235e38,
         -0.0, 0.00025, 100, 12.25, 1.17549435e-38, 8.5899346e9]
    )  # fmt: skip
    X = sparse.csr_matrix(values[None, :])
    X.data[:] = values if X.nnz == len(values) else X.data
    write_xmc(tmp_path / "a.txt", X, sparse.csr_matrix((1, 1)))
    texts = [f.partition(":")[2] for f in (tmp_path / "a.txt").read_text().split("\n")[1].split()]
    for text, value in zip(texts, X.data, strict=True):
        digits = len(re.sub(r"e.*|[-.]", "", text).strip("0"))
        shortest = np.format_float_scientific(value, unique=True, trim="-")
        assert np.float32(text) == value
        assert digits == len(re.sub(r"e.*|[-.]", "", shortest).strip("0"))
    assert texts[:6] == ["0.1", "1", "-2", "0.2934", "0.00001", "1.5e-7"]


def test_random_values_read_back(tmp_path):
    bits = np.random.default_rng(0).integers(0, 2**32, 100_000, dtype=np.uint32)
    values = bits.view(np.float32)
    values = values[np.isfinite(values)]
    X = sparse.csr_matrix(
        (values, np.arange(len(values), dtype=np.int32), np.int32([0, len(values)])),
        shape=(1, len(values)),
    )
    write_xmc(tmp_path / "a.txt", X, sparse.csr_matrix((1, 1)))
    assert_same(read_xmc(tmp_path / "a.txt")[0], X)
    text = (tmp_path / "a.txt").read_text().split()[3:]
    assert [np.float32(t.partition(":")[2]) for t in text[:2000]] == values[:2000].tolist()


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_what_interrupts_a_number_is_raised(tmp_path, monkeypatch, error):
    """Between two float32 numbers the parser asks Python, where Ctrl-C may be handled."""

    def interrupted(text):
        raise error

    (tmp_path / "a.txt").write_text("1 1 1\n0 0:1.00000005960464477540\n")
    monkeypatch.setattr(textio, "_nearest_float32", interrupted)
    with pytest.raises(error):
        read_xmc(tmp_path / "a.txt")
    monkeypatch.undo()
    assert read_xmc(tmp_path / "a.txt")[0].data.tolist() == [np.float32(1.0000001)]


@pytest.mark.parametrize("which", ["X", "Y"])
def test_write_refuses_ids_beyond_int32(tmp_path, which):
    wide = sparse.csr_matrix((np.ones(1), [2**31], [0, 1]), shape=(1, 2**32))
    narrow = sparse.csr_matrix((1, 1))
    parts = (wide, narrow) if which == "X" else (narrow, wide)
    with pytest.raises(ValueError, match=f"{which} has 4294967296 columns, more than 2147483647"):
        write_xmc(tmp_path / "a.txt", *parts)
    assert not list(tmp_path.iterdir())


def test_write_takes_arrays_and_sums_duplicates(tmp_path):
    X = sparse.csr_matrix((np.ones(3), [1, 0, 1], [0, 3]), shape=(1, 2))
    write_xmc(tmp_path / "a.txt", X, [[0, 1]])
    assert (tmp_path / "a.txt").read_text() == "1 2 2\n1 0:1 1:2\n"
    assert X.indices.tolist() == [1, 0, 1]  # the caller's matrix is as it was


def test_compressed_files_are_repeatable(tmp_path):
    X, Y = np.eye(3), np.eye(3)
    write_xmc(tmp_path / "a.gz", X, Y)
    write_xmc(tmp_path / "b.gz", X, Y)
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    assert (tmp_path / "a.gz").read_bytes()[:2] == b"\x1f\x8b"


def beyond():
    X = sparse.coo_matrix(np.eye(2))
    X.row[0] = 10**8
    return X


@pytest.mark.parametrize(
    ("X", "Y", "message"),
    [
        (np.eye(2), np.eye(3), "X has 2 rows and Y has 3"),
        ([[0, np.nan]], [[1]], "X[0, 1] is nan, not a finite number"),
        ([[0.0], [1e39]], [[1], [0]], "X[1, 0] is 1e+39, too large for float32"),
        (sparse.csr_matrix([[0.0], [1e39]]), [[1], [0]], "X[1, 0] is 1e+39, too large for"),
        ([[0.0], [1]], [[1, 0], [0, 2]], "Y[1, 1] = 2.0 is neither 0 nor 1"),
        ([1.0], [[1]], "X must have 2 dimensions, not 1"),
        (beyond(), [[1], [1]], "X.row[0] is 100000000; it must be in [0, 2)"),
    ],
)
def test_refused_data_leave_the_old_file(tmp_path, X, Y, message):
    path = put(tmp_path / "a.txt", "old")
    with pytest.raises(ValueError, match=re.escape(message)):
        write_xmc(path, X, Y)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.ma.masked_equal(np.eye(2), 1), "X is a masked array"),
        (np.eye(2) * 1j, "X must hold real numbers, got dtype complex128"),
        (sparse.csr_matrix(np.eye(2) * 1j), "X must hold real numbers, got dtype complex128"),
        ([["1", "2"], ["3", "4"]], "X must hold real numbers, got dtype <U1"),
    ],
)
def test_write_refuses_what_fit_refuses(tmp_path, X, message):
    with pytest.raises(TypeError, match=message):
        write_xmc(tmp_path / "a.txt", X, np.eye(2))
    with pytest.raises(TypeError, match=message.replace("X", "Y")):
        write_xmc(tmp_path / "a.txt", np.eye(2), X)
    assert not list(tmp_path.iterdir())


def test_write_sums_small_numbers(tmp_path):
    X = sparse.csr_matrix((np.uint8([200, 200]), [0, 0], [0, 2]), shape=(1, 1))
    write_xmc(tmp_path / "a.txt", X, [[1]])
    assert (tmp_path / "a.txt").read_text() == "1 1 1\n0 0:400\n"


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = put(tmp_path / "a.txt", "old")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(xmc, "format_rows", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_xmc(path, np.eye(2), np.eye(2))
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


# WordNet ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wordnet():
    return load_wordnet()


def test_wordnet_is_the_known_set(wordnet):
    found = {
        name: (M.shape, M.nnz, zlib.crc32(M.indptr.astype("<i4")), zlib.crc32(M.indices))
        for name in ("X_train", "Y_train", "X_test", "Y_test")
        for M in [getattr(wordnet, name)]
    }
    assert found == {
        "X_train": ((85759, 133599), 1603697, 1172750947, 3925611078),
        "Y_train": ((85759, 13043), 256348, 126990457, 1007617306),
        "X_test": ((9470, 133599), 164216, 546302058, 4051403704),
        "Y_test": ((9470, 13043), 27735, 1482820603, 1516098446),
    }
    for M in (wordnet.X_train, wordnet.Y_train, wordnet.X_test, wordnet.Y_test):
        assert M.dtype == np.float32
        assert M.indices.dtype == np.int32
        M.check_format(full_check=True)
        assert M.has_canonical_format
    assert wordnet.X_train.data.sum(dtype=float) == pytest.approx(322472.48524, abs=0.01)
    assert wordnet.X_test.data.sum(dtype=float) == pytest.approx(34151.59953, abs=0.01)
    assert (wordnet.Y_train.data == 1).all()
    assert (wordnet.Y_test.data == 1).all()
    assert len(wordnet.feature_names) == 133599
    assert wordnet.feature_names == sorted(set(wordnet.feature_names))
    assert len(wordnet.label_names) == 13043
    assert wordnet.label_names == sorted(set(wordnet.label_names))


def test_wordnet_points_are_unit_vectors_with_labels(wordnet):
    for X, Y in ((wordnet.X_train, wordnet.Y_train), (wordnet.X_test, wordnet.Y_test)):
        np.testing.assert_allclose(np.sqrt(X.multiply(X).sum(axis=1)), 1, atol=1e-6)
        assert np.diff(Y.indptr).min() >= 1
    # The rules of the set: every feature and label has two training points (of the points kept
    # or of those left out for want of labels, which are few).
    assert (np.bincount(wordnet.Y_train.indices, minlength=13043) >= 2).all()
    assert (np.bincount(wordnet.X_train.indices, minlength=133599) >= 2).mean() > 0.999


def test_wordnet_labels_read_as_words(wordnet):
    i = wordnet.label_names.index("big_cat.n02127808")
    assert wordnet.label(i) == "big cat"
    assert wordnet.gloss(i) == (
        "any of several large cats typically able to roar and living in the wild"
    )
    assert "tf-idf" in wordnet.description
    assert "WordNet 3.0 Copyright 2006 by Princeton University" in wordnet.license
    assert repr(wordnet).startswith("WordNet(85,759 training and 9,470 test points")
    for ask in (wordnet.label, wordnet.gloss):
        with pytest.raises(IndexError, match=r"no label -1; predict\(exact=False\) gives -1"):
            ask(np.int32(-1))


def test_vectorize_equals_a_plain_tfidf(wordnet):
    text = "A large, wild CAT; a large wild cat (Felis) zzzqq of Africa"
    column = {name: i for i, name in enumerate(wordnet.feature_names)}
    words = ["a", "large", "wild", "cat"] * 2 + ["felis", "zzzqq", "of", "africa"]
    counts = Counter(words + [f"{a}_{b}" for a, b in pairwise(words)])
    # The idf of a feature shows in the vector of its own name, beside that of any other word.
    df = np.bincount(wordnet.X_train.indices, minlength=len(column))
    known = {column[f]: n for f, n in counts.items() if f in column}
    assert "large_wild" in column
    expected = {i: (1 + math.log(n)) * math.log(85759 / df[i]) for i, n in known.items()}
    norm = math.sqrt(sum(v * v for v in expected.values()))
    x = wordnet.vectorize([text])
    assert x.indices.tolist() == sorted(known)
    # Some training points were left out of X_train for want of labels: df is a little low.
    np.testing.assert_allclose(x.data, [expected[i] / norm for i in x.indices], rtol=2e-3)


def test_vectorize_gives_back_a_point(wordnet):
    # big cat: lemmas "big cat", "cat" (words only), and the definition (words and pairs).
    content = wordnet_module.unpack(wordnet_module.BUNDLED.read_bytes())
    words = ["", *content["words"]]
    lengths = content["lemma_lengths"].astype(int) + content["gloss_lengths"]
    ends = np.cumsum(lengths)
    checked = 0
    for i in range(200):
        start = ends[i] - lengths[i]
        lemmas = content["lemma_lengths"][i]
        tokens = [words[t] for t in content["tokens"][start : ends[i]]]
        if lemmas != 1 or "" in tokens or not len(wordnet.Y_test[i].indices):
            continue
        # A single lemma before its definition adds one pair; without it the points are the same.
        x = wordnet.vectorize([" ".join(tokens)])
        pair = f"{tokens[0]}_{tokens[1]}"
        if pair in {wordnet.feature_names[j] for j in x.indices}:
            continue
        same = (wordnet.X_test != x[np.zeros(9470, int)]).getnnz(axis=1) == 0
        assert same.any()
        checked += 1
        if checked == 5:
            break
    assert checked


def test_vectorize_odd_texts(wordnet):
    X = wordnet.vectorize(["", "zzzqq", "cat"])
    assert X.shape == (3, 133599)
    assert np.diff(X.indptr).tolist() == [0, 0, 1]
    assert X.data.tolist() == [1]
    assert wordnet.vectorize([]).shape == (0, 133599)
    assert wordnet.vectorize(t for t in ["cat"]).shape == (1, 133599)
    with pytest.raises(TypeError, match="texts must be an iterable of strings, not one string"):
        wordnet.vectorize("a cat")
    with pytest.raises(TypeError, match=r"texts\[1\] must be a string, not None"):
        wordnet.vectorize(["a cat", None])


def test_bundle_is_small_and_plain():
    folder = wordnet_module.FOLDER
    assert sum(p.stat().st_size for p in folder.iterdir()) <= 5_000_000
    assert zlib.crc32(zlib.decompress(wordnet_module.BUNDLED.read_bytes())) == CONTENT_CRC


CONTENT_CRC = 2113400488


@pytest.mark.skipif(
    not Path(XMC_FOLDER, "wn-hyper").is_dir(),
    reason="SLIDE_TEST_DATA names no folder with wn-hyper",
)
def test_wordnet_equals_its_xmc_files(wordnet):
    folder = Path(XMC_FOLDER, "wn-hyper")
    for part in ("train", "test"):
        X, Y = read_xmc(folder / f"{part}.txt.gz")
        got = getattr(wordnet, f"X_{part}")
        assert got.shape == X.shape
        np.testing.assert_array_equal(got.indptr, X.indptr)
        np.testing.assert_array_equal(got.indices, X.indices)
        # The files have 4 significant digits.
        np.testing.assert_allclose(got.data, X.data, rtol=5.01e-4)
        assert_same(getattr(wordnet, f"Y_{part}"), Y)
    for part in ("feature", "label"):
        text = gzip.decompress((folder / f"{part}s.txt.gz").read_bytes()).decode()
        assert getattr(wordnet, f"{part}_names") == text.splitlines()


@pytest.mark.skipif(
    not Path(WORDNET_FOLDER, "data.noun").is_file(), reason="WordNet 3.0 is not installed"
)
def test_the_bundle_is_rebuilt_from_wordnet(tmp_path):
    from slide.data.build_wordnet import main

    main([WORDNET_FOLDER, str(tmp_path / "wordnet.bin")])
    built = (tmp_path / "wordnet.bin").read_bytes()
    bundled = wordnet_module.BUNDLED.read_bytes()
    # Another implementation of zlib may compress the same content to other bytes.
    assert zlib.decompress(built) == zlib.decompress(bundled)
    if zlib.compress(zlib.decompress(bundled), 9) == bundled:
        assert built == bundled


MADE_UP = """\
  1 A licence line
00000001 03 n 01 entity 0 000 | that which exists; "an example"
00000002 03 n 02 big_cat 0 Felis 1 001 @ 00000001 n 0000 | a large wild cat; "cats roar"; "unclosed
00000003 18 n 01 Elsa 0 002 @i 00000002 n 0000 ~ 00000001 n 0000 | a lioness
"""


def test_build_reads_the_wordnet_format(tmp_path):
    from slide.data.build_wordnet import ancestors, read_synsets

    put(tmp_path / "data.noun", MADE_UP)
    put(tmp_path / "data.verb", "00000004 29 v 01 roar(p) 0 000 01 + 02 00 | make a noise\n")
    synsets = read_synsets(tmp_path)
    assert synsets["n00000002"] == (["big cat", "Felis"], "a large wild cat", ["n00000001"])
    assert synsets["n00000003"].hypernyms == ["n00000002"]
    assert synsets["v00000004"] == (["roar"], "make a noise", [])
    assert ancestors(synsets, "n00000003") == {"n00000001", "n00000002"}


def test_pack_and_unpack():
    content = {
        "n": 7,
        "names": ["a", "b c", "é"],
        "ids": np.array([1, 2, 60000], "<u2"),
        "none": np.array([], "<u2"),
    }
    packed = wordnet_module.pack(content)
    got = wordnet_module.unpack(packed)
    assert got["n"] == 7
    assert got["names"] == ["a", "b c", "é"]
    assert got["ids"].tolist() == [1, 2, 60000]
    assert got["none"].tolist() == []
    assert wordnet_module.pack(content) == packed


def test_svmlight_ids_of_both_ends(tmp_path):
    """From 0 to 2^31 - 1 are more than a matrix can have, wherever ids begin."""
    path = tmp_path / "both.svm"
    path.write_text("0 2147483647:1\n0 0:1\n")
    for zero_based in ("auto", True):
        with pytest.raises(ValueError, match="a feature id is outside 0 to 2147483646"):
            read_svmlight(path, zero_based=zero_based)
