// Every standard header that the per-instruction-set headers use. It comes before the instruction set is chosen: an
// inline function of the standard library compiled for AVX-512 could otherwise serve, after linking, the rest of the
// program.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <utility>
