"""Readers and writers of text."""

import tempfile
from pathlib import Path

from slide import data

from .common import points


class Text:
    """A file of 2,000 points with 30 features each."""

    def setup(self):
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "points.txt"
        self.x, self.y = points(2000, 5000, 1000)
        data.write_xmc(self.path, self.x, self.y)

    def teardown(self):
        self.folder.cleanup()

    def time_read_xmc(self):
        data.read_xmc(self.path, cache=False)

    def time_write_xmc(self):
        data.write_xmc(self.path, self.x, self.y)
