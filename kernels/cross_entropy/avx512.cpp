#include "cross_entropy/problem.h"

#define ALTERNET_KERNELS "cross_entropy/kernels.h"
#include "csrc/compile_avx512.h"
