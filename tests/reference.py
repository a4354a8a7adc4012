"""The oracle: what the kernels must compute, in NumPy and float64, as the formulas read.

Shapes: n samples, layers of n_in inputs and n_out neurons, weights (n_out, n_in). An active set
is a mask of shape (n, n_out); a neuron outside it has activation 0 and gradient 0.
"""

from math import comb, pi
from typing import NamedTuple

import numpy as np


class Layer(NamedTuple):
    weights: np.ndarray  # (n_out, n_in)
    bias: np.ndarray  # (n_out,)
    activation: str
    active: np.ndarray | None = None  # (n, n_out) of bool; None means all
    log_pi: np.ndarray | None = None  # (n, n_out), log inclusion probabilities; output layer only
    factor: float = 1.0  # of the activations in the active set; hidden layers only


def layers_of(model, active=None, log_pi=None):
    """Return the layers of a `slide.Sequential`; the last gets the active set."""
    layers, weights = [], iter(model.get_weights())
    for layer in model.layers:
        kernel = next(weights).T.astype(np.float64)
        bias = next(weights).astype(np.float64) if layer.use_bias else np.zeros(layer.units)
        layers.append(Layer(kernel, bias, layer.activation))
    layers[-1] = layers[-1]._replace(active=active, log_pi=log_pi)
    return layers


def mask_of_ids(ids, n_out):
    """Return the active mask (n, n_out) of a list of id arrays, one a sample."""
    mask = np.zeros((len(ids), n_out), dtype=bool)
    for row, active in zip(mask, ids, strict=True):
        row[active] = True
    return mask


def winners(z, k):
    """Return the mask of the k largest of every row; of equals those of smaller ids."""
    mask = np.zeros(z.shape, dtype=bool)
    np.put_along_axis(mask, np.argsort(-z, axis=1, kind="stable")[:, :k], True, axis=1)
    return mask


def with_winners(layers, x, kept, factors=None):
    """Return the layers with the masks of their `kept` largest sums (None: all), from below."""
    layers = list(layers)
    for i, k in enumerate(kept):
        if k is not None:
            z = forward(layers[: i + 1], x)[1]
            layers[i] = layers[i]._replace(
                active=winners(z, k), factor=1.0 if factors is None else factors[i]
            )
    return layers


# ---------------------------------------------------------------------------- activations


def log_softmax(z):
    """Return log softmax of the rows; z is -inf at neurons that are not active."""
    top = z.max(axis=1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)  # a row without any active neuron
    total = np.exp(z - top).sum(axis=1, keepdims=True)
    return z - top - np.log(total, out=np.zeros_like(total), where=total > 0)


def activate(name, z):
    """Return a = f(z)."""
    if name == "softmax":
        return np.exp(log_softmax(z))
    if name == "sigmoid":
        return 0.5 * (1.0 + np.tanh(0.5 * z))  # does not overflow
    return {"linear": np.array, "relu": lambda z: np.maximum(z, 0.0), "tanh": np.tanh}[name](z)


def activation_gradient(name, a, da):
    """Return dL/dz from a = f(z) and dL/da."""
    if name == "softmax":
        return a * (da - (a * da).sum(axis=1, keepdims=True))
    slope = {"linear": np.ones_like(a), "relu": a > 0, "sigmoid": a * (1 - a), "tanh": 1 - a * a}
    return da * slope[name]


# --------------------------------------------------------------------------------- losses
# Each returns the samples' losses (n,) and dL/dz (n, n_out) from z = x W' + b.


def categorical_crossentropy(z, y, active, log_pi):
    """Softmax over the active neurons of o = z - log pi, targets normalised over the labels."""
    labels = y.sum(axis=1, keepdims=True)
    t = np.divide(y, labels, out=np.zeros_like(y), where=labels > 0)
    log_p = log_softmax(np.where(active, z - log_pi, -np.inf))
    terms = np.multiply(t, log_p, out=np.zeros_like(t), where=t > 0)
    # A sample without labels has no target distribution: loss 0, gradient 0.
    return -terms.sum(axis=1), t.sum(axis=1, keepdims=True) * np.exp(log_p) - t


def binary_crossentropy(z, y, active, log_pi, mean=False):
    """Sum (or mean over all n_out) of softplus(z) - y z over the active neurons, weighted 1/pi."""
    weight = active * np.exp(-log_pi) / (z.shape[1] if mean else 1)
    losses = (weight * (np.logaddexp(0.0, z) - y * z)).sum(axis=1)
    return losses, weight * (activate("sigmoid", z) - y)


