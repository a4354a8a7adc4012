"""Checks of arguments and input arrays, shared by the modules of the package.

Every check returns the value in its canonical form and raises before anything is changed, with
the argument's name and, for arrays, the row, the column and the value in the message.
"""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import scipy.sparse as sp

T = TypeVar("T")

FLOAT32_MAX = float(np.finfo(np.float32).max)


# ------------------------------------------------------------------------------ scalars


def check_positive_int(name: str, value: Any, low: int = 1, high: int | None = None) -> int:
    """Return `value` as an int in [low, high].

    Parameters
    ----------
    name : str
        The argument's name, for the message.
    value : int or NumPy integer
        A bool is refused.
    low, high : int
        Inclusive bounds; ``high=None`` means none.

    Raises
    ------
    TypeError
        If `value` is not an integer.
    ValueError
        If it is out of bounds.
    """
    if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer, got {value!r} ({type(value).__name__})")
    if isinstance(value, np.ndarray):
        raise TypeError(f"{name} must be an integer, got an array of shape {value.shape}")
    number = operator.index(value)
    if number < low or (high is not None and number > high):
        wanted = f"at least {low}" if high is None else f"between {low} and {high}"
        raise ValueError(f"{name} must be {wanted}, got {number}")
    return number


def check_finite_float(
    name: str,
    value: Any,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> float:
    """Return `value` as a finite Python float within the given bounds.

    Parameters
    ----------
    name : str
        The argument's name, for the message.
    value : real number
        A bool, a string or an array is refused.
    at_least, at_most : float, optional
        Inclusive bounds.
    above, below : float, optional
        Exclusive bounds.

    Raises
    ------
    TypeError
        If `value` is not a real number.
    ValueError
        If it is NaN, infinite or out of bounds.
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {value!r} ({type(value).__name__})")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {value!r}")
    bounds = (
        ("at least", at_least, operator.ge),
        ("greater than", above, operator.gt),
        ("at most", at_most, operator.le),
        ("less than", below, operator.lt),
    )
    for words, bound, holds in bounds:
        if bound is not None and not holds(number, bound):
            raise ValueError(f"{name} must be {words} {bound:g}, got {value!r}")
    return number


def check_fraction(name: str, value: Any, *, zero: bool = False) -> float:
    """Return `value` as a float in (0, 1], or in [0, 1] with ``zero=True``.

    Raises
    ------
    TypeError
        If `value` is not a real number.
    ValueError
        If it is NaN or out of bounds.
    """
    if zero:
        return check_finite_float(name, value, at_least=0.0, at_most=1.0)
    return check_finite_float(name, value, above=0.0, at_most=1.0)


def check_bool(name: str, value: Any) -> bool:
    """Return `value` as a bool; only Python's and NumPy's booleans are accepted.

    Raises
    ------
    TypeError
        If `value` is anything else, 0 and 1 included.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {value!r} ({type(value).__name__})")
    return bool(value)


def check_in(name: str, value: Any, options: Sequence[T]) -> T:
    """Return the member of `options` that equals `value`; True is not 1.

    Raises
    ------
    ValueError
        If there is none; the message lists the options.
    """
    for option in options:
        # The type first: an array's == is no truth value.
        same_type = isinstance(value, type(option)) and (
            isinstance(value, bool) == isinstance(option, bool)
        )
        if same_type and option == value:
            return option
    wanted = ", ".join(repr(option) for option in options)
    raise ValueError(f"{name} must be one of {wanted}; got {value!r}")


# ------------------------------------------------------------------------- configurations


def resolve(name: str, identifier: Any, base: type[T], classes: Sequence[type[T]]) -> T:
    """Return the object that `identifier` describes, Keras's ``get``.

    Parameters
    ----------
    name : str
        What is described, for the messages.
    identifier : base, str or dict
        An instance is returned as it is. A string is a class's name, in CamelCase or
        snake_case, of a class without required arguments. A dict is what `serialize` gives.
    base : type
        The class that all results are instances of.
    classes : sequence of type
        The classes that a string or a dict may name.

    Raises
    ------
    TypeError
        If `identifier` is of another type.
    ValueError
        If it names no class of `classes`, or its configuration does not fit the class.
    """
    if isinstance(identifier, base):
        return identifier
    known = {cls.__name__.lower(): cls for cls in classes}
    if isinstance(identifier, str):
        class_name, config = identifier, {}
    elif isinstance(identifier, dict):
        if set(identifier) != {"class_name", "config"} or not isinstance(
            identifier["config"], dict
        ):
            raise ValueError(
                f"{name} as a dict must be {{'class_name': ..., 'config': {{...}}}}, "
                f"got {identifier!r}"
            )
        class_name, config = identifier["class_name"], identifier["config"]
    else:
        raise TypeError(
            f"{name} must be a {base.__name__}, a name or a config dict, "
            f"got {identifier!r} ({type(identifier).__name__})"
        )
    cls = known.get(str(class_name).replace("_", "").lower())
    if cls is None:
        wanted = ", ".join(sorted(cls.__name__ for cls in classes))
        raise ValueError(f"{name} {class_name!r} is unknown; known are {wanted}")
    try:
        return cls(**config)
    except TypeError as error:
        raise ValueError(
            f"{name} {class_name!r} cannot be made from {config!r}: {error}"
        ) from error


def serialize_config(instance: Any) -> dict[str, Any]:
    """Return ``{"class_name": ..., "config": ...}``, which `resolve` turns back."""
    return {"class_name": type(instance).__name__, "config": instance.get_config()}


# ---------------------------------------------------------------------------- input arrays


def check_features(x: Any, n_features: int, name: str = "x") -> Any:
    """Return `x` in the one of two forms that the kernels read.

    Parameters
    ----------
    x : sparse matrix or array-like, shape (n_samples, n_features)
        Any SciPy sparse format, or anything that NumPy turns into a 2-D array, of a boolean,
        integer or real floating dtype. Empty rows, columns in any order and explicit zeros are
        legal. Entries that a COO matrix holds twice are summed, as in SciPy. `x` is never
        modified.
    n_features : int
        The number of columns that `x` must have, at most 2**31 - 1.
    name : str
        The argument's name, for the messages.

    Returns
    -------
    csr_array or ndarray
        Sparse: data float32, indices int32, indptr int64, columns strictly increasing in every
        row, ``len(data) == len(indices) == indptr[-1]``. Dense: C-contiguous float32.
        Arrays that already have this form are shared with `x`, not copied. The pair of index
        dtypes is the kernels'; SciPy widens the indices when it slices such an array.

    Raises
    ------
    TypeError
        If the dtype is complex, object, text or anything else that is not a real number.
    ValueError
        If the shape is wrong, a value is NaN, infinite or beyond float32, a column is negative,
        out of range or repeated in its row, or indptr does not fit the other arrays.
    """
    if sp.issparse(x):
        _check_shape(name, x.shape, None, n_features, "n_features")
        return _canonical_csr(name, x)
    x = real_array(name, x)
    _check_shape(name, x.shape, None, n_features, "n_features")
    values = _as_float32(x)
    if not _all_finite(values):
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise _not_finite(f"{name}[{row}, {column}]", x[row, column])
    return values


def check_has_rows(x: Any, name: str = "x") -> None:
    """Refuse features without rows, in what needs some.

    Parameters
    ----------
    x : csr_array or ndarray
        What `check_features` returned.
    name : str
        The argument's name, for the message.

    Raises
    ------
    ValueError
        If there are no rows.
    """
    if x.shape[0] == 0:
        raise ValueError(f"{name} has no rows")


def check_targets(
    y: Any, n_samples: int, n_outputs: int, loss_name: str, name: str = "y"
) -> sp.csr_array:
    """Return the targets as a CSR array of float32 without explicit zeros.

    Parameters
    ----------
    y : sparse matrix, 1-D or 2-D array-like
        - sparse, shape (n_samples, n_outputs): an indicator matrix, or real targets;
        - 1-D integers, shape (n_samples,): the class of each sample, in [0, n_outputs);
        - 2-D, shape (n_samples, n_outputs): dense targets.

        With one output and a loss other than categorical_crossentropy a 1-D `y` is the column
        of targets itself. Rows without labels are legal. `y` is never modified.
    n_samples, n_outputs : int
        The shape that the targets must have.
    loss_name : {"categorical_crossentropy", "binary_crossentropy", "mean_squared_error"}
        Cross-entropies take targets >= 0 and in [0, 1].
    name : str
        The argument's name, for the messages.

    Returns
    -------
    csr_array, shape (n_samples, n_outputs)
        Data float32, indices int32, indptr int64, as in `check_features`.

    Raises
    ------
    TypeError
        If the dtype is not one of real numbers, or class ids are not integers.
    ValueError
        As in `check_features`, or if a class id or a target is out of range.
    """
    check_in(
        "loss_name",
        loss_name,
        ("categorical_crossentropy", "binary_crossentropy", "mean_squared_error"),
    )
    if sp.issparse(y):
        _check_shape(name, y.shape, n_samples, n_outputs, "n_outputs")
        targets = _without_zeros(_canonical_csr(name, y))
    else:
        try:
            y = real_array(name, y)
            if y.ndim != 1:
                _check_shape(name, y.shape, None, n_outputs, "n_outputs")
        except (TypeError, ValueError) as error:
            # Lists of labels are what comes to mind first, and a column of ids the next.
            raise (TypeError if isinstance(error, TypeError) else ValueError)(
                f"{error}; targets are class ids, integers of shape ({n_samples},), or a matrix, "
                f"dense or sparse, of shape ({n_samples}, {n_outputs})"
            ) from error
        if y.ndim == 1 and n_outputs == 1 and loss_name != "categorical_crossentropy":
            y = y[:, np.newaxis]
        if y.ndim == 1:
            return _one_label_a_row(name, y, n_samples, n_outputs)
        _check_shape(name, y.shape, n_samples, n_outputs, "n_outputs")
        targets = _csr_of_dense(name, y)

    values = targets.data
    if loss_name == "categorical_crossentropy":
        wrong, wanted = values < 0, ">= 0"
    elif loss_name == "binary_crossentropy":
        wrong, wanted = (values < 0) | (values > 1), "in [0, 1]"
    else:
        return targets
    if wrong.any():
        at = int(wrong.argmax())
        place = entry_place(name, targets.indptr, targets.indices, at)
        raise ValueError(f"{place} is {values[at]:g}; {loss_name} needs targets {wanted}")
    return targets


def check_sample_weight(
    sample_weight: Any, n_samples: int, name: str = "sample_weight"
) -> np.ndarray | None:
    """Return the sample weights as C-contiguous float32, or None for None.

    Parameters
    ----------
    sample_weight : array-like, shape (n_samples,), or None
        Finite and >= 0. It is never modified.
    n_samples : int
        The length that it must have.
    name : str
        The argument's name, for the messages.

    Raises
    ------
    TypeError
        If the dtype is not one of real numbers.
    ValueError
        If the shape is wrong or a weight is negative, NaN, infinite or beyond float32.
    """
    if sample_weight is None:
        return None
    given = real_array(name, sample_weight)
    if given.shape != (n_samples,):
        raise ValueError(f"{name} must have shape ({n_samples},), got {given.shape}")
    weights = _as_float32(given)
    if not _all_finite(weights):
        row = int(np.argmin(np.isfinite(weights)))
        raise _not_finite(f"{name}[{row}]", given[row])
    if n_samples and weights.min() < 0:
        row = int((weights < 0).argmax())
        raise ValueError(f"{name}[{row}] is {given[row]}; weights must be >= 0")
    return weights


def _check_shape(
    name: str, shape: tuple[int, ...], n_rows: int | None, n_columns: int, columns_name: str
) -> None:
    if len(shape) != 2:
        raise ValueError(f"{name} must have 2 dimensions, got shape {shape}")
    if shape[1] != n_columns:
        raise ValueError(f"{name} must have {columns_name}={n_columns} columns, got {shape[1]}")
    if n_rows is not None and shape[0] != n_rows:
        raise ValueError(f"{name} must have {n_rows} rows, one per sample; got {shape[0]}")


def _check_real_dtype(name: str, dtype: np.dtype) -> None:
    if dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold real numbers, got dtype {dtype}")


def real_array(name: str, x: Any) -> np.ndarray:
    """Return `x` as an array of real numbers, whatever its shape; TypeError if it holds others."""
    array = plain_array(name, x)
    _check_real_dtype(name, array.dtype)
    return array


def plain_array(name: str, x: Any) -> np.ndarray:
    """Return `x` as an array; TypeError if it is masked, ValueError if rows differ in length."""
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array; fill the masked values first")
    try:
        return np.asarray(x)
    except ValueError as error:
        raise ValueError(f"{name} is not a rectangular array: {error}") from error


def _as_float32(values: np.ndarray) -> np.ndarray:
    # A value beyond float32 becomes infinite, which the callers refuse by name.
    with np.errstate(over="ignore", invalid="ignore"):
        return np.require(values, np.float32, ["C", "A"])


def _all_finite(values: np.ndarray) -> bool:
    # A sum that is finite has finite terms only, and costs no temporary array.
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(values.sum())) or bool(np.isfinite(values).all())


