// The gated units of tensors on a CPU, in one pass over memory, parallel in torch's own threads.
//
// The loops are simple, and the compiler vectorises them for the processor it runs on.

#include "kernels.h"

#include <ATen/TensorIterator.h>
#include <ATen/ops/empty.h>
#include <c10/util/FunctionRef.h>
#ifdef __AVX__
#include <immintrin.h>
#endif

#include <vector>

#include "units.h"

namespace zilu {
namespace {

using at::Tensor;
using at::TensorIterator;

// The loops work on groups of this many numbers, the last group padded. So each loop has only one,
// vectorised body, and a result does not depend on where a thread's share begins.
constexpr int64_t GROUP = 64;
constexpr int64_t BUFFER = 4 * GROUP;

// Sigma's gradient is summed over chunks of this size, whatever the number of threads, so that it
// does not depend on that number.
constexpr int64_t CHUNK = 32768;

// --- 16-bit numbers ---

inline float widen(float x) { return x; }
inline float widen(at::Half x) { return x; }
inline float widen(at::BFloat16 x) {
  const uint32_t bits = uint32_t(x.x) << 16;
  float wide;
  std::memcpy(&wide, &bits, sizeof wide);
  return wide;
}

inline void assign(float& to, float x) { to = x; }
inline void assign(at::Half& to, float x) { to = x; }
inline void assign(at::BFloat16& to, float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const uint32_t to_nearest_even = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  to.x = x != x ? 0x7fc0 : to_nearest_even;
}

template <class T>
inline void widen_group(float* __restrict to, const T* __restrict from) {
  for (int64_t i = 0; i < GROUP; ++i) to[i] = widen(from[i]);
}

template <class T>
inline void assign_group(T* __restrict to, const float* __restrict from) {
  for (int64_t i = 0; i < GROUP; ++i) assign(to[i], from[i]);
}

#ifdef __F16C__
// The compiler does not use these instructions by itself.
template <>
inline void widen_group(float* __restrict to, const at::Half* __restrict from) {
  for (int64_t i = 0; i < GROUP; i += 8) {
    const auto* at = reinterpret_cast<const __m128i*>(from + i);
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128(at)));
  }
}

template <>
inline void assign_group(at::Half* __restrict to, const float* __restrict from) {
  for (int64_t i = 0; i < GROUP; i += 8) {
    const __m128i halves = _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), halves);
  }
}
#endif

// --- from strided memory to groups in fp32, and back ---

// A loop over whole groups of fp32 numbers, with one or two outputs and up to three inputs. `sums`
// has one number for each position in a group, and as many again for a second sum.
using Loop = c10::function_ref<void(
    int64_t groups, float* const* out, const float* const* in, float* sums)>;
constexpr int MOST_OUTPUTS = 2, MOST_INPUTS = 3;

struct Sums {
  double first = 0, second = 0;
};

// How many tensors a loop has: TensorIterator's `data` holds the outputs, then the inputs.
struct Counts {
  explicit Counts(const TensorIterator& iter)
      : outputs(iter.noutputs()), inputs(iter.ninputs()) {}

  int outputs, inputs;
};

template <class T>
const float* load(const char* from, int64_t stride, int64_t count, float* buffer) {
  int64_t done = 0;
  if (stride == sizeof(T)) {
    const T* numbers = reinterpret_cast<const T*>(from);
    if (std::is_same_v<T, float> && count % GROUP == 0) return reinterpret_cast<const float*>(from);
    for (; done + GROUP <= count; done += GROUP) widen_group(buffer + done, numbers + done);
  }
  for (; done < count; ++done) {
    buffer[done] = widen(*reinterpret_cast<const T*>(from + done * stride));
  }
  for (; done % GROUP; ++done) buffer[done] = 0;
  return buffer;
}

// --- large tensors ---

// An ordinary store first reads the memory that it overwrites. An output of this many bytes leaves
// the caches before anybody reads it, so it is written directly to memory: a third less traffic. By
// measurement, only fp32 and units with hardly any arithmetic gain (units.h: STREAMS).
constexpr int64_t STREAMED = 16 << 20;
constexpr int64_t AHEAD = 2048;  // inputs are prefetched by this many bytes
constexpr size_t LINE = 64;

bool is_streamed(const TensorIterator& iter, bool streams) {
  const bool has_one = iter.noutputs() == 1 && iter.dtype() == at::kFloat;
  return streams && has_one && iter.numel() * sizeof(float) >= STREAMED;
}

inline void prefetch_group(const char* from) {
#if defined(__GNUC__)
  for (size_t i = 0; i < GROUP * sizeof(float); i += LINE) __builtin_prefetch(from + AHEAD + i);
#endif
}

