/* The tables of simd.h and the choice among them; included by one extension module only.

   simd_body.h is written with the compilers' vector extension and is included once for each
   instruction set: the portable base and, on x86-64, AVX2 with FMA and AVX-512. Function-level
   targets keep one translation unit and one wheel; -march flags would not. */
#ifndef SLIDE_SIMD_TABLES_H
#define SLIDE_SIMD_TABLES_H

#include "simd.h"

#include <math.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define SLIDE_CAT2(a, b) a##_##b
#define SLIDE_CAT(a, b) SLIDE_CAT2(a, b)
#define FN(name) SLIDE_CAT(name, ISA)
#define SLIDE_STR2(a) #a
#define SLIDE_STR(a) SLIDE_STR2(a)

#define ISA base
#define WIDTH 16
#include "simd_body.h"
#undef ISA
#undef WIDTH

#if defined(__x86_64__)
#define SLIDE_X86 1
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#define ISA v3
#define WIDTH 32
#include "simd_body.h"
#undef ISA
#undef WIDTH
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")
#endif
#define ISA v4
#define WIDTH 64
#include "simd_body.h"
#undef ISA
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")
#endif
#define ISA vnni
#define VNNI
#include "simd_sketches.h"
#undef VNNI
#undef ISA
#undef WIDTH
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
static slide_simd_table table_vnni;
#endif

/* The table called `name`; NULL or "" takes the best that the CPU runs; NULL is returned for a
   name that is unknown or that this CPU can't run. */
static const slide_simd_table *slide_simd_choose(const char *name)
{
    int any = name == NULL || name[0] == '\0';
#if SLIDE_X86
    __builtin_cpu_init();
    int v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    int v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (v4 && __builtin_cpu_supports("avx512vnni") && (any || strcmp(name, "vnni") == 0)) {
        table_vnni = table_v4;
        table_vnni.name = "vnni";
        table_vnni.sketch_scan = sketch_scan_vnni;
        return &table_vnni;
    }
    if (v4 && (any || strcmp(name, "v4") == 0)) return &table_v4;
    if (v3 && (any || strcmp(name, "v3") == 0)) return &table_v3;
#endif
    if (any || strcmp(name, "base") == 0) return &table_base;
    return NULL;
}

#endif
