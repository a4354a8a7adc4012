"""Hidden layers with active sets, against the float64 oracle: gradients, optimizers, which weights
change, threads, staleness, predictions, and the numbers of multiplications.

Weights of a layer are kept as [W | b], (n_out, n_in + 1), in the simulations.
"""

import itertools

import numpy as np
import pytest
import reference as ref
import scipy.sparse as sp

import slide
from slide import hashing, sampling
from slide.optimizers import SGD, Adagrad, Adam
from slide.sampling import LSH, LifetimeSparsity, Standout, Uniform, WinnerTakeAll

LOSS = "categorical_crossentropy"


def make(n_in, hidden, output=(5, "softmax"), *, use_bias=True, l2=0.0, sparse=False, seed=0):
    """A network of (units, activation, sampler) with random weights and biases."""
    layers = [slide.Input(n_in, sparse=sparse)]
    for units, activation, sampler in [*hidden, (*output, None)]:
        layers.append(
            slide.Dense(
                units,
                activation,
                sampler=sampler,
                use_bias=use_bias,
                kernel_regularizer=slide.regularizers.L2(l2) if l2 else None,
            )
        )
    model = slide.Sequential(layers, seed=seed)
    rng = np.random.default_rng(seed + 500)
    weights = []
    for below, units in itertools.pairwise([n_in, *[units for units, *_ in hidden], output[0]]):
        weights.append(rng.normal(size=(below, units)) / np.sqrt(below))
        if use_bias:
            weights.append(rng.normal(size=units) * 0.3)
    model.set_weights(weights)
    return model


def rows(n, width, seed=0, zeros=0.3):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, width)) * (rng.random((n, width)) > zeros)
    return x.astype(np.float32)


def one_hot(n, width, seed=0):
    return np.eye(width, dtype=np.float32)[np.random.default_rng(seed).integers(0, width, n)]


def everything(units, fraction, scale=1.0, transform=None):
    """LSH that looks into all buckets and ranks all neurons: winner-take-all."""
    family = hashing.SimHash(3, 2, transform=transform, n_probes=8)
    return LSH(family, max_active=fraction, candidates=units, scale=scale)


def kept_of(layer):
    """(neurons kept, factor) of a layer with winners; (None, 1) of one without active sets."""
    sampler = layer.sampler
    if sampler is None:
        return None, 1.0
    fraction = sampler.max_active if isinstance(sampler, LSH) else sampler.fraction
    return max(1, round(fraction * layer.units)), sampler.scale


def oracle_layers(model, x, weights=None):
    """The oracle's layers, with the masks that winner-take-all has for x."""
    layers = ref.layers_of(model)
    if weights is not None:
        layers = [
            layer._replace(weights=w[:, :-1], bias=w[:, -1])
            for layer, w in zip(layers, weights, strict=True)
        ]
    kept, factors = zip(*[kept_of(layer) for layer in model.layers], strict=True)
    return ref.with_winners(layers, x, kept, factors)


def touched_weights(layers, pairs):
    """Masks of the weights [W | b] that a step touches: active out times active in.

    A neuron that has no gradient is not touched, nor is what an input at exactly 0 would reach in
    a list of active relus. Layers without any list are touched as a whole.
    """
    masks = []
    for i, (h, dz) in enumerate(pairs):
        below = layers[i - 1] if i else None
        gets = (dz != 0).astype(float)
        if below is None or below.active is None:
            gets = gets if layers[i].active is not None else np.ones_like(gets)
            listed = np.ones(h.shape)
        else:
            listed = below.active & (h != 0) if below.activation == "relu" else below.active
        masks.append(gets.T @ np.hstack([listed, np.ones((len(h), 1))]) > 0)
    return masks


def full_gradients(layers, pairs, l2=0.0):
    """dL/d[W | b] with the penalty on touched weights, and the masks of what is touched."""
    masks = touched_weights(layers, pairs)
    gradients = []
    for layer, (h, dz), mask in zip(layers, pairs, masks, strict=True):
        g = np.hstack([dz.T @ h, dz.sum(axis=0)[:, None]])
        g[:, :-1] += 2 * l2 * layer.weights * mask[:, :-1]
        gradients.append(g)
    return gradients, masks


def joined(model):
    """[W | b] of every layer, (n_out, n_in + 1)."""
    found, weights = [], iter(model.get_weights())
    for layer in model.layers:
        w = next(weights).T.astype(np.float64)
        b = next(weights) if layer.use_bias else np.zeros(len(w))
        found.append(np.ascontiguousarray(np.hstack([w, b[:, None]])))
    return found


def changes_of_one_step(model, x, y, loss=LOSS, n_jobs=1):
    """With plain SGD of rate 1 the change of the weights is the gradient."""
    before = joined(model)
    model.compile(SGD(1.0), loss)
    loss = model.train_on_batch(x, y, n_jobs=n_jobs)["loss"]
    return loss, [b - a for b, a in zip(before, joined(model), strict=True)]


# --------------------------------------------------------------------------- gradients

# units, activation, kept share (None: no sampler). 130 and 140 neurons are more than one part of
# the input gradient's sum.
NETS = {
    "one": [(40, "relu", 0.2)],
    "two": [(40, "tanh", 0.2), (33, "sigmoid", 0.3)],
    "dense below": [(20, "linear", None), (48, "relu", 0.25), (31, "tanh", 0.2)],
    "dense between": [(48, "sigmoid", 0.25), (17, "relu", None), (65, "linear", 0.1)],
    "dense above": [(37, "linear", 0.2), (30, "tanh", None)],
    "wide": [(130, "relu", 0.3), (140, "tanh", 0.2)],
}


def net(name, kind, **arguments):
    hidden = []
    for i, (units, activation, share) in enumerate(NETS[name]):
        sampler = None
        if share is not None:
            scale = 1.5 if i == 0 else 1.0
            sampler = WinnerTakeAll(share, scale)
            if kind == "lsh":
                sampler = everything(units, share, scale, (None, "sign_alsh", "simple_lsh")[i % 3])
        hidden.append((units, activation, sampler))
    return make(11, hidden, **arguments)


def check_gradients(model, x, y, loss, l2=0.0, n_jobs=1):
    layers = oracle_layers(model, x)
    value, pairs = ref.loss_and_deltas(layers, x, y, loss)
    expected, masks = full_gradients(layers, pairs, l2)
    found_value, found = changes_of_one_step(model, x, y, loss, n_jobs)
    assert found_value == pytest.approx(value, rel=1e-4)
    for a, b, mask, layer in zip(found, expected, masks, model.layers, strict=True):
        if not layer.use_bias:
            a, b, mask = a[:, :-1], b[:, :-1], mask[:, :-1]
        # Weights of size 1 minus a gradient, in float32.
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=3e-6)
        if not layer.by_feature:
            assert not a[~mask].any()


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("kind", ["winners", "lsh"])
@pytest.mark.parametrize("name", NETS)
def test_gradients_of_winners(name, kind, use_bias):
    """37 samples: more than one block of them. LSH that sees everything chooses the same."""
    x = rows(37, 11, seed=1)
    for sparse in [False, True] if NETS[name][0][2] is None else [False]:
        model = net(name, kind, use_bias=use_bias, sparse=sparse)
        check_gradients(model, x, one_hot(37, 5), LOSS)