inline void stream_group(float* to, const float* from) {
#if defined(__AVX512F__)
  for (int64_t i = 0; i < GROUP; i += 16) _mm512_stream_ps(to + i, _mm512_load_ps(from + i));
#elif defined(__AVX__)
  for (int64_t i = 0; i < GROUP; i += 8) _mm256_stream_ps(to + i, _mm256_load_ps(from + i));
#else
  std::memcpy(to, from, GROUP * sizeof(float));
#endif
}

// To be called before other threads may read the streamed output.
inline void end_streams() {
#if defined(__AVX__)
  _mm_sfence();
#endif
}

template <class T>
void store(char* to, int64_t stride, int64_t count, const float* buffer) {
  int64_t done = 0;
  if (stride == sizeof(T)) {
    T* numbers = reinterpret_cast<T*>(to);
    for (; done + GROUP <= count; done += GROUP) assign_group(numbers + done, buffer + done);
  }
  for (; done < count; ++done) assign(*reinterpret_cast<T*>(to + done * stride), buffer[done]);
}

template <class T>
void run_strided(
    char** data, const int64_t* strides, int64_t n, Counts counts, Loop loop, float* sums,
    bool streamed) {
  alignas(LINE) float results[MOST_OUTPUTS][BUFFER], buffers[MOST_INPUTS][BUFFER];
  const int outputs = counts.outputs;
  // The loops are compiled for an output that is no input.
  bool direct = std::is_same_v<T, float> && data[0] != data[outputs];
  for (int k = 0; k < outputs; ++k) direct = direct && strides[k] == sizeof(T);
  const bool stream = streamed && direct && reinterpret_cast<uintptr_t>(data[0]) % LINE == 0;
  const int64_t step = stream ? GROUP : BUFFER;
  for (int64_t i = 0; i < n; i += step) {
    const int64_t count = std::min(step, n - i);
    const bool whole = direct && count % GROUP == 0;
    const float* in[MOST_INPUTS];
    for (int k = 0; k < counts.inputs; ++k) {
      const int64_t stride = strides[outputs + k];
      const char* from = data[outputs + k] + i * stride;
      if (stream) prefetch_group(from);
      in[k] = load<T>(from, stride, count, buffers[k]);
    }
    const auto to = [&](int k) { return data[k] + i * strides[k]; };
    float* out[MOST_OUTPUTS];
    for (int k = 0; k < outputs; ++k) {
      out[k] = whole && !stream ? reinterpret_cast<float*>(to(k)) : results[k];
    }
    loop((count + GROUP - 1) / GROUP, out, in, sums);
    if (!whole) {
      for (int k = 0; k < outputs; ++k) store<T>(to(k), strides[k], count, out[k]);
    } else if (stream) {
      stream_group(reinterpret_cast<float*>(to(0)), out[0]);
    }
  }
  if (stream) end_streams();
}

using Run = void (*)(char**, const int64_t*, int64_t, Counts, Loop, float*, bool);

Run run_for(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat: return run_strided<float>;
    case at::kBFloat16: return run_strided<at::BFloat16>;
    case at::kHalf: return run_strided<at::Half>;
    default: TORCH_CHECK_TYPE(false, "float32, bfloat16 or float16, not ", dtype);
  }
}

void map(TensorIterator& iter, bool streams, Loop loop) {
  const Run run = run_for(iter.dtype());
  const Counts counts(iter);
  const bool streamed = is_streamed(iter, streams);
  iter.for_each([&](char** data, const int64_t* strides, int64_t n) {
    run(data, strides, n, counts, loop, nullptr, streamed);
  });
}

Sums sums_of_chunk(TensorIterator& iter, int64_t begin, bool streamed, Run run, Loop loop) {
  float sums[2 * GROUP] = {};
  const Counts counts(iter);
  iter.serial_for_each(
      [&](char** data, const int64_t* strides, int64_t n) {
        run(data, strides, n, counts, loop, sums, streamed);
      },
      {begin, std::min(begin + CHUNK, iter.numel())});
  Sums total;
  for (int64_t i = 0; i < GROUP; ++i) {
    total.first += sums[i];
    total.second += sums[GROUP + i];
  }
  return total;
}

Sums map_and_sum(TensorIterator& iter, bool streams, Loop loop) {
  const Run run = run_for(iter.dtype());
  const bool streamed = is_streamed(iter, streams);
  std::vector<Sums> of_chunks((iter.numel() + CHUNK - 1) / CHUNK);
  // An iterator over one byte for each chunk runs in torch's threads. The template at::parallel_for
  // would have to be compiled here with OpenMP, and with the same OpenMP library as torch's.
  Tensor bytes = at::empty({int64_t(of_chunks.size())}, at::kByte);
  const char* first = static_cast<const char*>(bytes.const_data_ptr());
  TensorIterator::nullary_op(bytes).for_each(
      [&](char** data, const int64_t*, int64_t n) {
        for (int64_t chunk = data[0] - first; n > 0; ++chunk, --n) {
          of_chunks[chunk] = sums_of_chunk(iter, chunk * CHUNK, streamed, run, loop);
        }
      },
      /*grain_size=*/1);
  Sums total;
  for (const Sums& one : of_chunks) {
    total.first += one.first;
    total.second += one.second;
  }
  return total;
}

// --- the loops ---

template <class U>
void values(const U unit, int64_t groups, float* __restrict out, const float* __restrict x) {
  for (int64_t g = 0; g < groups * GROUP; g += GROUP) {
    for (int64_t i = g; i < g + GROUP; ++i) out[i] = unit.value(x[i]);
  }
}

template <class U>
void products(
    const U unit, int64_t groups, float* __restrict out, const float* __restrict grad,
    const float* __restrict x) {
  for (int64_t g = 0; g < groups * GROUP; g += GROUP) {
    for (int64_t i = g; i < g + GROUP; ++i) out[i] = grad[i] * unit.slopes(x[i]).x;
  }
}

template <class U>
void products_and_sums(
    const U unit, int64_t groups, float* __restrict out, const float* __restrict grad,
    const float* __restrict x, float* __restrict sums) {
  for (int64_t g = 0; g < groups * GROUP; g += GROUP) {
    for (int64_t i = 0; i < GROUP; ++i) {
      const Slopes slopes = unit.slopes(x[g + i]);
      out[g + i] = grad[g + i] * slopes.x;
      sums[i] += grad[g + i] * slopes.sigma;
    }
  }
}

template <class U>
void gated_products(
    const U unit, int64_t groups, float* __restrict out, const float* __restrict a,
    const float* __restrict b) {
  for (int64_t g = 0; g < groups * GROUP; g += GROUP) {
    for (int64_t i = g; i < g + GROUP; ++i) out[i] = unit.value(a[i]) * b[i];
  }
}

template <class U>
void gated_product_slopes(
    const U unit, int64_t groups, float* __restrict by_a, float* __restrict by_b,
    const float* __restrict grad, const float* __restrict a, const float* __restrict b) {
  for (int64_t g = 0; g < groups * GROUP; g += GROUP) {
    for (int64_t i = g; i < g + GROUP; ++i) {
      by_a[i] = grad[i] * b[i] * unit.slopes(a[i]).x;
      by_b[i] = grad[i] * unit.value(a[i]);
    }
  }
}

template <class U>
void gated_product_slopes_and_sums(
    const U unit, int64_t groups, float* __restrict by_a, float* __restrict by_b,
    const float* __restrict grad, const float* __restrict a, const float* __restrict b,
    float* __restrict sums) {
  for (int64_t g = 0; g < groups * GROUP; g += GROUP) {
    for (int64_t i = 0; i < GROUP; ++i) {
      const Slopes slopes = unit.slopes(a[g + i]);
      const float incoming = grad[g + i] * b[g + i];
      by_a[g + i] = incoming * slopes.x;
      by_b[g + i] = grad[g + i] * unit.value(a[g + i]);
      sums[i] += incoming * slopes.sigma;
    }
  }
}

template <class U>
void expanded_values(
    const U unit, float alpha, int64_t groups, float* __restrict out, const float* __restrict x) {
  for (int64_t g = 0; g < groups * GROUP; g += GROUP) {
    for (int64_t i = g; i < g + GROUP; ++i) {
      const float value = unit.value(x[i]);
      out[i] = value + alpha * alpha_slope(x[i], value);
    }
  }
}

template <class U>
void expanded_slopes_and_sums(
    const U unit, float alpha, int64_t groups, float* __restrict out, const float* __restrict grad,
    const float* __restrict x, float* __restrict sums) {
  const float width = 1 + 2 * alpha;
  for (int64_t g = 0; g < groups * GROUP; g += GROUP) {
    for (int64_t i = 0; i < GROUP; ++i) {
      const float incoming = grad[g + i];
      const Slopes slopes = unit.slopes(x[g + i]);
      out[g + i] = incoming * (slopes.x + alpha * (2 * slopes.x - 1));
      sums[i] += incoming * (width * slopes.sigma);
      sums[GROUP + i] += incoming * alpha_slope(x[g + i], unit.value(x[g + i]));
    }
  }
}

