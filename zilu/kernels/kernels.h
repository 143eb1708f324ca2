// What cpu.cpp computes and operators.cpp makes operators of.

#pragma once

#include <ATen/core/Tensor.h>

namespace zilu {

enum class Unit { ZiLU, ZiLU_Approx, GELU_s, SiLU_s };

struct Gradients {
  at::Tensor x;
  double sigma;
};

// x: float32, bfloat16 or float16, of any size and strides; grad: as x. Results are laid out as
// torch's own elementwise functions lay theirs out.
at::Tensor value(Unit unit, const at::Tensor& x, double sigma);
at::Tensor gradient(Unit unit, const at::Tensor& grad, const at::Tensor& x, double sigma);
Gradients gradients(Unit unit, const at::Tensor& grad, const at::Tensor& x, double sigma);

}  // namespace zilu