@pytest.mark.parametrize("kind", ["winners", "lsh"])
@pytest.mark.parametrize("name", ["two", "dense between"])
def test_l2_of_touched_weights(name, kind):
    """2 l2 w is added to the weights that are touched, and to no bias."""
    model = net(name, kind, l2=0.05)
    check_gradients(model, rows(6, 11, seed=2), one_hot(6, 5), LOSS, l2=0.05)


@pytest.mark.parametrize(
    ("activation", "loss"),
    [("sigmoid", "binary_crossentropy"), ("linear", "mean_squared_error")],
)
def test_other_losses_above_a_sampled_layer(activation, loss):
    model = make(11, [(40, "tanh", WinnerTakeAll(0.2))], (7, activation))
    y = (np.random.default_rng(3).random((20, 7)) < 0.3).astype(np.float32)
    layers = oracle_layers(model, rows(20, 11))
    mean = loss == "binary_crossentropy" and model_mean(loss)
    value, pairs = ref.loss_and_gradients(layers, rows(20, 11), y, loss, mean_outputs=mean)
    found_value, found = changes_of_one_step(model, rows(20, 11), y, loss)
    assert found_value == pytest.approx(value, rel=1e-4)
    for a, (dw, db) in zip(found, pairs, strict=True):
        np.testing.assert_allclose(a, np.hstack([dw, db[:, None]]), rtol=1e-3, atol=3e-6)


def model_mean(loss):
    return slide.losses.get(loss).get_config()["reduction"] == "mean"


def test_all_neurons_kept_is_no_sampler():
    x, y = rows(9, 11), one_hot(9, 5)
    dense = changes_of_one_step(make(11, [(20, "tanh", None), (16, "relu", None)]), x, y)
    for sampler in (
        lambda units: WinnerTakeAll(1.0),
        lambda units: Uniform(1.0),
        lambda units: LifetimeSparsity(1.0),
        lambda units: everything(units, 1.0),
    ):
        model = make(11, [(20, "tanh", sampler(20)), (16, "relu", sampler(16))])
        found = changes_of_one_step(model, x, y)
        assert found[0] == pytest.approx(dense[0], rel=1e-5)
        for a, b in zip(found[1], dense[1], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("share", [0.2, 0.7])
@pytest.mark.parametrize("activation", ["relu", "sigmoid", "tanh", "linear"])
def test_gradients_of_uniform(activation, share):
    """One sample: rows that changed were drawn. Activations are divided by the drawn share."""
    x, y, loss = rows(1, 11, seed=4, zeros=0), np.full((1, 5), 9.0), "mean_squared_error"
    for seed in range(3):
        model = make(
            11,
            [(40, "tanh", Uniform(share)), (30, activation, Uniform(share))],
            (5, "linear"),
            seed=seed,
        )
        layers = ref.layers_of(model)
        value, found = changes_of_one_step(model, x, y, loss)
        for i, units in enumerate((40, 30)):
            drawn = found[i].any(axis=1)
            wanted = round(share * units)
            if activation == "relu" and i == 1:  # those at 0 have no gradient
                assert drawn.sum() <= wanted
            else:
                assert drawn.sum() == wanted
            layers[i] = layers[i]._replace(active=drawn[None], factor=units / wanted)
        expected, pairs = ref.loss_and_gradients(layers, x, y, loss)
        assert value == pytest.approx(expected, rel=1e-4)
        for a, (dw, db) in zip(found, pairs, strict=True):
            np.testing.assert_allclose(a, np.hstack([dw, db[:, None]]), rtol=1e-3, atol=3e-6)


# --------------------------------------------------------------------------- simulation

# ours, the oracle's step, its arguments, its first accumulator
OPTIMIZERS = {
    "sgd": (lambda: SGD(0.05), ref.sgd, {}, 0.0),
    "momentum": (lambda: SGD(0.05, momentum=0.8), ref.sgd, {"momentum": 0.8}, 0.0),
    "nesterov": (
        lambda: SGD(0.05, momentum=0.8, nesterov=True),
        ref.sgd,
        {"momentum": 0.8, "nesterov": True},
        0.0,
    ),
    "adagrad": (lambda: Adagrad(0.05), ref.adagrad, {}, 0.1),
    "adagrad_momentum": (
        lambda: Adagrad(0.05, momentum=0.8),
        ref.adagrad_momentum,
        {"momentum": 0.8},
        0.1,
    ),
    "rowwise": (lambda: Adagrad(0.05, rowwise=True), ref.rowwise_adagrad, {}, 0.1),
    "adam": (lambda: Adam(0.05), ref.adam, {}, 0.0),
    "lazy_adam": (lambda: Adam(0.05, lazy=True), ref.lazy_adam, {}, 0.0),
}


class Simulation:
    """Training as the oracle does it: layers on a dense input step by row, with skipped steps made
    up for; layers on a sampled one step by weight, without. Rowwise Adagrad knows rows only."""

    def __init__(self, model, optimizer, lr=0.05, l2=0.0):
        _, self.step, self.arguments, first = OPTIMIZERS[optimizer]
        self.model, self.lr, self.l2 = model, lr, l2
        self.weights = joined(model)
        self.by_weight = [
            i > 0 and model.layers[i - 1].sampler is not None and optimizer != "rowwise"
            for i in range(len(model.layers))
        ]
        self.states = [
            ref.new_state(w.reshape(-1, 1) if by_weight else w, first)
            for w, by_weight in zip(self.weights, self.by_weight, strict=True)
        ]
        self.touched = [np.zeros(w.shape, bool) for w in self.weights]

    def gradients(self, x, y):
        layers = oracle_layers(self.model, x, self.weights)
        pairs = ref.loss_and_deltas(layers, x, y, LOSS)[1]
        return full_gradients(layers, pairs)

    def apply(self, gradients, masks, now=None):
        for i, (g, mask) in enumerate(zip(gradients, masks, strict=True)):
            w, state = self.weights[i], self.states[i]
            if now is not None:
                state["now"] = now
            g = g.copy()
            g[:, :-1] += 2 * self.l2 * w[:, :-1] * mask[:, :-1]
            if self.by_weight[i]:
                ref.on_elements(self.step, w, g, mask, state, self.lr, **self.arguments)
            else:
                rows = np.flatnonzero(mask.any(axis=1))
                self.step(w, g, rows, state, self.lr, **self.arguments)
            self.touched[i] |= mask

    def fit(self, x, y, batch_size):
        for at in range(0, len(x), batch_size):
            self.apply(*self.gradients(x[at : at + batch_size], y[at : at + batch_size]))
        self.settle()

    def settle(self):
        for w, state, by_weight in zip(self.weights, self.states, self.by_weight, strict=True):
            if not by_weight:
                ref.settle(self.step, w, state, self.lr, **self.arguments)

    def hogwild(self, x, y, batch_size, tau=0):
        """Gradients of single samples, applied when tau later ones were computed; the optimizer's
        clock counts batches."""
        for now, at in enumerate(range(0, len(x), batch_size)):
            late = []
            for s in range(at, min(len(x), at + batch_size)):
                late.append(self.gradients(x[s : s + 1], y[s : s + 1]))
                if len(late) > tau:
                    self.apply(*late.pop(0), now)
            for step in late:
                self.apply(*step, now)
        for state in self.states:
            state["now"] = now + 1
        self.settle()

    def check(self, model, rtol=5e-4, atol=5e-5):
        for a, b in zip(joined(model), self.weights, strict=True):
            np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)


