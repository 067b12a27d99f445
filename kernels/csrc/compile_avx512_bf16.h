// Compiles the header ALTERNET_KERNELS for AVX-512 with its products of pairs of bfloat16.
#if defined(__x86_64__)

#include <immintrin.h>

#include "csrc/standard.h"

#if !defined(ALTERNET_ISA)  // compile_amx.h has another name for it
#define ALTERNET_ISA avx512_bf16
#endif
#define ALTERNET_VECTOR_BYTES 64
#define ALTERNET_VECTOR_REGISTERS 32
#define ALTERNET_PAIRS

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,avx2,fma"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,avx2,fma")
#endif

#include ALTERNET_KERNELS

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif
