// The gated units of CUDA tensors: allocates the results and launches Triton's compiled kernels.
//
// Triton's own launcher is written in Python and takes ten times as long as the driver's
// cuLaunchKernel. So it launches a kernel only the first time, when it compiles it. Python then
// hands the compiled kernel over (operators.py), and from then on it is launched from here. Where
// the driver or the kernel is not as expected here, nothing is handed over, and Triton launches
// every time.

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/empty_strided.h>
#include <c10/core/DeviceGuard.h>

#include <mutex>
#include <shared_mutex>
#include <unordered_map>

#include "kernels.h"

namespace zilu {
namespace {

using at::Tensor;
using at::TensorList;

// --- the functions that a launch needs, whose headers few users have; operators.py finds them ---

constexpr int SUCCESS = 0, INVALID_CONTEXT = 201;

struct Driver {
  int (*launch)(
      void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
      unsigned block_y, unsigned block_z, unsigned shared, void* stream, void** parameters,
      void** extra) = nullptr;
  int (*get_context)(void** context) = nullptr;
  int (*set_context)(void* context) = nullptr;
  int (*current_stream)(int32_t device, void** stream) = nullptr;  // torch's
};

Driver driver;
int64_t block_bytes = 0;  // what one program processes of each tensor

void check(int error) {
  TORCH_CHECK(error == SUCCESS, "a kernel's launch failed with CUDA's error ", error);
}

// --- compiled kernels ---

enum class Pass {
  Value,
  Gradients,
  Total,
  Product,
  ProductGradients,
  Expanded,
  ExpandedGradients,
  ExpandedProduct,
  ExpandedProductGradients
};

struct Kernel {
  void* function;
  void* context;
  unsigned threads, shared;
};

std::unordered_map<int64_t, Kernel> kernels;
std::shared_mutex mutex;  // autograd calls from threads of its own, one for each device

const Kernel* find(int64_t key) {
  const std::shared_lock lock(mutex);
  const auto found = kernels.find(key);
  return found == kernels.end() ? nullptr : &found->second;  // stays there: none is erased
}

// Triton compiles one kernel for each device, types, and which addresses are multiples of 16.
int64_t key_of(Pass pass, Unit unit, TensorList tensors, const Sigma& sigma) {
  int64_t key = (tensors[0].get_device() * 16 + int64_t(pass)) * 8 + int64_t(unit);
  const auto add = [&](const Tensor& tensor) {
    const bool aligned = reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % 16 == 0;
    key = key * 32 + 2 * int64_t(tensor.scalar_type()) + aligned;  // bfloat16 is 15
  };
  for (const Tensor& tensor : tensors) add(tensor);
  if (sigma.learned) add(*sigma.learned);
  if (sigma.rho) add(*sigma.rho);
  key = key * 4 + bool(sigma.learned) + bool(sigma.rho);
  return key;
}

// --- launching ---

// cuLaunchKernel takes the address of each argument. The kernels of newer Tritons have one or two
// more at the end, addresses of memory that these kernels do not need; older ones ignore them.
void launch(
    const Kernel& kernel, TensorList tensors, const Sigma& sigma, int64_t n, int64_t programs) {
  void* pointers[10];  // of eight tensors, sigma and rho at most
  void* parameters[13];
  int count = 0;
  const auto add = [&](const Tensor& tensor) {
    pointers[count] = tensor.data_ptr();
    parameters[count] = &pointers[count];
    ++count;
  };
  for (const Tensor& tensor : tensors) add(tensor);
  float high = float(sigma.fixed), low = float(sigma.fixed - high);
  if (sigma.learned) add(*sigma.learned);
  else parameters[count++] = &high;
  if (sigma.rho) add(*sigma.rho);
  else parameters[count++] = &low;
  void* none = nullptr;
  for (void* last : {static_cast<void*>(&n), static_cast<void*>(&none), static_cast<void*>(&none)})
    parameters[count++] = last;

  void* stream = nullptr;
  check(driver.current_stream(tensors[0].get_device(), &stream));
  const auto start = [&] {
    return driver.launch(
        kernel.function, unsigned(programs), 1, 1, kernel.threads, 1, 1, kernel.shared, stream,
        parameters, nullptr);
  };
  int error = start();
  if (error == INVALID_CONTEXT) {  // CUDA 11 does not give a new thread its device's context
    check(driver.set_context(kernel.context));
    error = start();
  }
  check(error);
}

// Runs a kernel on the current device. `tensors` are its first arguments, in their order.
void run(
    Pass pass, Unit unit, TensorList tensors, const Sigma& sigma, int64_t n, int64_t programs) {
  const int64_t key = key_of(pass, unit, tensors, sigma);
  if (const Kernel* kernel = find(key)) return launch(*kernel, tensors, sigma, n, programs);
  using Maybe = std::optional<Tensor>;
  using ByTriton = void(
      int64_t, int64_t, int64_t, TensorList, double, const Maybe&, const Maybe&, int64_t);
  static const auto by_triton = c10::Dispatcher::singleton()
                                    .findSchemaOrThrow("zilu::launch_by_triton", "")
                                    .typed<ByTriton>();
  const auto maybe = [](const Tensor* tensor) { return tensor ? Maybe(*tensor) : std::nullopt; };
  by_triton.call(
      key, int64_t(pass), int64_t(unit), tensors, sigma.fixed, maybe(sigma.learned),
      maybe(sigma.rho), programs);
}

// --- layouts ---

// As at::empty_like, but without its way through torch's dispatcher where x is dense.
Tensor empty_as(const Tensor& x) {
  return x.is_non_overlapping_and_dense() ? at::empty_strided(x.sizes(), x.strides(), x.options())
                                          : at::empty_like(x);
}

// x with the dense strides of `like`: the kernels go through memory in its order.
Tensor laid_out_as(const Tensor& like, const Tensor& x) {
  return x.strides() == like.strides() ? x : at::empty_like(like).copy_(x);
}

// The gradient with the strides of the result, which holds it where they differ: a kernel may write
// over what it has read.
Tensor laid_into(Tensor& result, const Tensor& grad) {
  return grad.strides() == result.strides() ? grad : result.copy_(grad);
}

int64_t programs_for(const Tensor& x) {
  TORCH_CHECK(block_bytes > 0, "zilu's kernels for GPUs are not loaded");
  const int64_t block = block_bytes / x.element_size();
  return (x.numel() + block - 1) / block;
}

// For kernels that sum: few programs, each of which goes over many blocks, since what a program
// does once, adding up its threads' sums, takes longer than a block. The number is the same on all
// GPUs, so that the sum is.
constexpr int64_t SUMMING_PROGRAMS = 2048;

int64_t summing_programs_for(const Tensor& x) {
  return std::min(programs_for(x), SUMMING_PROGRAMS);
}

void check_number(const Tensor& one, const Tensor& x, const char* what) {
  TORCH_CHECK_VALUE(
      one.device() == x.device() && one.numel() == 1, what,
      " must hold one number, on the input's device");
}

void check_input(const Tensor& x, const Sigma& sigma) {
  const auto type = x.scalar_type();
  TORCH_CHECK_TYPE(
      type == at::kFloat || type == at::kBFloat16 || type == at::kHalf,
      "zilu's operators take float32, bfloat16 or float16, not ", type);
  for (const Tensor* one : {sigma.learned, sigma.rho}) {
    if (one) check_number(*one, x, "sigma");
  }
}

void check_alike(const Tensor& one, const Tensor& x, const char* what) {
  TORCH_CHECK_VALUE(
      one.sizes() == x.sizes() && one.dtype() == x.dtype() && one.device() == x.device(), what,
      " must have the input's shape and dtype, on its device");
}

}  // namespace

Tensor gpu_value(Unit unit, const Tensor& x, const Sigma& sigma) {
  check_input(x, sigma);
  const c10::DeviceGuard guard(x.device());
  Tensor y = empty_as(x);
  if (x.numel() > 0)
    run(Pass::Value, unit, {laid_out_as(y, x), y}, sigma, x.numel(), programs_for(x));
  return y;
}

Tensor gpu_value_(Unit unit, const Tensor& x, const Sigma& sigma) {
  check_input(x, sigma);
  const c10::DeviceGuard guard(x.device());
  const bool dense = x.is_non_overlapping_and_dense();
  const Tensor from = dense ? x : x.contiguous();
  if (x.numel() > 0) run(Pass::Value, unit, {from, from}, sigma, x.numel(), programs_for(x));
  if (!dense) x.copy_(from);
  return x;
}

Tensor gpu_gradient(Unit unit, const Tensor& grad, const Tensor& x, const Sigma& sigma) {
  check_input(x, sigma);
  check_alike(grad, x, "the gradient");
  const c10::DeviceGuard guard(x.device());
  Tensor grad_x = empty_as(x);
  if (x.numel() > 0) {
    // The last stands for the numbers that only a learned sigma needs.
    const Tensor tensors[] = {laid_into(grad_x, grad), laid_out_as(grad_x, x), grad_x, grad_x};
    run(Pass::Gradients, unit, tensors, sigma, x.numel(), programs_for(x));
  }
  return grad_x;
}

std::tuple<Tensor, Tensor> gpu_gradients(
    Unit unit, const Tensor& grad, const Tensor& x, const Sigma& sigma) {
  check_input(x, sigma);
  check_alike(grad, x, "the gradient");
  const c10::DeviceGuard guard(x.device());
  Tensor grad_x = empty_as(x), grad_sigma = empty_as(sigma.rho ? *sigma.rho : *sigma.learned);
  const int64_t programs = summing_programs_for(x);
  const Tensor partials = at::empty({programs}, x.options().dtype(at::kFloat));
  if (x.numel() > 0) {
    const Tensor tensors[] = {laid_into(grad_x, grad), laid_out_as(grad_x, x), grad_x, partials};
    run(Pass::Gradients, unit, tensors, sigma, x.numel(), programs);
  }
  run(Pass::Total, Unit::ZiLU, {partials, grad_sigma}, sigma, programs, 1);
  return {grad_x, grad_sigma};
}

Tensor gpu_gated_product(Unit unit, const Tensor& a, const Tensor& b, const Sigma& sigma) {
  check_input(a, sigma);
  check_alike(b, a, "the factor");
  const c10::DeviceGuard guard(a.device());
  Tensor y = empty_as(a);
  if (a.numel() > 0) {
    const Tensor tensors[] = {laid_out_as(y, a), laid_out_as(y, b), y};
    run(Pass::Product, unit, tensors, sigma, a.numel(), programs_for(a));
  }
  return y;
}

std::tuple<Tensor, Tensor, Tensor> gpu_gated_product_gradients(
    Unit unit, const Tensor& grad, const Tensor& a, const Tensor& b, const Sigma& sigma) {
  check_input(a, sigma);
  check_alike(grad, a, "the gradient");
  check_alike(b, a, "the factor");
  const c10::DeviceGuard guard(a.device());
  Tensor by_a = empty_as(a), by_b = at::empty_like(by_a), by_sigma, partials = by_a;
  const int64_t programs = sigma.learned ? summing_programs_for(a) : programs_for(a);
  if (sigma.learned) {
    by_sigma = empty_as(*sigma.learned);
    partials = at::empty({programs}, a.options().dtype(at::kFloat));
  }
  if (a.numel() > 0) {
    const Tensor tensors[] = {laid_into(by_a, grad), laid_out_as(by_a, a), laid_out_as(by_a, b),
                              by_a, by_b, partials};
    run(Pass::ProductGradients, unit, tensors, sigma, a.numel(), programs);
  }
  if (sigma.learned) run(Pass::Total, Unit::ZiLU, {partials, by_sigma}, sigma, programs, 1);
  return {by_a, by_b, by_sigma};
}

Tensor gpu_expanded(Unit unit, const Tensor& x, const Sigma& sigma, const Tensor& alpha) {
  check_input(x, sigma);
  check_number(alpha, x, "alpha");
  const c10::DeviceGuard guard(x.device());
  Tensor y = empty_as(x);
  if (x.numel() > 0)
    run(Pass::Expanded, unit, {laid_out_as(y, x), y, alpha}, sigma, x.numel(), programs_for(x));
  return y;
}

std::tuple<Tensor, Tensor, Tensor> gpu_expanded_gradients(
    Unit unit, const Tensor& grad, const Tensor& x, const Sigma& sigma, const Tensor& alpha) {
  check_input(x, sigma);
  check_number(alpha, x, "alpha");
  check_alike(grad, x, "the gradient");
  const c10::DeviceGuard guard(x.device());
  Tensor by_x = empty_as(x), by_alpha = empty_as(alpha), by_sigma;
  const int64_t programs = summing_programs_for(x);
  const Tensor of_alpha = at::empty({programs}, x.options().dtype(at::kFloat));
  const Tensor of_sigma = sigma.learned ? at::empty_like(of_alpha) : of_alpha;
  if (x.numel() > 0) {
    const Tensor tensors[] = {laid_into(by_x, grad), laid_out_as(by_x, x), by_x, alpha, of_alpha,
                              of_sigma};
    run(Pass::ExpandedGradients, unit, tensors, sigma, x.numel(), programs);
  }
  run(Pass::Total, Unit::ZiLU, {of_alpha, by_alpha}, 1.0, programs, 1);
  if (sigma.learned) {
    by_sigma = empty_as(*sigma.learned);
    run(Pass::Total, Unit::ZiLU, {of_sigma, by_sigma}, sigma, programs, 1);
  }
  return {by_x, by_sigma, by_alpha};
}

Tensor gpu_expanded_product(
    Unit unit, const Tensor& a, const Tensor& b, const Sigma& sigma, const Tensor& alpha) {
  check_input(a, sigma);
  check_alike(b, a, "the factor");
  check_number(alpha, a, "alpha");
  const c10::DeviceGuard guard(a.device());
  Tensor y = empty_as(a);
  if (a.numel() > 0) {
    const Tensor tensors[] = {laid_out_as(y, a), laid_out_as(y, b), y, alpha};
    run(Pass::ExpandedProduct, unit, tensors, sigma, a.numel(), programs_for(a));
  }
  return y;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> gpu_expanded_product_gradients(
    Unit unit, const Tensor& grad, const Tensor& a, const Tensor& b, const Sigma& sigma,
    const Tensor& alpha) {
  check_input(a, sigma);
  check_alike(grad, a, "the gradient");
  check_alike(b, a, "the factor");
  check_number(alpha, a, "alpha");
  const c10::DeviceGuard guard(a.device());
  Tensor by_a = empty_as(a), by_b = at::empty_like(by_a), by_alpha = empty_as(alpha), by_sigma;
  const int64_t programs = summing_programs_for(a);
  const Tensor of_alpha = at::empty({programs}, a.options().dtype(at::kFloat));
  const Tensor of_sigma = sigma.learned ? at::empty_like(of_alpha) : of_alpha;
  if (a.numel() > 0) {
    const Tensor tensors[] = {laid_into(by_a, grad), laid_out_as(by_a, a), laid_out_as(by_a, b),
                              by_a, by_b, alpha, of_alpha, of_sigma};
    run(Pass::ExpandedProductGradients, unit, tensors, sigma, a.numel(), programs);
  }
  run(Pass::Total, Unit::ZiLU, {of_alpha, by_alpha}, 1.0, programs, 1);
  if (sigma.learned) {
    by_sigma = empty_as(*sigma.learned);
    run(Pass::Total, Unit::ZiLU, {of_sigma, by_sigma}, sigma, programs, 1);
  }
  return {by_a, by_b, by_sigma, by_alpha};
}

void set_up_gpu(int64_t bytes, at::IntArrayRef addresses) {
  block_bytes = bytes;
  if (addresses.empty()) return;
  TORCH_CHECK(addresses.size() == 4, "four functions are needed, not ", addresses.size());
  driver.launch = reinterpret_cast<decltype(driver.launch)>(addresses[0]);
  driver.get_context = reinterpret_cast<decltype(driver.get_context)>(addresses[1]);
  driver.set_context = reinterpret_cast<decltype(driver.set_context)>(addresses[2]);
  driver.current_stream = reinterpret_cast<decltype(driver.current_stream)>(addresses[3]);
}

void keep_kernel(int64_t key, int64_t function, int64_t threads, int64_t shared) {
  void* context = nullptr;
  check(driver.get_context(&context));
  const std::unique_lock lock(mutex);
  kernels.emplace(
      key, Kernel{reinterpret_cast<void*>(function), context, unsigned(threads), unsigned(shared)});
}

}  // namespace zilu
