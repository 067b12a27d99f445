// One call of an attention map, as the kernels of every instruction set see it. No instruction set, no torch.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "csrc/operand.h"
#include "csrc/parallel.h"
#include "csrc/range.h"

namespace alternet {

/// The largest head size: what row buffers hold.
constexpr int64_t MAX_WIDTH = 256;

/// How a map is cut into tasks and tiles. It depends on the shapes alone, never on the number of threads: with the
/// order that the turnstiles keep, neither do the results.
struct Plan {
  int64_t tile_rows;   // queries of a tile
  int64_t tile_keys;   // keys of a tile, a multiple of 16: of every instruction set's lanes; of 32 where pairs multiply
  int64_t chunk_rows;  // queries of a task, a multiple of tile_rows
  int64_t chunks;      // tasks of one (batch, head)
};

/// Queries and keys as the tokens of a map of `height` rows, and the keys that a query sees: those of at most `up` rows
/// above to `down` below, `left` columns before to `right` after.
struct Grid {
  int64_t height, width;  // 0 without a grid
  int64_t up, down, left, right;
  bool local;  // whether that hides anything

  explicit operator bool() const { return width > 0; }
};

/// The arguments of all four maps; what a map does not take or is not asked for has no data.
struct Problem {
  int64_t batch, heads, queries, keys;  // B, H, N, M
  int64_t group;                        // heads of queries that share one of keys
  int64_t width, value_width;           // D, Dv
  int64_t tangents;                     // T
  double scale;
  bool causal;
  bool pairs;  // products are of pairs of bfloat16, by instructions for them
  Grid grid;

  Operand query, key, value, bias, table, out, lse, grad;
  Operand t_query, t_key, t_value, t_bias, t_table, t_out, t_lse, t_grad;

  // Results, contiguous: out and lse of `forward`, or their tangents; the gradients, or theirs.
  Operand r_out, r_lse;
  Operand d_query, d_key, d_value, d_bias, d_table;

  Plan plan;
  Turnstile* key_turns;   // one chain a (batch, head of keys): d_key and d_value, if several tasks add to them
  Turnstile* bias_turns;  // see bias_gradient.h
  char* table_parts;      // [T, B, H, chunks, 2h-1, 2w-1]: the tasks' parts of d_table

  int64_t table_entries() const { return (2 * grid.height - 1) * (2 * grid.width - 1); }
  /// Where a task's part begins.
  int64_t table_part(int64_t t, int64_t b, int64_t h, int64_t chunk) const {
    return (((t * batch + b) * heads + h) * plan.chunks + chunk) * table_entries();
  }
  bool has_score_tangent() const { return t_query || t_key || t_bias || t_table; }
  bool has_score_gradient() const { return d_query || d_key || d_bias || d_table; }
};

/// The queries [first, last) of one (batch, head). Tasks that add to one place are far apart in the queue, so that they
/// seldom wait for one another: the first chunk of every (batch, head) comes before the second of any.
struct Task {
  int64_t b, h, chunk, first, last;

  Task(const Problem& p, int64_t index)
      : b(index / p.heads % p.batch),
        h(index % p.heads),
        chunk(index / (p.batch * p.heads)),
        first(chunk * p.plan.chunk_rows),
        last(std::min(p.queries, first + p.plan.chunk_rows)) {}

  Range queries() const { return {first, last - first}; }
};

/// One map of one instruction set and arithmetic type.
struct Map {
  size_t (*scratch)(const Problem&);  // bytes that a thread needs
  void (*run)(const Problem&, int64_t task, char* scratch);
};

struct Maps {
  Map forward, tangent, backward, backward_tangent;
};

struct AttentionKernels {
  Maps float32, float64;
};

namespace generic {
const AttentionKernels& attention_kernels();
}
#if defined(__x86_64__)
namespace avx2 {
const AttentionKernels& attention_kernels();
}
namespace avx512 {
const AttentionKernels& attention_kernels();
}
namespace avx512_bf16 {
const Maps& attention_pair_kernels();
}
namespace amx {
const Maps& attention_pair_kernels();
}
#endif

}  // namespace alternet
