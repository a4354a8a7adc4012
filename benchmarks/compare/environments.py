"""The systems' virtual environments: each has its own, made on first use and kept."""

import os
import subprocess
import sys
from pathlib import Path

from _common import WorkerError, can_import

ENVIRONMENTS = {
    "torch": ("torch", ["torch==2.13.0"]),
    "omikuji": ("omikuji", ["omikuji==0.5.2"]),
    "napkinxc": ("napkinxc", ["napkinxc==0.7.2"]),
    "scikit-learn": ("sklearn", ["scikit-learn>=1.5"]),
}
"""Of each environment the module that it is for, and what pip installs beside NumPy and SciPy."""


def default_directory():
    """Where environments are kept: below the user's cache directory."""
    if sys.platform == "win32":
        cache = os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        cache = Path.home() / "Library" / "Caches"
    else:
        cache = os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")
    return Path(cache) / "slide-compare"


def interpreter(folder):
    """The Python of a virtual environment."""
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def _run(command, what):
    # Without the path of this run's modules: pip must see the new environment only.
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, env=clean, capture_output=True, text=True)
    if done.returncode:
        raise WorkerError(f"{what}: exit status {done.returncode}\n{done.stderr[-2000:]}")


def python_of(name, directory):
    """The interpreter of an environment, which is made if need be.

    Parameters
    ----------
    name : str
        In `ENVIRONMENTS`.
    directory : path
        Of all environments.

    Returns
    -------
    str

    Raises
    ------
    WorkerError
        If it cannot be made; what pip said is in the message.
    """
    module, requirements = ENVIRONMENTS[name]
    folder = Path(directory) / name
    python = str(interpreter(folder))
    if can_import(python, module):
        return python
    print(f"making the environment {folder}", file=sys.stderr, flush=True)
    _run([sys.executable, "-m", "venv", "--clear", str(folder)], f"venv {name}")
    _run(
        [python, "-m", "pip", "install", "--quiet", "numpy", "scipy", *requirements],
        f"pip install {' '.join(requirements)}",
    )
    if not can_import(python, module):
        raise WorkerError(f"{module} was installed but cannot be imported")
    return python
