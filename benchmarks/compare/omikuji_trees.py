"""Omikuji (Parabel: three balanced trees of linear classifiers) with its default settings.

It trains on the sparse features themselves and has no epochs: one fit is one point of the figure.
Its data set is loaded from text before the clock starts, through the functions that its
`Model.train_on_data` calls.
"""

import omikuji
from _peer import TOP, Clock, Set, end, epoch_done, padded, parse, start
from omikuji import ffi, lib


def load(path, pool):
    """The library's data set from a text file."""
    found = lib.load_omikuji_data_set(ffi.new("char[]", path.encode()), pool)
    if found == ffi.NULL:
        raise RuntimeError(f"Omikuji cannot load {path}")
    return ffi.gc(found, lib.free_omikuji_data_set)


def predict(model, x):
    """The first labels of each row, best first; one row at a time, as its interface has it."""
    lists = []
    for start_, stop in zip(x.indptr[:-1], x.indptr[1:], strict=True):
        pairs = zip(x.indices[start_:stop].tolist(), x.data[start_:stop].tolist(), strict=True)
        lists.append([label for label, _ in model.predict(list(pairs), top_k=TOP)])
    return padded(lists)


def main():
    options = parse(__doc__)
    data = Set(options.data)
    start("omikuji")
    pool = ffi.gc(lib.init_omikuji_thread_pool(options.threads), lib.free_omikuji_thread_pool)
    points = load(data.text, pool)
    with Clock() as clock:
        trained = lib.train_omikuji_model(points, omikuji.Model.default_hyper_param(), pool)
    if trained == ffi.NULL:
        raise RuntimeError("Omikuji failed to train")
    model = omikuji.Model(trained)
    model.init_prediction_thread_pool(options.threads)
    ids = predict(model, data.x_test)
    epoch_done(1, clock, data.scores(ids), samples=data.x_train.shape[0])
    end()


if __name__ == "__main__":
    main()
