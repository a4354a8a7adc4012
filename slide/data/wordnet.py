"""WordNet as an extreme classification problem, bundled with the package."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

__all__ = ["WordNet", "load_wordnet"]

FOLDER = Path(__file__).parent / "bundled"
BUNDLED = FOLDER / "wordnet.bin"
WORD = re.compile(r"[a-z0-9]+(?:\+\+)?")
FEWEST_POINTS = 2  # training points a feature must occur in

DESCRIPTION = """\
WordNet 3.0 noun and verb synsets, to be filed under their hypernyms.

A point is a synset: the words of its lemmas and of its definition, and the pairs of adjacent words
of the definition. Its labels are the synsets up to three hypernym steps above it, those that at
least two training points have. 85,759 training and 9,470 test points, 133,599 features that occur
in at least two training points, 13,043 labels; 18.7 features and 3 labels a point on average.
Values are tf-idf, (1 + ln n) * ln(N / df) of a feature that occurs n times in a point and in df of
N training points, each row scaled to length 1. The split is a hash of the synsets' identifiers.
"""


@dataclass(frozen=True, repr=False)
class WordNet:
    """Synsets of WordNet 3.0 and their hypernyms; see `load_wordnet`.

    Attributes
    ----------
    X_train, X_test : csr_matrix of shape (85759, 133599) and (9470, 133599), float32
        Tf-idf of words and word pairs, rows of length 1.
    Y_train, Y_test : csr_matrix of shape (85759, 13043) and (9470, 13043), float32
        1 for each of a point's labels.
    feature_names : list of str
        A word (``"cat"``) or a pair of adjacent words (``"large_cat"``), sorted.
    label_names : list of str
        A synset's first lemma and its identifier in WordNet (``"big_cat.n02127808"``), sorted.
    description : str
        What the set is and how it was made.
    """

    X_train: sparse.csr_matrix
    Y_train: sparse.csr_matrix
    X_test: sparse.csr_matrix
    Y_test: sparse.csr_matrix
    feature_names: list[str]
    label_names: list[str]
    description: str
    _vectorizer: _Vectorizer
    _glosses: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        return (
            f"WordNet({self.X_train.shape[0]:,} training and {self.X_test.shape[0]:,} test points, "
            f"{len(self.feature_names):,} features, {len(self.label_names):,} labels)"
        )

    @property
    def license(self) -> str:
        """The licence of WordNet 3.0."""
        return (FOLDER / "LICENSE-wordnet.txt").read_text("utf-8")

    def vectorize(self, texts: Iterable[str]) -> sparse.csr_matrix:
        """Turn definitions into rows of features, as the set's own definitions were.

        Parameters
        ----------
        texts : iterable of str
            One definition each, in words. Words the set does not know are left out.

        Returns
        -------
        csr_matrix of shape (len(texts), 133599), float32
            A row without any known word is empty.

        Raises
        ------
        TypeError
            `texts` is a single string, or one of its elements is no string.

        Examples
        --------
        >>> from slide.data import load_wordnet
        >>> wordnet = load_wordnet()
        >>> x = wordnet.vectorize(["a large wild cat"])
        >>> [wordnet.feature_names[i] for i in x.indices]
        ['a', 'a_large', 'cat', 'large', 'large_wild', 'wild']
        """
        if isinstance(texts, (str, bytes)):
            raise TypeError("texts must be an iterable of strings, not one string: use [text]")
        texts = list(texts)
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"texts[{i}] must be a string, not {text!r}")
        return self._vectorizer.transform(texts)

    def label(self, i: int) -> str:
        """The words of label `i`: ``"big cat"`` for ``"big_cat.n02127808"``.

        Raises
        ------
        IndexError
            There is no such label: -1, with which `Sequential.predict` fills up what it has not
            found with ``exact=False``, is none.
        """
        return self.label_names[_checked_id(i)].rpartition(".")[0].replace("_", " ")

    def gloss(self, i: int) -> str:
        """The definition of label `i` in WordNet.

        Raises
        ------
        IndexError
            As in `label`.
        """
        return self._glosses[_checked_id(i)]


def _checked_id(i: int) -> int:
    if i < 0:
        raise IndexError(
            f"there is no label {i}; predict(exact=False) gives -1 where it found none"
        )
    return i


def load_wordnet() -> WordNet:
    """Load the bundled WordNet set: find the hypernyms of a definition, among 13,043 labels.

    A point is a noun or verb synset of WordNet 3.0, given by the words of its lemmas and its
    definition; its labels are the synsets up to three hypernym steps above it. Nothing is
    downloaded.

    Returns
    -------
    WordNet
        Matrices, names, and `WordNet.vectorize` for definitions of one's own.

    Examples
    --------
    >>> from slide.data import load_wordnet
    >>> wordnet = load_wordnet()
    >>> wordnet
    WordNet(85,759 training and 9,470 test points, 133,599 features, 13,043 labels)
    >>> sorted(wordnet.label(i) for i in wordnet.Y_test[0].indices)
    ['decline', 'decrease', 'process']
    """
    content = unpack(BUNDLED.read_bytes())
    n_words = len(content["words"])
    lengths = np.stack([content["lemma_lengths"], content["gloss_lengths"]]).astype(np.int64)
    n_points = lengths.shape[1]

    # Words get the ids of their alphabetical order: features are sorted by name.
    order = np.array(sorted(range(n_words), key=content["words"].__getitem__))
    words = [content["words"][i] for i in order]
    new_id = np.zeros(n_words + 1, np.int64)
    new_id[order + 1] = np.arange(1, n_words + 1)
    tokens = new_id[content["tokens"]]

    # Lemmas and definitions alternate; only a definition's words pair up.
    part = np.repeat(np.arange(2 * n_points), lengths.T.ravel())
    pairs = (part[1:] == part[:-1]) & (part[1:] % 2 == 1)
    point, feature, count = _count_features(part // 2, tokens, pairs, n_words)

    n_test = content["n_test"]
    codes, df = np.unique(feature[point >= n_test], return_counts=True)
    codes, df = codes[df >= FEWEST_POINTS], df[df >= FEWEST_POINTS]
    first, second = np.divmod(codes, n_words + 1)
    names = [
        words[b - 1] if a == 0 else f"{words[a - 1]}_{words[b - 1]}"
        for a, b in zip(first.tolist(), second.tolist(), strict=True)
    ]
    by_name = sorted(range(len(names)), key=names.__getitem__)
    columns = np.empty(len(names), np.int64)
    columns[by_name] = np.arange(len(names))
    vectorizer = _Vectorizer(
        word_ids={word: i for i, word in enumerate(words, start=1)},
        codes=codes,
        columns=columns,
        idf=np.log((n_points - n_test) / df),
    )
    X = vectorizer.weigh(point, feature, count, n_points)
    Y = _label_matrix(content)
    kept = (np.diff(X.indptr) > 0) & (np.diff(Y.indptr) > 0)
    test = np.flatnonzero(kept[:n_test])
    train = n_test + np.flatnonzero(kept[n_test:])
    return WordNet(
        X_train=X[train],
        Y_train=Y[train],
        X_test=X[test],
        Y_test=Y[test],
        feature_names=[names[i] for i in by_name],
        label_names=content["labels"],
        description=DESCRIPTION,
        _vectorizer=vectorizer,
        _glosses=content["glosses"],
    )


@dataclass(frozen=True)
class _Vectorizer:
    """Words to tf-idf.

    A feature's code is ``a * (n_words + 1) + b`` for the pair of words a, b, and b for a word;
    word ids start from 1.
    """

    word_ids: dict[str, int]
    codes: np.ndarray  # of the features, ascending
    columns: np.ndarray  # the feature of each code
    idf: np.ndarray

    def transform(self, texts: list[str]) -> sparse.csr_matrix:
        rows = [[self.word_ids.get(word, 0) for word in split_words(text)] for text in texts]
        point = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
        tokens = np.array([word for row in rows for word in row], np.int64)
        pairs = point[1:] == point[:-1]
        return self.weigh(
            *_count_features(point, tokens, pairs, len(self.word_ids)), n_points=len(rows)
        )

    def weigh(
        self, point: np.ndarray, feature: np.ndarray, count: np.ndarray, n_points: int
    ) -> sparse.csr_matrix:
        """The tf-idf matrix of sorted (point, feature code, count) triples."""
        at = np.minimum(np.searchsorted(self.codes, feature), len(self.codes) - 1)
        known = self.codes[at] == feature
        at, point, count = at[known], point[known], count[known]
        values = (1 + np.log(count)) * self.idf[at]
        norms = np.sqrt(np.bincount(point, values * values, minlength=n_points))
        values = (values / norms[point]).astype(np.float32)
        indptr = np.zeros(n_points + 1, np.int32)
        np.cumsum(np.bincount(point, minlength=n_points), out=indptr[1:])
        shape = (n_points, len(self.codes))
        X = sparse.csr_matrix((values, self.columns[at].astype(np.int32), indptr), shape=shape)
        X.sort_indices()
        return X


def split_words(text: str) -> list[str]:
    """The words of a text in lower case: letters and digits, or a name such as c++."""
    return WORD.findall(text.lower())


def _count_features(
    point: np.ndarray, tokens: np.ndarray, pairs: np.ndarray, n_words: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count each point's words and pairs: sorted (point, feature code, count) triples.

    `pairs` says of each token but the last whether it forms a pair with the next one. Token 0 is
    an unknown word and forms no feature.
    """
    base = n_words + 1
    pairs = pairs & (tokens[:-1] > 0) & (tokens[1:] > 0)
    words = tokens > 0
    keys = np.concatenate(
        [
            point[words] * base**2 + tokens[words],
            point[:-1][pairs] * base**2 + tokens[:-1][pairs] * base + tokens[1:][pairs],
        ]
    )
    keys, count = np.unique(keys, return_counts=True)
    return *np.divmod(keys, base**2), count


