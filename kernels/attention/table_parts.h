// The sum of a table's gradient over the tasks that share an entry. No instruction set, no torch.
#pragma once

#include <vector>

#include "attention/problem.h"

namespace alternet {

/// Adds up row `row` of d_table[t, b, h], in float64 and in the order of tasks, so that it does not depend on the
/// number of threads; b and h are 0 where the table has no such axis.
template <typename Real>
void sum_table_parts(const Problem& p, int64_t t, int64_t b, int64_t h, int64_t row) {
  const int64_t columns = 2 * p.grid.width - 1;
  const int64_t batch_end = p.d_table.batch ? b + 1 : p.batch, head_end = p.d_table.head ? h + 1 : p.heads;
  std::vector<double> sum(columns, 0.);
  for (int64_t i = b; i < batch_end; ++i)
    for (int64_t j = h; j < head_end; ++j)
      for (int64_t chunk = 0; chunk < p.plan.chunks; ++chunk) {
        const Real* const part = reinterpret_cast<const Real*>(p.table_parts) + p.table_part(t, i, j, chunk);
        for (int64_t c = 0; c < columns; ++c) sum[c] += part[row * columns + c];
      }
  const Matrix to = p.d_table.slice(b, h, t);
  for (int64_t c = 0; c < columns; ++c) *reinterpret_cast<Real*>(to.at(row, c)) = static_cast<Real>(sum[c]);
}

}  // namespace alternet
