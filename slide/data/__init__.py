"""Readers and writers of data files, and a data set to start with."""

from slide.data.wordnet import WordNet, load_wordnet
from slide.data.xmc import read_svmlight, read_xmc, write_xmc

__all__ = ["WordNet", "load_wordnet", "read_svmlight", "read_xmc", "write_xmc"]
