// Stretches of an axis, and how an axis is cut. No instruction set, no torch.
#pragma once

#include <algorithm>
#include <cstdint>

namespace alternet {

constexpr int64_t ceil_divide(int64_t n, int64_t by) { return (n + by - 1) / by; }

/// Consecutive entries of an axis.
struct Range {
  int64_t first, count;

  int64_t end() const { return first + count; }
};

/// Part `index` of `parts` of an axis, cut evenly between whole units.
inline Range part_of(int64_t size, int64_t unit, int64_t parts, int64_t index) {
  const int64_t units = ceil_divide(size, unit);
  const int64_t first = std::min(units * index / parts * unit, size);
  return {first, std::min(units * (index + 1) / parts * unit, size) - first};
}

}  // namespace alternet
