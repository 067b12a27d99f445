// The table of one instruction set's kernels. Included once per instruction set (see csrc/vector.h).
#pragma once

#include "feature_spectrum/interleaved.h"
#include "feature_spectrum/planar.h"

namespace alternet::ALTERNET_ISA {

template <typename Real>
struct SpectrumEntry {
  static size_t scratch(const SpectrumProblem& p) {
    Carver counter(nullptr);
    if (p.interleaved())
      InterleavedSpectrum<Real>(p, counter);
    else
      PlanarSpectrum<Real>(p, counter);
    return counter.used();
  }

  static void run(const SpectrumProblem& p, int64_t index, char* memory) {
    Carver scratch(memory);
    double* const to = p.sums + index * (p.frequencies() + 1);
    if (p.interleaved())
      InterleavedSpectrum<Real>(p, scratch).run(SpectrumTask(p, index), to);
    else
      PlanarSpectrum<Real>(p, scratch).run(SpectrumTask(p, index), to);
  }

  static constexpr SpectrumKernel kernel{&scratch, &run};
};

const SpectrumKernels& spectrum_kernels() {
  static constexpr SpectrumKernels kernels{SpectrumEntry<float>::kernel, SpectrumEntry<double>::kernel};
  return kernels;
}

}  // namespace alternet::ALTERNET_ISA
