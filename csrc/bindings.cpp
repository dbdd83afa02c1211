// The only file that knows Python. Shapes and values are checked in the Python layer above.
#include <nanobind/nanobind.h>

#include "version.hpp"

namespace nb = nanobind;

NB_MODULE(_core, m) { m.def("compiler", &lmc::compiler); }
