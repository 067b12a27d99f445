#include "layer_norm/problem.h"

#define ALTERNET_KERNELS "layer_norm/kernels.h"
#include "csrc/compile_avx2.h"