THREE = [
    (31, "tanh", WinnerTakeAll(0.3)),
    (24, "sigmoid", WinnerTakeAll(0.25, 2.0)),
    (9, "tanh", None),
]
WIDE = [(400, "tanh", WinnerTakeAll(0.01)), (24, "sigmoid", WinnerTakeAll(0.25, 2.0))]


@pytest.mark.parametrize("l2", [0.0, 0.01])
@pytest.mark.parametrize("hidden", [THREE, WIDE], ids=["three", "few of many"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizers_against_the_simulation(optimizer, hidden, l2):
    """15 steps. Where few of a row's columns are touched, it is stepped by column, otherwise as a
    whole: the same but for rounding."""
    model = make(13, hidden, l2=l2)
    x, y = rows(60, 13, seed=5), one_hot(60, 5, seed=5)
    simulation = Simulation(model, optimizer, l2=l2)
    simulation.fit(x, y, 4)
    model.compile(OPTIMIZERS[optimizer][0](), LOSS)
    model.fit(x, y, batch_size=4, shuffle=False, verbose=0, n_jobs=1)
    # Adam and Adagrad divide by what is small at first; and a sum of rounding errors.
    simulation.check(model, rtol=2e-3, atol=3e-4)


@pytest.mark.parametrize("update", ["batch", "hogwild"])
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adagrad_momentum", "rowwise", "adam"])
def test_only_active_times_active_changes(optimizer, update):
    """Weights and optimizer slots, after a batch and after an epoch of hogwild."""
    hidden = [
        (60, "tanh", WinnerTakeAll(0.1)),
        (50, "relu", WinnerTakeAll(0.1)),
        (40, "linear", WinnerTakeAll(0.1)),
    ]
    model = make(13, hidden)
    x, y = rows(5, 13, seed=6, zeros=0), one_hot(5, 5, seed=6)
    before = joined(model)
    simulation = Simulation(model, optimizer)
    model.compile(OPTIMIZERS[optimizer][0](), LOSS, update=update)
    if update == "batch":
        simulation.apply(*simulation.gradients(x, y))
    else:
        simulation.hogwild(x, y, 2)
    model.fit(x, y, batch_size=5 if update == "batch" else 2, shuffle=False, verbose=0, n_jobs=1)
    first = OPTIMIZERS[optimizer][3]
    for i, (a, b, mask) in enumerate(zip(joined(model), before, simulation.touched, strict=True)):
        layer = model.layers[i]
        assert 0 < mask.mean() < (0.6 if i < 3 else 0.9)
        assert not (a != b)[~mask].any()
        assert (a != b)[mask].mean() > 0.95  # but for changes below rounding
        n_slots = layer._slots.shape[1] // layer._weights.shape[1]
        for slot in np.split(layer._slots, n_slots, axis=1) if n_slots else []:
            moved = slot[:, : layer.n_in + 1] != (first if slot.flat[-1] else 0.0)
            used = np.broadcast_to(mask, moved.shape)
            assert not moved[~used].any()
            assert moved[used].mean() > 0.7  # an accumulator takes up squares, which are small


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_hogwild_with_one_thread_is_a_loop_over_samples(optimizer):
    model = make(13, THREE, l2=0.01)
    x, y = rows(30, 13, seed=7), one_hot(30, 5, seed=7)
    simulation = Simulation(model, optimizer, l2=0.01)
    simulation.hogwild(x, y, 7)
    model.compile(OPTIMIZERS[optimizer][0](), LOSS, update="hogwild")
    model.fit(x, y, batch_size=7, shuffle=False, verbose=0, n_jobs=1)
    simulation.check(model, rtol=2e-3, atol=3e-4)


# --------------------------------------------------------------------------- staleness


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad_momentum"])
@pytest.mark.parametrize("tau", [1, 3, 100])
def test_staleness_against_the_simulation(tau, optimizer):
    model = make(13, THREE, l2=0.01)
    x, y = rows(30, 13, seed=8), one_hot(30, 5, seed=8)
    simulation, fresh = (Simulation(model, optimizer, l2=0.01) for _ in range(2))
    simulation.hogwild(x, y, 8, tau)
    fresh.hogwild(x, y, 8, 0)
    model.compile(OPTIMIZERS[optimizer][0](), LOSS, update="hogwild", staleness=tau)
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0, n_jobs=2)
    simulation.check(model, rtol=2e-3, atol=3e-4)
    with pytest.raises(AssertionError):  # and the difference is one that would be seen
        fresh.check(model, rtol=2e-3, atol=3e-4)


@pytest.mark.parametrize("sparse", [True, False])
def test_staleness_of_layers_without_active_sets(sparse):
    """Layers on sparse features, and output layers that sample, are late as well."""
    x, y = rows(20, 13, seed=9), one_hot(20, 5, seed=9)
    model = make(13, [(8, "tanh", None)], sparse=sparse)
    simulation = Simulation(model, "sgd")
    simulation.hogwild(x, y, 20, 4)
    model.compile(SGD(0.05), LOSS, update="hogwild", staleness=4)
    model.fit(sp.csr_array(x), y, batch_size=20, shuffle=False, verbose=0)
    simulation.check(model)


def test_staleness_gives_the_same_every_time():
    x, y = rows(40, 13), one_hot(40, 5)
    found = []
    for n_jobs in (1, 2, 2):
        model = make(13, [(60, "relu", Uniform(0.2)), (50, "tanh", everything(50, 0.2))])
        model.compile("adam", LOSS, update="hogwild", staleness=3)
        model.fit(x, y, batch_size=9, epochs=2, verbose=0, n_jobs=n_jobs)
        found.append(model.get_weights())
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_no_staleness_is_hogwild_with_one_thread():
    x, y = rows(40, 13), one_hot(40, 5)
    found = []
    for staleness in ({}, {"staleness": 0}):
        model = make(13, THREE)
        model.compile("adagrad", LOSS, update="hogwild", **staleness)
        model.fit(x, y, batch_size=9, verbose=0, n_jobs=1)
        found.append(model.get_weights())
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"staleness": 2}, "staleness=2 needs update='hogwild', got 'batch'"),
        ({"staleness": -1, "update": "hogwild"}, "staleness"),
        ({"staleness": 1.5, "update": "hogwild"}, "staleness"),
    ],
)
def test_staleness_that_cannot_be(arguments, words):
    model = make(13, THREE)
    with pytest.raises((ValueError, TypeError), match=words):
        model.compile("sgd", LOSS, **arguments)
    assert model.staleness == 0


# --------------------------------------------------------------------------- threads

SAMPLERS = {
    "winners": lambda: WinnerTakeAll(0.2),
    "lifetime": lambda: LifetimeSparsity(0.2),
    "uniform": lambda: Uniform(0.2),
    "uniform_most": lambda: Uniform(0.7),
    "standout": lambda: Standout(0.2),
    "standout_beta": lambda: Standout(0.2, alpha=0.5, beta=-1.0),
    "simhash": lambda: LSH(hashing.SimHash(4, 3, n_probes=4), max_active=0.2),
    "alsh": lambda: LSH(
        hashing.SimHash(4, 3, transform="sign_alsh"), max_active=0.2, min_active=8, rebuild_every=2
    ),
    "rademacher": lambda: LSH(
        hashing.SimHash(4, 3, "rademacher", "simple_lsh", 3), 0.2, new_functions_every=3
    ),
    "principal": lambda: LSH(hashing.SimHash(3, 2, "principal", n_probes=4), max_active=0.2),
    "e2lsh": lambda: LSH(hashing.E2LSH(3, 3, n_probes=5), max_active=0.2, scale=1.5),
    "dwta": lambda: LSH(hashing.DWTA(2, 3, 4), max_active=0.2, rebuild_every=2),
    "clusters": lambda: LSH(hashing.Clusters(8), max_active=0.2, rebuild_every=2),
    "sketches": lambda: LSH(hashing.Sketches(16), max_active=0.2, rebuild_every=2),
    "learned": lambda: LSH(hashing.Learned(3, 4), max_active=0.2, rebuild_every=2),
}


def stack(name, units=(80, 70)):
    """The sampler on a dense input and on a sampled one, below a layer without."""
    activations = ("relu", "tanh")
    hidden = [(n, a, SAMPLERS[name]()) for n, a in zip(units, activations, strict=True)]
    return make(13, [*hidden, (9, "tanh", None)])


@pytest.mark.parametrize("name", SAMPLERS)
def test_threads_do_not_change_the_result(name):
    x, y = rows(100, 13), one_hot(100, 5)
    found = []
    for n_jobs in (1, 2):
        model = stack(name)
        model.compile(Adagrad(0.05, momentum=0.5), LOSS)
        history = model.fit(x, y, batch_size=33, epochs=3, verbose=0, n_jobs=n_jobs).history
        found.append(
            [*model.get_weights(), model.predict(x, n_jobs=n_jobs), history["multiplications"]]
        )
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)
    assert found[0][-1][0] < 1.5


@pytest.mark.parametrize("name", [n for n in SAMPLERS if n not in ("lifetime", "standout")])
def test_two_racing_threads_learn(name):
    """Hogwild with every sampler: losses fall, nothing crashes and all weights stay finite."""
    rng = np.random.default_rng(0)
    x = rows(300, 13)
    y = np.eye(5, dtype=np.float32)[np.argmax(x @ rng.normal(size=(13, 5)), axis=1)]
    model = stack(name)
    model.compile(Adagrad(0.02), LOSS, update="hogwild")
    losses = model.fit(x, y, batch_size=50, epochs=8, verbose=0, n_jobs=2).history["loss"]
    assert losses[-1] < 0.9 * losses[0]
    assert all(np.isfinite(w).all() for w in model.get_weights())


# --------------------------------------------------------------------------- active sets


def drawn_masks(model, x):
    """(n, units) masks of a first hidden layer's active sets in one training step, for an x whose
    sample s has feature s only; the model is as before afterwards."""
    before = model.get_weights()
    model.train_on_batch(x, np.full((len(x), 5), 9.0), n_jobs=1)
    changed = model.get_weights()[0] != before[0]
    model.set_weights(before)
    return changed


def single_features(n):
    return np.diag(np.random.default_rng(0).uniform(0.5, 2.0, n)).astype(np.float32)


@pytest.mark.parametrize("share", [0.25, 0.6])
def test_uniform_draws_every_neuron_as_often(share):
    """So many of each sample, without repetition; each neuron within 5 standard errors."""
    n, units, steps = 12, 20, 250
    model = make(n, [(units, "linear", Uniform(share))], (5, "linear"))
    model.compile(SGD(1.0), "mean_squared_error")
    x = single_features(n)
    masks = np.array([drawn_masks(model, x) for _ in range(steps)])
    assert (masks.sum(axis=2) == round(share * units)).all()
    p = round(share * units) / units
    error = np.sqrt(p * (1 - p) / (steps * n))
    assert np.abs(masks.mean(axis=(0, 1)) - p).max() < 5 * error
    # Samples and steps draw independently of one another.
    agree = (masks[:, 0] == masks[:, 1]).mean(), (masks[:-1] == masks[1:]).mean()
    np.testing.assert_allclose(agree, p * p + (1 - p) ** 2, atol=0.05)


def test_layers_draw_different_neurons():
    x, y = rows(1, 11, zeros=0), one_hot(1, 5)
    same = 0
    for seed in range(20):
        model = make(11, [(40, "tanh", Uniform(0.5)), (40, "tanh", Uniform(0.5))], seed=seed)
        _, found = changes_of_one_step(model, x, y)
        same += np.array_equal(found[0].any(axis=1), found[1].any(axis=1))
    assert same == 0


@pytest.mark.parametrize(
    ("fraction", "n", "kept"), [(0.3, 11, 3), (0.35, 11, 4), (0.05, 9, 1), (1.0, 7, 7)]
)
def test_lifetime_sparsity_keeps_a_share_of_the_batch(fraction, n, kept):
    model = make(n, [(20, "linear", LifetimeSparsity(fraction))], (5, "linear"))
    model.compile(SGD(1.0), "mean_squared_error")
    x = single_features(n)
    w, b = model.get_weights()[:2]
    expected = ref.winners((x.astype(float) @ w + b).T, kept).T
    np.testing.assert_array_equal(drawn_masks(model, x), expected)


def test_gradients_of_lifetime_sparsity():
    x, y = rows(20, 11), one_hot(20, 5)
    model = make(11, [(16, "relu", None), (30, "tanh", LifetimeSparsity(0.2)), (20, "relu", None)])
    layers = ref.layers_of(model)
    z = ref.forward(layers[:2], x)[1]
    layers[1] = layers[1]._replace(active=ref.winners(z.T, 4).T)
    value, pairs = ref.loss_and_gradients(layers, x, y, LOSS)
    found_value, found = changes_of_one_step(model, x, y)
    assert found_value == pytest.approx(value, rel=1e-4)
    for a, (dw, db) in zip(found, pairs, strict=True):
        np.testing.assert_allclose(a, np.hstack([dw, db[:, None]]), rtol=1e-3, atol=3e-6)


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, None), (-2.0, None), (0.7, -0.4)])
def test_standout_keeps_by_the_sigmoid_of_the_sum(alpha, beta):
    n, units, steps = 12, 20, 300
    model = make(n, [(units, "linear", Standout(0.3, alpha, beta))], (5, "linear"))
    model.compile(SGD(1.0), "mean_squared_error")
    x = single_features(n)
    w, b = model.get_weights()[:2]
    z = x.astype(float) @ w + b
    masks = np.array([drawn_masks(model, x) for _ in range(steps)])
    found = model.layers[0]._active.beta
    if beta is not None:
        assert found == beta
    p = ref.activate("sigmoid", alpha * z + found)
    if beta is None:
        assert p.mean() == pytest.approx(0.3, abs=1e-4)
    error = np.sqrt(p * (1 - p) / steps)
    assert (np.abs(masks.mean(axis=0) - p) < 5 * error + 1e-9).all()
    # Predictions expect the mask.
    layers = ref.layers_of(model)
    h = z * p
    expected = h @ layers[1].weights.T + layers[1].bias
    np.testing.assert_allclose(model.predict(x), expected, rtol=1e-4, atol=1e-6)


def test_beta_of_standout_follows_the_batches():
    """0.9 of the old and 0.1 of the new one, whose mean probability is the wanted share."""
    model = make(11, [(40, "tanh", Standout(0.2))])
    model.compile(SGD(1e-30), LOSS)
    w, b = (a.astype(float) for a in model.get_weights()[:2])
    beta = None
    for seed in range(4):
        x = rows(16, 11, seed=seed) * (1 + seed)
        model.train_on_batch(x, one_hot(16, 5), n_jobs=1)
        low, high = -100.0, 100.0
        for _ in range(100):
            middle = (low + high) / 2
            share = ref.activate("sigmoid", x @ w + b + middle).mean()
            low, high = (middle, high) if share < 0.2 else (low, middle)
        beta = low if beta is None else 0.9 * beta + 0.1 * low
        # The solution stops within 1e-5 of the share; its slope is above 0.05 here.
        assert model.layers[0]._active.beta == pytest.approx(beta, abs=3e-4)


def test_standout_solves_for_every_batch():
    """A batch has its share of active neurons, whatever the batches before it were like."""
    model = make(11, [(400, "tanh", Standout(0.2))])
    model.compile(SGD(1e-30), LOSS)
    error = np.sqrt(0.2 * 0.8 / (16 * 400))
    for seed, size in enumerate((1.0, 8.0, 0.1)):
        model.train_on_batch(rows(16, 11, seed=seed) * np.float32(size), one_hot(16, 5), n_jobs=1)
        found = model.multiplications[0]["active_fraction"]
        assert found == pytest.approx(0.2, abs=5 * error)


def test_standout_solves_for_all_samples_of_a_batch():
    """Every fourth row is unlike the others; none of them may speak for all."""
    model = make(11, [(40, "tanh", Standout(0.2))])
    model.compile(SGD(1e-30), LOSS)
    size = np.where(np.arange(64) % 4 == 0, 0.1, 6.0)[:, None]
    x = (np.random.default_rng(0).normal(size=(64, 11)) * size).astype(np.float32)
    model.train_on_batch(x, one_hot(64, 5), n_jobs=1)
    w, b = model.get_weights()[:2]
    p = ref.activate("sigmoid", x.astype(float) @ w + b + model.layers[0]._active.beta)
    assert p.mean() == pytest.approx(0.2, abs=1e-4)


def test_a_batch_that_diverges_does_not_move_beta():
    model = make(11, [(40, "tanh", Standout(0.2))])
    model.compile("sgd", LOSS)
    x = np.clip(rows(16, 11, zeros=0), -3, 3)
    model.train_on_batch(x, one_hot(16, 5))
    beta = model.layers[0]._active.beta
    weights = model.get_weights()
    weights[2] *= np.float32(1e38)
    model.set_weights(weights)
    with pytest.raises(FloatingPointError):
        model.train_on_batch(3 * x, one_hot(16, 5))
    assert model.layers[0]._active.beta == beta


# --------------------------------------------------------------------------- predictions


@pytest.mark.parametrize("name", ["winners", "lsh", "uniform", "lifetime", "mixed"])
def test_predictions_follow_the_rule_of_training(name):
    """Winners in both; where training draws, predictions have all neurons and no factor."""
    hidden = {
        "winners": [(40, "relu", WinnerTakeAll(0.2, 1.5)), (30, "tanh", WinnerTakeAll(0.2))],
        "lsh": [(40, "relu", everything(40, 0.2, 1.5)), (30, "tanh", everything(30, 0.2))],
        "uniform": [(40, "relu", Uniform(0.2)), (30, "tanh", Uniform(0.2))],
        "lifetime": [(40, "relu", LifetimeSparsity(0.2)), (30, "tanh", None)],
        "mixed": [(40, "sigmoid", WinnerTakeAll(0.2)), (30, "tanh", Uniform(0.2))],
    }[name]
    model = make(13, hidden, (1500, "softmax") if name == "mixed" else (5, "softmax"))
    x = rows(70, 13)
    winners = [isinstance(s, LSH | WinnerTakeAll) for _, _, s in hidden]
    kept, factors = zip(
        *[
            kept_of(layer) if winner else (None, 1.0)
            for layer, winner in zip(model.layers, winners, strict=False)
        ],
        strict=True,
    )
    layers = ref.with_winners(ref.layers_of(model), x, [*kept, None], factors)
    expected = ref.predict(layers, x)
    np.testing.assert_allclose(model.predict(x, batch_size=33), expected, rtol=1e-4, atol=1e-6)
    _, top = model.predict(x, top_k=3)
    np.testing.assert_allclose(top, -np.sort(-expected, axis=1)[:, :3], rtol=1e-4, atol=1e-6)
    y = one_hot(70, model.layers[-1].units)
    model.compile("sgd", LOSS)
    loss = ref.loss_and_gradients(layers, x, y, LOSS)[0]
    assert model.evaluate(x, y)["loss"] == pytest.approx(loss, rel=1e-4)
    # The active sets themselves.
    inputs, found = ref.forward(layers, x)[0], model.active_sets(x)
    assert len(found) == 2
    for i, winner in enumerate(winners):
        if not winner:
            assert found[i] is None
            continue
        assert found[i].shape == inputs[i + 1].shape
        np.testing.assert_allclose(found[i].toarray(), inputs[i + 1], rtol=1e-4, atol=1e-6)
        if layers[i].activation != "relu":
            assert (np.diff(found[i].indptr) == kept[i]).all()


def odd_values(kind, n, rng):
    if kind == "equal":
        return np.full(n, 0.25)
    if kind == "ties":
        return rng.integers(-3, 4, n)
    if kind == "outliers":
        return np.where(rng.random(n) < 3 / n, 1e30, rng.normal(size=n))
    if kind == "tiny":
        return rng.normal(size=n) * 1e-38
    if kind == "huge":
        return rng.choice([-3e38, 3e38, 1.0], n)
    if kind == "ascending":
        return np.arange(n)
    if kind == "skewed":
        return np.exp(8 * rng.normal(size=n))
    return rng.normal(size=n)


KINDS = ["normal", "equal", "ties", "outliers", "tiny", "huge", "ascending", "skewed"]