def mean_squared_error(z, y, active, log_pi, activation):
    """Mean over all n_out of (f(z) - y)^2 over the active neurons, weighted 1/pi."""
    a = activate(activation, np.where(active, z, -np.inf) if activation == "softmax" else z)
    weight = active * np.exp(-log_pi) / z.shape[1]
    losses = (weight * (a - y) ** 2).sum(axis=1)
    return losses, activation_gradient(activation, a, 2.0 * weight * (a - y))


# -------------------------------------------------------------------------------- network


def forward(layers, x):
    """Return the inputs of every layer, and the last layer's z, for dense or sparse x."""
    inputs = [np.asarray(x.todense() if hasattr(x, "todense") else x, dtype=np.float64)]
    for layer in layers:
        z = inputs[-1] @ layer.weights.astype(np.float64).T + layer.bias.astype(np.float64)
        if layer is layers[-1]:
            return inputs, z
        a = activate(layer.activation, z)
        inputs.append(a if layer.active is None else a * layer.active * layer.factor)
    raise ValueError("no layers")


def predict(layers, x):
    """Return the activations (n, n_out) of the last layer, all of its neurons computed."""
    return activate(layers[-1].activation, forward(layers, x)[1])


def loss_and_deltas(layers, x, y, loss, sample_weight=None, mean_outputs=False):
    """Return the batch loss and, per layer, its input h (n, n_in) and dL/dz (n, n_out).

    The batch loss is sum_s sample_weight_s * loss_s / n.
    """
    inputs, z = forward(layers, x)
    n = len(z)
    y = np.asarray(y.todense() if hasattr(y, "todense") else y, dtype=np.float64)
    last = layers[-1]
    active = np.ones(z.shape, dtype=bool) if last.active is None else last.active
    log_pi = np.zeros(z.shape) if last.log_pi is None else last.log_pi
    if loss == "categorical_crossentropy":
        losses, dz = categorical_crossentropy(z, y, active, log_pi)
    elif loss == "binary_crossentropy":
        losses, dz = binary_crossentropy(z, y, active, log_pi, mean_outputs)
    else:
        losses, dz = mean_squared_error(z, y, active, log_pi, last.activation)

    scale = (np.ones(n) if sample_weight is None else np.asarray(sample_weight, float)) / n
    dz = dz * scale[:, None]
    deltas = [dz]
    for i in range(len(layers) - 1, 0, -1):
        below = layers[i - 1]
        da = dz @ layers[i].weights * below.factor
        if below.active is not None:
            da = da * below.active
        dz = activation_gradient(below.activation, inputs[i] / below.factor, da)
        deltas.append(dz)
    return float(losses @ scale), list(zip(inputs, deltas[::-1], strict=True))


def loss_and_gradients(layers, x, y, loss, sample_weight=None, mean_outputs=False):
    """Return the batch loss and, per layer, (dL/dW, dL/db)."""
    value, pairs = loss_and_deltas(layers, x, y, loss, sample_weight, mean_outputs)
    return value, [(dz.T @ h, dz.sum(axis=0)) for h, dz in pairs]


def numeric_gradient(function, array, step=1e-6):
    """Return d function() / d array by central differences; array is changed and put back."""
    gradient = np.zeros_like(array)
    for at in np.ndindex(array.shape):
        kept = array[at]
        array[at] = kept + step
        above = function()
        array[at] = kept - step
        below = function()
        array[at] = kept
        gradient[at] = (above - below) / (2.0 * step)
    return gradient


# ----------------------------------------------------------------------------- optimizers
# w (rows, width) is a matrix of rows: a neuron's weights and bias, or a feature's weights. A step
# changes the touched rows only, in w and in the state. To the others it is a step with gradient
# 0, made when they are touched next, or by settle.


def new_state(w, initial_accumulator_value=0.0):
    """Return the state of any of the optimizers for w."""
    return {
        "now": 0,  # steps made
        "clock": np.zeros(len(w), dtype=int),  # of them, those that the row has seen
        "last": np.zeros(len(w), dtype=int),  # the number of its last one with a gradient
        "lr": np.zeros(len(w)),  # of that
        "m": np.zeros(w.shape),
        "v": np.zeros(w.shape),
        "acc": np.full(w.shape, float(initial_accumulator_value)),
        "row_acc": np.full(len(w), float(initial_accumulator_value)),
    }


def with_l2(w, g, l2, n_weights):
    """Return g plus the gradient of l2 * sum(w^2) over the first n_weights columns."""
    penalty = 2.0 * l2 * w
    penalty[:, n_weights:] = 0.0
    return g + penalty


