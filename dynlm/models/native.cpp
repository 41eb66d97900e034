// The parts of reading that torch's own operations take in too many small steps or too many passes over memory.
//
// Each function has its reference in Python: lstm/layers.py for the LSTM, adapt/rules/elementwise.py for the update,
// adapt/meta_gradient/forward.py for the sensitivities; tests compare them. All matrices are dense and row by row.
// B lanes, T tokens, S = 1 + T states, H width, N weights of a part.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <omp.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <optional>
#include <thread>
#include <tuple>

namespace {

using at::Tensor;

// exp(x) to an ulp or two, without branches, so that the compiler makes vectors of it.
inline float exponential(float x) {
  x = std::min(std::max(x, -87.0f), 88.0f);
  const float n = std::nearbyint(x * 1.44269504f);
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int bits = (static_cast<int>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return p * power;
}
inline double exponential(double x) { return std::exp(x); }

template <typename F>
inline F sigmoid(F x) {
  return F(1) / (F(1) + exponential(-x));
}
template <typename F>
inline F hyperbolic_tangent(F x) {
  return F(2) / (F(1) + exponential(F(-2) * x)) - F(1);
}

// A meeting point of a few threads that wait for microseconds only.
class Barrier {
 public:
  explicit Barrier(int threads) : threads_(threads) {}
  void expect(int threads) { threads_ = threads; }
  void wait() {
    const int round = round_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads_) {
      arrived_.store(0, std::memory_order_relaxed);
      round_.store(round + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; round_.load(std::memory_order_acquire) == round; ++spins)
      if (spins > 2000) std::this_thread::yield();
  }

 private:
  int threads_;
  std::atomic<int> arrived_{0}, round_{0};
};

// Threads that meet after every step lose more than they gain where a step takes a few microseconds, and where another
// program keeps one of them waiting they lose a hundred times as much.
constexpr int64_t kBytesWorthAMeeting = 4 << 20;

// Calls body(lane, first unit, end unit, barrier): whole lanes where there are enough of them for all threads or their
// matrices are small, else each lane's hidden units in as many shares as there are threads, which meet after each step.
template <typename Body>
void over_lanes_or_units(int64_t lanes, int64_t width, int64_t matrix_bytes, const Body& body) {
  const int threads = at::get_num_threads();
  if (lanes >= threads || threads == 1 || matrix_bytes < kBytesWorthAMeeting) {
    at::parallel_for(0, lanes, 1, [&](int64_t begin, int64_t end) {
      Barrier alone(1);
      for (int64_t lane = begin; lane < end; ++lane) body(lane, int64_t(0), width, alone);
    });
    return;
  }
  for (int64_t lane = 0; lane < lanes; ++lane) {
    Barrier all(threads);
#pragma omp parallel num_threads(threads)
    {
      // Fewer may have come than were asked for; nobody goes on before the barrier knows.
      const int64_t share = omp_get_thread_num(), shares = omp_get_num_threads();
#pragma omp single
      all.expect(static_cast<int>(shares));
      body(lane, width * share / shares, width * (share + 1) / shares, all);
    }
  }
}

// One unit's four gates before their non-linearities: its four rows of W times h.
template <typename F>
inline void add_rows(F* __restrict gates, const F* __restrict before, const F* __restrict W, const F* __restrict h,
                     int64_t unit, int64_t H) {
  const F *const a = W + unit * H, *const b = a + H * H, *const c = b + H * H, *const d = c + H * H;
  F i = 0, f = 0, g = 0, o = 0;
#pragma omp simd reduction(+ : i, f, g, o)
  for (int64_t k = 0; k < H; ++k) {
    i += a[k] * h[k];
    f += b[k] * h[k];
    g += c[k] * h[k];
    o += d[k] * h[k];
  }
  gates[unit] = i + before[unit];
  gates[H + unit] = f + before[H + unit];
  gates[2 * H + unit] = g + before[2 * H + unit];
  gates[3 * H + unit] = o + before[3 * H + unit];
}

// before_BT4H += h W^T step by step, and everything that follows from it. recurrent is (4H, H) or (B, 4H, H).
template <typename F>
void lstm_forward(const Tensor& before_BT4H, const Tensor& recurrent, const Tensor& gates_BT4H,
                  const Tensor& cells_BSH, const Tensor& tanh_cells_BTH, const Tensor& outputs_BSH) {
  const int64_t lanes = gates_BT4H.size(0), length = gates_BT4H.size(1), H = gates_BT4H.size(2) / 4;
  const int64_t between_lanes = recurrent.dim() == 3 ? recurrent.stride(0) : 0;
  const F *const befores = before_BT4H.data_ptr<F>(), *const weights = recurrent.data_ptr<F>();
  F *const all_gates = gates_BT4H.data_ptr<F>(), *const all_cells = cells_BSH.data_ptr<F>();
  F *const all_tanhs = tanh_cells_BTH.data_ptr<F>(), *const all_outputs = outputs_BSH.data_ptr<F>();
  over_lanes_or_units(lanes, H, 4 * H * H * sizeof(F), [&](int64_t lane, int64_t first, int64_t end, Barrier& barrier) {
    const F* const W = weights + lane * between_lanes;
    for (int64_t t = 0; t < length; ++t) {
      const F* const before = befores + (lane * length + t) * 4 * H;
      F* const gates = all_gates + (lane * length + t) * 4 * H;
      F* const cell = all_cells + (lane * (length + 1) + t) * H;
      F* const tanh_cell = all_tanhs + (lane * length + t) * H;
      const F* const h = all_outputs + (lane * (length + 1) + t) * H;
      F* const output = all_outputs + (lane * (length + 1) + t + 1) * H;
      for (int64_t unit = first; unit < end; ++unit) add_rows(gates, before, W, h, unit, H);
#pragma omp simd
      for (int64_t unit = first; unit < end; ++unit) {
        const F i = sigmoid(gates[unit]), f = sigmoid(gates[H + unit]);
        const F g = hyperbolic_tangent(gates[2 * H + unit]), o = sigmoid(gates[3 * H + unit]);
        const F next = f * cell[unit] + i * g, squashed = hyperbolic_tangent(next);
        gates[unit] = i;
        gates[H + unit] = f;
        gates[2 * H + unit] = g;
        gates[3 * H + unit] = o;
        cell[H + unit] = next;
        tanh_cell[unit] = squashed;
        output[unit] = o * squashed;
      }
      barrier.wait();
    }
  });
}

// d_gates_BT4H: the loss's gradient by the gates before their non-linearities. d_outputs_BTH is written over.
template <typename F>
void lstm_backward(const Tensor& d_outputs_BTH, const Tensor& recurrent, const Tensor& gates_BT4H,
                   const Tensor& cells_BSH, const Tensor& tanh_cells_BTH, const Tensor& d_gates_BT4H,
                   const Tensor& d_cell_BH) {
  const int64_t lanes = gates_BT4H.size(0), length = gates_BT4H.size(1), H = gates_BT4H.size(2) / 4;
  const int64_t between_lanes = recurrent.dim() == 3 ? recurrent.stride(0) : 0;
  constexpr int64_t kBlock = 64;
  F *const all_d_outputs = d_outputs_BTH.data_ptr<F>(), *const all_d_gates = d_gates_BT4H.data_ptr<F>();
  F* const all_d_cells = d_cell_BH.data_ptr<F>();
  const F *const weights = recurrent.data_ptr<F>(), *const all_gates = gates_BT4H.data_ptr<F>();
  const F *const all_cells = cells_BSH.data_ptr<F>(), *const all_tanhs = tanh_cells_BTH.data_ptr<F>();
  over_lanes_or_units(lanes, H, 4 * H * H * sizeof(F), [&](int64_t lane, int64_t first, int64_t end, Barrier& barrier) {
    const F* const W = weights + lane * between_lanes;
    F* const d_cell = all_d_cells + lane * H;
    std::fill(d_cell + first, d_cell + end, F(0));
    for (int64_t t = length - 1; t >= 0; --t) {
      const F* const gates = all_gates + (lane * length + t) * 4 * H;
      const F* const cell = all_cells + (lane * (length + 1) + t) * H;
      const F* const tanh_cell = all_tanhs + (lane * length + t) * H;
      F* const d_output = all_d_outputs + (lane * length + t) * H;
      F* const d_gates = all_d_gates + (lane * length + t) * 4 * H;
      if (t + 1 < length) {
        const F* const later = d_gates + 4 * H;
        for (int64_t at = first; at < end; at += kBlock) {
          const int64_t size = std::min(kBlock, end - at);
          F sum[kBlock] = {};
          if (size == kBlock) {
            for (int64_t row = 0; row < 4 * H; ++row) {
              const F *const w = W + row * H + at, d = later[row];
#pragma omp simd
              for (int64_t k = 0; k < kBlock; ++k) sum[k] += d * w[k];
            }
          } else {
            for (int64_t row = 0; row < 4 * H; ++row)
              for (int64_t k = 0; k < size; ++k) sum[k] += later[row] * W[row * H + at + k];
          }
          for (int64_t k = 0; k < size; ++k) d_output[at + k] += sum[k];
        }
      }
#pragma omp simd
      for (int64_t unit = first; unit < end; ++unit) {
        const F i = gates[unit], f = gates[H + unit], g = gates[2 * H + unit], o = gates[3 * H + unit];
        const F d_h = d_output[unit], squashed = tanh_cell[unit];
        const F d_c = d_cell[unit] + d_h * o * (F(1) - squashed * squashed);
        d_gates[unit] = d_c * g * i * (F(1) - i);
        d_gates[H + unit] = d_c * cell[unit] * f * (F(1) - f);
        d_gates[2 * H + unit] = d_c * i * (F(1) - g * g);
        d_gates[3 * H + unit] = d_h * squashed * o * (F(1) - o);
        d_cell[unit] = d_c * f;
      }
      barrier.wait();
    }
  });
}

// theta += beta (theta_0 - theta) - alpha scale u, lane by lane, in one pass. theta_BN may be rows of larger matrices:
// lanes lie theta's own stride apart. beta_N and scale_N may be missing: then they are beta, and one.
template <typename F>
void step_(const Tensor& theta_BN, const Tensor& theta_0_N, const Tensor& u_BN, const std::optional<Tensor>& beta_N,
           double beta, const std::optional<Tensor>& scale_N, double alpha) {
  const int64_t lanes = theta_BN.size(0), N = theta_BN.numel() / lanes;
  F* const thetas = theta_BN.data_ptr<F>();
  const F *const anchor = theta_0_N.data_ptr<F>(), *const us = u_BN.data_ptr<F>();
  const F* const betas = beta_N ? beta_N->data_ptr<F>() : nullptr;
  const F* const scales = scale_N ? scale_N->data_ptr<F>() : nullptr;
  const F decay = beta, rate = alpha;
  const int64_t between_lanes = theta_BN.stride(0);
  at::parallel_for(0, N, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t lane = 0; lane < lanes; ++lane) {
      F* const theta = thetas + lane * between_lanes;
      const F* const u = us + lane * N;
      if (betas && scales) {
#pragma omp simd
        for (int64_t n = begin; n < end; ++n)
          theta[n] += betas[n] * (anchor[n] - theta[n]) - rate * scales[n] * u[n];
      } else {
#pragma omp simd
        for (int64_t n = begin; n < end; ++n)
          theta[n] += (betas ? betas[n] : decay) * (anchor[n] - theta[n]) - rate * (scales ? scales[n] : F(1)) * u[n];
      }
    }
  });
}

