#include "activation/problem.h"

#define ALTERNET_KERNELS "activation/kernels.h"
#include "csrc/compile_avx2.h"
