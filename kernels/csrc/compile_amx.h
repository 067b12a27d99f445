// Compiles the header ALTERNET_KERNELS for AVX-512 with AMX, whose tiles multiply pairs of bfloat16.
#define ALTERNET_ISA amx
#define ALTERNET_AMX
#include "csrc/compile_avx512_bf16.h"