// Sums over lanes and weights of u (theta - theta_0) and u s_decay; then s_decay is carried over the coming step.
template <typename F>
std::tuple<double, double> sense_(const Tensor& s_decay_BN, const Tensor& theta_BN, const Tensor& theta_0_N,
                                  const Tensor& u_BN, const std::optional<Tensor>& beta_N, double beta) {
  const int64_t lanes = theta_BN.size(0), N = theta_BN.numel() / lanes;
  std::atomic<double> by_lr{0}, by_decay{0};
  const F *const thetas = theta_BN.data_ptr<F>(), *const anchor = theta_0_N.data_ptr<F>();
  const F *const us = u_BN.data_ptr<F>(), *const betas = beta_N ? beta_N->data_ptr<F>() : nullptr;
  F* const sensitivities = s_decay_BN.data_ptr<F>();
  const F decay = beta;
  at::parallel_for(0, N, 4096, [&](int64_t begin, int64_t end) {
    double rates = 0, by_decays = 0;
    for (int64_t lane = 0; lane < lanes; ++lane) {
      const F* const theta = thetas + lane * theta_BN.stride(0);
      F* const s = sensitivities + lane * s_decay_BN.stride(0);
      const F* const u = us + lane * N;
      // Sums of a few thousand in the weights' own type, those of all in double.
      for (int64_t from = begin; from < end; from += 4096) {
        const int64_t to = std::min(from + 4096, end);
        F lr_sum = 0, decay_sum = 0;
#pragma omp simd reduction(+ : lr_sum, decay_sum)
        for (int64_t n = from; n < to; ++n) {
          const F b = betas ? betas[n] : decay, away = theta[n] - anchor[n];
          lr_sum += u[n] * away;
          decay_sum += u[n] * s[n];
          s[n] = b < F(1) ? s[n] - b * (away + s[n]) : F(0);
        }
        rates += lr_sum;
        by_decays += decay_sum;
      }
    }
    for (double seen = by_lr.load(); !by_lr.compare_exchange_weak(seen, seen + rates);) {}
    for (double seen = by_decay.load(); !by_decay.compare_exchange_weak(seen, seen + by_decays);) {}
  });
  return {by_lr.load(), by_decay.load()};
}

