#pragma once

#include <cstdint>
#include <vector>

#include "assignment_solver.hpp"
#include "assignment_survey.hpp"

namespace lmc {

// Rows, and columns, that are alike form one kind: the kind of each, and the first of each kind.
struct Copies {
  bool any() const { return !first_row.empty(); }

  std::vector<std::int64_t> row_kind, col_kind;
  std::vector<std::int64_t> first_row, first_col;
};

// Of columns if a quarter of them are copies of others, of rows if seven eighths are, constant ones
// not counted; nothing if neither. Rows are compared; columns only by a checksum, so that what is
// found for them must be proved by the certificate.
template <class T>
Copies find_copies(const RowMatrix<T> &matrix, const Findings<T> &findings, Interrupt &interrupt);

} // namespace lmc
