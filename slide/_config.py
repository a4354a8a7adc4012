"""What this installation is made of."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import scipy
from joblib import effective_n_jobs

from slide._kernels import build_info, simd


def show_config(mode: str = "print") -> dict[str, Any] | None:
    """Print how the kernels were built and what they use.

    Parameters
    ----------
    mode : {"print", "dict"}
        Print, or return the same as a dict.

    Examples
    --------
    >>> sorted(show_config("dict"))[:3]
    ['compiler', 'debug', 'numpy']
    """
    if mode not in ("print", "dict"):
        raise ValueError(f"mode must be 'print' or 'dict', got {mode!r}")
    try:
        own = version("slide-learn")
    except PackageNotFoundError:
        own = "not installed"
    config = {
        "slide": own,
        "simd": simd.ISA,
        "openmp": build_info.openmp,
        "threads": effective_n_jobs(-1) if build_info.openmp else 1,
        "compiler": build_info.compiler,
        "debug": build_info.debug,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "platform": platform.platform(),
    }
    if mode == "dict":
        return config
    for name, value in config.items():
        print(f"{name:9} {value}")
    return None
