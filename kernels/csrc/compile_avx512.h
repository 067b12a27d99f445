// Compiles the header ALTERNET_KERNELS for AVX-512.
#if defined(__x86_64__)

#include "csrc/standard.h"

#define ALTERNET_ISA avx512
#define ALTERNET_VECTOR_BYTES 64
#define ALTERNET_VECTOR_REGISTERS 32

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")
#endif

#include ALTERNET_KERNELS

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif
