"""Tables of an output layer: building them, and what one query finds."""

from slide import hashing, sampling

from .common import inputs, parameters

N, DIM, QUERIES = 20_000, 129, 64

RETRIEVERS = {
    "SimHash": lambda: hashing.SimHash(9, 20),
    "E2LSH": lambda: hashing.E2LSH(3, 20),
    "DWTA": lambda: hashing.DWTA(3, 20),
    "CrossPolytope": lambda: hashing.CrossPolytope(1, 20),
    "Clusters": lambda: hashing.Clusters(),
    "Clusters in groups": lambda: hashing.Clusters(n_cells=500, n_groups=20),
    "Sketches": lambda: hashing.Sketches(),
}


class Tables:
    params = tuple(RETRIEVERS)
    param_names = ("retriever",)

    def setup(self, name):
        self.p, self.x = parameters(N, DIM), inputs(QUERIES, DIM)
        sampler = sampling.LSH(RETRIEVERS[name](), max_active=200)
        self.active = sampler.active_set(N, DIM, 0, 1)
        self.labels = [[]] * QUERIES
        self.time_query(name)

    def time_build(self, name):
        """All neurons, and one query, which takes no time beside it."""
        self.active.weights_replaced()
        self.active.select_batch(self.p, self.x[:1], [[]])

    def time_query(self, name):
        """64 queries in tables that are not looked after in between."""
        self.active.select_batch(self.p, self.x, self.labels)
