// What the row-wise operators (normalisations, activations, losses) share: tensors as rows, and their maps as tables of
// functions. No instruction set, no torch.
#pragma once

#include <cstddef>
#include <cstdint>

#include "csrc/operand.h"

namespace alternet {

/// A tensor of axes [tangent, batch, row, column] whose columns are contiguous. An axis that it lacks has stride 0; an
/// absent tensor has no data. Strides count elements. Inputs are never written through `data`.
struct RowTensor {
  char* data = nullptr;
  Element type = Element::float32;
  int64_t tangent = 0, batch = 0, row = 0;

  explicit operator bool() const { return data != nullptr; }

  char* at(int64_t t, int64_t b, int64_t i) const {
    return data + (t * tangent + b * batch + i * row) * bytes_of(type);
  }

  /// One number a row, of the arithmetic type.
  template <typename Real>
  Real& scalar(int64_t t, int64_t b, int64_t i) const {
    return *reinterpret_cast<Real*>(at(t, b, i));
  }
};

/// The sizes of a call, and how it is cut into tasks: by the shapes alone, so that results do not depend on the number
/// of threads.
struct RowSizes {
  int64_t batch = 1, rows = 0, width = 0;  // B, N, D
  int64_t tangents = 1;                    // T
  int64_t chunk_rows = 1, chunks = 1;      // rows of a task, tasks of one of the batch

  int64_t tasks() const { return batch * chunks; }

  /// The same, of tensors without tangents.
  RowSizes of_one() const {
    RowSizes sizes = *this;
    sizes.tangents = 1;
    return sizes;
  }

  /// At most `most` tasks of one of the batch, of at least `shortest` rows each.
  void cut(int64_t most, int64_t shortest) {
    chunk_rows = rows / most < shortest ? shortest : (rows + most - 1) / most;
    chunks = (rows + chunk_rows - 1) / chunk_rows;
  }
};

/// The rows [first, last) of one of the batch.
struct RowTask {
  int64_t index, b, first, last;

  RowTask(const RowSizes& p, int64_t index)
      : index(index),
        b(index / p.chunks),
        first(index % p.chunks * p.chunk_rows),
        last(first + p.chunk_rows < p.rows ? first + p.chunk_rows : p.rows) {}
};

/// One map of one instruction set and arithmetic type.
template <typename Problem>
struct RowMap {
  size_t (*scratch)(const Problem&);  // bytes that a thread needs
  void (*run)(const Problem&, int64_t task, char* scratch);
};

template <typename Problem>
struct RowMaps {
  RowMap<Problem> forward, tangent, backward, backward_tangent;
};

template <typename Problem>
struct RowKernels {
  RowMaps<Problem> float32, float64;
};

}  // namespace alternet
