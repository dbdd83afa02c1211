#pragma once

#include <vector>

#include "assignment_solver.hpp"

namespace lmc {

// Prices for a matrix of finite entries that is nearly r_i + c_j + x_i y_j: matching the sorted x
// to the sorted y is then nearly optimal (Machol and Wien, Management Science 22, 1976, 1271-1275),
// with prices that rise along y at the slope of x. So do the dummies of a rectangle, with x or y
// zero, where what the longer side has beside x_i y_j is small. False, at little cost, where a
// sample of the matrix does not look like that.
template <class T>
bool rank_one_prices(const RowMatrix<T> &matrix, std::vector<double> &price, Interrupt &interrupt);

} // namespace lmc