@pytest.mark.parametrize("width", [1, 2, 17, 127, 128, 129, 130, 300, 1000])
def test_the_largest_of_any_values(width):
    """Sample s has the weights of feature s as its sums. Of equals those of smaller ids win."""
    rng = np.random.default_rng(width)
    z = np.array([odd_values(kind, width, rng) for kind in KINDS]).astype(np.float32)
    for kept in sorted({1, 2, width // 3, width // 2, width - 1, width} & set(range(1, width + 1))):
        for sampler in (WinnerTakeAll(kept / width), everything(width, kept)):
            model = slide.Sequential(
                [
                    slide.Input(len(KINDS), sparse=False),
                    slide.Dense(width, sampler=sampler),
                    slide.Dense(2, "softmax"),
                ]
            )
            model.build()
            model.set_weights([z, np.zeros(width), *model.get_weights()[2:]])
            found = model.active_sets(np.eye(len(KINDS), dtype=np.float32))[0]
            expected = ref.winners(z.astype(np.float64), kept)
            for i, kind in enumerate(KINDS):
                ids = found[[i]].indices
                if isinstance(sampler, WinnerTakeAll):
                    np.testing.assert_array_equal(ids, np.flatnonzero(expected[i]), err_msg=kind)
                else:  # candidates come in any order, and so do equals
                    assert len(set(ids)) == kept
                    np.testing.assert_array_equal(np.sort(z[i, ids]), np.sort(z[i, expected[i]]))


def test_a_prediction_does_not_depend_on_its_batch():
    x = rows(50, 13)
    for name in ("winners", "simhash", "alsh", "e2lsh", "dwta", "clusters"):
        model = stack(name)
        model.compile("adagrad", LOSS)
        model.fit(x, one_hot(50, 5), batch_size=10, verbose=0, n_jobs=1)
        whole = model.predict(x, n_jobs=2)
        # BLAS may add in another order for another number of rows.
        alone = model.predict(x[::-1], batch_size=1)[::-1]
        np.testing.assert_allclose(alone, whole, rtol=1e-5, atol=1e-6)


def test_lsh_chooses_among_its_candidates():
    """Fewer active neurons than max_active only where tables return fewer; all are distinct."""
    model = make(13, [(200, "linear", LSH(hashing.SimHash(7, 2), max_active=20))])
    counts = np.diff(model.active_sets(rows(50, 13))[0].indptr)
    assert counts.max() <= 20
    assert counts.min() < 20
    filled = make(13, [(200, "linear", LSH(hashing.SimHash(7, 2), max_active=20, min_active=20))])
    found = filled.active_sets(rows(50, 13))[0]
    assert (np.diff(found.indptr) == 20).all()
    assert all(len(set(found[[i]].indices)) == 20 for i in range(50))


# --------------------------------------------------------------------------- inputs that are shown


def kept_by_sketches(layer):
    """The mean input of a layer's sketches, the input 1 of the biases last, and the batches."""
    arrays = layer._active.active.retriever.arrays
    return arrays["mean"][: layer.n_in + 1], arrays["seen"][0]


@pytest.mark.parametrize("update", ["batch", "hogwild"])
@pytest.mark.parametrize("n", [40, 16, 5])
def test_a_hidden_layer_shows_its_inputs(n, update):
    """All samples of a dense input; of the lists of a sampled layer 16, at equal distances."""
    model = make(
        13,
        [
            (50, "tanh", None),
            (40, "relu", LSH(hashing.Sketches(16), max_active=0.3)),
            (30, "tanh", LSH(hashing.Sketches(16), max_active=0.3)),
        ],
    )
    model.compile(SGD(1e-12), LOSS, update=update)
    x = rows(n, 13)
    weights = model.get_weights()
    below = [np.tanh(x @ weights[0] + weights[1]), model.active_sets(x)[1].toarray()]
    model.fit(x, one_hot(n, 5), batch_size=n, shuffle=False, verbose=0, n_jobs=1)
    shown = np.arange(min(n, 16)) * n // min(n, 16)
    for layer, h in zip(model.layers[1:3], [below[0], below[1][shown]], strict=True):
        mean, seen = kept_by_sketches(layer)
        assert seen == 1
        np.testing.assert_allclose(mean, [*h.mean(axis=0), 1], rtol=1e-4, atol=1e-6)


def recall_of_hidden(model, x):
    """Of the 10 largest activations of the last hidden layer: the share in its active sets."""
    found = model.active_sets(x)
    w, b = model.get_weights()[-4:-2]
    z = (x if len(found) == 1 else found[-2]) @ w + b
    best = np.argsort(-z, axis=1)[:, :10]
    return np.mean([np.isin(best[i], found[-1][[i]].indices) for i in range(len(x))])


@pytest.mark.parametrize("sparse", [False, True])
def test_sketches_find_the_largest_activations_around_the_mean_input(sparse):
    """Sixteen components hold little of random weights in 200 dimensions, but inputs are near
    their mean."""
    rng = np.random.default_rng(0)
    sampler = LSH(hashing.Sketches(16), max_active=50, candidates=50, rebuild_every=5)
    below = [(200, "relu", WinnerTakeAll(0.3))] if sparse else []
    model = make(200, [*below, (1000, "linear", sampler)])
    x = (rng.normal(size=200) + 0.3 * rng.normal(size=(640, 200))).astype(np.float32)
    model.compile(SGD(1e-12), LOSS)
    before = recall_of_hidden(model, x[:100])
    model.fit(x, one_hot(640, 5), batch_size=32, verbose=0, n_jobs=1)
    assert recall_of_hidden(model, x[:100]) > max(0.9, before + 0.3)


@pytest.mark.parametrize("sparse", [False, True])
def test_learned_functions_find_more_of_the_largest_activations(sparse):
    rng = np.random.default_rng(0)
    family = hashing.Learned(6, 20)
    sampler = LSH(family, 50, candidates=100, rebuild_every=2, strategy="top_k")
    below = [(200, "relu", WinnerTakeAll(0.3))] if sparse else []
    model = make(200, [*below, (1000, "linear", sampler)])
    x = (rng.normal(size=(640, 4)) @ rng.normal(size=(4, 200)) / 2).astype(np.float32)
    model.compile(SGD(1e-12), LOSS)
    before = recall_of_hidden(model, x[:100])
    model.fit(x, one_hot(640, 5), batch_size=32, epochs=3, verbose=0, n_jobs=1)
    assert recall_of_hidden(model, x[:100]) > before + 0.2
    assert model.diagnose(x[:50])


@pytest.mark.parametrize("name", ["sketches", "learned"])
@pytest.mark.parametrize("update", ["batch", "hogwild"])
def test_what_was_shown_goes_on_from_files(tmp_path, name, update):
    x, y = rows(100, 13), one_hot(100, 5)
    models = [stack(name) for _ in range(2)]
    for model in models:
        model.compile(Adagrad(0.05, momentum=0.5), LOSS, update=update)
        model.fit(x, y, batch_size=21, epochs=2, verbose=0, n_jobs=1)
    models[1].save(tmp_path / "model.slide")
    models[1] = slide.load(tmp_path / "model.slide")
    threads = (2, 1) if update == "batch" else (1, 1)
    for model, n_jobs in zip(models, threads, strict=True):
        model.fit(x, y, batch_size=21, epochs=2, verbose=0, n_jobs=n_jobs)
    for a, b in zip(*[model.get_weights() for model in models], strict=True):
        np.testing.assert_array_equal(a, b)
    for one, two in zip(*[model.layers[:2] for model in models], strict=True):
        state, other = one._active.get_state(), two._active.get_state()
        assert state["functions.seen"][0] == 20
        for key, array in state.items():
            np.testing.assert_array_equal(array, other[key])


def test_nothing_is_kept_of_a_step_that_diverges():
    model = make(13, [(40, "tanh", LSH(hashing.Sketches(16), max_active=0.3))])
    model.compile(SGD(0.01), LOSS)
    x, y = rows(16, 13), one_hot(16, 5)
    model.train_on_batch(x, y)
    before = kept_by_sketches(model.layers[0])[0].copy()
    with pytest.raises(FloatingPointError):
        model.train_on_batch(1e30 * x, y)
    mean, seen = kept_by_sketches(model.layers[0])
    assert seen == 1
    np.testing.assert_array_equal(mean, before)


# --------------------------------------------------------------------------- multiplications


@pytest.mark.parametrize("update", ["batch", "hogwild"])
@pytest.mark.parametrize("sparse", [True, False])
def test_multiplications_of_all_neurons(sparse, update):
    model = make(13, [(8, "tanh", None), (6, "relu", None)], sparse=sparse)
    assert model.multiplications == []
    x = rows(20, 13)
    model.compile("sgd", LOSS, update=update)
    history = model.fit(x, one_hot(20, 5), batch_size=6, epochs=2, verbose=0).history
    assert history["multiplications"] == [1.0, 1.0]
    n_in = np.count_nonzero(x) / 20 if sparse else 13
    expected = [(n_in * 8, 0, n_in * 8), (48, 48, 48), (30, 30, 30)]
    for row, numbers in zip(model.multiplications, expected, strict=True):
        assert (row["forward"], row["backward"], row["update"]) == pytest.approx(numbers)
        assert row["dense"] == pytest.approx(sum(numbers))
        assert (row["hashing"], row["active_fraction"]) == (0, 1)


DENSE = [2 * 13 * 40, 3 * 40 * 30, 3 * 30 * 5]


def check_multiplications(model, expected, share):
    found = model.multiplications
    for row, numbers, dense in zip(found, expected, DENSE, strict=True):
        keys = ("forward", "backward", "update", "hashing")
        assert tuple(row[key] for key in keys) == pytest.approx(numbers)
        assert row["dense"] == dense
    assert [row["active_fraction"] for row in found] == pytest.approx([*share, 1.0])


@pytest.mark.parametrize("update", ["batch", "hogwild"])
@pytest.mark.parametrize("kind", ["winners", "uniform"])
def test_multiplications_by_hand(kind, update):
    """8 of 40 and 6 of 30 linear neurons are active: no gradient of theirs is 0."""
    sampler = WinnerTakeAll(0.2) if kind == "winners" else Uniform(0.2)
    model = make(13, [(40, "linear", sampler), (30, "linear", sampler)], (5, "linear"))
    model.compile(SGD(1e-3), "mean_squared_error", update=update)
    model.fit(rows(20, 13), one_hot(20, 5), batch_size=6, verbose=0, n_jobs=2)
    computed = (40, 30) if kind == "winners" else (8, 6)
    expected = [
        (computed[0] * 13, 0, 8 * 13, 0),
        (computed[1] * 8, 6 * 8, 6 * 8, 0),
        (5 * 6, 5 * 6, 5 * 6, 0),
    ]
    check_multiplications(model, expected, (0.2, 0.2))


def test_multiplications_of_relus():
    """A neuron at 0 has no part in what comes after it."""
    model = make(13, [(40, "relu", WinnerTakeAll(0.9)), (30, "tanh", WinnerTakeAll(0.2))])
    x, y = rows(20, 13), one_hot(20, 5)
    layers = oracle_layers(model, x)
    (_, first), _, _ = ref.loss_and_deltas(layers, x, y, LOSS)[1]
    used = (ref.forward(layers, x)[0][1] > 0).sum(axis=1).mean()
    assert used < 30
    model.compile("sgd", LOSS)
    model.train_on_batch(x, y)
    expected = [
        (40 * 13, 0, (first != 0).sum(axis=1).mean() * 13, 0),
        (30 * used, 6 * used, 6 * used, 0),
        (30, 30, 30, 0),
    ]
    check_multiplications(model, expected, (0.9, 0.2))


def test_multiplications_of_hashing():
    """A query has K L products with each of its non-zeros and with the bias's 1. At first all
    neurons are hashed. After a step the changed ones are: whole on a dense input, and by the
    columns that changed on a sampled one."""
    families = hashing.SimHash(3, 2, n_probes=8), hashing.SimHash(2, 5, n_probes=4)
    model = make(
        13,
        [
            (40, "tanh", LSH(families[0], 0.2, candidates=40)),
            (30, "tanh", LSH(families[1], 0.2, candidates=30)),
        ],
    )
    model.compile("sgd", LOSS)
    changed_rows = 40
    for step in range(3):
        x, y = rows(6, 13, seed=step), one_hot(6, 5, seed=step)
        before = joined(model)
        hashed = [6 * 14 * 6 + changed_rows * 14 * 6, 6 * 9 * 10]
        if step == 0:
            hashed[1] += 30 * 41 * 10
        layers = oracle_layers(model, x)
        masks = touched_weights(layers, ref.loss_and_deltas(layers, x, y, LOSS)[1])
        hashed[1] += 10 * masks[1].sum()
        model.train_on_batch(x, y)
        changed_rows = (joined(model)[0] != before[0]).any(axis=1).sum()
        expected = [
            (40 * 13, 0, 8 * 13, hashed[0] / 6),
            (30 * 8, 6 * 8, 6 * 8, hashed[1] / 6),
            (5 * 6, 5 * 6, 5 * 6, 0),
        ]
        check_multiplications(model, expected, (0.2, 0.2))


def test_multiplications_do_not_depend_on_predictions_between_steps():
    """Whoever refreshes the tables first: it is because of training."""
    x, y, found = rows(10, 13), one_hot(10, 5), []
    for predicts in (False, True):
        sampler = LSH(hashing.SimHash(4, 3), 0.2)
        model = make(13, [(80, "tanh", sampler), (60, "tanh", sampler)])
        model.compile("sgd", LOSS)
        total = 0
        for _ in range(5):
            model.train_on_batch(x, y)
            total += model.multiplications[0]["hashing"]
            if predicts:
                model.predict(x)
        found.append(total)
    # The tables of after the last step: hashed by the prediction, or not yet.
    assert found[1] == pytest.approx(found[0], rel=0.3)


def test_few_active_neurons_need_few_multiplications():
    """All four methods at 5% of two layers, as a share of the dense network's products."""
    x, y = rows(64, 100), one_hot(64, 5)
    bounds = {
        "winners": (WinnerTakeAll(0.05), 0.45),
        "uniform": (Uniform(0.05), 0.06),
        "lsh": (LSH(hashing.SimHash(6, 2), 0.05, rebuild_every=4), 0.25),
    }
    for sampler, bound in bounds.values():
        model = make(100, [(400, "tanh", sampler), (400, "tanh", sampler)])
        model.compile("sgd", LOSS)
        history = model.fit(x, y, batch_size=16, epochs=2, verbose=0).history
        assert 0 < history["multiplications"][1] < bound


# --------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "make_sampler",
    [
        WinnerTakeAll,
        LifetimeSparsity,
        Standout,
        lambda f: Uniform(float(f)),
        lambda f: LSH(max_active=float(f)),
    ],
    ids=["winners", "lifetime", "standout", "uniform", "lsh"],
)
@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.5, float("nan"), float("inf")])
def test_fractions_that_cannot_be(make_sampler, fraction):
    with pytest.raises(ValueError, match=r"^(fraction|n|max_active)\b"):
        make_sampler(fraction)