template <class U>
void expanded_products(
    const U unit, float alpha, int64_t groups, float* __restrict out, const float* __restrict a,
    const float* __restrict b) {
  for (int64_t g = 0; g < groups * GROUP; g += GROUP) {
    for (int64_t i = g; i < g + GROUP; ++i) {
      const float value = unit.value(a[i]);
      out[i] = (value + alpha * alpha_slope(a[i], value)) * b[i];
    }
  }
}

template <class U>
void expanded_product_slopes_and_sums(
    const U unit, float alpha, int64_t groups, float* __restrict by_a, float* __restrict by_b,
    const float* __restrict grad, const float* __restrict a, const float* __restrict b,
    float* __restrict sums) {
  const float width = 1 + 2 * alpha;
  for (int64_t g = 0; g < groups * GROUP; g += GROUP) {
    for (int64_t i = 0; i < GROUP; ++i) {
      const Slopes slopes = unit.slopes(a[g + i]);
      const float value = unit.value(a[g + i]), by_alpha = alpha_slope(a[g + i], value);
      const float incoming = grad[g + i] * b[g + i];
      by_a[g + i] = incoming * (slopes.x + alpha * (2 * slopes.x - 1));
      by_b[g + i] = grad[g + i] * (value + alpha * by_alpha);
      sums[i] += incoming * (width * slopes.sigma);
      sums[GROUP + i] += incoming * by_alpha;
    }
  }
}

template <class F, bool Short>
auto with_unit_of_input(Unit unit, double sigma, const F& f) {
  switch (unit) {
    case Unit::ZiLU: return f(ZiLU<Short>(sigma));
    case Unit::ZiLU_Approx: return f(ZiLU_Approx<Short>(sigma));
    case Unit::GELU_s: return f(GELU_s<Short>(sigma));
    default: return f(SiLU_s<Short>(sigma));
  }
}

template <class F>
auto with_unit_of_input(Unit unit, double sigma, const Tensor& x, const F& f) {
  return x.element_size() == 2 ? with_unit_of_input<F, true>(unit, sigma, f)
                               : with_unit_of_input<F, false>(unit, sigma, f);
}

template <class F, bool Short>
auto with_unit(Unit unit, double sigma, const F& f) {
  switch (unit) {
    case Unit::ZiLU_FromOutput: return f(ZiLU_FromOutput<Short>(sigma));
    case Unit::ZiLU_Approx_FromOutput: return f(ZiLU_Approx_FromOutput<Short>(sigma));
    default: return with_unit_of_input<F, Short>(unit, sigma, f);
  }
}

template <class F>
auto with_unit(Unit unit, double sigma, const Tensor& x, const F& f) {
  return x.element_size() == 2 ? with_unit<F, true>(unit, sigma, f)
                               : with_unit<F, false>(unit, sigma, f);
}

TensorIterator over(const Tensor& x) {
  Tensor out;
  return TensorIterator::unary_op(out, x);
}

void check_alike(const Tensor& one, const Tensor& x, const char* what) {
  TORCH_CHECK_VALUE(
      one.sizes() == x.sizes() && one.dtype() == x.dtype(), what,
      " must have the input's shape and dtype");
}

TensorIterator over(const Tensor& grad, const Tensor& x) {
  check_alike(grad, x, "the gradient");
  Tensor out;
  return TensorIterator::binary_op(out, grad, x);
}

TensorIterator over_product(const Tensor& grad, const Tensor& a, const Tensor& b) {
  check_alike(grad, a, "the gradient");
  check_alike(b, a, "the factor");
  return at::TensorIteratorConfig()
      .add_owned_output(Tensor())
      .add_owned_output(Tensor())
      .add_const_input(grad)
      .add_const_input(a)
      .add_const_input(b)
      .build();
}

Tensor value_into(TensorIterator iter, Unit unit, const Tensor& x, double sigma) {
  return with_unit(unit, sigma, x, [&](auto formulas) {
    map(iter, formulas.STREAMS,
        [&](int64_t groups, float* const* out, const float* const* in, float*) {
          values(formulas, groups, out[0], in[0]);
        });
    return iter.output();
  });
}

}  // namespace

Tensor value(Unit unit, const Tensor& x, double sigma) {
  return value_into(over(x), unit, x, sigma);
}

Tensor value_(Unit unit, const Tensor& x, double sigma) {
  Tensor out = x;
  return value_into(TensorIterator::unary_op(out, x), unit, x, sigma);
}

