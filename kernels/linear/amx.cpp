#include "linear/problem.h"

#define ALTERNET_KERNELS "linear/kernels.h"
#include "csrc/compile_amx.h"
