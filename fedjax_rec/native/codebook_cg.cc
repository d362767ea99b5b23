// Fitting codebooks to items by conjugate gradients, as one call.
//
// XLA passes over arrays of the codebooks' size thirteen times a step. Here it is six: what only reads
// or changes the same rows is done in one pass, and the curvature falls out of the pass over the items.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

// An item's codewords in all levels, as rows of the stacked codebooks.
class Codes {
 public:
  Codes(const int32_t* codes, int64_t levels, int64_t words)
      : codes_(codes), levels_(levels), words_(words) {}
  int64_t Row(int64_t item, int64_t level) const {
    return level * words_ + codes_[item * levels_ + level];
  }

 private:
  const int32_t* codes_;
  int64_t levels_, words_;
};

// out = Σ over levels of factor[level] · books[row], what codebooks make of an item.
void Make(const float* books, const float* factors, const Codes& codes, int64_t item,
          int64_t levels, int64_t dim, float* __restrict out) {
  std::fill_n(out, dim, 0.0f);
  for (int64_t level = 0; level < levels; ++level) {
    const float* __restrict word = books + codes.Row(item, level) * dim;
    const float factor = factors == nullptr ? 1.0f : factors[level];
    for (int64_t i = 0; i < dim; ++i) out[i] += factor * word[i];
  }
}

// Adds weight · values to each of an item's codewords.
void Spread(float* sums, float weight, const Codes& codes, int64_t item, int64_t levels,
            int64_t dim, const float* __restrict values) {
  for (int64_t level = 0; level < levels; ++level) {
    float* __restrict word = sums + codes.Row(item, level) * dim;
    for (int64_t i = 0; i < dim; ++i) word[i] += weight * values[i];
  }
}

float SquaredNorm(const float* __restrict x, int64_t n) {
  constexpr int kLanes = 16;  // sums side by side: the order of additions is no reason to wait
  float sums[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) sums[lane] += x[i + lane] * x[i + lane];
  float sum = 0;
  for (; i < n; ++i) sum += x[i] * x[i];
  for (float each : sums) sum += each;
  return sum;
}

ffi::Error Fit(ffi::Buffer<ffi::F32> books, ffi::Buffer<ffi::F32> shares,
               ffi::Buffer<ffi::S32> item_codes, ffi::Buffer<ffi::F32> target,
               ffi::Buffer<ffi::F32> importance, ffi::ResultBuffer<ffi::F32> fitted, int64_t steps,
               float least_gain, float least_squared) {
  const int64_t levels = books.dimensions()[0], words = books.dimensions()[1];
  const int64_t dim = books.dimensions()[2], items = target.dimensions()[0];
  const int64_t rows = levels * words;
  const Codes codes(item_codes.typed_data(), levels, words);
  const float* counts = importance.typed_data();
  const float* share = shares.typed_data();

  // How much of the samples a codeword makes up: the preconditioner.
  std::vector<float> scale(rows), made(dim);
  for (int64_t item = 0; item < items; ++item)
    for (int64_t level = 0; level < levels; ++level) scale[codes.Row(item, level)] += counts[item];
  for (int64_t row = 0; row < rows; ++row) {
    const float s = share[row / words];
    scale[row] = s * s / (scale[row] > 0 ? scale[row] : 1.0f);
  }

  std::vector<float> gradient(rows * dim), direction(rows * dim), along(rows * dim);
  std::vector<float> change(rows * dim);
  double error = 0;
  for (int64_t item = 0; item < items; ++item) {
    if (counts[item] == 0) continue;
    Make(books.typed_data(), share, codes, item, levels, dim, made.data());
    const float* __restrict wanted = target.typed_data() + item * dim;
    for (int64_t i = 0; i < dim; ++i) made[i] = wanted[i] - made[i];
    error += counts[item] * static_cast<double>(SquaredNorm(made.data(), dim));
    Spread(gradient.data(), counts[item], codes, item, levels, dim, made.data());
  }
  const auto squared_gradient = [&] {
    double sum = 0;
    for (int64_t row = 0; row < rows; ++row)
      sum += scale[row] * static_cast<double>(SquaredNorm(gradient.data() + row * dim, dim));
    return sum;
  };
  const double first = squared_gradient();
  double squared = first, before = 0;
  for (int64_t step = 0; step < steps; ++step) {
    const float ratio = static_cast<float>(squared / (before > 0 ? before : 1));
    for (int64_t row = 0; row < rows; ++row) {
      const float factor = scale[row];
      const float* __restrict g = gradient.data() + row * dim;
      float* __restrict d = direction.data() + row * dim;
      float* __restrict a = along.data() + row * dim;
      for (int64_t i = 0; i < dim; ++i) {
        d[i] = factor * g[i] + ratio * d[i];
        a[i] = 0;
      }
    }
    double curvature = 0;
    for (int64_t item = 0; item < items; ++item) {
      if (counts[item] == 0) continue;
      Make(direction.data(), nullptr, codes, item, levels, dim, made.data());
      curvature += counts[item] * static_cast<double>(SquaredNorm(made.data(), dim));
      Spread(along.data(), counts[item], codes, item, levels, dim, made.data());
    }
    const double length = squared / (curvature > 0 ? curvature : 1);
    if (squared <= least_squared * first || squared * length <= least_gain * error) break;
    const float by = static_cast<float>(length);
    before = squared;
    squared = 0;
    for (int64_t row = 0; row < rows; ++row) {
      float* __restrict g = gradient.data() + row * dim;
      float* __restrict c = change.data() + row * dim;
      const float* __restrict a = along.data() + row * dim;
      const float* __restrict d = direction.data() + row * dim;
      for (int64_t i = 0; i < dim; ++i) {
        g[i] -= by * a[i];
        c[i] += by * d[i];
      }
      squared += scale[row] * static_cast<double>(SquaredNorm(g, dim));
    }
  }
  for (int64_t row = 0; row < rows; ++row) {
    const float s = share[row / words];
    const float* __restrict old = books.typed_data() + row * dim;
    const float* __restrict c = change.data() + row * dim;
    float* __restrict out = fitted->typed_data() + row * dim;
    for (int64_t i = 0; i < dim; ++i) out[i] = old[i] + c[i] / s;
  }
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(CodebookCg, Fit,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::Buffer<ffi::F32>>()  // codebooks [L, M, d]
                                  .Arg<ffi::Buffer<ffi::F32>>()  // shares of the levels [L]
                                  .Arg<ffi::Buffer<ffi::S32>>()  // codes [n, L]
                                  .Arg<ffi::Buffer<ffi::F32>>()  // target [n, d]
                                  .Arg<ffi::Buffer<ffi::F32>>()  // importance [n]
                                  .Ret<ffi::Buffer<ffi::F32>>()  // codebooks
                                  .Attr<int64_t>("steps")
                                  .Attr<float>("least_gain")
                                  .Attr<float>("least_squared"));
