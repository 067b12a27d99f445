#include "attention/bias_sharing.h"
#include "attention/problem.h"

#define ALTERNET_KERNELS "attention/kernels.h"
#include "csrc/compile_amx.h"
