// One client's local training of matrix factorization by Adam, as one call.
//
// Adam with weight decay moves every row of the table in every batch. XLA passes over the table, its
// two moments and a gradient of that size thirteen times a batch, and at d = 512 none of them stays in
// a cache. But a row that a batch does not gather depends on nothing but itself until one gathers it.
// So its steps are put off, and taken all at once when it is needed, while it is in the first cache:
// the same steps in the same order, with one read and one write of the row for all of them.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

constexpr float kMeanDecay = 0.9f, kSquareDecay = 0.999f, kEpsilon = 1e-8f;  // of torch and optax

// Step t goes by -rate·m / (root·√v + ε): Adam's -η/(1 - β1^t) · m / (√(v / (1 - β2^t)) + ε).
struct Step {
  float rate, root;
};

std::vector<Step> Schedule(int64_t steps, float lr) {
  std::vector<Step> out(steps + 1);
  for (int64_t t = 1; t <= steps; ++t) {
    out[t] = {static_cast<float>(lr / (1 - std::pow(0.9, t))),
              static_cast<float>(1 / std::sqrt(1 - std::pow(0.999, t)))};
  }
  return out;
}

// A table with its moments. A row is at the step that `done` says.
struct Table {
  void Begin(float* values, int64_t rows, int64_t width, float weight_decay, int64_t steps,
             float lr) {
    x = values;
    dim = width;
    decay = weight_decay;
    schedule = Schedule(steps, lr);
    mean.assign(rows * dim, 0.0f);
    square.assign(rows * dim, 0.0f);
    done.assign(rows, 0);
  }

  // A row's next step, with the gradient of its samples.
  void Take(int64_t row, const float* __restrict gradient) {
    float* __restrict x_ = x + row * dim;
    float* __restrict m = mean.data() + row * dim;
    float* __restrict v = square.data() + row * dim;
    const Step step = schedule[++done[row]];
    const float decay = this->decay;
    for (int64_t i = 0; i < dim; ++i) {
      const float g = gradient[i] + decay * x_[i];
      m[i] = kMeanDecay * m[i] + (1 - kMeanDecay) * g;
      v[i] = kSquareDecay * v[i] + (1 - kSquareDecay) * g * g;
      x_[i] -= step.rate * m[i] / (step.root * std::sqrt(v[i]) + kEpsilon);
    }
  }

  // A row's steps up to t, which no sample has a part in.
  void CatchUp(int64_t row, int64_t t) {
    if (done[row] == 0 && decay == 0) done[row] = t;  // nothing has moved it yet, and nothing does
    float* __restrict x_ = x + row * dim;
    float* __restrict m = mean.data() + row * dim;
    float* __restrict v = square.data() + row * dim;
    const float decay = this->decay;
    while (done[row] < t) {
      const Step step = schedule[++done[row]];
      for (int64_t i = 0; i < dim; ++i) {
        const float g = decay * x_[i];
        m[i] = kMeanDecay * m[i] + (1 - kMeanDecay) * g;
        v[i] = kSquareDecay * v[i] + (1 - kSquareDecay) * g * g;
        x_[i] -= step.rate * m[i] / (step.root * std::sqrt(v[i]) + kEpsilon);
      }
    }
  }

  float* x;
  int64_t dim;
  float decay;
  std::vector<float> mean, square;
  std::vector<int64_t> done;
  std::vector<Step> schedule;
};

float Dot(const float* __restrict a, const float* __restrict b, int64_t n) {
  constexpr int kLanes = 16;  // sums side by side: the order of additions is no reason to wait
  float sums[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) sums[lane] += a[i + lane] * b[i + lane];
  float sum = 0;
  for (; i < n; ++i) sum += a[i] * b[i];
  for (float each : sums) sum += each;
  return sum;
}

// The two sides' gradients of one sample.
void AddSample(float slope, const float* __restrict user, const float* __restrict item,
               float* __restrict user_gradient, float* __restrict item_gradient, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    user_gradient[i] += slope * item[i];
    item_gradient[i] += slope * user[i];
  }
}

// log(1 + e^x) without overflow.
double Softplus(double x) { return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)); }

