#include "window_attention/problem.h"

#define ALTERNET_KERNELS "window_attention/kernels.h"
#include "csrc/compile_generic.h"
