// Tasks over torch's threads, and sums that do not depend on how many threads there are. No instruction set.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace alternet {

/// Lets the tasks that add to one place do so in a fixed order, so that a sum is the same on any number of threads.
///
/// A chain is one such place. The task of rank r waits until ranks 0 .. r-1 have passed, adds, and passes. This cannot
/// deadlock as long as tasks are handed out in increasing order and a lower rank belongs to an earlier task.
class Turnstile {
 public:
  explicit Turnstile(int64_t chains) : turn_(chains) {}

  void wait(int64_t chain, int64_t rank) {
    while (turn_[chain].load(std::memory_order_acquire) != rank) std::this_thread::yield();
  }

  void pass(int64_t chain, int64_t rank) { turn_[chain].store(rank + 1, std::memory_order_release); }

 private:
  std::vector<std::atomic<int64_t>> turn_;
};

}  // namespace alternet
