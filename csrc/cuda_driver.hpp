#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

// The CUDA driver, found at run time: a build that can use a GPU runs where there is none.
namespace lmc::cuda {

// Zero where there is no driver, or none that works.
int device_count() noexcept;

// A loaded module and the context it lives in; both stay until the process ends.
struct Module {
  void *handle;
  void *context;
};

// Loads machine code for a device. Throws std::runtime_error with the driver's reason.
Module load_module(int device, const char *image);

// A kernel of a module, allowed to use this much dynamic shared memory.
void *find_kernel(const Module &module, const std::string &name, int shared_bytes);

struct Grid {
  unsigned x, y, z;
};

// Queues a kernel whose only parameter is a struct; the struct is copied before the call returns.
void launch(const Module &module, void *kernel, Grid grid, unsigned threads, unsigned shared_bytes,
            std::uintptr_t stream, const void *parameter);

} // namespace lmc::cuda
