"""The innermost kernels: seconds are those of the kernels' own clock."""

import numpy as np

from slide._kernels import probes
from slide._memory import aligned_zeros


class Rows:
    """Products and sums of random rows of 576 bytes."""

    params = (1_000, 200_000)
    param_names = ("rows of the table",)
    unit = "ns/row"

    def setup(self, n):
        self.W = aligned_zeros((n, 144))
        self.W[:] = 1
        self.ids = np.random.default_rng(0).integers(0, n, (100, 200), dtype=np.int32)
        self.c = np.ones(200, np.float32)

    def _best(self, measure):
        return 1e9 * min(measure() for _ in range(20)) / self.ids.size

    def track_products(self, n):
        return self._best(lambda: probes.products(self.W, self.ids, self.W[0]))

    def track_sums(self, n):
        return self._best(lambda: probes.sums(self.W, self.ids, self.c))

    def track_touches(self, n):
        return self._best(lambda: probes.touches(self.W, self.ids, 8))

    def track_touches_and_writes(self, n):
        return self._best(lambda: probes.touches(self.W, self.ids, 8, True))
