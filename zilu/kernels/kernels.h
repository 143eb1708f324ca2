// The functions that cpu.cpp and gpu.cpp implement, and that operators.cpp turns into torch's
// operators.

#pragma once

#include <ATen/core/Tensor.h>

namespace zilu {

// In the order of operators.cpp's NAMES. The backward functions of those from the output take that
// in x's place.
enum class Unit { ZiLU, ZiLU_Approx, GELU_s, SiLU_s, ZiLU_FromOutput, ZiLU_Approx_FromOutput };

struct Gradients {
  at::Tensor x;
  double sigma;
};

// x is float32, bfloat16 or float16, of any shape and strides; grad has x's shape and dtype. The
// results have the strides that torch's own elementwise functions would give them.
at::Tensor value(Unit unit, const at::Tensor& x, double sigma);
at::Tensor value_(Unit unit, const at::Tensor& x, double sigma);  // written over x
at::Tensor gradient(Unit unit, const at::Tensor& grad, const at::Tensor& x, double sigma);
Gradients gradients(Unit unit, const at::Tensor& grad, const at::Tensor& x, double sigma);

struct ProductGradients {
  at::Tensor a, b;
  double sigma;  // 0 unless asked for
};

// f(a) b for tensors of one shape and dtype. Its backward computes f(a) again, so a and b are all
// that need to be kept.
at::Tensor gated_product(Unit unit, const at::Tensor& a, const at::Tensor& b, double sigma);
ProductGradients gated_product_gradients(
    Unit unit, const at::Tensor& grad, const at::Tensor& a, const at::Tensor& b, double sigma,
    bool learned);

struct ExpandedGradients {
  at::Tensor x;
  double sigma, alpha;
};

// The unit with its gate's range widened to (-alpha, 1 + alpha).
at::Tensor expanded(Unit unit, const at::Tensor& x, double sigma, double alpha);
ExpandedGradients expanded_gradients(
    Unit unit, const at::Tensor& grad, const at::Tensor& x, double sigma, double alpha);

struct ExpandedProductGradients {
  at::Tensor a, b;
  double sigma, alpha;
};

// That times b, as gated_product.
at::Tensor expanded_product(
    Unit unit, const at::Tensor& a, const at::Tensor& b, double sigma, double alpha);
ExpandedProductGradients expanded_product_gradients(
    Unit unit, const at::Tensor& grad, const at::Tensor& a, const at::Tensor& b, double sigma,
    double alpha);

// A number; a tensor on x's device, where the kernel reads it and the CPU need not wait for its
// value; or one times e^rho, for another such tensor.
struct Sigma {
  Sigma(double number) : fixed(number) {}
  Sigma(const at::Tensor& tensor) : learned(&tensor) {}
  Sigma(const at::Tensor& tensor, const at::Tensor& rho) : learned(&tensor), rho(&rho) {}

  double fixed = 0;
  const at::Tensor* learned = nullptr;
  const at::Tensor* rho = nullptr;
};

// The same for CUDA tensors. `gpu_gradients` gives the gradient for rho, if there is one, else for
// the tensor.
at::Tensor gpu_value(Unit unit, const at::Tensor& x, const Sigma& sigma);
at::Tensor gpu_value_(Unit unit, const at::Tensor& x, const Sigma& sigma);
at::Tensor gpu_gradient(
    Unit unit, const at::Tensor& grad, const at::Tensor& x, const Sigma& sigma);
std::tuple<at::Tensor, at::Tensor> gpu_gradients(
    Unit unit, const at::Tensor& grad, const at::Tensor& x, const Sigma& sigma);

at::Tensor gpu_gated_product(
    Unit unit, const at::Tensor& a, const at::Tensor& b, const Sigma& sigma);
std::tuple<at::Tensor, at::Tensor, at::Tensor> gpu_gated_product_gradients(
    Unit unit, const at::Tensor& grad, const at::Tensor& a, const at::Tensor& b,
    const Sigma& sigma);

// The gradients for x, sigma where it is learned, and alpha.
at::Tensor gpu_expanded(
    Unit unit, const at::Tensor& x, const Sigma& sigma, const at::Tensor& alpha);
std::tuple<at::Tensor, at::Tensor, at::Tensor> gpu_expanded_gradients(
    Unit unit, const at::Tensor& grad, const at::Tensor& x, const Sigma& sigma,
    const at::Tensor& alpha);

// The gradients for a, b, sigma where it is learned, and alpha.
at::Tensor gpu_expanded_product(
    Unit unit, const at::Tensor& a, const at::Tensor& b, const Sigma& sigma,
    const at::Tensor& alpha);
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> gpu_expanded_product_gradients(
    Unit unit, const at::Tensor& grad, const at::Tensor& a, const at::Tensor& b,
    const Sigma& sigma, const at::Tensor& alpha);

// To be called first. `addresses`: of cuLaunchKernel, cuCtxGetCurrent, cuCtxSetCurrent and torch's
// aoti_torch_get_current_cuda_stream; none if Triton is to launch every time.
void set_up_gpu(int64_t block_bytes, at::IntArrayRef addresses);

// Launches `function` from now on where Triton was called with `key`. On the current device.
void keep_kernel(int64_t key, int64_t function, int64_t threads, int64_t shared);

}  // namespace zilu
