"""The model file: safetensors, with the configuration as JSON in its metadata."""

from __future__ import annotations

import json
import math
import os
import warnings
import zlib
from collections.abc import Container
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from slide import hashing, losses, metrics, optimizers
from slide._files import is_stream, replaced

FORMAT = "slide-model"
VERSION = 2
CONFIG = ""  # the name among the check sums that no array has
GIVEN = "given"  # propensities that a metric was given, and that are among the arrays


def save(model: Any, path: Any) -> None:
    """Write a built model; see `Sequential.save`."""
    config, arrays = describe(model)
    # What cannot be read is not written: parts of a user's own classes are found here.
    type(model).from_config(config["model"])
    if config["compiled"] is not None:
        optimizers.get(config["compiled"]["optimizer"])
        losses.get(config["compiled"]["loss"])
        config["compiled"]["metrics"] = _describe_metrics(model.metrics, arrays)
    write(arrays, FORMAT, VERSION, config, path)


def _describe_metrics(given: list[Any], arrays: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Describe slide's own metrics, with their propensities among the arrays."""
    own = [metric for metric in given if type(metric) in metrics.CLASSES]
    others = ", ".join(metric.name for metric in given if type(metric) not in metrics.CLASSES)
    if others:
        warnings.warn(
            f"metrics that are not slide's are not in the file: {others}; compile the loaded model "
            "with them",
            stacklevel=4,
        )
    described = []
    for i, metric in enumerate(own):
        described.append(metrics.serialize(metric))
        if getattr(metric, "propensities", None) is not None:
            arrays[f"metrics.{i}.propensities"] = np.asarray(metric.propensities, np.float64)
            if described[i]["config"]["propensities"] is not None:
                described[i]["config"]["propensities"] = GIVEN
    return described


def _read_metrics(described: list[Any], names: Container[str], tensor: Any) -> list[Any]:
    found = []
    for i, description in enumerate(described):
        name = f"metrics.{i}.propensities"
        config = dict(description["config"])
        if config.get("propensities") == GIVEN:
            config["propensities"] = tensor(name)
        metric = metrics.get({**description, "config": config})
        if name in names:
            metric.propensities = tensor(name)
        found.append(metric)
    return found


def describe(model: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return all that a model is, but for its metrics, as a configuration and arrays, some of which
    it goes on using."""
    config: dict[str, Any] = {
        "model": model.get_config(),
        "built": model.built,
        "sparse": model._sparse,
        "step": model.step,
        "first_step": model._first_step,
        "epochs_trained": model.epochs_trained,
        "biases_wait": model.built and model.layers[-1].biases_wait,
        "compiled": None,
        "index": None,
    }
    if model.built and model.layers[-1].searcher_family is not None:
        config["index"] = hashing.serialize(model.layers[-1].searcher_family)
    arrays: dict[str, np.ndarray] = {}
    if model.loss is not None:
        config["compiled"] = {
            "optimizer": optimizers.serialize(model.optimizer),
            "loss": losses.serialize(model.loss),
            "metrics": [],
            "update": model.update,
            "steps_per_execution": model.steps_per_execution,
            "staleness": model.staleness,
        }
    for i, layer in enumerate(model.layers if model.built else []):
        for name, array in layer.get_state().items():
            arrays[f"layers.{i}.{name}"] = array
    return config, arrays


def restore(
    cls: type, config: dict[str, Any], arrays: dict[str, np.ndarray], metrics: list[Any]
) -> Any:
    """Return a model with these metrics from what `describe` gave."""
    shapes = {name: array.shape for name, array in arrays.items()}
    model = _restore(cls, config, shapes, arrays.__getitem__)
    model.metrics = metrics
    return model


def write(
    arrays: dict[str, np.ndarray], form: str, version: int, config: dict[str, Any], path: Any
) -> None:
    """Write arrays and a configuration to a file of the format `form`."""
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    text = json.dumps(config)
    metadata = {
        "format": form,
        "version": str(version),
        "config": text,
        "sums": json.dumps(check_sums(text, arrays)),
    }
    with replaced(path) as temporary:
        try:
            save_file(arrays, temporary, metadata)
        except SafetensorError as error:  # a full disk, for one
            raise OSError(f"{path}: {error}") from error
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())


def check_sums(config: str, arrays: dict[str, np.ndarray]) -> dict[str, int]:
    """Return the check sums that a file of these contiguous arrays has in its metadata."""
    arrays = {CONFIG: np.frombuffer(config.encode(), np.uint8), **arrays}
    return {name: _check_sum(array) for name, array in arrays.items()}


def _check_sum(array: np.ndarray) -> int:
    """Return the CRC of an array's dtype, shape and bytes."""
    start = zlib.crc32(f"{array.dtype.str} {array.shape}".encode())
    return zlib.crc32(array.reshape(-1).view(np.uint8).data, start)


def load(cls: type, path: Any) -> Any:
    """Return the model in a file; see `Sequential.load`."""
    return read(path, FORMAT, VERSION, "model", lambda *parts: _restore(cls, *parts))


def read(path: Any, form: str, version: int, kind: str, restore: Any) -> Any:
    """Return what `restore` makes of a file's configuration, shapes of arrays by name, and function
    from name to array.

    kind : what the file should be, for the messages
    """
    path = Path(path)
    if is_stream(path):  # before it is opened: that would wait for the writer of a pipe
        raise ValueError(f"{path}: a pipe or a device, which cannot be loaded as a {kind}")
    with open(path, "rb"):  # the system's own words for what is missing or forbidden
        pass
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != form:
                raise ValueError(f"it holds no {kind} of this package")
            if metadata.get("version") != str(version):
                raise ValueError(
                    f"its format version is {metadata.get('version')}, this package reads {version}"
                )
            if "sums" not in metadata:
                raise ValueError("it has no check sums: another version of this package wrote it")
            sums = json.loads(metadata["sums"])
            if check_sums(metadata["config"], {})[CONFIG] != sums[CONFIG]:
                raise ValueError("its configuration is damaged: the check sum is another")

            def tensor(name: str) -> np.ndarray:
                array: np.ndarray = file.get_tensor(name)
                if _check_sum(array) != sums[name]:
                    raise ValueError(f"{name} is damaged: its check sum is another")
                return array

            names = list(file.keys())
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
            return restore(json.loads(metadata["config"]), shapes, tensor)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable {kind} file: {error}") from error
    except (LookupError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise ValueError(f"{path} is not a readable {kind} file: {error}") from error


def _restore(
    cls: type, config: dict[str, Any], shapes: dict[str, tuple[int, ...]], tensor: Any
) -> Any:
    model: Any = cls.from_config(config["model"])  # type: ignore[attr-defined]
    compiled = config["compiled"]
    if compiled is not None:
        model.compile(
            optimizer=optimizers.get(compiled["optimizer"]),
            loss=losses.get(compiled["loss"]),
            metrics=_read_metrics(compiled["metrics"], shapes, tensor),
            update=compiled["update"],
            steps_per_execution=compiled["steps_per_execution"],
            staleness=compiled.get("staleness", 0),
        )
    if not config.get("built", True):
        return model
    # Before the weights are allocated, so that a damaged configuration can't ask for memory.
    n_in = model.input.n_features
    for i, layer in enumerate(model.layers):
        wanted = n_in * layer.units
        if math.prod(shapes[f"layers.{i}.weights"]) < wanted:
            raise ValueError(f"layers.{i}.weights has fewer than {wanted} values")
        n_in = layer.units
    model.build(bool(config["sparse"]), draw=False)
    model.layers[-1].biases_wait = bool(config["biases_wait"])
    # The index's own family: what suits a layer of that size by default may have changed since.
    family = None if config.get("index") is None else hashing.get(config["index"])
    for i, layer in enumerate(model.layers):
        prefix = f"layers.{i}."
        state = {name[len(prefix) :]: tensor(name) for name in shapes if name.startswith(prefix)}
        layer.set_state(state, model.optimizer, family if layer is model.layers[-1] else None)
    for name in ("step", "first_step", "epochs_trained"):
        if not isinstance(config[name], int) or not 0 <= config[name] < 2**63:
            raise ValueError(f"{name} is {config[name]!r}, not a count")
    model._position[0], model.epochs_trained = config["step"], config["epochs_trained"]
    model._first_step = config["first_step"]
    return model
