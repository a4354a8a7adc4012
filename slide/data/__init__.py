"""Readers and writers of data files, generators of images, and a data set to start with."""

from slide.data.binary import read_idx, read_norb
from slide.data.cache import CacheInfo, cache_directory, cache_info, clear_cache
from slide.data.digits import DeformedDigits, deform
from slide.data.images import ImageSet, load_mnist, load_norb
from slide.data.shapes import make_convex, make_rectangles, make_rectangles_images
from slide.data.wordnet import WordNet, load_wordnet
from slide.data.xmc import read_svmlight, read_xmc, write_xmc

__all__ = [
    "CacheInfo",
    "DeformedDigits",
    "ImageSet",
    "WordNet",
    "cache_directory",
    "cache_info",
    "clear_cache",
    "deform",
    "load_mnist",
    "load_norb",
    "load_wordnet",
    "make_convex",
    "make_rectangles",
    "make_rectangles_images",
    "read_idx",
    "read_norb",
    "read_svmlight",
    "read_xmc",
    "write_xmc",
]
