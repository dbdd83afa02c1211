#include "cuda_driver.hpp"

#include <dlfcn.h>

#include <stdexcept>

namespace lmc::cuda {
namespace {

// The few declarations of the driver's interface that are used, so that no toolkit is needed to
// build.
using Result = int;
constexpr Result success = 0;
constexpr int max_dynamic_shared_bytes = 8; // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES

struct Driver {
  Result (*init)(unsigned) = nullptr;
  Result (*device_get_count)(int *) = nullptr;
  Result (*device_get)(int *, int) = nullptr;
  Result (*primary_context_retain)(void **, int) = nullptr;
  Result (*context_push)(void *) = nullptr;
  Result (*context_pop)(void **) = nullptr;
  Result (*module_load_data)(void **, const void *) = nullptr;
  Result (*module_get_function)(void **, void *, const char *) = nullptr;
  Result (*function_set_attribute)(void *, int, int) = nullptr;
  Result (*launch_kernel)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                          unsigned, void *, void **, void **) = nullptr;
  Result (*error_name)(Result, const char **) = nullptr;
  int devices = 0;
};

template <class Function> bool find(void *library, const char *name, Function &function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

Driver open_driver() noexcept {
  Driver driver;
  void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!library)
    return driver;
  int devices = 0;
  const bool works = find(library, "cuInit", driver.init) &&
                     find(library, "cuDeviceGetCount", driver.device_get_count) &&
                     find(library, "cuDeviceGet", driver.device_get) &&
                     find(library, "cuDevicePrimaryCtxRetain", driver.primary_context_retain) &&
                     find(library, "cuCtxPushCurrent_v2", driver.context_push) &&
                     find(library, "cuCtxPopCurrent_v2", driver.context_pop) &&
                     find(library, "cuModuleLoadData", driver.module_load_data) &&
                     find(library, "cuModuleGetFunction", driver.module_get_function) &&
                     find(library, "cuFuncSetAttribute", driver.function_set_attribute) &&
                     find(library, "cuLaunchKernel", driver.launch_kernel) &&
                     find(library, "cuGetErrorName", driver.error_name) &&
                     driver.init(0) == success && driver.device_get_count(&devices) == success;
  driver.devices = works ? devices : 0;
  return driver;
}

const Driver &driver() {
  static const Driver opened = open_driver();
  return opened;
}

void check(Result result, const std::string &what) {
  if (result == success)
    return;
  const char *name = nullptr;
  driver().error_name(result, &name);
  throw std::runtime_error("CUDA driver: " + what + ": " + (name ? name : std::to_string(result)));
}

// Makes a context current and gives the previous one back.
class Current {
public:
  explicit Current(void *context) {
    check(driver().context_push(context), "cannot enter the context");
  }
  ~Current() {
    void *left = nullptr;
    driver().context_pop(&left);
  }
  Current(const Current &) = delete;
  Current &operator=(const Current &) = delete;
};

} // namespace

int device_count() noexcept { return driver().devices; }

Module load_module(int device, const char *image) {
  if (device < 0 || device >= device_count())
    throw std::runtime_error("CUDA driver: no device " + std::to_string(device) + " among " +
                             std::to_string(device_count()));
  int handle = 0;
  Module module{};
  check(driver().device_get(&handle, device), "cannot open the device");
  check(driver().primary_context_retain(&module.context, handle),
        "cannot open the device's context");
  const Current current(module.context);
  check(driver().module_load_data(&module.handle, image), "cannot load the kernels");
  return module;
}

void *find_kernel(const Module &module, const std::string &name, int shared_bytes) {
  const Current current(module.context);
  void *kernel = nullptr;
  check(driver().module_get_function(&kernel, module.handle, name.c_str()), "no kernel " + name);
  check(driver().function_set_attribute(kernel, max_dynamic_shared_bytes, shared_bytes),
        std::to_string(shared_bytes) + " bytes of shared memory refused for " + name);
  return kernel;
}

void launch(const Module &module, void *kernel, Grid grid, unsigned threads, unsigned shared_bytes,
            std::uintptr_t stream, const void *parameter) {
  const Current current(module.context);
  void *parameters[] = {const_cast<void *>(parameter)};
  check(driver().launch_kernel(kernel, grid.x, grid.y, grid.z, threads, 1, 1, shared_bytes,
                               reinterpret_cast<void *>(stream), parameters, nullptr),
        "launch failed");
}

} // namespace lmc::cuda
