#pragma once

namespace lmc {

// The compiler that built this core, for bug reports and result files.
const char *compiler() noexcept;

} // namespace lmc
