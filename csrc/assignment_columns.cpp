#include "assignment_columns.hpp"

#include <algorithm>
#include <functional>
#include <utility>

#include "assignment_lists.hpp"
#include "assignment_turned.hpp"

namespace lmc {
namespace {

// Rows become columns. No copies are kept: there is to be little memory beside the matrix.
void swap_sides(Classes &classes, Matching &matching) {
  std::swap(classes.row_value, classes.col_value);
  std::swap(matching.col_of, matching.row_of);
}

} // namespace

template <class T>
SolverResult solve_columns(const RowMatrix<T> &matrix, Classes &classes, Matching &matching,
                           Interrupt &interrupt, SolverWork &work) {
  SolverResult result;
  {
    const TurnedMatrix<T> turned(matrix);
    const std::int64_t patience = turned.rows / 32;
    const std::function<bool()> stop = [&] {
      return interrupt(Interrupt::period) || turned.rows_alone() > patience;
    };
    Interrupt limit(stop);
    swap_sides(classes, matching);
    result =
        solve_lists(turned, classes, matching, {.scaling = false, .open_share = 8}, limit, work);
    swap_sides(classes, matching);
  }
  if (result == SolverResult::interrupted && !interrupt.stopped()) {
    result = SolverResult::unfinished;
  }
  if (result == SolverResult::ok) {
    // What a column gets is its price to the rows; what the rows that are left over cost is what
    // they get.
    const std::vector<double> row_price = std::move(matching.price);
    matching.price.assign(row_price.size(),
                          -*std::min_element(row_price.begin(), row_price.begin() + matrix.rows));
    for (std::int64_t j = 0; j < matrix.cols; ++j) {
      const std::int64_t i = matching.row_of[j];
      matching.price[j] = matrix.exact(i, j) - row_price[i];
    }
  } else {
    std::fill(matching.col_of.begin(), matching.col_of.end(), -1);
    std::fill(matching.row_of.begin(), matching.row_of.end(), -1);
    std::fill(matching.price.begin(), matching.price.end(), 0.0);
  }
  return result;
}

template SolverResult solve_columns(const RowMatrix<float> &, Classes &, Matching &, Interrupt &,
                                    SolverWork &);
template SolverResult solve_columns(const RowMatrix<double> &, Classes &, Matching &, Interrupt &,
                                    SolverWork &);

} // namespace lmc