def _not_finite(place: str, given: Any) -> ValueError:
    # A long double may be beyond float64 and still finite: ask NumPy, not math.
    reason = "too large for float32" if np.isfinite(given) else "not a finite number"
    return ValueError(f"{place} is {given}, {reason}")


def entry_place(name: str, indptr: np.ndarray, indices: np.ndarray, at: int) -> str:
    """Return how messages call the entry number `at` of a CSR matrix: ``x[row, column]``."""
    row = int(np.searchsorted(indptr, at, side="right")) - 1
    return f"{name}[{row}, {indices[at]}]"


def _index_vector(name: str, values: Any) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(
            f"{name} must be a vector of integers, got {array.ndim} dimensions of {array.dtype}"
        )
    return array


def _check_id_range(name: str, ids: np.ndarray, size: int, rows: np.ndarray | None = None) -> None:
    if not len(ids) or (ids.min() >= 0 and ids.max() < size):
        return
    at = int(((ids < 0) | (ids >= size)).argmax())
    where = "" if rows is None else f" in row {int(np.searchsorted(rows, at, side='right')) - 1}"
    raise ValueError(f"{name}[{at}] is {ids[at]}{where}; it must be in [0, {size})")


def _check_compressed(
    name: str, x: Any, n_major: int, n_minor: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the indptr (int64) and indices of a CSR, CSC or BSR matrix after checking them.

    SciPy's compiled routines trust these arrays, and anybody may assign to them.
    """
    indices = _index_vector(f"{name}.indices", x.indices)
    indptr = _index_vector(f"{name}.indptr", x.indptr).astype(np.int64, copy=False)
    if len(indptr) != n_major + 1:
        raise ValueError(f"{name}.indptr must have length {n_major + 1}, got {len(indptr)}")
    if indptr[0] != 0:
        raise ValueError(f"{name}.indptr[0] must be 0, got {indptr[0]}")
    decreasing = indptr[1:] < indptr[:-1]
    if decreasing.any():
        row = int(decreasing.argmax())
        raise ValueError(
            f"{name}.indptr decreases at row {row}, from {indptr[row]} to {indptr[row + 1]}"
        )
    n_values = np.shape(x.data)[0]
    if len(indices) != n_values:
        raise ValueError(f"{name}.indices has length {len(indices)}, {name}.data has {n_values}")
    if indptr[-1] > n_values:
        raise ValueError(f"{name}.indptr ends at {indptr[-1]}, {name}.data has length {n_values}")
    indices = indices[: indptr[-1]]
    _check_id_range(f"{name}.indices", indices, n_minor, indptr)
    return indptr, indices


def csr_arrays(name: str, x: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return data, indices and indptr (int64) of sparse `x` as CSR.

    The data and the order of columns in a row are not looked at.

    Raises
    ------
    ValueError
        If `x` has not two dimensions, or its arrays do not fit each other or the shape.
    """
    if len(x.shape) != 2:
        raise ValueError(f"{name} must have 2 dimensions, got shape {x.shape}")
    if x.format in ("csr", "csc", "coo") and np.ndim(x.data) != 1:
        raise ValueError(f"{name}.data must be a vector, got shape {np.shape(x.data)}")
    n_rows, n_columns = x.shape
    if x.format == "csc":
        _check_compressed(name, x, n_columns, n_rows)
    elif x.format == "bsr":
        height, width = x.blocksize
        _check_compressed(name, x, n_rows // height, n_columns // width)
    elif x.format == "coo":
        for axis, ids, size in (("row", x.row, n_rows), ("col", x.col, n_columns)):
            if len(ids) != len(x.data):
                raise ValueError(
                    f"{name}.{axis} has length {len(ids)}, {name}.data has {len(x.data)}"
                )
            _check_id_range(f"{name}.{axis}", _index_vector(f"{name}.{axis}", ids), size)
    elif x.format == "dia":
        offsets = _index_vector(f"{name}.offsets", x.offsets)
        if np.ndim(x.data) != 2 or len(offsets) != len(x.data):
            raise ValueError(
                f"{name}.offsets has length {len(offsets)}, {name}.data shape {np.shape(x.data)}"
            )
    elif x.format == "lil":
        for part, rows in (("rows", x.rows), ("data", x.data)):
            if np.shape(rows) != (n_rows,):
                raise ValueError(f"{name}.{part} must have shape ({n_rows},), got {np.shape(rows)}")
        for row, (ids, values) in enumerate(zip(x.rows, x.data, strict=True)):
            if len(ids) != len(values):
                raise ValueError(
                    f"{name}.rows[{row}] has length {len(ids)}, {name}.data[{row}] {len(values)}"
                )
    if x.format != "csr":
        x = x.tocsr()
    indptr, indices = _check_compressed(name, x, n_rows, n_columns)
    return np.asarray(x.data)[: len(indices)], indices, indptr


def _canonical_csr(name: str, x: Any) -> sp.csr_array:
    """Return sparse `x`, of two dimensions, in the form that `check_features` promises."""
    _check_real_dtype(name, x.dtype)
    n_rows, n_columns = x.shape
    given, indices, indptr = csr_arrays(name, x)
    data = _as_float32(given)
    if not _all_finite(data):
        at = int(np.argmin(np.isfinite(data)))
        raise _not_finite(entry_place(name, indptr, indices, at), given[at])
    indices = np.require(indices, np.int32, ["C", "A"])
    indptr = np.require(indptr, np.int64, ["C", "A"])

    # The arrays themselves are looked at: SciPy's has_sorted_indices may be stale.
    if not _increasing_in_rows(indices, indptr, strictly=False):
        # In place, so on copies; a new array has no flags yet, and SciPy looks for itself.
        ordered = sp.csr_array((data.copy(), indices.copy(), indptr), shape=x.shape)
        ordered.sort_indices()
        data, indices = ordered.data, np.require(ordered.indices, np.int32)
    if not _increasing_in_rows(indices, indptr, strictly=True):
        same = indices[1:] == indices[:-1]
        same[_row_starts(indptr) - 1] = False
        at = int(same.argmax())
        row = int(np.searchsorted(indptr, at, side="right")) - 1
        raise ValueError(
            f"{name} has column {indices[at]} more than once in row {row}; "
            f"add such entries with {name}.sum_duplicates()"
        )
    return _make_csr(data, indices, indptr, (n_rows, n_columns))


def _row_starts(indptr: np.ndarray) -> np.ndarray:
    """Return where rows start, but for position 0 and the end."""
    starts = indptr[1:-1]
    return starts[(starts > 0) & (starts < indptr[-1])]


def _increasing_in_rows(indices: np.ndarray, indptr: np.ndarray, *, strictly: bool) -> bool:
    if strictly:
        rising = indices[1:] > indices[:-1]
    else:
        rising = indices[1:] >= indices[:-1]
    rising[_row_starts(indptr) - 1] = True
    return bool(rising.all())


def _make_csr(
    data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, shape: tuple[int, int]
) -> sp.csr_array:
    # SciPy's constructor would copy indices and indptr into one common dtype.
    matrix = sp.csr_array(shape, dtype=np.float32)
    matrix.data, matrix.indices, matrix.indptr = data, indices, indptr
    matrix.has_canonical_format = True
    return matrix


def _without_zeros(matrix: sp.csr_array) -> sp.csr_array:
    keep = matrix.data != 0
    if keep.all():
        return matrix
    kept_before = np.concatenate(([0], np.cumsum(keep)))
    return _make_csr(
        matrix.data[keep],
        matrix.indices[keep],
        kept_before[matrix.indptr].astype(np.int64, copy=False),
        matrix.shape,
    )


def _one_label_a_row(name: str, y: np.ndarray, n_samples: int, n_outputs: int) -> sp.csr_array:
    if y.dtype.kind not in "iu":
        raise TypeError(
            f"{name} with one dimension must hold class ids of an integer dtype, got {y.dtype}"
        )
    if len(y) != n_samples:
        raise ValueError(f"{name} must have length {n_samples}, one per sample; got {len(y)}")
    _check_id_range(name, y, n_outputs)
    return _make_csr(
        np.ones(n_samples, np.float32),
        # A copy: the result must not change when the caller's vector does.
        y.astype(np.int32),
        np.arange(n_samples + 1, dtype=np.int64),
        (n_samples, n_outputs),
    )


def _csr_of_dense(name: str, y: np.ndarray) -> sp.csr_array:
    values = check_features(y, y.shape[1], name)
    rows, columns = np.nonzero(values)
    indptr = np.zeros(len(values) + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=len(values)), out=indptr[1:])
    return _make_csr(values[rows, columns], columns.astype(np.int32), indptr, values.shape)
