// The gated units of one number, in fp32 and without branches, so that the compiler can vectorise.
//
// With z = sigma x and a = |z|, each unit is built from its value and slope on the left, where the
// gate is small: f(x) = max(x, 0) - left(|x|); f'(x) = S(a) for x < 0 and 1 - S(a) for x >= 0.
// Nothing there cancels, overflows or gives inf * 0. Errors are at most 4 ulp for values (7 for
// GELU_s) and 8 ulp for slopes (where GELU's and SiLU's slope crosses zero, in ulp of its largest
// term).
//
// The coefficients (lowest power first) are in coefficients.py. 16-bit tensors use the short
// polynomials, whose relative error of 2^-16 disappears when the result is rounded.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

constexpr float INVERSE_PI = 0.318309886f;
constexpr float LARGEST = std::numeric_limits<float>::max();

struct Slopes {
  float x;      // f'(x)
  float sigma;  // df/dsigma
};

template <size_t N>
inline float polynomial(const float (&c)[N], float s) {
  float sum = c[N - 1];
  for (size_t k = N - 1; k-- > 0;) sum = sum * s + c[k];
  return sum;
}

// The smaller of two numbers, written so that NaN stays NaN.
inline float at_most(float limit, float x) { return x > limit ? limit : x; }

// A choice that is certainly compiled without a branch: with one, the compiler would divide on both
// sides of it.
inline float select(bool condition, float yes, float no) {
  uint32_t mask = condition ? ~0u : 0u, a, b;
  std::memcpy(&a, &yes, sizeof a);
  std::memcpy(&b, &no, sizeof b);
  a = (a & mask) | (b & ~mask);
  std::memcpy(&yes, &a, sizeof a);
  return yes;
}

inline float positive_part(float x) { return x > 0 ? x : 0; }

inline float mirrored(float left, float x) { return x < 0 ? left : 1 - left; }

