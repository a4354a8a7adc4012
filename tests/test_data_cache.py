"""The binary cache of the readers: the same matrices as parsing, whatever happens to its files."""

import gzip
import json
import os
import re
import stat
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
from safetensors.numpy import load_file
from scipy import sparse

import slide
from slide.data import (
    cache,
    cache_directory,
    cache_info,
    clear_cache,
    read_svmlight,
    read_xmc,
    write_xmc,
    xmc,
)

TEXT = b"4 9 5\n3,0 1:0.5 8:-2e1\n 2:1 3:0.25\n1\n4,2,0 0:7 5:0\n"
SVM = b"2,1 1:0.5 4:2\n0 2:1 # a comment\n\n1:3.5\n3 7:1\n"
TARGETS = b"-1.5 1:0.5 4:2\n+1 2:1\n2 7:1\n"
SHIFTED = pytest.mark.filterwarnings("ignore:.*no feature 0 occurs:UserWarning")
READINGS = [
    (read_xmc, TEXT, {}),
    (read_xmc, TEXT, {"n_features": 12}),
    (read_xmc, TEXT, {"n_labels": 7}),
    (read_xmc, TEXT, {"n_features": 9, "n_labels": 5}),
    # Test names have to be the same in all processes: without the time of day.
    (read_xmc, gzip.compress(TEXT, mtime=0), {}),
    (read_xmc, b"0 3 2\n", {}),
    (read_xmc, b"2 3 2\n\n\n", {}),
    (read_svmlight, SVM, {}),
    (read_svmlight, SVM, {"n_features": 20, "n_labels": 30}),
    (read_svmlight, SVM, {"zero_based": True}),
    (read_svmlight, SVM, {"zero_based": False}),
    (read_svmlight, TARGETS, {"multilabel": False}),
    (read_svmlight, TARGETS, {"multilabel": False, "zero_based": True, "n_features": 8}),
    (read_svmlight, b"# nothing\n", {}),
]


def put(path, content):
    path.write_bytes(content)
    return path


def assert_same(got, expected):
    """Equal in every array, type and flag."""
    for a, b in zip(got, expected, strict=True):
        assert type(a) is type(b)
        assert a.shape == b.shape
        parts = [(a, b)]
        if sparse.issparse(b):
            assert a.has_canonical_format == b.has_canonical_format
            parts = [(getattr(a, n), getattr(b, n)) for n in ("indptr", "indices", "data")]
        for x, y in parts:
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)


@pytest.fixture
def parses(monkeypatch):
    """The names of the files that were parsed."""
    names = []
    opened = xmc._open

    def counted(name):
        names.append(name)
        return opened(name)

    monkeypatch.setattr(xmc, "_open", counted)
    return names


@pytest.fixture
def kept(tmp_path):
    """A file, its cache with one entry, and what the file holds."""
    path, folder = put(tmp_path / "a.txt", TEXT), tmp_path / "cache"
    expected = read_xmc(path, cache=folder)
    (entry,) = folder.iterdir()
    return path, folder, entry, expected


# ------------------------------------------------------------------------- the same as parsing


@SHIFTED
@pytest.mark.parametrize(("read", "text", "options"), READINGS)
def test_same_as_parsing(tmp_path, parses, read, text, options):
    path, folder = put(tmp_path / "a", text), tmp_path / "cache"
    expected = read(path, **options)
    assert_same(read(path, cache=folder, **options), expected)
    assert len(parses) == 2
    assert_same(read(path, cache=folder, **options), expected)
    assert len(parses) == 2


def test_every_way_to_read_has_its_own_entry(tmp_path, parses):
    path, folder = put(tmp_path / "a", b"1 2:0.5\n0 1:1\n"), tmp_path / "cache"
    ways = [{}, {"multilabel": False}, {"zero_based": True}, {"zero_based": False}]
    for n, way in enumerate(ways, 1):
        assert_same(read_svmlight(path, cache=folder, **way), read_svmlight(path, **way))
        assert cache_info(folder).n_files == n
    parses.clear()
    for way in ways:
        read_svmlight(path, cache=folder, **way)
    assert not parses


