"""Build the bundled WordNet set: ``python -m slide.data.build_wordnet WORDNET_DIR [OUT]``.

WORDNET_DIR holds ``data.noun`` and ``data.verb`` of WordNet 3.0 (Debian's package wordnet-base
has them in /usr/share/wordnet). A point is a noun or verb synset: its lemmas and its definition.
Its labels are the synsets up to three hypernym steps above it. Points are ordered, and a tenth of
them held out, by a hash of the synset's identifier, so that every run gives the same bytes.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np

from slide.data.wordnet import BUNDLED, pack, split_words

LEVELS = 3
FEWEST_POINTS = 2  # training points a label or a word must have
HYPERNYM = ("@", "@i")  # of a kind, of an instance
QUOTED = re.compile(r'"[^"]*(?:"|$)')  # example sentences in a gloss
MARKER = re.compile(r"\(.*\)$")  # syntactic markers such as (p) after an adjective


class Synset(NamedTuple):
    lemmas: list[str]
    definition: str
    hypernyms: list[str]


def read_synsets(folder: Path) -> dict[str, Synset]:
    """Noun and verb synsets by part of speech and offset, such as ``n02127808``.

    The format is that of the manual page wndb(5WN): blank-separated fields, then ``|`` and the
    gloss.
    """
    synsets = {}
    for part in ("noun", "verb"):
        with open(folder / f"data.{part}", encoding="latin-1") as file:
            for line in file:
                if line.startswith(" "):  # the licence
                    continue
                fields, _, gloss = line.partition("|")
                offset, _, _, n_lemmas, *rest = fields.split()
                end = 2 * int(n_lemmas, 16)
                lemmas = [MARKER.sub("", lemma).replace("_", " ") for lemma in rest[:end:2]]
                pointers = rest[end + 1 : end + 1 + 4 * int(rest[end])]
                hypernyms = [
                    of + target
                    for symbol, target, of in zip(
                        pointers[::4], pointers[1::4], pointers[2::4], strict=True
                    )
                    if symbol in HYPERNYM
                ]
                definition = QUOTED.sub("", gloss).strip(" ;\n")
                synsets[part[0] + offset] = Synset(lemmas, definition, hypernyms)
    return synsets


def ancestors(synsets: dict[str, Synset], start: str) -> set[str]:
    """The synsets up to LEVELS hypernym steps above one, without itself."""
    found: set[str] = set()
    level = {start}
    for _ in range(LEVELS):
        level = {up for synset in level for up in synsets[synset].hypernyms} - found
        found |= level
    return found - {start}


def hashed(key: str) -> int:
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big")


def build(folder: Path) -> bytes:
    """The content of the bundled file."""
    synsets = read_synsets(folder)
    labels_of = {key: ancestors(synsets, key) for key in synsets}
    keys = sorted((key for key in synsets if labels_of[key]), key=lambda key: (hashed(key), key))
    n_test = sum(hashed(key) / 2**64 < 0.1 for key in keys)  # they come first
    # Training points whose labels are all too rare are no points of the set, but their words
    # count in the document frequencies: they stay in the file, without labels.
    lemma_words = [split_words(" ".join(synsets[key].lemmas)) for key in keys]
    gloss_words = [split_words(synsets[key].definition) for key in keys]

    label_count = Counter(label for key in keys[n_test:] for label in labels_of[key])
    name_of = {
        key: f"{synsets[key].lemmas[0].replace(' ', '_')}.{key}"
        for key, n in label_count.items()
        if n >= FEWEST_POINTS
    }
    label_keys = sorted(name_of, key=name_of.__getitem__)
    label_id = {key: i for i, key in enumerate(label_keys)}

    word_count = Counter(
        word
        for first, second in zip(lemma_words[n_test:], gloss_words[n_test:], strict=True)
        for word in {*first, *second}
    )
    # 0 stands for a word too rare to be a feature; the commonest words get the smallest ids,
    # which compress best.
    total = Counter(word for part in (lemma_words, gloss_words) for row in part for word in row)
    words = sorted(
        (word for word, n in word_count.items() if n >= FEWEST_POINTS),
        key=lambda word: (-total[word], word),
    )
    word_id = {word: i for i, word in enumerate(words, start=1)}

    sets: dict[tuple[int, ...], int] = {}
    set_of = [
        sets.setdefault(tuple(sorted(label_id[k] for k in labels_of[key] if k in label_id)), len(sets))
        for key in keys
    ]
    return pack(
        {
            "n_test": n_test,
            "words": words,
            "labels": [name_of[key] for key in label_keys],
            "glosses": [synsets[key].definition for key in label_keys],
            "lemma_lengths": np.array([len(row) for row in lemma_words], "<u2"),
            "gloss_lengths": np.array([len(row) for row in gloss_words], "<u2"),
            "tokens": np.array(
                [
                    word_id.get(word, 0)
                    for first, second in zip(lemma_words, gloss_words, strict=True)
                    for word in (*first, *second)
                ],
                "<u2",
            ),
            "set_lengths": np.array([len(ids) for ids in sets], "<u2"),
            "set_labels": np.array([i for ids in sets for i in ids], "<u2"),
            "set_of_point": np.array(set_of, "<u2"),
        }
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m slide.data.build_wordnet",
        description="Build the bundled WordNet set from the files of WordNet 3.0.",
    )
    parser.add_argument("wordnet", type=Path, help="folder with data.noun and data.verb")
    parser.add_argument(
        "out", type=Path, nargs="?", default=BUNDLED, help="file to write (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    content = build(options.wordnet)
    options.out.write_bytes(content)
    print(f"{options.out}: {len(content):,} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