def _label_matrix(content: dict[str, Any]) -> sparse.csr_matrix:
    """The labels of all points, training points without any included."""
    lengths = content["set_lengths"].astype(np.int32)
    sets = sparse.csr_matrix(
        (
            np.ones(len(content["set_labels"]), np.float32),
            content["set_labels"].astype(np.int32),
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
        ),
        shape=(len(lengths), len(content["labels"])),
    )
    return sets[content["set_of_point"]]


def pack(content: dict[str, Any]) -> bytes:
    """Numbers, lists of strings and arrays as bytes; the same content gives the same bytes.

    (As far as zlib does: other implementations of its format compress to other bytes.)
    """
    layout = []
    parts = []
    for name, value in content.items():
        if isinstance(value, np.ndarray):
            # All low bytes, then all high bytes: they compress better apart.
            planes = np.ascontiguousarray(value).view(np.uint8).reshape(-1, value.itemsize).T
            parts.append(planes.tobytes())
            layout.append([name, value.dtype.str, len(parts[-1])])
        elif isinstance(value, list):
            parts.append("\n".join(value).encode())
            layout.append([name, "text", len(parts[-1])])
        else:
            layout.append([name, "number", value])
    plain = json.dumps(layout).encode() + b"\n" + b"".join(parts)
    return zlib.compress(plain, 9)


def unpack(packed: bytes) -> dict[str, Any]:
    """The inverse of `pack`."""
    header, _, plain = zlib.decompress(packed).partition(b"\n")
    content: dict[str, Any] = {}
    for name, kind, size in json.loads(header):
        if kind == "number":
            content[name] = size
            continue
        part, plain = plain[:size], plain[size:]
        if kind == "text":
            content[name] = part.decode().split("\n")
        else:
            dtype = np.dtype(kind)
            planes = np.frombuffer(part, np.uint8).reshape(dtype.itemsize, -1)
            content[name] = np.ascontiguousarray(planes.T).view(dtype).ravel()
    return content
