# The OpenMP calls that the kernels use, with one-thread answers where OpenMP is not compiled in.
# The test is the compiler's own macro, the one that decides whether `prange` makes threads: the two
# can never disagree. The C names are our own, so that omp.h may be included elsewhere in the file.
cdef extern from *:
    """
    #ifdef _OPENMP
    #include <omp.h>
    static inline int slide_omp_max_threads(void) { return omp_get_max_threads(); }
    static inline int slide_omp_num_threads(void) { return omp_get_num_threads(); }
    static inline int slide_omp_thread_num(void) { return omp_get_thread_num(); }
    static inline double slide_omp_wtime(void) { return omp_get_wtime(); }
    #else
    static inline int slide_omp_max_threads(void) { return 1; }
    static inline int slide_omp_num_threads(void) { return 1; }
    static inline int slide_omp_thread_num(void) { return 0; }
    #include <time.h>
    /* Seconds since the first call in this file: those since 1970 have steps of 0.2 us. */
    static inline double slide_omp_wtime(void)
    {
        static time_t origin = 0;
        struct timespec t;
        if (!timespec_get(&t, TIME_UTC)) return 0;
        if (origin == 0) origin = t.tv_sec;
        return (double)(t.tv_sec - origin) + 1e-9 * (double)t.tv_nsec;
    }
    #endif
    """
    int omp_get_max_threads "slide_omp_max_threads" () noexcept nogil
    int omp_get_num_threads "slide_omp_num_threads" () noexcept nogil
    int omp_get_thread_num "slide_omp_thread_num" () noexcept nogil
    double omp_get_wtime "slide_omp_wtime" () noexcept nogil
