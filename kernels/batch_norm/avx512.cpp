#include "batch_norm/problem.h"

#define ALTERNET_KERNELS "batch_norm/kernels.h"
#include "csrc/compile_avx512.h"
