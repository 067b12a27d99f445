// Compiles the header ALTERNET_KERNELS for AVX2 with FMA.
#if defined(__x86_64__)

#include "csrc/standard.h"

#define ALTERNET_ISA avx2
#define ALTERNET_VECTOR_BYTES 32
#define ALTERNET_VECTOR_REGISTERS 16

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

#include ALTERNET_KERNELS

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif
