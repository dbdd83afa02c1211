// What a library of kernels under test gives to Python: one function that launches a kernel by
// name.
#pragma once

#include "simt.hpp"

namespace simt {

struct Kernel {
  const char *name;
  std::size_t parameter_bytes;
  void (*call)(const void *);
};

} // namespace simt

#define SIMT_KERNEL(name, Params)                                                                  \
  {#name, sizeof(Params), [](const void *p) { lmc::name(*static_cast<const Params *>(p)); }}

#define SIMT_LIBRARY(table)                                                                        \
  extern "C" const char *simt_launch(const char *name, int x, int y, int z, int threads,           \
                                     int shared_bytes, unsigned seed, const void *params,          \
                                     long long parameter_bytes) {                                  \
    static std::string error;                                                                      \
    error = std::string("no such kernel: ") + name;                                                \
    for (const simt::Kernel &kernel : table)                                                       \
      if (std::strcmp(kernel.name, name) == 0)                                                     \
        error = parameter_bytes != static_cast<long long>(kernel.parameter_bytes)                  \
                    ? "parameters of " + std::to_string(kernel.parameter_bytes) +                  \
                          " bytes expected, " + std::to_string(parameter_bytes) + " given"         \
                    : simt::launch({x, y, z}, threads, std::size_t(shared_bytes), seed,            \
                                   [&] { kernel.call(params); });                                  \
    return error.c_str();                                                                          \
  }
