// Compiles the header ALTERNET_KERNELS for what every processor of the architecture has: SSE2 or NEON.
#include "csrc/standard.h"

#define ALTERNET_ISA generic
#define ALTERNET_VECTOR_BYTES 16
#if defined(__aarch64__)
#define ALTERNET_VECTOR_REGISTERS 32
#else
#define ALTERNET_VECTOR_REGISTERS 16
#endif

#include ALTERNET_KERNELS