def _skip_sgd(w, r, state, lr, momentum=0.0, nesterov=False):
    for _ in range(state["clock"][r], state["now"]):
        state["v"][r] *= momentum
        w[r] += momentum * state["v"][r] if nesterov else state["v"][r]


def sgd(w, g, touched, state, lr, momentum=0.0, nesterov=False):
    for r in touched:
        _skip_sgd(w, r, state, lr, momentum, nesterov)
        state["v"][r] = momentum * state["v"][r] - lr * g[r]
        w[r] += momentum * state["v"][r] - lr * g[r] if nesterov else state["v"][r]
        state["clock"][r] = state["now"] + 1
    state["now"] += 1


def adagrad(w, g, touched, state, lr, epsilon=1e-7):
    for r in touched:
        state["acc"][r] += g[r] ** 2
        w[r] -= lr * g[r] / (np.sqrt(state["acc"][r]) + epsilon)


def adagrad_momentum(w, g, touched, state, lr, momentum, epsilon=1e-7):
    for r in touched:
        has = g[r] != 0  # elsewhere v waits
        state["acc"][r] += g[r] ** 2
        step = lr * g[r] / (np.sqrt(state["acc"][r]) + epsilon)
        state["v"][r] = np.where(has, momentum * state["v"][r] + step, state["v"][r])
        w[r] -= np.where(has, state["v"][r], 0.0)


def rowwise_adagrad(w, g, touched, state, lr, epsilon=1e-7):
    for r in touched:
        state["row_acc"][r] += np.mean(g[r] ** 2)
        w[r] -= lr * g[r] / (np.sqrt(state["row_acc"][r]) + epsilon)


def _skip_adam(w, r, state, lr, beta_1=0.9, beta_2=0.999, epsilon=1e-7):
    # In the k-th missed step m is beta_1^k and sqrt(v) is sqrt(beta_2)^k of what it was. The
    # learning rate is that of the last step, both bias corrections are those of some steps later,
    # half of what the mean missed move is behind, and that of epsilon is taken at the end.
    gap, ratio = state["now"] - state["clock"][r], beta_1 / np.sqrt(beta_2)
    if gap > 0 and state["clock"][r]:
        t = state["last"][r] + (min(0.5 / (1 - ratio), 1000) if ratio < 1 else 1000)
        rate = state["lr"][r] * np.sqrt(1 - beta_2**t) / (1 - beta_1**t)
        moves = sum(ratio**k for k in range(1, gap + 1))
        least = epsilon * np.sqrt(1 - beta_2 ** state["now"])
        w[r] -= rate * moves * state["m"][r] / (np.sqrt(state["v"][r]) + least)
        state["m"][r] *= beta_1**gap
        state["v"][r] *= beta_2**gap


def adam(w, g, touched, state, lr, beta_1=0.9, beta_2=0.999, epsilon=1e-7):
    for r in touched:
        _skip_adam(w, r, state, lr, beta_1, beta_2, epsilon)
    lazy_adam(w, g, touched, state, lr, beta_1, beta_2, epsilon)


def lazy_adam(w, g, touched, state, lr, beta_1=0.9, beta_2=0.999, epsilon=1e-7):
    for r in touched:
        t = state["now"] + 1
        state["m"][r] = beta_1 * state["m"][r] + (1 - beta_1) * g[r]
        state["v"][r] = beta_2 * state["v"][r] + (1 - beta_2) * g[r] ** 2
        m_hat = state["m"][r] / (1 - beta_1**t)
        v_hat = state["v"][r] / (1 - beta_2**t)
        w[r] -= lr * m_hat / (np.sqrt(v_hat) + epsilon)
        state["clock"][r] = state["last"][r] = t
        state["lr"][r] = lr
    state["now"] += 1


def on_elements(step, w, g, touched, state, lr, **arguments):
    """Step on the weights of the mask `touched` alone, each as a row; to the others, and to their
    state (new_state of w.reshape(-1, 1)), the step does not exist."""
    state["clock"][:] = state["now"]
    step(w.reshape(-1, 1), g.reshape(-1, 1), np.flatnonzero(touched), state, lr, **arguments)


def settle(step, w, state, lr, **arguments):
    """Make the steps that rows have missed; `step` is one of the functions above."""
    skip = {sgd: _skip_sgd, adam: _skip_adam}.get(step)
    if skip is not None:
        for r in range(len(w)):
            skip(w, r, state, lr, **arguments)
        state["clock"][:] = state["now"]


# ------------------------------------------------------------------- hashing and clusters


def simhash_collision(x, y):
    """P(one sign of a random projection agrees) = 1 - theta / pi."""
    cosine = x @ y / (np.linalg.norm(x) * np.linalg.norm(y))
    return 1.0 - np.arccos(np.clip(cosine, -1.0, 1.0)) / pi


