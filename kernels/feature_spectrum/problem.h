// One call of feature_spectrum, as the kernels of every instruction set see it. No instruction set, no torch.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "csrc/operand.h"

namespace alternet {

/// Frequencies whose sums are taken at the same time: cosines and sines of four keep both multipliers busy.
constexpr int64_t WAVES = 4;

/// Maps [B, C, H, W] of any strides. A task is a chunk of the channels of one image; how they are cut depends on the
/// shape alone, never on the number of threads, and neither do the results.
struct SpectrumProblem {
  int64_t batch, channels, height, width;
  const char* data;
  const char* end;  // of the last entry: nothing from here on may be read
  Element type;
  struct {
    int64_t batch, channel, row, column;  // in elements
  } stride;
  int64_t chunk, chunks;  // channels of a task, tasks of an image
  const void* waves;      // [padded K / WAVES][n/2 + 1][2][WAVES]: cos(2 pi j k / n) of WAVES k, then their sines
  double* sums;           // [B, chunks, K + 1]: of the log amplitudes, then of the variances

  int64_t period() const { return std::max(height, width); }
  int64_t frequencies() const { return period() / 2 + 1; }
  int64_t padded_frequencies() const { return (frequencies() + WAVES - 1) / WAVES * WAVES; }
  int64_t pixels() const { return height * width; }

  /// Whether vectors run over channels (channels_last, tokens) or along rows (contiguous maps, and any other strides).
  bool interleaved() const { return stride.channel == 1 && stride.column != 1 && width > 1; }

  const char* at(int64_t b, int64_t c, int64_t h = 0, int64_t w = 0) const {
    return data + (b * stride.batch + c * stride.channel + h * stride.row + w * stride.column) * bytes_of(type);
  }
};

struct SpectrumTask {
  int64_t b, chunk, first, last;  // channels [first, last)

  SpectrumTask(const SpectrumProblem& p, int64_t index)
      : b(index / p.chunks),
        chunk(index % p.chunks),
        first(chunk * p.chunk),
        last(std::min(p.channels, first + p.chunk)) {}
};

/// The kernel of one instruction set and arithmetic type.
struct SpectrumKernel {
  size_t (*scratch)(const SpectrumProblem&);  // bytes that a thread needs
  void (*run)(const SpectrumProblem&, int64_t task, char* scratch);
};

struct SpectrumKernels {
  SpectrumKernel float32, float64;
};

namespace generic {
const SpectrumKernels& spectrum_kernels();
}
#if defined(__x86_64__)
namespace avx2 {
const SpectrumKernels& spectrum_kernels();
}
namespace avx512 {
const SpectrumKernels& spectrum_kernels();
}
#endif

}  // namespace alternet
