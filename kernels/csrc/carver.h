// Scratch memory of a thread. Included once per instruction set (see vector.h).
#pragma once

#include <cstddef>
#include <cstdint>

namespace alternet::ALTERNET_ISA {

/// Cuts a thread's scratch memory into arrays; on no memory at all it only counts the bytes.
class Carver {
 public:
  explicit Carver(char* memory) : memory_(memory) {}

  template <typename X>
  X* take(int64_t count) {
    X* array = memory_ ? reinterpret_cast<X*>(memory_ + used_) : nullptr;
    used_ += (count * sizeof(X) + 63) / 64 * 64;
    return array;
  }

  size_t used() const { return used_; }

 private:
  char* memory_;
  size_t used_ = 0;
};

}  // namespace alternet::ALTERNET_ISA