inline float power_of_two(int32_t n) {
  const int32_t bits = (n + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return power;
}

// e^y for -170 < y <= 0, to be used as a factor: the power itself may be too small for fp32 where
// its product with a number is not.
struct Exponential {
  float mantissa, half, rest;  // whose product is e^y; the last two are powers of two

  float times(float x) const { return x * mantissa * half * rest; }
};

template <bool Short>
inline Exponential exponential(float y) {
  constexpr float LOG2E = 1.44269504f, LN2_HIGH = 0.693145752f, LN2_LOW = 1.42860677e-6f;
  constexpr float ROUND = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float n = (y * LOG2E + ROUND) - ROUND;
  const float r = (y - n * LN2_HIGH) - n * LN2_LOW;
  const int32_t whole = static_cast<int32_t>(n), half = whole >> 1;
  return {
      Short ? polynomial(EXP_SHORT, r) : polynomial(EXP, r), power_of_two(half),
      power_of_two(whole - half)};
}

// sigma x as the sum of two floats: a Gaussian's tail magnifies a relative error of z by z^2, an
// exponential's by z.
struct Product {
  float high, low;
};

inline Product exact_product(float sigma, float sigma_low, float x) {
  const float z = sigma * x;
  return {z, std::fma(sigma, x, -z) + sigma_low * x};
}

template <bool Short>
struct ZiLU {
  static constexpr bool STREAMS = false;
  float sigma, limit, squared;  // sigma, -f(-inf), 1 / (pi sigma^2)
  float cubed;                  // corrects 1 / a^3 for the rounding of sigma to fp32

  explicit ZiLU(double s)
      : sigma(s),
        limit(1 / (M_PI * s)),
        squared(std::min(1 / (M_PI * s * s), double(LARGEST))),
        cubed(1 - 3 * (s - sigma) / s) {}

  // left = |x| (1/2 - arctan(a)/pi) for a <= 1, else arctan(1/a) a / (pi sigma).
  float value(float x) const {
    const float magnitude = std::fabs(x), a = sigma * magnitude;
    const bool far = a > 1;
    const float t = (far ? 1 : a) / (far ? a : 1);
    const float p = Short ? polynomial(ARCTAN_SHORT, t * t) : polynomial(ARCTAN, t * t);
    const float near = magnitude * (0.5f - (t * p) * INVERSE_PI);
    return positive_part(x) - (far ? p * limit : near);
  }

  // With d = (arctan t - t / (1 + t^2)) / pi: S = d for a > 1, where t = 1/a; else
  // S = 1/2 - 1/pi - d + (1 - a)^2 / (pi (1 + a^2)), where t = a.
  Slopes slopes(float x) const {
    const float a = std::fabs(sigma * x);
    const bool far = a > 1;
    const float r = 1 / select(far, a, 1 + a * a);
    const float t = far ? r : a, s = t * t;
    const float p = Short ? polynomial(ARCTAN_SLOPE_SHORT, s) : polynomial(ARCTAN_SLOPE, s);
    const float d = (t * cubed) * s * p;
    const float near = (0.5f - INVERSE_PI - d) + (1 - a) * (1 - a) * (r * INVERSE_PI);
    const float by_sigma = far ? squared / (1 + s) : x * (x * r) * INVERSE_PI;
    return {mirrored(far ? d : near, x), by_sigma};
  }
};

// left = |x| / (2 (1 + a)), S = 1 / (2 (1 + a)^2).
template <bool Short>
struct ZiLU_Approx {
  static constexpr bool STREAMS = true;  // memory limits its speed, see cpu.cpp
  float sigma, twice, bound;  // the value has reached its limit long before |x| = bound

  explicit ZiLU_Approx(double s)
      : sigma(s), twice(2 * s), bound(std::min(1e30 / s, double(LARGEST))) {}

  float value(float x) const {
    const float magnitude = at_most(bound, std::fabs(x));
    return positive_part(x) - magnitude / (2 + twice * magnitude);
  }

  Slopes slopes(float x) const {
    const float magnitude = at_most(bound, std::fabs(x));
    const float d = 1 / (1 + sigma * magnitude), m = magnitude * d;
    return {mirrored(0.5f * d * d, x), 0.5f * m * m};
  }
};

// --- the same, with slopes from the output y = f(x), as in zilu/reference.py ---

constexpr float PI = 3.14159265f;
constexpr float SQUARE_LIMIT = 1e19f;  // whose square, times pi, fp32 holds

template <bool Short>
struct ZiLU_FromOutput : ZiLU<Short> {
  static constexpr float FAR = 1e4f;  // from delta = FAR on, the slope is 1 in fp32
  float scale, inverse;               // pi sigma, 1 / (pi sigma)

  explicit ZiLU_FromOutput(double s) : ZiLU<Short>(s), scale(M_PI * s), inverse(1 / (M_PI * s)) {}

  static float slope_ratio(float d) {
    return Short ? polynomial(OUTPUT_SLOPE_ABOVE_SHORT, d) / polynomial(OUTPUT_SLOPE_BELOW_SHORT, d)
                 : polynomial(OUTPUT_SLOPE_ABOVE, d) / polynomial(OUTPUT_SLOPE_BELOW, d);
  }

  static float sine_ratio(float d) {
    return Short ? polynomial(OUTPUT_SINE_ABOVE_SHORT, d) / polynomial(OUTPUT_SINE_BELOW_SHORT, d)
                 : polynomial(OUTPUT_SINE_ABOVE, d) / polynomial(OUTPUT_SINE_BELOW, d);
  }

  Slopes slopes(float y) const {
    const float sum = at_most(FAR, 1 + scale * y), delta = sum < 0 ? 0 : sum;
    const float u = delta * slope_ratio(delta);
    const float root = (delta - 1) * inverse * sine_ratio(delta);
    const float bounded = at_most(SQUARE_LIMIT, std::fabs(root));
    return {u * std::sqrt(u), bounded * bounded * PI};
  }
};

// With v = 2 sigma y, d = 1 / (1 + |z|) is 1 + v for v < 0, else 4 / (3 + v + sqrt(1 + v (6 + v))),
// which is 0 where v^2 overflows. Selecting d before it is squared took half the time of selecting
// slopes.
template <bool Short>
struct ZiLU_Approx_FromOutput : ZiLU_Approx<Short> {
  static constexpr float FAR = 1e9f;  // |z| d = 1 from v = FAR on
  float inverse;                      // 1 / (2 sigma)

  explicit ZiLU_Approx_FromOutput(double s) : ZiLU_Approx<Short>(s), inverse(0.5 / s) {}

  static float root(float v) { return std::sqrt(1 + v * (6 + v)); }

  float magnitude(float v) const {  // |x| d
    const float right = select(v > FAR, FAR, std::fabs(v));
    const float twice = select(v < 0, -2 * v, 4 * right / (1 + right + root(right)));
    return at_most(SQUARE_LIMIT, twice * inverse);
  }

  Slopes slopes(float y) const {
    const float v = this->twice * y, a = std::fabs(v), m = magnitude(v);
    const float d = select(v < 0, 1 + v, 4 / (3 + a + root(a))), half = 0.5f * d * d;
    return {select(v < 0, half, 1 - half), 0.5f * m * m};
  }
};

// Phi(-a) = e^(-a^2/2) t P(t) with t = 1 / (1 + 0.3 a).
template <bool Short>
struct GELU_s {
  static constexpr bool STREAMS = false;
  static constexpr float DENSITY = 0.398942280f;  // of the normal distribution at 0
  float sigma, sigma_low, bound;                  // from |x| = bound on, the gate is 0 in fp32

  explicit GELU_s(double s) : sigma(s), sigma_low(s - sigma), bound(18 / s) {}

  struct Parts {
    float magnitude, a, ratio;  // |x|, |z|, Phi(-|z|) / e^(-z^2/2)
    Exponential exponential;    // e^(-z^2/2)
  };

  Parts parts(float x) const {
    const float magnitude = at_most(bound, std::fabs(x));
    const Product z = exact_product(sigma, sigma_low, magnitude);
    const float a = z.high, square = a * a;
    const float rest = std::fma(a, a, -square) + 2 * a * z.low;
    Exponential e = exponential<Short>(-0.5f * square);
    e.mantissa -= e.mantissa * (0.5f * rest);
    const float t = 1 / (1 + 0.3f * a);
    const float p = Short ? polynomial(MILLS_SHORT, t) : polynomial(MILLS, t);
    return {magnitude, a, t * p, e};
  }

  float value(float x) const {
    const Parts p = parts(x);
    return positive_part(x) - p.exponential.times(p.magnitude * p.ratio);
  }

  Slopes slopes(float x) const {
    const Parts p = parts(x);
    const float left = p.exponential.times(p.ratio - p.a * DENSITY);
    return {mirrored(left, x), p.magnitude * p.exponential.times(p.magnitude * DENSITY)};
  }
};

// With e = e^-a and r = 1 / (1 + e): left = |x| e r, S = e r (1 - a r).
template <bool Short>
struct SiLU_s {
  static constexpr bool STREAMS = false;
  float sigma, sigma_low, bound;  // from |x| = bound on, the gate is 0 in fp32

  explicit SiLU_s(double s) : sigma(s), sigma_low(s - sigma), bound(110 / s) {}

  struct Parts {
    float magnitude, a, inverse;  // |x|, |z|, r
    Exponential exponential;      // e
  };

  Parts parts(float x) const {
    const float magnitude = at_most(bound, std::fabs(x));
    const Product z = exact_product(sigma, sigma_low, magnitude);
    Exponential e = exponential<Short>(-z.high);
    e.mantissa -= e.mantissa * z.low;
    return {magnitude, z.high, 1 / (1 + e.times(1)), e};
  }

  float value(float x) const {
    const Parts p = parts(x);
    return positive_part(x) - p.exponential.times(p.magnitude * p.inverse);
  }

  Slopes slopes(float x) const {
    const Parts p = parts(x);
    const float left = p.exponential.times(p.inverse * (1 - p.a * p.inverse));
    const float by_sigma = p.magnitude * p.exponential.times(p.magnitude * p.inverse * p.inverse);
    return {mirrored(left, x), by_sigma};
  }
};

// --- the gate's range widened to (-alpha, 1 + alpha): f(x) + alpha (2 f(x) - x) ---

// Infinite numbers become the largest ones, whose differences and products with 0 are no NaN.
inline float bounded(float x) { return x < -LARGEST ? -LARGEST : at_most(LARGEST, x); }

// The derivative for alpha, 2 f(x) - x, without overflow; `value` is f(x).
inline float alpha_slope(float x, float value) {
  const float finite = bounded(value);
  return finite + (finite - bounded(x));
}