@pytest.mark.parametrize(
    ("sampler", "words"),
    [
        (lambda: WinnerTakeAll(0.05), "fraction=0.05 of 10 neurons is less than one neuron"),
        (lambda: Standout(0.09), "fraction=0.09 of 10 neurons is less than one neuron"),
        (lambda: Uniform(0.05), "n=0.05 of 10 neurons is less than one neuron"),
        (lambda: LSH(max_active=0.05), "max_active=0.05 of 10 neurons is less than one neuron"),
        (lambda: Uniform(11), "10 neurons"),
        (lambda: LSH(max_active=11), "10 neurons"),
        (lambda: LSH(max_active=5, candidates=4), "candidates=4"),
        (lambda: LSH(max_active=5, candidates=11), "candidates=11"),
        (lambda: LSH(max_active=0.5, min_active=11), "min_active=11"),
        (lambda: sampling.Frequent(3), "output layers"),
        (lambda: sampling.Auto(), "output layers"),
        (lambda: sampling.Mixture([Uniform(3)]), "output layers"),
    ],
)
def test_samplers_that_do_not_fit_a_hidden_layer(sampler, words):
    model = slide.Sequential(
        [
            slide.Input(4, sparse=False),
            slide.Dense(10, sampler=sampler()),
            slide.Dense(3, "softmax"),
        ]
    )
    with pytest.raises(ValueError, match=words):
        model.build()