Tensor gradient(Unit unit, const Tensor& grad, const Tensor& x, double sigma) {
  return with_unit(unit, sigma, x, [&](auto formulas) {
    TensorIterator iter = over(grad, x);
    map(iter, formulas.STREAMS,
        [&](int64_t groups, float* const* out, const float* const* in, float*) {
          products(formulas, groups, out[0], in[0], in[1]);
        });
    return iter.output();
  });
}

Gradients gradients(Unit unit, const Tensor& grad, const Tensor& x, double sigma) {
  return with_unit(unit, sigma, x, [&](auto formulas) -> Gradients {
    TensorIterator iter = over(grad, x);
    const Sums sums = map_and_sum(
        iter, formulas.STREAMS,
        [&](int64_t groups, float* const* out, const float* const* in, float* sums) {
          products_and_sums(formulas, groups, out[0], in[0], in[1], sums);
        });
    return {iter.output(), sums.first};
  });
}

Tensor gated_product(Unit unit, const Tensor& a, const Tensor& b, double sigma) {
  return with_unit_of_input(unit, sigma, a, [&](auto formulas) {
    check_alike(b, a, "the factor");
    Tensor out;
    TensorIterator iter = TensorIterator::binary_op(out, a, b);
    map(iter, formulas.STREAMS,
        [&](int64_t groups, float* const* out, const float* const* in, float*) {
          gated_products(formulas, groups, out[0], in[0], in[1]);
        });
    return iter.output();
  });
}

ProductGradients gated_product_gradients(
    Unit unit, const Tensor& grad, const Tensor& a, const Tensor& b, double sigma, bool learned) {
  return with_unit_of_input(unit, sigma, a, [&](auto formulas) -> ProductGradients {
    TensorIterator iter = over_product(grad, a, b);
    const auto slopes = [&](int64_t groups, float* const* out, const float* const* in, float*) {
      gated_product_slopes(formulas, groups, out[0], out[1], in[0], in[1], in[2]);
    };
    const auto both = [&](int64_t groups, float* const* out, const float* const* in, float* sums) {
      gated_product_slopes_and_sums(formulas, groups, out[0], out[1], in[0], in[1], in[2], sums);
    };
    Sums sums;
    if (learned) sums = map_and_sum(iter, formulas.STREAMS, both);
    else map(iter, formulas.STREAMS, slopes);
    return {iter.output(0), iter.output(1), sums.first};
  });
}

Tensor expanded(Unit unit, const Tensor& x, double sigma, double alpha) {
  return with_unit_of_input(unit, sigma, x, [&](auto formulas) {
    TensorIterator iter = over(x);
    map(iter, formulas.STREAMS,
        [&](int64_t groups, float* const* out, const float* const* in, float*) {
          expanded_values(formulas, alpha, groups, out[0], in[0]);
        });
    return iter.output();
  });
}

ExpandedGradients expanded_gradients(
    Unit unit, const Tensor& grad, const Tensor& x, double sigma, double alpha) {
  return with_unit_of_input(unit, sigma, x, [&](auto formulas) -> ExpandedGradients {
    TensorIterator iter = over(grad, x);
    const Sums sums = map_and_sum(
        iter, formulas.STREAMS,
        [&](int64_t groups, float* const* out, const float* const* in, float* sums) {
          expanded_slopes_and_sums(formulas, alpha, groups, out[0], in[0], in[1], sums);
        });
    return {iter.output(), sums.first, sums.second};
  });
}

Tensor expanded_product(
    Unit unit, const Tensor& a, const Tensor& b, double sigma, double alpha) {
  return with_unit_of_input(unit, sigma, a, [&](auto formulas) {
    check_alike(b, a, "the factor");
    Tensor out;
    TensorIterator iter = TensorIterator::binary_op(out, a, b);
    map(iter, formulas.STREAMS,
        [&](int64_t groups, float* const* out, const float* const* in, float*) {
          expanded_products(formulas, alpha, groups, out[0], in[0], in[1]);
        });
    return iter.output();
  });
}

ExpandedProductGradients expanded_product_gradients(
    Unit unit, const Tensor& grad, const Tensor& a, const Tensor& b, double sigma, double alpha) {
  return with_unit_of_input(unit, sigma, a, [&](auto formulas) -> ExpandedProductGradients {
    TensorIterator iter = over_product(grad, a, b);
    const Sums sums = map_and_sum(
        iter, formulas.STREAMS,
        [&](int64_t groups, float* const* out, const float* const* in, float* sums) {
          expanded_product_slopes_and_sums(
              formulas, alpha, groups, out[0], out[1], in[0], in[1], in[2], sums);
        });
    return {iter.output(0), iter.output(1), sums.first, sums.second};
  });
}

}  // namespace zilu
