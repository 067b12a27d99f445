#include "feature_spectrum/problem.h"

#define ALTERNET_KERNELS "feature_spectrum/kernels.h"
#include "csrc/compile_avx2.h"