@SHIFTED
@pytest.mark.parametrize(
    ("read", "text", "own"), [(read_xmc, TEXT, (9, 5)), (read_svmlight, SVM, (7, 4))]
)
def test_numbers_of_columns_share_an_entry(tmp_path, parses, read, text, own):
    path, folder = put(tmp_path / "a", text), tmp_path / "cache"
    wide = {"n_features": 30, "n_labels": 20}
    for first, second in (({}, wide), (wide, {})):
        clear_cache(folder)
        read(path, cache=folder, **first)
        parses.clear()
        got = read(path, cache=folder, **second)
        assert not parses
        assert_same(got, read(path, **second))
        assert (got[0].shape[1], got[1].shape[1]) == ((30, 20) if second else own)
    for narrow in ({"n_features": 2}, {"n_labels": 1}):
        messages = []
        for directory in (False, folder):
            with pytest.raises(ValueError, match="line ") as caught:
                read(path, cache=directory, **narrow)
            messages.append(str(caught.value))
        assert messages[0] == messages[1]
    assert cache_info(folder).n_files == 1


def test_readers_do_not_share_entries(tmp_path):
    # Both can read it: as 1 point of 3 features, and as a label and two targets.
    path, folder = put(tmp_path / "a", b"0 0 0\n"), tmp_path / "cache"
    assert read_xmc(path, cache=folder)[0].shape == (0, 0)
    with pytest.raises(ValueError, match="expected feature:value"):
        read_svmlight(path, cache=folder)


def test_equal_text_elsewhere_is_parsed(tmp_path, parses):
    for name in ("a", "b"):
        read_xmc(put(tmp_path / name, TEXT), cache=tmp_path / "cache")
    assert len(parses) == cache_info(tmp_path / "cache").n_files == 2


def test_relative_and_absolute_paths_are_one_file(kept, monkeypatch, parses):
    path, folder, _, expected = kept
    monkeypatch.chdir(path.parent)
    assert_same(read_xmc("a.txt", cache=str(folder)), expected)
    assert not parses


def test_random_rows(tmp_path, parses):
    # Several pieces: more ids than are checked at a time.
    rng = np.random.default_rng(0)
    X = sparse.random(3000, 5000, 0.1, "csr", np.float32, random_state=0)
    Y = sparse.csr_matrix(rng.random((3000, 40)) < 0.1, dtype=np.float32)
    assert X.nnz > cache.AT_ONCE
    write_xmc(tmp_path / "a", X, Y)
    for _ in range(2):
        assert_same(read_xmc(tmp_path / "a", cache=tmp_path), (X, Y))
    assert len(parses) == 1


def test_errors_are_those_of_the_parser_and_nothing_is_kept(tmp_path):
    path, folder = put(tmp_path / "a", b"1 2 2\n0 5:1\n"), tmp_path / "cache"
    for _ in range(2):
        with pytest.raises(ValueError, match="a feature id is outside the header's 0 to 1"):
            read_xmc(path, cache=folder)
    with pytest.raises(FileNotFoundError, match="none"):
        read_xmc(tmp_path / "none", cache=folder)
    assert not folder.exists()


def test_missing_file_is_missed_although_it_is_in_the_cache(kept):
    path, folder, _, _ = kept
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read_xmc(path, cache=folder)


def test_arrays_belong_to_the_caller(kept, parses):
    path, folder, _, expected = kept
    X, Y = read_xmc(path, cache=folder)
    for array in (X.data, X.indices, X.indptr, Y.data, Y.indices):
        assert array.flags.writeable
        array[:] = 0
    assert_same(read_xmc(path, cache=folder), expected)
    assert not parses


@pytest.mark.parametrize("protected", [False, True])
def test_training_is_the_same(tmp_path, protected):
    rng = np.random.default_rng(1)
    X = sparse.random(200, 50, 0.2, "csr", np.float32, random_state=1)
    write_xmc(tmp_path / "a", X, np.eye(20, dtype=np.float32)[rng.integers(20, size=200)])
    weights = []
    for directory in (False, tmp_path / "cache", tmp_path / "cache"):
        X, Y = read_xmc(tmp_path / "a", cache=directory)
        # Also as a user may have them: arrays that nobody may write to.
        for array in (X.data, X.indices, X.indptr, Y.data, Y.indices, Y.indptr):
            array.flags.writeable = not protected
        model = slide.Sequential([slide.Input(50), slide.Dense(20, activation="softmax")], seed=3)
        model.compile("adam", "categorical_crossentropy")
        model.fit(X, Y, epochs=2, verbose=0, n_jobs=1)
        weights.append(model.layers[-1].get_weights()[0])
    np.testing.assert_array_equal(weights[0], weights[1])
    np.testing.assert_array_equal(weights[0], weights[2])


