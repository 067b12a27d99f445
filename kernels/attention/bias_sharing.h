// Which tasks add to one place of d_bias, when the bias is broadcast. No instruction set, no torch.
#pragma once

#include "attention/problem.h"

namespace alternet {

/// d_bias has the bias's shape: along an axis it broadcasts over it has stride 0 and collects a sum.
///
/// If it has a row for every query, those of one query tile are complete when the tile is; they are added to d_bias
/// then, in the order of the (batch, head)s that share them: one chain a slice and tile. If it has not, each task
/// collects its part of the one row and adds that at its end: one chain a slice.
struct BiasSharing {
  const Problem& p;
  bool per_batch, per_head, per_query, per_key;

  explicit BiasSharing(const Problem& problem)
      : p(problem),
        per_batch(p.d_bias.batch != 0),
        per_head(p.d_bias.head != 0),
        per_query(p.d_bias.row != 0),
        per_key(p.d_bias.column != 0) {}

  int64_t slices() const { return (per_batch ? p.batch : 1) * (per_head ? p.heads : 1); }
  int64_t tiles() const { return (p.queries + p.plan.tile_rows - 1) / p.plan.tile_rows; }
  int64_t chains() const { return per_query ? slices() * tiles() : slices(); }

  /// How many (batch, head)s, and how many tasks, add to one place.
  int64_t heads() const { return (per_batch ? 1 : p.batch) * (per_head ? 1 : p.heads); }
  int64_t sharers() const { return heads() * (per_query ? 1 : p.plan.chunks); }

  int64_t chain(const Task& task, int64_t first_query) const {
    const int64_t slice = (per_batch ? task.b : 0) * (per_head ? p.heads : 1) + (per_head ? task.h : 0);
    return per_query ? slice * tiles() + first_query / p.plan.tile_rows : slice;
  }

  /// Increases along the queue of tasks, as a turnstile asks.
  int64_t rank(const Task& task) const {
    const int64_t head = (per_batch ? 0 : task.b) * (per_head ? 1 : p.heads) + (per_head ? 0 : task.h);
    return per_query ? head : task.chunk * heads() + head;
  }
};

}  // namespace alternet
