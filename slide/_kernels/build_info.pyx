"""How the kernels were compiled."""

cdef extern from *:
    """
    #ifdef _OPENMP
    #define SLIDE_BUILT_WITH_OPENMP 1
    #else
    #define SLIDE_BUILT_WITH_OPENMP 0
    #endif
    #ifdef SLIDE_DEBUG
    #define SLIDE_BUILT_FOR_DEBUG 1
    #else
    #define SLIDE_BUILT_FOR_DEBUG 0
    #endif
    #if defined(__clang__)
    #define SLIDE_COMPILER "clang " __clang_version__
    #elif defined(__GNUC__)
    #define SLIDE_COMPILER "gcc " __VERSION__
    #elif defined(_MSC_VER)
    #define SLIDE_COMPILER "msvc"
    #else
    #define SLIDE_COMPILER "unknown"
    #endif
    """
    int SLIDE_BUILT_WITH_OPENMP
    int SLIDE_BUILT_FOR_DEBUG
    const char* SLIDE_COMPILER

openmp = bool(SLIDE_BUILT_WITH_OPENMP)
debug = bool(SLIDE_BUILT_FOR_DEBUG)
compiler = (<bytes> SLIDE_COMPILER).decode()
