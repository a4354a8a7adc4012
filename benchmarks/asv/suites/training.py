"""Training and prediction, one thread: a batch through layers of every kind."""

from slide import hashing, optimizers, sampling

from .common import network, points

SAMPLERS = {
    "all": lambda: None,
    "auto": lambda: "auto",
    "uniform": lambda: sampling.Uniform(400),
    "own uniform": lambda: sampling.Uniform(400, shared=False),
    "SimHash": lambda: sampling.LSH(hashing.SimHash(9, 20), max_active=400),
    "Clusters": lambda: sampling.LSH(hashing.Clusters(), max_active=400),
    "Sketches": lambda: sampling.LSH(hashing.Sketches(), max_active=400),
}
HIDDEN = {
    "all": lambda: None,
    "uniform": lambda: sampling.Uniform(0.05),
    "standout": lambda: sampling.Standout(0.05),
    "winners": lambda: sampling.WinnerTakeAll(0.05),
    "LSH": lambda: sampling.LSH(hashing.SimHash(6, 5), 0.05),
}
OPTIMIZERS = {
    "SGD": lambda: optimizers.SGD(0.01),
    "momentum": lambda: optimizers.SGD(0.01, momentum=0.9),
    "Adagrad": lambda: optimizers.Adagrad(0.01),
    "Adagrad rowwise": lambda: optimizers.Adagrad(0.01, rowwise=True),
    "Adam": lambda: optimizers.Adam(0.001),
}


class Fit:
    """512 samples in two batches, after the tables were made."""

    def run(self, model, n_outputs):
        self.model = model
        self.x, self.y = points(512, 5000, n_outputs)
        self.step()

    def step(self):
        self.model.fit(self.x, self.y, batch_size=256, verbose=0, n_jobs=1)


class OutputLayer(Fit):
    params = tuple(SAMPLERS)
    param_names = ("sampler",)

    def setup(self, name):
        self.run(network(5000, 64, 10_000, SAMPLERS[name]()), 10_000)

    def time_fit(self, name):
        self.step()

    def time_predict(self, name):
        exact = name in ("all", "uniform", "own uniform")
        self.model.predict(self.x, top_k=5, exact=exact, n_jobs=1)


class HiddenLayer(Fit):
    params = tuple(HIDDEN)
    param_names = ("sampler",)

    def setup(self, name):
        self.run(network(5000, 1000, 100, None, HIDDEN[name]()), 100)

    def time_fit(self, name):
        self.step()


class Optimizer(Fit):
    params = tuple(OPTIMIZERS)
    param_names = ("optimizer",)

    def setup(self, name):
        sampler = sampling.Uniform(400, shared=False)
        self.run(network(5000, 64, 10_000, sampler, None, OPTIMIZERS[name]()), 10_000)

    def time_fit(self, name):
        self.step()