@pytest.mark.parametrize(
    "sampler",
    [
        lambda: WinnerTakeAll(0.5),
        lambda: LifetimeSparsity(0.5),
        lambda: Standout(0.5),
        lambda: LSH(max_active=5, scale=2.0),
    ],
)
def test_samplers_that_do_not_fit_an_output_layer(sampler):
    model = slide.Sequential(
        [slide.Input(4, sparse=False), slide.Dense(10, "softmax", sampler=sampler())]
    )
    model.compile("sgd", LOSS)
    with pytest.raises(ValueError, match="hidden"):
        model.fit(np.ones((2, 4)), np.array([0, 1]), verbose=0)


@pytest.mark.parametrize("sampler", [LifetimeSparsity(0.5), Standout(0.5)])
def test_samplers_that_look_at_a_batch_need_one(sampler):
    model = make(4, [(10, "relu", sampler)])
    with pytest.raises(ValueError, match=r"looks at whole batches; update must be 'batch'"):
        model.compile("sgd", LOSS, update="hogwild")
    assert model.update == "batch"
    make(4, [(10, "relu", Standout(0.5, beta=0.0))]).compile("sgd", LOSS, update="hogwild")


def test_samplers_need_a_dense_input():
    for sparse in (True, None):
        model = slide.Sequential(
            [
                slide.Input(4, sparse=sparse),
                slide.Dense(10, sampler=WinnerTakeAll(0.5)),
                slide.Dense(3, "softmax"),
            ]
        )
        with pytest.raises(ValueError, match="sparse features"):
            model.build(True)


@pytest.mark.parametrize(
    ("make_it", "words"),
    [
        (lambda: hashing.SimHash(3, 2, n_probes=0), "n_probes"),
        (lambda: hashing.SimHash(3, 2, n_probes=9), "n_probes"),
        (lambda: hashing.E2LSH(2, 2, n_probes=10), "n_probes"),
        (lambda: hashing.E2LSH(2, 2, width=0.0), "width"),
        (lambda: hashing.E2LSH(32, 2), "n_functions"),
        (lambda: hashing.SimHash(3, 2, transform="l2_alsh"), "transform"),
        (lambda: hashing.E2LSH(3, 2, transform="sign_alsh"), "transform"),
        (lambda: WinnerTakeAll(0.5, scale=0.0), "scale"),
        (lambda: LSH(candidates=0.5), "candidates"),
        (lambda: LSH(candidates=0), "candidates"),
        (lambda: Standout(0.5, alpha=float("nan")), "alpha"),
        (lambda: Standout(0.5, beta=float("inf")), "beta"),
        (lambda: Adagrad(0.1, momentum=1.0), "momentum"),
        (lambda: Adagrad(0.1, momentum=-0.1), "momentum"),
        (lambda: Adagrad(0.1, rowwise=True, momentum=0.5), "momentum=0.5 with rowwise=True"),
    ],
)
def test_arguments_that_cannot_be(make_it, words):
    with pytest.raises(ValueError, match=words):
        make_it()


@pytest.mark.parametrize("name", SAMPLERS)
def test_what_diverges_is_reported_and_changes_nothing(name):
    """Sums that overflow, or are infinite minus infinite, are found in spite of the choice."""
    x = np.clip(rows(40, 13, zeros=0), -3, 3)
    model = stack(name, units=(80, 300))
    model.compile("sgd", LOSS)
    model.train_on_batch(x, one_hot(40, 5))
    before = model.get_weights()
    with pytest.raises(FloatingPointError):
        model.train_on_batch(x * np.float32(1e38), one_hot(40, 5))
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("update", ["batch", "hogwild"])
@pytest.mark.parametrize("shared", [False, True])
def test_an_output_layer_that_samples_above_a_hidden_one_that_does(shared, update):
    """All neurons as a sample, without weights, is the layer without a sampler."""
    models = []
    for sampler in (None, sampling.Uniform(50, correction=None, shared=shared)):
        model = slide.Sequential(
            [
                slide.Input(13, sparse=False),
                slide.Dense(40, "relu", sampler=WinnerTakeAll(0.2)),
                slide.Dense(50, "softmax", sampler=sampler),
            ]
        )
        model.compile(SGD(0.5), LOSS, update=update)
        x, y = rows(30, 13), one_hot(30, 50)
        before = model.get_weights()
        model.fit(x, y, batch_size=10, epochs=2, verbose=0, n_jobs=1)
        assert not np.array_equal(before[0], model.get_weights()[0])
        models.append(model)
    for a, b in zip(models[0].get_weights(), models[1].get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    np.testing.assert_allclose(models[0].predict(x), models[1].predict(x), atol=1e-5)
