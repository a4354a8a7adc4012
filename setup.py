"""Compiles the Cython kernels; everything else about the project is in pyproject.toml.

Environment variables
---------------------
SLIDE_NO_OPENMP=1
    Build for one thread, even where the compiler knows OpenMP.
SLIDE_DEBUG=1
    Check every index of a memoryview, and compile with ``-O1 -g`` and C assertions.
"""

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError

KERNELS = Path("slide/_kernels")
# Cython's own code, that of memoryviews above all, in one module instead of in each.
SHARED = "slide._kernels._cyutility"
DEBUG = os.environ.get("SLIDE_DEBUG", "0") not in ("", "0")
NO_OPENMP = os.environ.get("SLIDE_NO_OPENMP", "0") not in ("", "0")

# Directives live here and nowhere else: Cython says nothing about a misspelt one in a file comment.
# Negative indices are never wrapped, so that the debug build reports them instead. nonecheck stays
# off in it too: with it, Cython refuses to set an extension type's attribute without the GIL.
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": DEBUG,
    "wraparound": False,
    "initializedcheck": DEBUG,
    "nonecheck": False,
    "cdivision": True,
    "embedsignature": True,
}

OPENMP_PROBE = """
#include <omp.h>
int main(void) {
    int i, sum = 0;
    #pragma omp parallel for reduction(+:sum)
    for (i = 0; i < 100; i++) sum += omp_get_thread_num();
    return sum < 0;
}
"""


def n_cpus():
    """The number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def build_base():
    # Neither distutils nor Cython rebuilds because a flag changed: each kind of build has its own
    # directory, so that none takes another's leftovers.
    return "build" + "-debug" * DEBUG + "-noopenmp" * NO_OPENMP


class Build(build):
    """``build`` with one directory per kind of build."""

    def initialize_options(self):
        super().initialize_options()
        self.build_base = build_base()


class BuildExt(build_ext):
    """``build_ext`` that translates in parallel and adds the flags this compiler understands."""

    def finalize_options(self):
        super().finalize_options()
        if self.parallel is None:
            self.parallel = n_cpus()

    def run(self):
        translated = cythonize(
            self.extensions,
            build_dir=f"{build_base()}/cython",
            compiler_directives=DIRECTIVES,
            shared_utility_qualified_name=SHARED,
            emit_linenums=DEBUG,
            nthreads=self.parallel,
            force=self.force,
        )
        # The extensions stay the same objects: setuptools has already noted things on them.
        sources = {extension.name: extension.sources for extension in translated}
        for extension in self.extensions:
            extension.sources = sources[extension.name]
        super().run()

    def build_extensions(self):
        compile_args, link_args = self.base_flags()
        macros = []
        openmp = self.find_openmp()
        if openmp is not None:
            compile_args += openmp[0]
            link_args += openmp[1]
            macros.append(("SLIDE_OPENMP", "1"))
        if DEBUG:
            macros.append(("SLIDE_DEBUG", "1"))
        for extension in self.extensions:
            extension.extra_compile_args += compile_args
            extension.extra_link_args += link_args
            extension.define_macros += macros
        super().build_extensions()

    def base_flags(self):
        """Compiler and linker flags apart from OpenMP's."""
        if self.compiler.compiler_type == "msvc":
            return ["/std:c11", *(["/Od", "/Zi"] if DEBUG else ["/O2"])], ["/DEBUG"] * DEBUG
        # -ffast-math changes the whole process, and -march=native what a wheel runs on: the kernels
        # choose their instruction set at run time.
        flags = ["-std=c11", "-Wall", "-fno-math-errno"]
        return flags + (["-O1", "-g", "-UNDEBUG"] if DEBUG else ["-O3", "-g0"]), []

    def find_openmp(self):
        """The (compile, link) flags with which an OpenMP program compiles and links, or None."""
        if NO_OPENMP:
            print("slide: OpenMP is off (SLIDE_NO_OPENMP): kernels will run on one thread")
            return None
        if self.compiler.compiler_type == "msvc":
            candidates = [(["/openmp"], [])]
        else:
            candidates = [(["-fopenmp"], ["-fopenmp"])]
            if sys.platform == "darwin":
                candidates.append((["-Xpreprocessor", "-fopenmp"], ["-lomp"]))
        for compile_args, link_args in candidates:
            if self.links(OPENMP_PROBE, compile_args, link_args):
                print(f"slide: OpenMP found ({' '.join(compile_args)})")
                return compile_args, link_args
        print("slide: OpenMP not found: kernels will run on one thread")
        return None

    def links(self, program, compile_args, link_args):
        """Whether the compiler makes an executable of the C text `program`."""
        with tempfile.TemporaryDirectory() as directory:
            source = Path(directory, "probe.c")
            source.write_text(program)
            try:
                objects = self.compiler.compile(
                    [str(source)], output_dir=directory, extra_postargs=compile_args
                )
                self.compiler.link_executable(
                    objects, str(Path(directory, "probe")), extra_postargs=link_args
                )
            except (CompileError, LinkError):
                return False
        return True


def extensions():
    """One extension for each ``.pyx`` file among the kernels, and one for what they share."""
    depends = sorted(str(path) for path in [*KERNELS.glob("src/*.h"), *KERNELS.glob("*.pxd")])
    kernels = [
        Extension(
            ".".join(path.with_suffix("").parts),
            [str(path)],
            include_dirs=[str(KERNELS / "src"), np.get_include()],
            define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
            depends=depends,
        )
        for path in sorted(KERNELS.glob("*.pyx"))
    ]
    return [Extension(SHARED, []), *kernels]


setup(ext_modules=extensions(), cmdclass={"build": Build, "build_ext": BuildExt})
