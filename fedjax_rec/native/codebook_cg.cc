// Fitting codebooks to items by conjugate gradients, as one call.
//
// XLA passes over arrays of the codebooks' size thirteen times a step. Here what changes the same rows
// is done in one pass, the curvature falls out of the pass over the items, and that pass takes a few
// columns at a time, so that the codewords it goes to and fro between stay in the cache. Arrays lie
// block of columns after block: rows a power of two apart would push each other out of it.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

constexpr int64_t kColumns = 64;

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

// Adds weight · values to each of an item's codewords, in a block of columns.
void Spread(float* sums, float weight, const Codes& codes, int64_t item, int64_t levels,
            const float* __restrict values) {
  for (int64_t level = 0; level < levels; ++level) {
    float* __restrict word = sums + codes.Row(item, level) * kColumns;
    for (int64_t i = 0; i < kColumns; ++i) word[i] += weight * values[i];
  }
}

float SquaredNorm(const float* __restrict x) {
  constexpr int kLanes = 16;  // sums side by side: the order of additions is no reason to wait
  float sums[kLanes] = {}, sum = 0;
  for (int64_t i = 0; i < kColumns; i += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) sums[lane] += x[i + lane] * x[i + lane];
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
  std::vector<float> scale(rows);
  float made[kColumns];
  for (int64_t item = 0; item < items; ++item)
    for (int64_t level = 0; level < levels; ++level) scale[codes.Row(item, level)] += counts[item];
  for (int64_t row = 0; row < rows; ++row) {
    const float s = share[row / words];
    scale[row] = s * s / (scale[row] > 0 ? scale[row] : 1.0f);
  }

  const int64_t blocks = (dim + kColumns - 1) / kColumns, size = rows * kColumns;
  // Kept from client to client: memory that is new to a process costs more than clearing it.
  thread_local std::vector<float> gradient, direction, along, change;
  for (auto* each : {&gradient, &direction, &along, &change}) each->assign(blocks * size, 0.0f);
  double error = 0, squared = 0, before = 0;
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t column = block * kColumns, width = std::min(kColumns, dim - column);
    float* g = gradient.data() + block * size;
    for (int64_t item = 0; item < items; ++item) {
      if (counts[item] == 0) continue;
      std::fill_n(made, kColumns, 0.0f);  // columns beyond the last stay so
      std::copy_n(target.typed_data() + item * dim + column, width, made);
      for (int64_t level = 0; level < levels; ++level) {
        const float* word = books.typed_data() + codes.Row(item, level) * dim + column;
        for (int64_t i = 0; i < width; ++i) made[i] -= share[level] * word[i];
      }
      error += counts[item] * static_cast<double>(SquaredNorm(made));
      Spread(g, counts[item], codes, item, levels, made);
    }
    for (int64_t row = 0; row < rows; ++row)
      squared += scale[row] * static_cast<double>(SquaredNorm(g + row * kColumns));
  }
  const double first = squared;
  for (int64_t step = 0; step < steps; ++step) {
    const float ratio = static_cast<float>(squared / (before > 0 ? before : 1));
    double curvature = 0;
    for (int64_t block = 0; block < blocks; ++block) {
      const float* __restrict g = gradient.data() + block * size;
      float* __restrict d = direction.data() + block * size;
      float* __restrict a = along.data() + block * size;
      for (int64_t row = 0; row < rows; ++row) {
        for (int64_t i = row * kColumns; i < row * kColumns + kColumns; ++i) {
          d[i] = scale[row] * g[i] + ratio * d[i];
        }
      }
      std::fill_n(a, size, 0.0f);
      for (int64_t item = 0; item < items; ++item) {
        if (counts[item] == 0) continue;
        std::fill_n(made, kColumns, 0.0f);
        for (int64_t level = 0; level < levels; ++level) {
          const float* __restrict word = d + codes.Row(item, level) * kColumns;
          for (int64_t i = 0; i < kColumns; ++i) made[i] += word[i];
        }
        curvature += counts[item] * static_cast<double>(SquaredNorm(made));
        Spread(a, counts[item], codes, item, levels, made);
      }
    }
    const double length = squared / (curvature > 0 ? curvature : 1);
    if (squared <= least_squared * first || squared * length <= least_gain * error) break;
    const float by = static_cast<float>(length);
    before = squared;
    squared = 0;
    for (int64_t row = 0; row < blocks * rows; ++row) {
      float* __restrict g = gradient.data() + row * kColumns;
      float* __restrict c = change.data() + row * kColumns;
      const float* __restrict a = along.data() + row * kColumns;
      const float* __restrict d = direction.data() + row * kColumns;
      for (int64_t i = 0; i < kColumns; ++i) {
        g[i] -= by * a[i];
        c[i] += by * d[i];
      }
      squared += scale[row % rows] * static_cast<double>(SquaredNorm(g));
    }
  }
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < dim; ++i) {
      const float moved = change[(i / kColumns) * size + row * kColumns + i % kColumns];
      fitted->typed_data()[row * dim + i] =
          books.typed_data()[row * dim + i] + moved / share[row / words];
    }
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