def e2lsh_collision(distance, width):
    """P(floor((a . v + b) / width) agrees), a normal and b uniform, at this distance: the integral
    of the density of |a . (x - y)| times the chance 1 - t / width that no border is between."""
    t = (np.arange(20000) + 0.5) * width / 20000
    density = np.sqrt(2 / pi) / distance * np.exp(-0.5 * (t / distance) ** 2)
    return float(np.sum(density * (1 - t / width)) * width / 20000)


def transformed(name, w, m, bound, scale):
    """Return P(w) of rows w, divided by `scale` to norms of at most `bound`."""
    w = np.asarray(w, np.float64) * bound / scale
    power = (w * w).sum(axis=1, keepdims=True)
    if name == "simple_lsh":
        return np.hstack([w, np.sqrt(1 - power)])
    terms = [power ** (2**j) for j in range(m)]  # |w|^2, |w|^4, |w|^8, ...
    if name == "sign_alsh":
        terms = [0.5 - term for term in terms]
    return np.hstack([w, *terms])


def transformed_query(name, q, m):
    """Return Q(q) of rows q, at length 1."""
    q = np.asarray(q, np.float64)
    q = q / np.linalg.norm(q, axis=1, keepdims=True)
    appended = 0.5 if name == "l2_alsh" else 0.0
    return np.hstack([q, np.full((len(q), 1 if name == "simple_lsh" else m), appended)])


def _beaten_by_both(x, y):
    """Return, for every i, #{j: x_j < x_i and y_j < y_i}."""
    return ((x[None, :] < x[:, None]) & (y[None, :] < y[:, None])).sum(axis=1)


def wta_collision(x, y, m):
    """P(the largest of m random coordinates is the same in x and y), without ties."""
    return sum(comb(int(c), m - 1) for c in _beaten_by_both(x, y)) / comb(len(x), m)


def dwta_collision(x, y, m):
    """The same among the non-zero coordinates, given that not both windows are empty.

    A window that is empty in one vector only borrows another bin's code, which carries that
    bin's offset, so it does not match.
    """
    d = len(x)
    beaten = _beaten_by_both(np.where(x != 0, x, -np.inf), np.where(y != 0, y, -np.inf))
    matches = sum(comb(int(c), m - 1) for c in beaten[(x != 0) & (y != 0)])
    both_empty = comb(int(((x == 0) & (y == 0)).sum()), m)
    return matches / (comb(d, m) - both_empty)


def retrieval_probability(p, n_functions, n_tables):
    """P(found in at least one of n_tables tables of n_functions functions each)."""
    return 1.0 - (1.0 - p**n_functions) ** n_tables


def spherical_assignment(points, centres):
    """Return, for every point, the centre of the largest cosine; the first of equals."""
    directions = centres / np.linalg.norm(centres, axis=1, keepdims=True)
    return np.argmax(np.asarray(points, np.float64) @ directions.T, axis=1)


def bounded_assignment(points, centres, room):
    """Return, for every point, a centre, none of which gets more points than its room.

    Those nearest to a centre stay with it, the first of equals; the others, nearest first, go to
    the best of the centres that have room left.
    """
    points, room = np.asarray(points, np.float64), np.array(room)
    scores = points @ np.asarray(centres, np.float64).T
    found = scores.argmax(axis=1)
    cosines = scores.max(axis=1) / np.linalg.norm(points, axis=1)
    order, surplus = np.argsort(-cosines, kind="stable"), []
    for i in order:
        if room[found[i]] > 0:
            room[found[i]] -= 1
        else:
            surplus.append(i)
    for i in surplus:
        found[i] = np.argmax(np.where(room > 0, scores[i], -np.inf))
        room[found[i]] -= 1
    return found


def balanced_cells(points, groups, cells, capacity, kept):
    """Return the cell of every point; kept : of those that stay where they are, -1 for others.

    cells : of all groups, as many of each
    """
    kept, m = np.asarray(kept), len(cells) // len(groups)
    found, new = kept.copy(), np.flatnonzero(kept < 0)
    in_cell = np.bincount(kept[kept >= 0], minlength=len(cells))
    room = capacity - in_cell.reshape(-1, m)
    group = np.zeros(len(new), int)
    if len(groups) > 1:
        group = bounded_assignment(points[new], groups, room.sum(axis=1))
    for g in range(len(groups)):
        of = new[group == g]
        found[of] = g * m + bounded_assignment(points[of], cells[g * m : (g + 1) * m], room[g])
    return found
