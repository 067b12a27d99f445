#include "attention/launch.h"

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "attention/bias_sharing.h"
#include "attention/table_parts.h"
#include "csrc/instruction_set.h"
#include "csrc/tasks.h"

namespace alternet {
namespace {

/// The size of equal tiles of at most `limit` that cover `total`, rounded up to `unit`.
int64_t even_tile(int64_t total, int64_t limit, int64_t unit) {
  const int64_t tiles = ceil_divide(total, limit);
  return ceil_divide(ceil_divide(total, tiles), unit) * unit;
}

const AttentionKernels& kernels() {
#if defined(__x86_64__)
  if (instruction_set() >= InstructionSet::avx512) return avx512::attention_kernels();
  if (instruction_set() == InstructionSet::avx2) return avx2::attention_kernels();
#endif
  return generic::attention_kernels();
}

const Maps& maps(const Problem& p, Element real) {
#if defined(__x86_64__)
  if (p.pairs && instruction_set() == InstructionSet::amx) return amx::attention_pair_kernels();
  if (p.pairs) return avx512_bf16::attention_pair_kernels();
#endif
  return real == Element::float64 ? kernels().float64 : kernels().float32;
}

const Map& choose(const Maps& maps, MapName map) {
  switch (map) {
    case MapName::forward:
      return maps.forward;
    case MapName::tangent:
      return maps.tangent;
    case MapName::backward:
      return maps.backward;
    default:
      return maps.backward_tangent;
  }
}

/// Rows of d_table: units of the sum over parts.
int64_t table_rows(const Problem& p) {
  if (!p.d_table) return 0;
  return p.tangents * (p.d_table.batch ? p.batch : 1) * (p.d_table.head ? p.heads : 1) * (2 * p.grid.height - 1);
}

void sum_table_row(const Problem& p, Element real, int64_t index) {
  const int64_t rows = 2 * p.grid.height - 1, heads = p.d_table.head ? p.heads : 1;
  const int64_t batch = p.d_table.batch ? p.batch : 1;
  const int64_t row = index % rows, h = index / rows % heads, b = index / rows / heads % batch;
  const auto sum = real == Element::float64 ? sum_table_parts<double> : sum_table_parts<float>;
  sum(p, index / rows / heads / batch, b, h, row);
}

}  // namespace

Plan make_plan(const Problem& p, MapName map) {
  // Tiles: up to four of them fit the second-level cache beside what they are made from, yet are large enough that sums
  // over one are worth loading and storing the result. Measured on Zen 3 (512 KB a core, float32, 257 tokens of 64):
  // between 44 and 132 queries, 96 and 272 keys, the time of every map varies by 3 %, with no better choice than this;
  // nor has Sapphire Rapids (2 MB) one.
  // Pairs come in tiles of 16 x 32; on Sapphire Rapids (AMX) 64 to 144 queries and 96 to 288 keys make 10 % at most.
  const bool forward = map == MapName::forward;
  Plan plan;
  plan.tile_rows = p.pairs ? even_tile(p.queries, 96, 16) : even_tile(p.queries, 72, 1);
  plan.tile_keys = p.pairs ? even_tile(p.keys, forward ? 288 : 160, 32) : even_tile(p.keys, forward ? 272 : 144, 16);
  // Tasks: enough for many threads where there are few heads, but not so short that packing the keys shows.
  constexpr int64_t WANTED_TASKS = 128, SHORTEST_ROWS = 256;
  const int64_t heads = p.batch * p.heads;
  const int64_t shortest = heads < 8 ? plan.tile_rows : SHORTEST_ROWS;
  const int64_t chunks = std::clamp<int64_t>(p.queries / shortest, 1, ceil_divide(WANTED_TASKS, heads));
  plan.chunk_rows = ceil_divide(ceil_divide(p.queries, plan.tile_rows), chunks) * plan.tile_rows;
  plan.chunks = ceil_divide(p.queries, plan.chunk_rows);
  return plan;
}

void run(Problem& p, MapName map, Element real) {
  const Map& kernel = choose(maps(p, real), map);
  const int64_t tasks = p.batch * p.heads * p.plan.chunks;
  Turnstile key_turns(p.d_key || p.d_value ? p.batch * p.heads : 0);
  Turnstile bias_turns(p.d_bias ? BiasSharing(p).chains() : 0);
  p.key_turns = &key_turns;
  p.bias_turns = &bias_turns;
  const int64_t parts = p.d_table ? p.table_part(p.tangents, 0, 0, 0) : 0;
  const auto part_memory = torch::stable::empty({parts * bytes_of(real)}, torch::headeronly::ScalarType::Byte);
  p.table_parts = static_cast<char*>(part_memory.mutable_data_ptr());

  run_tasks(tasks, kernel.scratch(p), [&](int64_t task, char* memory) { kernel.run(p, task, memory); });
  torch::stable::parallel_for(0, table_rows(p), 16, [&](int64_t first, int64_t end) {
    for (int64_t row = first; row < end; ++row) sum_table_row(p, real, row);
  });
}

}  // namespace alternet