ffi::Error Train(ffi::Buffer<ffi::F32> users, ffi::Buffer<ffi::F32> items,
                 ffi::Buffer<ffi::S32> sample_items, ffi::Buffer<ffi::S32> sample_users,
                 ffi::Buffer<ffi::S32> order, ffi::Buffer<ffi::S32> valid,
                 ffi::Buffer<ffi::F32> rates, ffi::ResultBuffer<ffi::F32> new_users,
                 ffi::ResultBuffer<ffi::F32> new_items, ffi::ResultBuffer<ffi::F32> loss,
                 int64_t batch_size, int64_t samples_a_positive) {
  const int64_t dim = users.dimensions()[1], num_users = users.dimensions()[0];
  const int64_t num_items = items.dimensions()[0];
  const int64_t epochs = order.dimensions()[0], room = order.dimensions()[1];
  const int64_t count = std::min<int64_t>(valid.typed_data()[0], room);
  const int64_t batches = (count + batch_size - 1) / batch_size;

  const float lr = rates.typed_data()[0], item_lr = rates.typed_data()[1];
  const float weight_decay = rates.typed_data()[2];
  float* u = new_users->typed_data();
  float* v = new_items->typed_data();
  std::copy_n(users.typed_data(), num_users * dim, u);
  std::copy_n(items.typed_data(), num_items * dim, v);
  // Kept from client to client: memory that is new to a process costs more than clearing it.
  thread_local Table user_table, item_table;
  user_table.Begin(u, num_users, dim, weight_decay, epochs * batches, lr);
  item_table.Begin(v, num_items, dim, weight_decay, epochs * batches, item_lr);

  std::vector<float> user_gradient(num_users * dim), gradient(dim);
  // A batch's samples by item: the first of each, and who comes after whom.
  std::vector<int32_t> first(num_items, -1), next(batch_size), touched;
  touched.reserve(batch_size);
  double total = 0;
  int64_t t = 0;
  for (int64_t epoch = 0; epoch < epochs; ++epoch) {
    const int32_t* shuffled = order.typed_data() + epoch * room;
    for (int64_t start = 0; start < count; start += batch_size) {
      const int64_t size = std::min(batch_size, count - start);
      ++t;
      touched.clear();
      for (int64_t b = size - 1; b >= 0; --b) {
        const int32_t item = sample_items.typed_data()[shuffled[start + b]];
        if (first[item] < 0) touched.push_back(item);
        next[b] = first[item];
        first[item] = static_cast<int32_t>(b);
      }
      std::fill(user_gradient.begin(), user_gradient.end(), 0.0f);
      double batch_loss = 0;
      for (const int32_t item : touched) {
        item_table.CatchUp(item, t - 1);
        std::fill(gradient.begin(), gradient.end(), 0.0f);
        const float* row = v + item * dim;
        for (int32_t b = first[item]; b >= 0; b = next[b]) {
          const int32_t sample = shuffled[start + b];
          const int64_t user = sample_users.typed_data()[sample];
          const float label = sample % samples_a_positive == 0 ? 1.0f : 0.0f;
          const float logit = Dot(u + user * dim, row, dim);
          batch_loss += Softplus(logit) - label * logit;
          const float slope = (1 / (1 + std::exp(-logit)) - label) / static_cast<float>(size);
          AddSample(slope, u + user * dim, row, user_gradient.data() + user * dim, gradient.data(),
                    dim);
        }
        first[item] = -1;
        item_table.Take(item, gradient.data());
      }
      for (int64_t user = 0; user < num_users; ++user) {
        user_table.Take(user, user_gradient.data() + user * dim);
      }
      total += batch_loss / static_cast<double>(size);
    }
  }
  for (int64_t item = 0; item < num_items; ++item) item_table.CatchUp(item, t);
  loss->typed_data()[0] = t == 0 ? 0.0f : static_cast<float>(total / static_cast<double>(t));
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(MfAdam, Train,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::Buffer<ffi::F32>>()   // users [U, d]
                                  .Arg<ffi::Buffer<ffi::F32>>()   // items [T, d]
                                  .Arg<ffi::Buffer<ffi::S32>>()   // the samples' items [N]
                                  .Arg<ffi::Buffer<ffi::S32>>()   // and users [N]
                                  .Arg<ffi::Buffer<ffi::S32>>()   // order of each epoch [E, N]
                                  .Arg<ffi::Buffer<ffi::S32>>()   // how many are valid [1]
                                  .Arg<ffi::Buffer<ffi::F32>>()   // η of users, η of items, λ [3]
                                  .Ret<ffi::Buffer<ffi::F32>>()   // users
                                  .Ret<ffi::Buffer<ffi::F32>>()   // items
                                  .Ret<ffi::Buffer<ffi::F32>>()   // mean loss of the batches [1]
                                  .Attr<int64_t>("batch_size")
                                  .Attr<int64_t>("samples_a_positive"));
