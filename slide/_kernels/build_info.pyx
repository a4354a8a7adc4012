"""How the kernels were compiled, and the end of their threads."""

cdef extern from *:
    """
    #ifdef _OPENMP
    #define SLIDE_BUILT_WITH_OPENMP 1
    #else
    #define SLIDE_BUILT_WITH_OPENMP 0
    #endif
    /* GCC's library alone needs it: in a forked child it waits for threads that are not there. */
    #if defined(_OPENMP) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 9
    #include <omp.h>
    static void slide_end_threads(void) { omp_pause_resource_all(omp_pause_soft); }
    #else
    static void slide_end_threads(void) { }
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
    void slide_end_threads() nogil

openmp = bool(SLIDE_BUILT_WITH_OPENMP)
debug = bool(SLIDE_BUILT_FOR_DEBUG)
compiler = (<bytes> SLIDE_COMPILER).decode()


def end_threads():
    """Ends the threads that wait for this one's next loop, which starts new ones."""
    with nogil:
        slide_end_threads()
