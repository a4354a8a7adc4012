"""What ``import slide`` loads: a program that uses none of it must not wait for it."""

import subprocess
import sys

import pytest

# Each costs between 15 ms and seconds; slide loads those it uses where it uses them.
HEAVY = (
    "matplotlib",
    "pandas",
    "scipy.fft",
    "scipy.ndimage",
    "scipy.optimize",
    "scipy.signal",
    "scipy.sparse.csgraph",
    "scipy.sparse.linalg",
    "scipy.special",
    "scipy.stats",
    "sklearn",
    "torch",
    "tqdm",
)


def loaded(code):
    """Names of the modules that a fresh interpreter has after `code`."""
    code += "; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.fixture(scope="module")
def with_slide():
    found = loaded("import slide")
    assert {"slide", "slide.data.xmc", "slide.callbacks", "scipy.sparse"} <= found
    return found


# SciPy's own choices are not slide's: some versions load more with scipy.sparse than others.
@pytest.fixture(scope="module")
def with_scipy():
    return loaded("import numpy, scipy.sparse, scipy.linalg, joblib, threadpoolctl")


@pytest.mark.parametrize("name", HEAVY)
def test_import_leaves_heavy_modules_alone(name, with_slide, with_scipy):
    assert name not in with_slide - with_scipy


def test_command_line_loads_no_more():
    import_only = loaded("import slide.__main__")
    assert not {"matplotlib", "scipy.stats", "sklearn", "torch", "tqdm"} & import_only
