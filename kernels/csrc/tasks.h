// Tasks over torch's threads, each thread with scratch memory of its own.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace alternet {

/// Runs work(task, memory) for tasks 0 .. count - 1, handed out in order; `memory` holds `scratch` bytes and begins with a
/// cache line. Where tasks that follow one another have their numbers in the same pages, `neighbours` of them go to one
/// thread, as far as all threads stay busy.
template <typename Work>
void run_tasks(int64_t count, size_t scratch, const Work& work, int64_t neighbours = 1) {
  constexpr int64_t LINE = 64, TURNS = 8;
  if (count < 1) return;
  const int64_t threads = std::min<int64_t>(torch::stable::get_num_threads(), count);
  const int64_t step = std::max<int64_t>(1, std::min(neighbours, count / (threads * TURNS)));
  const int64_t each = static_cast<int64_t>(scratch) + LINE;
  const auto memory = torch::stable::empty({threads * each}, torch::headeronly::ScalarType::Byte);
  char* const base = static_cast<char*>(memory.mutable_data_ptr());
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, threads, 1, [&](int64_t thread, int64_t) {
    char* const mine = base + thread * each;
    char* const aligned = mine + (LINE - reinterpret_cast<uintptr_t>(mine) % LINE) % LINE;
    for (int64_t first = next.fetch_add(step); first < count; first = next.fetch_add(step))
      for (int64_t task = first; task < std::min(first + step, count); ++task) work(task, aligned);
  });
}

}  // namespace alternet
