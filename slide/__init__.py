"""Neural networks on CPUs that compute only the neurons that matter."""

from slide import (
    callbacks,
    data,
    hashing,
    initializers,
    losses,
    metrics,
    optimizers,
    rebuilds,
    regularizers,
    sampling,
    schedules,
    telemetry,
    tuning,
)
from slide._config import show_config
from slide.layers import Dense, Input
from slide.models import Sequential, load

__version__ = "0.1.0"

__all__ = [
    "Dense",
    "Input",
    "Sequential",
    "callbacks",
    "data",
    "hashing",
    "initializers",
    "load",
    "losses",
    "metrics",
    "optimizers",
    "rebuilds",
    "regularizers",
    "sampling",
    "schedules",
    "show_config",
    "telemetry",
    "tuning",
]