// A function's float or double form, as the type of its first tensor asks.
template <typename Signature>
struct OfType;
template <typename R, typename... Rest>
struct OfType<R(const Tensor&, Rest...)> {
  template <R (*of_float)(const Tensor&, Rest...), R (*of_double)(const Tensor&, Rest...)>
  static R call(const Tensor& first, Rest... rest) {
    return first.scalar_type() == at::kDouble ? of_double(first, rest...) : of_float(first, rest...);
  }
};
#define OF_TYPE(function) &OfType<decltype(function<float>)>::call<function<float>, function<double>>

}  // namespace

TORCH_LIBRARY(dynlm, library) {
  library.def(
      "lstm_forward(Tensor before, Tensor recurrent, Tensor(a!) gates, Tensor(b!) cells, Tensor(c!) tanh_cells, "
      "Tensor(d!) outputs) -> ()",
      OF_TYPE(lstm_forward));
  library.def(
      "lstm_backward(Tensor(a!) d_outputs, Tensor recurrent, Tensor gates, Tensor cells, Tensor tanh_cells, "
      "Tensor(b!) d_gates, Tensor(c!) d_cell) -> ()",
      OF_TYPE(lstm_backward));
  library.def(
      "step_(Tensor(a!) theta, Tensor theta_0, Tensor u, Tensor? betas, float beta, Tensor? scales, float alpha) -> ()",
      OF_TYPE(step_));
  library.def(
      "sense_(Tensor(a!) s_decay, Tensor theta, Tensor theta_0, Tensor u, Tensor? betas, float beta) -> (float, float)",
      OF_TYPE(sense_));
}
