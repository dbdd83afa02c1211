#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "assignment.hpp"

namespace lmc {

// 2^exponent, without a call of the library where it is a normal number.
inline double power_of_two(int exponent) {
  const bool normal = exponent > -1023 && exponent < 1024;
  return normal ? std::bit_cast<double>(static_cast<std::uint64_t>(exponent + 1023) << 52)
                : std::ldexp(1.0, exponent);
}

// Fixed-point arithmetic in doubles. Entries are scaled by a power of two to at most 1 in size and
// rounded to multiples of 2^-bits. As long as prices stay below 2^(52 - bits), every sum and
// difference the solvers form is exact, so results do not depend on the order of work.
struct Grid {
  static Grid covering(double largest, int bits);

  double operator()(double x) const { return (x * scale * scale_rest + magic) - magic; }
  double exact(double x) const { return x * scale * scale_rest; }
  // Float32 has no room for the solvers' sums at the ends of its range: forbidden pairs may drive
  // prices to twice the number of rows times the largest entry.
  bool leaves_float32_room() const { return exponent > -90 && exponent < 110; }
  // What a difference of an entry and a rounded price may be wrong by, itself on the grid;
  // `precision` is the epsilon of the type it is formed in.
  double difference_error(double largest_price, double precision) const;
  // The inverse, in the units of the matrix as given.
  double restore(double x) const;

  int exponent = 0;
  int bits = 0;
  double scale = 1, scale_rest = 1; // 2^-exponent, in two factors for the ends of the range
  double magic = 0;                 // adding and subtracting it rounds to the grid
};

// What one reading of the matrix tells: the largest finite magnitude and the first value that has
// no meaning (NaN, or the infinity that is better than every finite value).
struct Survey {
  double largest = 0;
  std::int64_t bad_row = -1, bad_col = -1;
};

class Interrupt;

// Unfinished after an interrupt.
Survey survey(const CostMatrix &cost, bool maximize, Interrupt &interrupt);

} // namespace lmc
