// alternet._C: a Python module with nothing in it. Importing it loads this library, whose static initialisers register
// torch.ops.alternet_native.*; the operators live beside their kernels.
#include <Python.h>
#include <torch/csrc/stable/library.h>

#include "csrc/instruction_set.h"

namespace {

std::vector<std::string> instruction_sets() { return alternet::instruction_sets(); }
std::string use_instruction_set(std::string name) { return alternet::use_instruction_set(name); }

}  // namespace

STABLE_TORCH_LIBRARY(alternet_native, m) {
  m.def("instruction_sets() -> str[]");
  m.def("use_instruction_set(str name) -> str");
}

STABLE_TORCH_LIBRARY_IMPL(alternet_native, CompositeExplicitAutograd, m) {
  m.impl("instruction_sets", TORCH_BOX(&instruction_sets));
  m.impl("use_instruction_set", TORCH_BOX(&use_instruction_set));
}

extern "C" PyMODINIT_FUNC PyInit__C() {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}