def test_entry_is_a_safetensors_file(kept):
    _, _, entry, (X, Y) = kept
    arrays = load_file(entry)  # another reader of the format
    np.testing.assert_array_equal(arrays["indptr"], X.indptr)
    np.testing.assert_array_equal(arrays["indices"], X.indices)
    np.testing.assert_array_equal(arrays["data"], X.data)
    np.testing.assert_array_equal(arrays["label_indptr"], Y.indptr)
    np.testing.assert_array_equal(arrays["label_ids"], Y.indices)


# ----------------------------------------------------------------------- when the file changes


def test_changed_content(kept, parses):
    path, folder, _, _ = kept
    put(path, TEXT.replace(b"0.5", b"0.75"))
    assert read_xmc(path, cache=folder)[0][0, 1] == 0.75
    assert read_xmc(path, cache=folder)[0][0, 1] == 0.75
    assert len(parses) == 1
    assert cache_info(folder).n_files == 1  # replaced


def test_changed_content_of_the_same_size_and_time(kept, parses):
    path, folder, _, _ = kept
    before = path.stat()
    put(path, TEXT.replace(b"0.5", b"0.7"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert read_xmc(path, cache=folder)[0][0, 1] == np.float32(0.7)
    assert len(parses) == 1


class SameTimes:
    """`os.fstat`, but nothing ever changes times: only the content can tell."""

    def __init__(self, state):
        self.st_mode, self.st_size = state.st_mode, state.st_size
        self.st_mtime_ns = self.st_ctime_ns = 0


@pytest.mark.parametrize("place", ["start", "end", "sample", "between"])
def test_fingerprint_alone(tmp_path, monkeypatch, parses, place):
    fstat = os.fstat
    monkeypatch.setattr(os, "fstat", lambda handle: SameTimes(fstat(handle)))
    lines = [b"%d 9 5" % 180_000, *[b"1 2:0.25"] * 180_000, b""]
    text = bytearray(b"\n".join(lines))
    assert len(text) > cache.WHOLE
    step = len(text) // (cache.N_SAMPLES + 1)
    start = {"start": 20, "end": len(text) - 20, "sample": 9 * step, "between": 9 * step + 6000}
    path = put(tmp_path / "a", bytes(text))
    read_xmc(path, cache=tmp_path / "cache")
    at = text.index(b"0.25", start[place] - 9 if place == "end" else start[place])
    text[at : at + 4] = b"0.75"
    put(path, bytes(text))
    X, _ = read_xmc(path, cache=tmp_path / "cache")
    # The documented gap: without times, and between the samples, nothing shows.
    noticed = place != "between"
    assert len(parses) == 1 + noticed
    assert (X.data == 0.75).sum() == noticed


@pytest.mark.skipif(os.name == "nt", reason="no time of change")
def test_time_of_change_cannot_be_restored(tmp_path, parses):
    lines = [b"%d 9 5" % 180_000, *[b"1 2:0.25"] * 180_000, b""]
    text = bytearray(b"\n".join(lines))
    path = put(tmp_path / "a", bytes(text))
    before = path.stat()
    read_xmc(path, cache=tmp_path / "cache")
    at = text.index(b"0.25", 9 * (len(text) // (cache.N_SAMPLES + 1)) + 6000)  # in no sample
    text[at : at + 4] = b"0.75"
    time.sleep(0.02)  # the clock of file systems ticks every few milliseconds
    put(path, bytes(text))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    X, _ = read_xmc(path, cache=tmp_path / "cache")
    assert (X.data == 0.75).sum() == 1
    assert len(parses) == 2


def test_small_files_are_compared_completely(tmp_path, monkeypatch):
    fstat = os.fstat
    monkeypatch.setattr(os, "fstat", lambda handle: SameTimes(fstat(handle)))
    path = tmp_path / "a"
    for at in range(6, len(TEXT)):
        read_xmc(put(path, TEXT), cache=tmp_path / "cache")
        if TEXT[at : at + 1] in b"0123456789":
            changed = TEXT[:at] + (b"7" if TEXT[at : at + 1] == b"6" else b"6") + TEXT[at + 1 :]
            try:
                expected = read_xmc(put(tmp_path / "b", changed))
            except ValueError:
                continue
            assert_same(read_xmc(put(path, changed), cache=tmp_path / "cache"), expected)


def test_file_that_changes_while_it_is_parsed_is_not_kept(tmp_path, monkeypatch):
    path, folder = put(tmp_path / "a", TEXT), tmp_path / "cache"
    parse = xmc._parse_xmc

    def slow(*args):
        rows = parse(*args)
        put(path, TEXT.replace(b"0.5", b"0.7"))
        return rows

    monkeypatch.setattr(xmc, "_parse_xmc", slow)
    assert read_xmc(path, cache=folder)[0][0, 1] == 0.5
    assert cache_info(folder).n_files == 0


def test_other_version(kept, monkeypatch, parses):
    path, folder, entry, expected = kept
    old = entry.read_bytes()
    monkeypatch.setattr(cache, "VERSION", cache.VERSION + 1)
    assert_same(read_xmc(path, cache=folder), expected)  # without a warning
    assert len(parses) == 1
    assert entry.read_bytes() != old


# ----------------------------------------------------------------------------- damaged entries


def damaged(kept, content, parses):
    """Reading must warn and parse, or parse; the entry is good afterwards."""
    path, folder, entry, expected = kept
    entry.write_bytes(content)
    parses.clear()
    with pytest.warns(RuntimeWarning, match="not usable, the file is parsed instead"):
        got = read_xmc(path, cache=folder)
    assert_same(got, expected)
    assert len(parses) == 1
    assert_same(read_xmc(path, cache=folder), expected)
    assert len(parses) == 1


def test_every_truncation(kept, parses):
    content = kept[2].read_bytes()
    length = 8 + int.from_bytes(content[:8], "little")
    body = len(content) - length
    # Everywhere in the arrays, so at the start, the middle and the end of each.
    for size in [0, 7, 8, 9, length // 2, length - 1, *range(length, length + body)]:
        damaged(kept, content[:size], parses)
    damaged(kept, content + b"\0", parses)


@pytest.mark.slow
def test_every_flipped_byte(kept, parses):
    path, folder, entry, expected = kept
    content = entry.read_bytes()
    quiet = []
    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= 1 << at % 8
        entry.write_bytes(changed)
        parses.clear()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            got = read_xmc(path, cache=folder)
        quiet += [] if caught else [at]
        assert len(parses) == 1
        assert_same(got, expected)
    # The version: an entry of another one is no reason to warn.
    assert quiet == [content.index(b'"version": "') + len('"version": "')]


def forge(entry, change):
    """Rewrite an entry with valid check sums after `change` of its rows."""
    body = json.loads(split(entry)[1])
    arrays = load_file(entry)
    rows = cache.Rows._make(
        [*(arrays[name] for name, _, _ in cache.ARRAYS), body["n_features"], body["n_labels"]]
    )
    cache._store(entry, body["key"], change(rows), 0o600)


def put_in(name, at, value):
    def change(rows):
        getattr(rows, name)[at] = value
        return rows

    return change


FORGERIES = {
    "first start": put_in("indptr", 0, 1),
    "negative start": put_in("indptr", 0, -1),
    "starts go back": put_in("indptr", 1, 5),
    "last start": put_in("indptr", -1, 7),
    "far start": put_in("indptr", -1, 2**62),
    "label starts": put_in("label_indptr", 1, -3),
    "negative id": put_in("indices", 0, -1),
    "id beyond": put_in("indices", 1, 9),
    "ids descend": put_in("indices", 0, 8),
    "label beyond": put_in("label_ids", -1, 5),
    "label descends": put_in("label_ids", -1, 1),
    "NaN": put_in("data", 2, np.nan),
    "infinite": put_in("data", 2, np.inf),
    "minus infinite": put_in("data", 2, -np.inf),
    "no starts": lambda rows: rows._replace(indptr=rows.indptr[:0]),
    "no rows at all": lambda rows: rows._replace(
        indptr=rows.indptr[:0], label_indptr=rows.indptr[:0]
    ),
    "fewer rows": lambda rows: rows._replace(indptr=rows.indptr[[0, 1, 2, 4]]),
    "fewer values": lambda rows: rows._replace(data=rows.data[:-1]),
    "fewer ids": lambda rows: rows._replace(indices=rows.indices[:-1]),
    "fewer labels": lambda rows: rows._replace(label_ids=rows.label_ids[:-1]),
    "targets": lambda rows: rows._replace(targets=rows.data[:4]),
    "fewer features": lambda rows: rows._replace(n_features=8),
    "too many features": lambda rows: rows._replace(n_features=2**31 + 1),
    "negative labels": lambda rows: rows._replace(n_labels=-1),
    "labels no integer": lambda rows: rows._replace(n_labels=5.0),
    "features no number": lambda rows: rows._replace(n_features="9"),
    "features a truth": lambda rows: rows._replace(n_features=True),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_valid_sums_of_what_no_parser_returns(kept, parses, name):
    forge(kept[2], FORGERIES[name])
    damaged(kept, kept[2].read_bytes(), parses)


@pytest.mark.parametrize("array", ["indices", "label_ids"])
def test_ids_at_the_border_of_two_pieces(kept, monkeypatch, parses, array):
    # Rows of (1, 8), (2, 3), (), (0, 5) and of (0, 3), (), (1), (0, 2, 4).
    for n in (1, 2, 3):
        monkeypatch.setattr(cache, "AT_ONCE", n)
        assert_same(read_xmc(kept[0], cache=kept[1]), kept[3])
    assert not parses
    for at, value in ((1, 1), (1, 0)) if array == "indices" else ((1, 0), (4, 0), (5, 2)):
        for n in (1, 2, 3):
            monkeypatch.setattr(cache, "AT_ONCE", n)
            forge(kept[2], put_in(array, at, value))
            damaged(kept, kept[2].read_bytes(), parses)


def test_forgeries_of_the_helper_are_otherwise_valid(kept, parses):
    # Proof that `forge` itself breaks nothing: a change that a parser could have made is believed.
    forge(kept[2], put_in("data", 2, 64))
    assert read_xmc(kept[0], cache=kept[1])[0].data[2] == 64
    assert not parses


def split(entry):
    """The text of the header, the body in it, and the arrays."""
    content = entry.read_bytes()
    length = 8 + int.from_bytes(content[:8], "little")
    text = content[8:length].decode()
    return text, json.loads(text)["__metadata__"]["body"], content[length:]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"I32"', '"F64"'),
        ('"I64"', '"U64"'),
        ('"shape": [6]', '"shape": [5]'),
        ('"shape": [6]', '"shape": [2305843009213693952]'),
        ("slide-rows", "slide-rose"),
        ('"__metadata__": {', '"__metadata__": 3, "x": {'),
        ('"body": ', '"body": 3, "x": '),
        ('"version": ', '"x": '),
    ],
)
def test_wrong_headers(kept, parses, old, new):
    text, _, arrays = split(kept[2])
    assert old in text
    text = text.replace(old, new).encode()
    damaged(kept, len(text).to_bytes(8, "little") + text + arrays, parses)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"lengths": [5', '"lengths": [1152921504606846975'),
        ('"lengths": [5', '"lengths": [-5'),
        ('"lengths": [5', '"lengths": [5.0'),
        ('"lengths": [5, 6', '"lengths": [6, 5'),
        ('"lengths": [5, 6', '"lengths": [5, 7'),
        ('"crc32": [', '"crc32": 7, "x": ['),
        ('"crc32": [', '"crc32": [1, '),
        ('"key": {', '"key": 4, "x": {'),
        ('"key": {', '"x": {'),
        ('"n_labels": ', '"x": '),
    ],
)
def test_wrong_bodies_in_faultless_headers(kept, parses, old, new):
    _, body, arrays = split(kept[2])
    assert body.count(old) >= 1
    # The last one: n_labels occurs in the key, too.
    body = new.join(body.rsplit(old, 1))
    damaged(kept, cache._header(body) + arrays, parses)


def test_enormous_header_and_deep_json(kept, parses):
    damaged(kept, (2**63).to_bytes(8, "little") + b"{}" * 50, parses)
    deep = b"[" * 500_000
    damaged(kept, len(deep).to_bytes(8, "little") + deep, parses)
    damaged(kept, b"\xff" * 300, parses)


def test_entry_for_more_memory_than_there_is(kept, monkeypatch, parses):
    def refuse(what, n_bytes):
        raise MemoryError(f"{what}: {n_bytes}")

    content = kept[2].read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(cache, "check_memory", refuse)
        with pytest.warns(RuntimeWarning, match="not usable"):
            assert_same(read_xmc(kept[0], cache=kept[1]), kept[3])
    assert kept[2].read_bytes() == content


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_pipes(kept, tmp_path, parses):
    path, folder, entry, expected = kept
    entry.unlink()
    os.mkfifo(entry)
    with pytest.warns(RuntimeWarning, match="not a regular file"):
        assert_same(read_xmc(path, cache=folder), expected)
    # A device as the source: nothing to compare it with next time.
    with (
        pytest.warns(RuntimeWarning, match="not a regular file: it was not cached"),
        pytest.raises(ValueError, match="the file is empty"),
    ):
        read_xmc(os.devnull, cache=folder)


# --------------------------------------------------------------------- directories and processes


def test_directory_instead_of_an_entry(kept):
    path, folder, entry, expected = kept
    entry.unlink()
    (entry / "full").mkdir(parents=True)
    with pytest.warns(RuntimeWarning) as caught:
        assert_same(read_xmc(path, cache=folder), expected)
    assert ["not usable" in str(w.message) for w in caught] == [True, False]
    assert "was not cached" in str(caught[1].message)
    assert [p.name for p in folder.iterdir()] == [entry.name]  # no temporary file is left


@pytest.mark.parametrize("fails", ["mkdir", "mkstemp", "replace", "chmod"])
def test_unwritable_directory(tmp_path, monkeypatch, fails):
    path, folder = put(tmp_path / "a", TEXT), tmp_path / "cache"
    expected = read_xmc(path)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied", str(folder))

    module = {"mkdir": cache.Path, "mkstemp": cache.tempfile}.get(fails, cache.os)
    with monkeypatch.context() as patch:
        patch.setattr(module, fails, refuse)
        with pytest.warns(RuntimeWarning, match="was not cached.*Permission denied") as caught:
            assert_same(read_xmc(path, cache=folder), expected)
    assert caught[0].filename == __file__  # the warning names the caller's line
    assert not folder.exists() or not list(folder.iterdir())


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="may write everywhere")
def test_read_only_directory(kept):
    path, folder, _, expected = kept
    folder.chmod(0o500)
    try:
        assert_same(read_xmc(path, cache=folder), expected)
        with pytest.warns(RuntimeWarning, match="was not cached"):
            read_xmc(put(path.parent / "b", TEXT), cache=folder)
    finally:
        folder.chmod(0o700)


def test_file_instead_of_a_directory(tmp_path):
    path = put(tmp_path / "a", TEXT)
    with pytest.warns(RuntimeWarning, match="not"):
        assert_same(read_xmc(path, cache=path), read_xmc(path))
    assert path.read_bytes() == TEXT


@pytest.mark.skipif(os.name == "nt", reason="modes of POSIX")
def test_who_may_read_the_text_may_read_the_entry(tmp_path):
    for mode in (0o600, 0o644, 0o640):
        path = put(tmp_path / f"{mode}", TEXT)
        path.chmod(mode)
        read_xmc(path, cache=tmp_path / f"cache{mode}")
        (entry,) = (tmp_path / f"cache{mode}").iterdir()
        assert stat.S_IMODE(entry.stat().st_mode) == mode


WRITER = """
import sys, warnings
warnings.simplefilter("error")
from slide.data import clear_cache, read_xmc
path, folder, n, clears = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "1"
for i in range(n):
    # Half of the entries are new to both processes, half are replaced.
    X, Y = read_xmc(f"{path}{i // 2}", cache=folder)
    assert X.shape == (500, 60) and round(float(X.sum()), 2) == float(sys.argv[5])
    if clears and i % 10 == 9:
        for entry in __import__("pathlib").Path(folder).glob("*.rows"):
            entry.unlink(missing_ok=True)
"""


def test_two_processes(tmp_path):
    X = sparse.random(500, 60, 0.2, "csr", np.float32, random_state=2)
    write_xmc(tmp_path / "a", X, np.ones((500, 3)))
    X, Y = read_xmc(tmp_path / "a")
    total = str(round(float(X.sum()), 2))
    for n in range(60):
        put(tmp_path / f"a{n}", (tmp_path / "a").read_bytes())
    folder = tmp_path / "cache"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "a"), str(folder), "120", clears, total],
            stderr=subprocess.PIPE,
        )
        for clears in "01"
    ]
    ends = [process.communicate(timeout=60)[1].decode() for process in started]
    assert [process.returncode for process in started] == [0, 0], ends
    assert not list(folder.glob("*.part"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for n in range(60):
            assert_same(read_xmc(tmp_path / f"a{n}", cache=folder), (X, Y))


# --------------------------------------------------------------------- where, how much, and away


def test_where(monkeypatch, tmp_path):
    for name in ("SLIDE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cache.Path, "home", lambda: tmp_path)
    assert cache_directory() == tmp_path / ".cache" / "slide"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_directory() == tmp_path / ".cache" / "slide"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory() == tmp_path / "xdg" / "slide"
    monkeypatch.setenv("SLIDE_CACHE", str(tmp_path / "mine"))
    assert cache_directory() == tmp_path / "mine"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("SLIDE_CACHE", os.path.join("~", "mine"))
    assert cache_directory() == tmp_path / "mine"
    read_xmc(put(tmp_path / "a", TEXT), cache=True)
    assert cache_info().n_files == 1
    assert cache_info().directory == tmp_path / "mine"
    assert clear_cache().n_files == 1
    assert cache_info() == (tmp_path / "mine", 0, 0)


def test_nothing_is_written_unasked(monkeypatch, tmp_path):
    monkeypatch.setenv("SLIDE_CACHE", str(tmp_path / "mine"))
    path = put(tmp_path / "a", TEXT)
    read_xmc(path)
    read_xmc(path, cache=np.bool_(False))
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_no_home(monkeypatch, tmp_path):
    def none():
        raise RuntimeError("Could not determine home directory.")

    for name in ("SLIDE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cache.Path, "home", none)
    path = put(tmp_path / "a", TEXT)
    with pytest.warns(RuntimeWarning, match="set SLIDE_CACHE"):
        assert_same(read_xmc(path, cache=True), read_xmc(path))
    with pytest.raises(OSError, match="set SLIDE_CACHE"):
        clear_cache()


def test_clear_removes_what_is_ours(kept):
    _, folder, entry, _ = kept
    left = put(folder / f"{entry.name}.x7_y.part", b"123")
    others = [
        put(folder / name, b"1")
        for name in ("a.rows", "b.part", f"x{entry.name}", f"{entry.name}x")
    ]
    size = entry.stat().st_size + left.stat().st_size
    assert cache_info(folder) == (folder, 2, size)
    assert clear_cache(folder) == (folder, 2, size)
    assert sorted(folder.iterdir()) == sorted(others)
    assert clear_cache(folder / "none").n_bytes == 0


@pytest.mark.parametrize("read", [read_xmc, read_svmlight])
def test_wrong_arguments(tmp_path, read):
    path = put(tmp_path / "a", TEXT)
    for value in (3, None, b"folder", 1.5):
        with pytest.raises(TypeError, match="cache must be True, False or a directory, not"):
            read(path, cache=value)
    with pytest.raises(ValueError, match="cache must be True, False or a directory"):
        read(path, cache="")


# ------------------------------------------------------------------------------ the command line


def test_command_line(tmp_path, monkeypatch, capsys, parses):
    from slide.__main__ import main

    monkeypatch.setenv("SLIDE_CACHE", str(tmp_path / "mine"))
    train, model = str(put(tmp_path / "a", TEXT)), str(tmp_path / "m.slide")
    learn = ["train", train, "--output", model, "--epochs", "1", "--quiet", "--n-jobs", "1"]
    assert main(learn) == 0
    assert not (tmp_path / "mine").exists()
    for n in (1, 1):
        assert main([*learn, "--cache"]) == 0
        assert len(parses) == n + 1
    assert main(["evaluate", model, train, "--cache", "--training-data", train]) == 0
    assert main(["predict", model, train, "--cache"]) == 0
    assert len(parses) == 2
    capsys.readouterr()
    assert main(["cache"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"{tmp_path / 'mine'}: 1 file, 0.0 MB")
    for entry in (tmp_path / "mine").iterdir():
        entry.write_bytes(b"damaged")
    assert main([*learn, "--cache"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"warning: the cache of .* is not usable, .*", line)
    assert main(["cache", "--clear"]) == 0
    assert "1 file, 0.0 MB removed" in capsys.readouterr().out
    assert list((tmp_path / "mine").iterdir()) == []
    assert main(["cache"]) == 0
    assert ": 0 files, 0.0 MB" in capsys.readouterr().out
