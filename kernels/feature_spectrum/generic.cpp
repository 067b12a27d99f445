// The kernels of feature_spectrum for what every processor of the architecture has: SSE2 or NEON, 16 bytes a vector.
#include "feature_spectrum/problem.h"
#include "csrc/standard.h"

#define ALTERNET_ISA generic
#define ALTERNET_VECTOR_BYTES 16
#if defined(__aarch64__)
#define ALTERNET_VECTOR_REGISTERS 32
#else
#define ALTERNET_VECTOR_REGISTERS 16
#endif

#include "feature_spectrum/kernels.h"
