#include "version.hpp"

namespace lmc {

const char *compiler() noexcept {
#if defined(__VERSION__)
  return __VERSION__;
#else
  return "unknown";
#endif
}

} // namespace lmc
