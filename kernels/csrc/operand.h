// What a kernel sees of a tensor: a pointer, an element type and strides. No instruction set, no torch.
#pragma once

#include <cstdint>

namespace alternet {

enum class Element : int8_t { float32, float64, float16, bfloat16 };

constexpr int64_t bytes_of(Element element) {
  return element == Element::float64 ? 8 : element == Element::float32 ? 4 : 2;
}

template <typename Real>
constexpr Element element_of() {
  return sizeof(Real) == 8 ? Element::float64 : Element::float32;
}

/// One [rows, columns] slice of an operand; strides count elements.
struct Matrix {
  char* data;
  Element type;
  int64_t row;
  int64_t column;

  char* at(int64_t i, int64_t j = 0) const { return data + (i * row + j * column) * bytes_of(type); }
};

/// A tensor of axes [tangent, batch, head, row, column]. An axis that the tensor lacks, or broadcasts over, has
/// stride 0; an absent tensor has no data. Strides count elements. Inputs are never written through `data`.
struct Operand {
  char* data = nullptr;
  Element type = Element::float32;
  int64_t tangent = 0;
  int64_t batch = 0;
  int64_t head = 0;
  int64_t row = 0;
  int64_t column = 0;
  int64_t group = 1;  // how many consecutive heads share one of its own

  explicit operator bool() const { return data != nullptr; }

  Matrix slice(int64_t b, int64_t h, int64_t t = 0) const {
    return {data + (t * tangent + b * batch + h / group * head) * bytes_of(type), type, row, column};
  }
};

}  // namespace alternet
