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

// Nothing unless a quarter of the columns or seven eighths of the rows, constant ones not counted,
// are copies of others: a few rows alike hardly slow the lists. Rows are compared; columns only by
// a checksum, so that what is found for them must be proved by the certificate.
template <class T>
Copies find_copies(const RowMatrix<T> &matrix, const Findings<T> &findings, Interrupt &interrupt);

} // namespace lmc
