"""The compiled kernels; nothing here imports from `slide`."""

import importlib.util
import os

# A thread of GNU OpenMP that waits at the end of a loop spins for milliseconds before it sleeps. A
# batch has half a dozen loops: where another process has one of our processors, the waiting threads
# keep the others from it, and training becomes several times slower. The library reads this when it
# is loaded, which the import does; after that the variable is nobody's business, child processes'
# least of all.
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "1000"
    try:
        from slide._kernels import optim  # noqa: F401
    except ImportError as error:
        if importlib.util.find_spec("slide._kernels.optim") is not None:
            raise
        raise ImportError(
            "the compiled kernels are missing; in a source tree that was installed, "
            "run Python with -I, or from another directory"
        ) from error
    finally:
        del os.environ["GOMP_SPINCOUNT"]
