"""Choice of the instruction set, once, at import."""
import os

cdef extern from "simd_tables.h" nogil:
    const SimdTable *choose "slide_simd_choose"(const char *name)

cdef tuple _names = ("base", "v3", "v4", "vnni")
name = os.environ.get("SLIDE_SIMD", "").strip()
cdef bytes _wanted = os.fsencode(name)
simd = choose(_wanted)
if simd == NULL:
    raise ImportError(
        f"SLIDE_SIMD={name!r} is "
        f"{'not supported by this CPU' if name in _names else 'unknown'}; it must be empty or one "
        f"of {', '.join([repr(other) for other in _names if choose(other.encode()) != NULL])}"
    )
ISA = (<bytes> simd.name).decode()
