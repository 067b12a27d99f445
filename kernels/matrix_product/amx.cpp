#include "matrix_product/problem.h"

#define ALTERNET_KERNELS "matrix_product/kernels.h"
#include "csrc/compile_amx.h"
