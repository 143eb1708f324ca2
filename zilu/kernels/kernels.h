// The functions that cpu.cpp implements, and that operators.cpp turns into torch's operators.

#pragma once

#include <ATen/core/Tensor.h>

namespace zilu {

enum class Unit { ZiLU, ZiLU_Approx, GELU_s, SiLU_s };

struct Gradients {
  at::Tensor x;
  double sigma;
};

// x is float32, bfloat16 or float16, of any shape and strides; grad has x's shape and dtype. The
// results have the strides that torch's own elementwise functions would give them.
at::Tensor value(Unit unit, const at::Tensor& x, double sigma);
at::Tensor gradient(Unit unit, const at::Tensor& grad, const at::Tensor& x, double sigma);
Gradients gradients(Unit unit, const at::Tensor& grad, const at::Tensor& x, double sigma);

}  // namespace zilu
