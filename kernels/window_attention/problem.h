// One call of a map of window attention, as the kernels of every instruction set see it. No instruction set, no torch.
#pragma once

#include <algorithm>

#include "csrc/rows.h"

namespace alternet {

/// A tensor of axes [tangent, batch, head, channel, row, column], whatever their order in memory. An axis that it lacks
/// has stride 0, an absent tensor has no data. Strides count elements. Inputs are never written through `data`.
struct FeatureMap {
  char* data = nullptr;
  Element type = Element::float32;
  int64_t tangent = 0, batch = 0, head = 0, channel = 0, row = 0, column = 0;

  explicit operator bool() const { return data != nullptr; }

  char* at(int64_t t, int64_t b, int64_t h, int64_t c, int64_t y, int64_t x) const {
    return data + (t * tangent + b * batch + h * head + c * channel + y * row + x * column) * bytes_of(type);
  }
};

/// A window: what lies of it on the map.
struct Window {
  int64_t top, left, rows, columns;

  int64_t tokens() const { return rows * columns; }
};

/// What `backward` or its tangent writes; what is not asked for has no data.
struct Gradients {
  FeatureMap query, key, value;
  char* table = nullptr;  // the tasks' parts of it, [task, T, 2h-1, 2w-1]

  bool of_scores() const { return query || key || table; }
};

/// The arguments of all four maps; what a map does not take or is not asked for has no data.
struct WindowProblem {
  int64_t batch, heads, width, value_width;  // B, heads, D, Dv
  int64_t height, breadth;                   // of the map
  int64_t window_height, window_width;       // h, w
  int64_t before_top, before_left;           // how much of the first windows lies before the map
  int64_t strips, per_strip;                 // rows of windows, windows of a row
  int64_t block;                             // windows that are read and written together
  int64_t tangents;                          // T
  double scale;

  FeatureMap query, key, value, grad, t_query, t_key, t_value, t_grad;
  Operand table, t_table;

  // Results: of `forward` and `backward`, or their tangents. Beside tangents also those of the primal, where they are
  // asked for: the same gradients, of one.
  FeatureMap r_out, primal_out;
  Gradients d, primal_d;

  int64_t tasks() const { return batch * heads * strips; }
  int64_t most_tokens() const { return std::min(window_height, height) * std::min(window_width, breadth); }
  int64_t table_entries() const { return (2 * window_height - 1) * (2 * window_width - 1); }
  bool has_score_tangent() const { return t_query || t_key || t_table; }
};

/// `count` windows side by side of one head of one image.
struct Block {
  const WindowProblem& p;
  int64_t b, h, strip, first, count;

  Window window(int64_t k) const {
    const int64_t top = strip * p.window_height - p.before_top;
    const int64_t left = (first + k) * p.window_width - p.before_left;
    const int64_t y = std::max<int64_t>(top, 0), x = std::max<int64_t>(left, 0);
    return {y, x, std::min(top + p.window_height, p.height) - y, std::min(left + p.window_width, p.breadth) - x};
  }
};

/// A strip of windows of one head of one image. Neighbours in the queue are neighbours in memory.
struct WindowTask {
  int64_t index, b, h, strip;

  WindowTask(const WindowProblem& p, int64_t index)
      : index(index), b(index / p.strips / p.heads), h(index / p.strips % p.heads), strip(index % p.strips) {}

  template <typename Visit>
  void for_blocks(const WindowProblem& p, const Visit& visit) const {
    for (int64_t first = 0; first < p.per_strip; first += p.block)
      visit(Block{p, b, h, strip, first, std::min(p.block, p.per_strip - first)});
  }
};

}  // namespace alternet
