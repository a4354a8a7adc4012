"""Choice of the instruction set, once, at import."""
import os

cdef extern from "simd_tables.h" nogil:
    const SimdTable *choose "slide_simd_choose"(const char *name)

name = os.environ.get("SLIDE_SIMD", "").strip()
cdef bytes _wanted = name.encode()
simd = choose(_wanted)
if simd == NULL:
    raise ImportError(
        f"SLIDE_SIMD={name!r}: not one of 'base', 'v3', 'v4', 'vnni', or not supported by this CPU"
    )
ISA = (<bytes> simd.name).decode()
