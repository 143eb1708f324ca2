// The operators zilu::zilu, zilu::zilu_approx, zilu::gelu_s, zilu::silu_s, zilu::gated_product,
// zilu::expanded, zilu::expanded_product and their backward operators: schemas, autograd, shapes,
// and the kernels of CPU and GPU. operators.py adds the second derivatives, by differentiating
// plain operations, and compiles the GPU's kernels.

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/item.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "kernels.h"

namespace zilu {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Pair = std::tuple<Tensor, Tensor>;
using Triple = std::tuple<Tensor, Tensor, Tensor>;
using Quadruple = std::tuple<Tensor, Tensor, Tensor, Tensor>;

using Fixed = Tensor(const Tensor& x, double sigma);
using Learned = Tensor(const Tensor& x, const Tensor& sigma);
using Product = Tensor(const Tensor& x, const Tensor& sigma, const Tensor& rho);
using FixedBackward = Tensor(const Tensor& grad, const Tensor& x, double sigma);
using LearnedBackward = Pair(const Tensor& grad, const Tensor& x, const Tensor& sigma);
using ProductBackward =
    Pair(const Tensor& grad, const Tensor& x, const Tensor& sigma, const Tensor& rho);

// f(a) b, for all units.
using Gated = Tensor(const Tensor& a, const Tensor& b, double sigma, int64_t unit);
using GatedLearned = Tensor(const Tensor& a, const Tensor& b, const Tensor& sigma, int64_t unit);
using GatedBackward =
    Pair(const Tensor& grad, const Tensor& a, const Tensor& b, double sigma, int64_t unit);
using GatedLearnedBackward = Triple(
    const Tensor& grad, const Tensor& a, const Tensor& b, const Tensor& sigma, int64_t unit);

// (1 + 2 alpha) f(x) - alpha x, for all units.
using Expanded = Tensor(const Tensor& x, double sigma, const Tensor& alpha, int64_t unit);
using ExpandedLearned =
    Tensor(const Tensor& x, const Tensor& sigma, const Tensor& alpha, int64_t unit);
using ExpandedBackward = Pair(
    const Tensor& grad, const Tensor& x, double sigma, const Tensor& alpha, int64_t unit);
using ExpandedLearnedBackward = Triple(
    const Tensor& grad, const Tensor& x, const Tensor& sigma, const Tensor& alpha, int64_t unit);

// That times b, for all units.
using ExpandedProduct = Tensor(
    const Tensor& a, const Tensor& b, double sigma, const Tensor& alpha, int64_t unit);
using ExpandedProductLearned = Tensor(
    const Tensor& a, const Tensor& b, const Tensor& sigma, const Tensor& alpha, int64_t unit);
using ExpandedProductBackward = Triple(
    const Tensor& grad, const Tensor& a, const Tensor& b, double sigma, const Tensor& alpha,
    int64_t unit);
using ExpandedProductLearnedBackward = Quadruple(
    const Tensor& grad, const Tensor& a, const Tensor& b, const Tensor& sigma, const Tensor& alpha,
    int64_t unit);

constexpr Unit UNITS[] = {Unit::ZiLU,   Unit::ZiLU_Approx,     Unit::GELU_s,
                          Unit::SiLU_s, Unit::ZiLU_FromOutput, Unit::ZiLU_Approx_FromOutput};
constexpr const char* NAMES[] = {"zilu::zilu",
                                 "zilu::zilu_approx",
                                 "zilu::gelu_s",
                                 "zilu::silu_s",
                                 "zilu::zilu_from_output",
                                 "zilu::zilu_approx_from_output"};

// Whether backward takes the output in x's place: the next layer keeps it anyway.
constexpr bool saves_output(int64_t unit) { return UNITS[unit] >= Unit::ZiLU_FromOutput; }

// --- calls through the dispatcher, which go to the device's kernel or to a tracer ---

template <class Signature>
auto find(const std::string& name, const char* overload) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name.c_str(), overload).typed<Signature>();
}

struct Operators {
  Operators(int64_t unit, const std::string& name)
      : fixed(find<Fixed>(name, "")),
        learned(find<Learned>(name, "learned")),
        product(find<Product>(name, "product")),
        fixed_backward(find<FixedBackward>(name + "_backward", "")),
        learned_backward(find<LearnedBackward>(name + "_backward", "learned")),
        product_backward(find<ProductBackward>(name + "_backward", "product")) {
    if (!saves_output(unit)) return;
    fixed_inplace = find<Fixed>(name + "_", "");
    learned_inplace = find<Learned>(name + "_", "learned");
    product_inplace = find<Product>(name + "_", "product");
  }

  c10::TypedOperatorHandle<Fixed> fixed;
  c10::TypedOperatorHandle<Learned> learned;
  c10::TypedOperatorHandle<Product> product;
  c10::TypedOperatorHandle<FixedBackward> fixed_backward;
  c10::TypedOperatorHandle<LearnedBackward> learned_backward;
  c10::TypedOperatorHandle<ProductBackward> product_backward;
  std::optional<c10::TypedOperatorHandle<Fixed>> fixed_inplace;
  std::optional<c10::TypedOperatorHandle<Learned>> learned_inplace;
  std::optional<c10::TypedOperatorHandle<Product>> product_inplace;
};

const Operators& operators(int64_t unit) {
  static const Operators all[] = {{0, NAMES[0]}, {1, NAMES[1]}, {2, NAMES[2]},
                                  {3, NAMES[3]}, {4, NAMES[4]}, {5, NAMES[5]}};
  return all[unit];
}

constexpr const char* GATED_PRODUCT = "zilu::gated_product";
constexpr const char* GATED_PRODUCT_BACKWARD = "zilu::gated_product_backward";

struct GatedOperators {
  c10::TypedOperatorHandle<Gated> fixed = find<Gated>(GATED_PRODUCT, "");
  c10::TypedOperatorHandle<GatedLearned> learned = find<GatedLearned>(GATED_PRODUCT, "learned");
  c10::TypedOperatorHandle<GatedBackward> fixed_backward =
      find<GatedBackward>(GATED_PRODUCT_BACKWARD, "");
  c10::TypedOperatorHandle<GatedLearnedBackward> learned_backward =
      find<GatedLearnedBackward>(GATED_PRODUCT_BACKWARD, "learned");
};

const GatedOperators& gated_operators() {
  static const GatedOperators all;
  return all;
}

struct ExpandedOperators {
  c10::TypedOperatorHandle<Expanded> fixed = find<Expanded>("zilu::expanded", "");
  c10::TypedOperatorHandle<ExpandedLearned> learned =
      find<ExpandedLearned>("zilu::expanded", "learned");
  c10::TypedOperatorHandle<ExpandedBackward> fixed_backward =
      find<ExpandedBackward>("zilu::expanded_backward", "");
  c10::TypedOperatorHandle<ExpandedLearnedBackward> learned_backward =
      find<ExpandedLearnedBackward>("zilu::expanded_backward", "learned");
};

const ExpandedOperators& expanded_operators() {
  static const ExpandedOperators all;
  return all;
}

constexpr const char* EXPANDED_PRODUCT = "zilu::expanded_product";
constexpr const char* EXPANDED_PRODUCT_BACKWARD = "zilu::expanded_product_backward";

struct ExpandedProductOperators {
  c10::TypedOperatorHandle<ExpandedProduct> fixed = find<ExpandedProduct>(EXPANDED_PRODUCT, "");
  c10::TypedOperatorHandle<ExpandedProductLearned> learned =
      find<ExpandedProductLearned>(EXPANDED_PRODUCT, "learned");
  c10::TypedOperatorHandle<ExpandedProductBackward> fixed_backward =
      find<ExpandedProductBackward>(EXPANDED_PRODUCT_BACKWARD, "");
  c10::TypedOperatorHandle<ExpandedProductLearnedBackward> learned_backward =
      find<ExpandedProductLearnedBackward>(EXPANDED_PRODUCT_BACKWARD, "learned");
};

const ExpandedProductOperators& expanded_product_operators() {
  static const ExpandedProductOperators all;
  return all;
}

// --- autograd: backward saves the input or the output, and sigma where it is learned ---

// Second derivatives come from the autograd of the backward operators, which is in operators.py.
// Where only first derivatives are wanted, skip it.
template <class F>
auto backward_through(const F& call) {
  if (at::GradMode::is_enabled()) return call();
  at::AutoDispatchBelowADInplaceOrView below;
  return call();
}

// Tells autograd that x was written over.
Tensor written_over(AutogradContext* context, const Tensor& x, variable_list saved) {
  context->mark_dirty({x});
  context->save_for_backward(std::move(saved));
  return x;
}

struct FixedFunction : torch::autograd::Function<FixedFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& x, double sigma, int64_t unit) {
    context->saved_data["sigma"] = sigma;
    context->saved_data["unit"] = unit;
    at::AutoDispatchBelowADInplaceOrView below;
    Tensor y = operators(unit).fixed.call(x, sigma);
    context->save_for_backward({saves_output(unit) ? y : x});
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const Tensor x = context->get_saved_variables()[0];
    const double sigma = context->saved_data["sigma"].toDouble();
    const auto& backward = operators(context->saved_data["unit"].toInt()).fixed_backward;
    Tensor grad_x = backward_through([&] { return backward.call(grads[0], x, sigma); });
    return {grad_x, Tensor(), Tensor()};
  }
};

struct LearnedFunction : torch::autograd::Function<LearnedFunction> {
  static Tensor forward(
      AutogradContext* context, const Tensor& x, const Tensor& sigma, int64_t unit) {
    context->saved_data["unit"] = unit;
    at::AutoDispatchBelowADInplaceOrView below;
    Tensor y = operators(unit).learned.call(x, sigma);
    context->save_for_backward({saves_output(unit) ? y : x, sigma});
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const auto& backward = operators(context->saved_data["unit"].toInt()).learned_backward;
    auto [grad_x, grad_sigma] =
        backward_through([&] { return backward.call(grads[0], saved[0], saved[1]); });
    return {grad_x, grad_sigma, Tensor()};
  }
};

// sigma e^rho, in one kernel. Only rho has a gradient.
struct ProductFunction : torch::autograd::Function<ProductFunction> {
  static Tensor forward(
      AutogradContext* context, const Tensor& x, const Tensor& sigma, const Tensor& rho,
      int64_t unit) {
    context->saved_data["unit"] = unit;
    at::AutoDispatchBelowADInplaceOrView below;
    Tensor y = operators(unit).product.call(x, sigma, rho);
    context->save_for_backward({saves_output(unit) ? y : x, sigma, rho});
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const auto& backward = operators(context->saved_data["unit"].toInt()).product_backward;
    auto [grad_x, grad_rho] =
        backward_through([&] { return backward.call(grads[0], saved[0], saved[1], saved[2]); });
    return {grad_x, Tensor(), grad_rho, Tensor()};
  }
};

// --- in place: x becomes the output, which is saved ---

struct FixedInplaceFunction : torch::autograd::Function<FixedInplaceFunction> {
  static Tensor forward(AutogradContext* context, Tensor x, double sigma, int64_t unit) {
    context->saved_data["sigma"] = sigma;
    context->saved_data["unit"] = unit;
    at::AutoDispatchBelowADInplaceOrView below;
    operators(unit).fixed_inplace->call(x, sigma);
    return written_over(context, x, {x});
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    return FixedFunction::backward(context, grads);
  }
};

struct LearnedInplaceFunction : torch::autograd::Function<LearnedInplaceFunction> {
  static Tensor forward(AutogradContext* context, Tensor x, const Tensor& sigma, int64_t unit) {
    context->saved_data["unit"] = unit;
    at::AutoDispatchBelowADInplaceOrView below;
    operators(unit).learned_inplace->call(x, sigma);
    return written_over(context, x, {x, sigma});
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    return LearnedFunction::backward(context, grads);
  }
};

struct ProductInplaceFunction : torch::autograd::Function<ProductInplaceFunction> {
  static Tensor forward(
      AutogradContext* context, Tensor x, const Tensor& sigma, const Tensor& rho, int64_t unit) {
    context->saved_data["unit"] = unit;
    at::AutoDispatchBelowADInplaceOrView below;
    operators(unit).product_inplace->call(x, sigma, rho);
    return written_over(context, x, {x, sigma, rho});
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    return ProductFunction::backward(context, grads);
  }
};

// --- f(a) b: backward saves a and b, and computes f(a) again ---

struct GatedFunction : torch::autograd::Function<GatedFunction> {
  static Tensor forward(
      AutogradContext* context, const Tensor& a, const Tensor& b, double sigma, int64_t unit) {
    context->saved_data["sigma"] = sigma;
    context->saved_data["unit"] = unit;
    context->save_for_backward({a, b});
    at::AutoDispatchBelowADInplaceOrView below;
    return gated_operators().fixed.call(a, b, sigma, unit);
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const double sigma = context->saved_data["sigma"].toDouble();
    const int64_t unit = context->saved_data["unit"].toInt();
    auto [grad_a, grad_b] = backward_through([&] {
      return gated_operators().fixed_backward.call(grads[0], saved[0], saved[1], sigma, unit);
    });
    return {grad_a, grad_b, Tensor(), Tensor()};
  }
};

struct GatedLearnedFunction : torch::autograd::Function<GatedLearnedFunction> {
  static Tensor forward(
      AutogradContext* context, const Tensor& a, const Tensor& b, const Tensor& sigma,
      int64_t unit) {
    context->saved_data["unit"] = unit;
    context->save_for_backward({a, b, sigma});
    at::AutoDispatchBelowADInplaceOrView below;
    return gated_operators().learned.call(a, b, sigma, unit);
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const int64_t unit = context->saved_data["unit"].toInt();
    auto [grad_a, grad_b, grad_sigma] = backward_through([&] {
      return gated_operators().learned_backward.call(
          grads[0], saved[0], saved[1], saved[2], unit);
    });
    return {grad_a, grad_b, grad_sigma, Tensor()};
  }
};

// --- the gate's range widened ---

struct ExpandedFunction : torch::autograd::Function<ExpandedFunction> {
  static Tensor forward(
      AutogradContext* context, const Tensor& x, double sigma, const Tensor& alpha, int64_t unit) {
    context->saved_data["sigma"] = sigma;
    context->saved_data["unit"] = unit;
    context->save_for_backward({x, alpha});
    at::AutoDispatchBelowADInplaceOrView below;
    return expanded_operators().fixed.call(x, sigma, alpha, unit);
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const double sigma = context->saved_data["sigma"].toDouble();
    const int64_t unit = context->saved_data["unit"].toInt();
    auto [grad_x, grad_alpha] = backward_through([&] {
      return expanded_operators().fixed_backward.call(grads[0], saved[0], sigma, saved[1], unit);
    });
    return {grad_x, Tensor(), grad_alpha, Tensor()};
  }
};

struct ExpandedLearnedFunction : torch::autograd::Function<ExpandedLearnedFunction> {
  static Tensor forward(
      AutogradContext* context, const Tensor& x, const Tensor& sigma, const Tensor& alpha,
      int64_t unit) {
    context->saved_data["unit"] = unit;
    context->save_for_backward({x, sigma, alpha});
    at::AutoDispatchBelowADInplaceOrView below;
    return expanded_operators().learned.call(x, sigma, alpha, unit);
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const int64_t unit = context->saved_data["unit"].toInt();
    auto [grad_x, grad_sigma, grad_alpha] = backward_through([&] {
      return expanded_operators().learned_backward.call(
          grads[0], saved[0], saved[1], saved[2], unit);
    });
    return {grad_x, grad_sigma, grad_alpha, Tensor()};
  }
};

struct ExpandedProductFunction : torch::autograd::Function<ExpandedProductFunction> {
  static Tensor forward(
      AutogradContext* context, const Tensor& a, const Tensor& b, double sigma,
      const Tensor& alpha, int64_t unit) {
    context->saved_data["sigma"] = sigma;
    context->saved_data["unit"] = unit;
    context->save_for_backward({a, b, alpha});
    at::AutoDispatchBelowADInplaceOrView below;
    return expanded_product_operators().fixed.call(a, b, sigma, alpha, unit);
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const double sigma = context->saved_data["sigma"].toDouble();
    const int64_t unit = context->saved_data["unit"].toInt();
    auto [grad_a, grad_b, grad_alpha] = backward_through([&] {
      return expanded_product_operators().fixed_backward.call(
          grads[0], saved[0], saved[1], sigma, saved[2], unit);
    });
    return {grad_a, grad_b, Tensor(), grad_alpha, Tensor()};
  }
};

struct ExpandedProductLearnedFunction
    : torch::autograd::Function<ExpandedProductLearnedFunction> {
  static Tensor forward(
      AutogradContext* context, const Tensor& a, const Tensor& b, const Tensor& sigma,
      const Tensor& alpha, int64_t unit) {
    context->saved_data["unit"] = unit;
    context->save_for_backward({a, b, sigma, alpha});
    at::AutoDispatchBelowADInplaceOrView below;
    return expanded_product_operators().learned.call(a, b, sigma, alpha, unit);
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const variable_list saved = context->get_saved_variables();
    const int64_t unit = context->saved_data["unit"].toInt();
    auto [grad_a, grad_b, grad_sigma, grad_alpha] = backward_through([&] {
      return expanded_product_operators().learned_backward.call(
          grads[0], saved[0], saved[1], saved[2], saved[3], unit);
    });
    return {grad_a, grad_b, grad_sigma, grad_alpha, Tensor()};
  }
};

// --- registration ---

void implement_expanded_product(
    torch::Library& library, ExpandedProduct* fixed, ExpandedProductLearned* learned,
    ExpandedProductBackward* fixed_backward, ExpandedProductLearnedBackward* learned_backward) {
  library.impl("expanded_product", fixed);
  library.impl("expanded_product.learned", learned);
  library.impl("expanded_product_backward", fixed_backward);
  library.impl("expanded_product_backward.learned", learned_backward);
}

void implement_expanded(
    torch::Library& library, Expanded* fixed, ExpandedLearned* learned,
    ExpandedBackward* fixed_backward, ExpandedLearnedBackward* learned_backward) {
  library.impl("expanded", fixed);
  library.impl("expanded.learned", learned);
  library.impl("expanded_backward", fixed_backward);
  library.impl("expanded_backward.learned", learned_backward);
}

void implement_gated(
    torch::Library& library, Gated* fixed, GatedLearned* learned, GatedBackward* fixed_backward,
    GatedLearnedBackward* learned_backward) {
  library.impl("gated_product", fixed);
  library.impl("gated_product.learned", learned);
  library.impl("gated_product_backward", fixed_backward);
  library.impl("gated_product_backward.learned", learned_backward);
}

void define(torch::Library& library, const std::string& forward) {
  const std::string backward = forward + "_backward";
  library.def((forward + "(Tensor x, float sigma) -> Tensor").c_str());
  library.def((forward + ".learned(Tensor x, Tensor sigma) -> Tensor").c_str());
  library.def((forward + ".product(Tensor x, Tensor sigma, Tensor rho) -> Tensor").c_str());
  library.def((backward + "(Tensor grad, Tensor x, float sigma) -> Tensor").c_str());
  library.def(
      (backward + ".learned(Tensor grad, Tensor x, Tensor sigma) -> (Tensor, Tensor)").c_str());
  library.def((backward + ".product(Tensor grad, Tensor x, Tensor sigma, Tensor rho) -> "
                          "(Tensor, Tensor)").c_str());
}

void define_inplace(torch::Library& library, const std::string& forward) {
  library.def((forward + "_(Tensor(a!) x, float sigma) -> Tensor(a!)").c_str());
  library.def((forward + "_.learned(Tensor(a!) x, Tensor sigma) -> Tensor(a!)").c_str());
  library.def(
      (forward + "_.product(Tensor(a!) x, Tensor sigma, Tensor rho) -> Tensor(a!)").c_str());
}

void implement_inplace(
    torch::Library& library, const std::string& forward, Fixed* fixed, Learned* learned) {
  library.impl((forward + "_").c_str(), fixed);
  library.impl((forward + "_.learned").c_str(), learned);
}

void implement_inplace(
    torch::Library& library, const std::string& forward, Fixed* fixed, Learned* learned,
    Product* product) {
  implement_inplace(library, forward, fixed, learned);
  library.impl((forward + "_.product").c_str(), product);
}

void implement_product(
    torch::Library& library, const std::string& forward, Product* product,
    ProductBackward* product_backward) {
  library.impl((forward + ".product").c_str(), product);
  library.impl((forward + "_backward.product").c_str(), product_backward);
}

// Takes function pointers: a template instance for each function would take most of the build time.
void implement(
    torch::Library& library, const std::string& forward, Fixed* fixed, Learned* learned,
    FixedBackward* fixed_backward, LearnedBackward* learned_backward) {
  const std::string backward = forward + "_backward";
  library.impl(forward.c_str(), fixed);
  library.impl((forward + ".learned").c_str(), learned);
  library.impl(backward.c_str(), fixed_backward);
  library.impl((backward + ".learned").c_str(), learned_backward);
}

template <int64_t U>
void implement_autograd(torch::Library& library) {
  Fixed* fixed = [](const Tensor& x, double sigma) { return FixedFunction::apply(x, sigma, U); };
  Learned* learned = [](const Tensor& x, const Tensor& sigma) {
    return LearnedFunction::apply(x, sigma, U);
  };
  Product* product = [](const Tensor& x, const Tensor& sigma, const Tensor& rho) {
    return ProductFunction::apply(x, sigma, rho, U);
  };
  library.impl(NAMES[U], fixed);
  library.impl((std::string(NAMES[U]) + ".learned").c_str(), learned);
  library.impl((std::string(NAMES[U]) + ".product").c_str(), product);
  if constexpr (saves_output(U)) {
    implement_inplace(
        library, NAMES[U],
        [](const Tensor& x, double sigma) { return FixedInplaceFunction::apply(x, sigma, U); },
        [](const Tensor& x, const Tensor& sigma) {
          return LearnedInplaceFunction::apply(x, sigma, U);
        },
        [](const Tensor& x, const Tensor& sigma, const Tensor& rho) {
          return ProductInplaceFunction::apply(x, sigma, rho, U);
        });
  }
}

template <int64_t U>
void implement_cpu(torch::Library& library) {
  implement(
      library, NAMES[U], [](const Tensor& x, double sigma) { return value(UNITS[U], x, sigma); },
      [](const Tensor& x, const Tensor& sigma) {
        return value(UNITS[U], x, sigma.item().toDouble());
      },
      [](const Tensor& grad, const Tensor& x, double sigma) {
        return gradient(UNITS[U], grad, x, sigma);
      },
      [](const Tensor& grad, const Tensor& x, const Tensor& sigma) -> Pair {
        const Gradients found = gradients(UNITS[U], grad, x, sigma.item().toDouble());
        return {found.x, at::full(sigma.sizes(), found.sigma, sigma.options())};
      });
  if constexpr (saves_output(U)) {
    implement_inplace(
        library, NAMES[U], [](const Tensor& x, double sigma) { return value_(UNITS[U], x, sigma); },
        [](const Tensor& x, const Tensor& sigma) {
          return value_(UNITS[U], x, sigma.item().toDouble());
        });
  }
}

template <int64_t U>
void implement_gpu(torch::Library& library) {
  implement(
      library, NAMES[U],
      [](const Tensor& x, double sigma) { return gpu_value(UNITS[U], x, sigma); },
      [](const Tensor& x, const Tensor& sigma) { return gpu_value(UNITS[U], x, sigma); },
      [](const Tensor& grad, const Tensor& x, double sigma) {
        return gpu_gradient(UNITS[U], grad, x, sigma);
      },
      [](const Tensor& grad, const Tensor& x, const Tensor& sigma) -> Pair {
        return gpu_gradients(UNITS[U], grad, x, sigma);
      });
  implement_product(
      library, NAMES[U],
      [](const Tensor& x, const Tensor& sigma, const Tensor& rho) {
        return gpu_value(UNITS[U], x, {sigma, rho});
      },
      [](const Tensor& grad, const Tensor& x, const Tensor& sigma, const Tensor& rho) -> Pair {
        return gpu_gradients(UNITS[U], grad, x, {sigma, rho});
      });
  if constexpr (saves_output(U)) {
    implement_inplace(
        library, NAMES[U],
        [](const Tensor& x, double sigma) { return gpu_value_(UNITS[U], x, sigma); },
        [](const Tensor& x, const Tensor& sigma) { return gpu_value_(UNITS[U], x, sigma); },
        [](const Tensor& x, const Tensor& sigma, const Tensor& rho) {
          return gpu_value_(UNITS[U], x, {sigma, rho});
        });
  }
}

void implement_meta(torch::Library& library, const std::string& forward) {
  implement(
      library, forward, [](const Tensor& x, double) { return at::empty_like(x); },
      [](const Tensor& x, const Tensor&) { return at::empty_like(x); },
      [](const Tensor&, const Tensor& x, double) { return at::empty_like(x); },
      [](const Tensor&, const Tensor& x, const Tensor& sigma) -> Pair {
        return {at::empty_like(x), at::empty_like(sigma)};
      });
  implement_product(
      library, forward,
      [](const Tensor& x, const Tensor&, const Tensor&) { return at::empty_like(x); },
      [](const Tensor&, const Tensor& x, const Tensor&, const Tensor& rho) -> Pair {
        return {at::empty_like(x), at::empty_like(rho)};
      });
}

TORCH_LIBRARY(zilu, library) {
  for (int64_t unit = 0; unit < int64_t(std::size(UNITS)); ++unit) {
    define(library, NAMES[unit]);
    if (saves_output(unit)) define_inplace(library, NAMES[unit]);
  }
  library.def("gated_product(Tensor a, Tensor b, float sigma, int unit) -> Tensor");
  library.def("gated_product.learned(Tensor a, Tensor b, Tensor sigma, int unit) -> Tensor");
  library.def("gated_product_backward(Tensor grad, Tensor a, Tensor b, float sigma, int unit) -> "
              "(Tensor, Tensor)");
  library.def("gated_product_backward.learned(Tensor grad, Tensor a, Tensor b, Tensor sigma, "
              "int unit) -> (Tensor, Tensor, Tensor)");
  library.def("expanded(Tensor x, float sigma, Tensor alpha, int unit) -> Tensor");
  library.def("expanded.learned(Tensor x, Tensor sigma, Tensor alpha, int unit) -> Tensor");
  library.def("expanded_backward(Tensor grad, Tensor x, float sigma, Tensor alpha, int unit) -> "
              "(Tensor, Tensor)");
  library.def("expanded_backward.learned(Tensor grad, Tensor x, Tensor sigma, Tensor alpha, "
              "int unit) -> (Tensor, Tensor, Tensor)");
  library.def("expanded_product(Tensor a, Tensor b, float sigma, Tensor alpha, int unit) -> Tensor");
  library.def("expanded_product.learned(Tensor a, Tensor b, Tensor sigma, Tensor alpha, int unit) "
              "-> Tensor");
  library.def("expanded_product_backward(Tensor grad, Tensor a, Tensor b, float sigma, "
              "Tensor alpha, int unit) -> (Tensor, Tensor, Tensor)");
  library.def("expanded_product_backward.learned(Tensor grad, Tensor a, Tensor b, Tensor sigma, "
              "Tensor alpha, int unit) -> (Tensor, Tensor, Tensor, Tensor)");
  // Between gpu.cpp and operators.py.
  library.def(
      "launch_by_triton(int key, int kind, int unit, Tensor[] tensors, float sigma, "
      "Tensor? learned, Tensor? rho, int programs) -> ()");
  library.def("set_up_gpu(int block_bytes, int[] addresses) -> ()", &set_up_gpu);
  library.def("keep_kernel(int key, int function, int threads, int shared) -> ()", &keep_kernel);
}

TORCH_LIBRARY_IMPL(zilu, Autograd, library) {
  implement_autograd<0>(library);
  implement_autograd<1>(library);
  implement_autograd<2>(library);
  implement_autograd<3>(library);
  implement_autograd<4>(library);
  implement_autograd<5>(library);
  library.impl("gated_product", [](const Tensor& a, const Tensor& b, double sigma, int64_t unit) {
    return GatedFunction::apply(a, b, sigma, unit);
  });
  library.impl(
      "gated_product.learned",
      [](const Tensor& a, const Tensor& b, const Tensor& sigma, int64_t unit) {
        return GatedLearnedFunction::apply(a, b, sigma, unit);
      });
  library.impl(
      "expanded", [](const Tensor& x, double sigma, const Tensor& alpha, int64_t unit) {
        return ExpandedFunction::apply(x, sigma, alpha, unit);
      });
  library.impl(
      "expanded.learned",
      [](const Tensor& x, const Tensor& sigma, const Tensor& alpha, int64_t unit) {
        return ExpandedLearnedFunction::apply(x, sigma, alpha, unit);
      });
  library.impl(
      "expanded_product",
      [](const Tensor& a, const Tensor& b, double sigma, const Tensor& alpha, int64_t unit) {
        return ExpandedProductFunction::apply(a, b, sigma, alpha, unit);
      });
  library.impl(
      "expanded_product.learned",
      [](const Tensor& a, const Tensor& b, const Tensor& sigma, const Tensor& alpha,
         int64_t unit) { return ExpandedProductLearnedFunction::apply(a, b, sigma, alpha, unit); });
}

TORCH_LIBRARY_IMPL(zilu, CPU, library) {
  implement_cpu<0>(library);
  implement_cpu<1>(library);
  implement_cpu<2>(library);
  implement_cpu<3>(library);
  implement_cpu<4>(library);
  implement_cpu<5>(library);
  implement_gated(
      library,
      [](const Tensor& a, const Tensor& b, double sigma, int64_t unit) {
        return gated_product(UNITS[unit], a, b, sigma);
      },
      [](const Tensor& a, const Tensor& b, const Tensor& sigma, int64_t unit) {
        return gated_product(UNITS[unit], a, b, sigma.item().toDouble());
      },
      [](const Tensor& grad, const Tensor& a, const Tensor& b, double sigma, int64_t unit) -> Pair {
        const auto found = gated_product_gradients(UNITS[unit], grad, a, b, sigma, false);
        return {found.a, found.b};
      },
      [](const Tensor& grad, const Tensor& a, const Tensor& b, const Tensor& sigma,
         int64_t unit) -> Triple {
        const double number = sigma.item().toDouble();
        const auto found = gated_product_gradients(UNITS[unit], grad, a, b, number, true);
        return {found.a, found.b, at::full(sigma.sizes(), found.sigma, sigma.options())};
      });
  implement_expanded(
      library,
      [](const Tensor& x, double sigma, const Tensor& alpha, int64_t unit) {
        return expanded(UNITS[unit], x, sigma, alpha.item().toDouble());
      },
      [](const Tensor& x, const Tensor& sigma, const Tensor& alpha, int64_t unit) {
        return expanded(UNITS[unit], x, sigma.item().toDouble(), alpha.item().toDouble());
      },
      [](const Tensor& grad, const Tensor& x, double sigma, const Tensor& alpha,
         int64_t unit) -> Pair {
        const double number = alpha.item().toDouble();
        const auto found = expanded_gradients(UNITS[unit], grad, x, sigma, number);
        return {found.x, at::full(alpha.sizes(), found.alpha, alpha.options())};
      },
      [](const Tensor& grad, const Tensor& x, const Tensor& sigma, const Tensor& alpha,
         int64_t unit) -> Triple {
        const auto found = expanded_gradients(
            UNITS[unit], grad, x, sigma.item().toDouble(), alpha.item().toDouble());
        return {found.x, at::full(sigma.sizes(), found.sigma, sigma.options()),
                at::full(alpha.sizes(), found.alpha, alpha.options())};
      });
  implement_expanded_product(
      library,
      [](const Tensor& a, const Tensor& b, double sigma, const Tensor& alpha, int64_t unit) {
        return expanded_product(UNITS[unit], a, b, sigma, alpha.item().toDouble());
      },
      [](const Tensor& a, const Tensor& b, const Tensor& sigma, const Tensor& alpha,
         int64_t unit) {
        return expanded_product(
            UNITS[unit], a, b, sigma.item().toDouble(), alpha.item().toDouble());
      },
      [](const Tensor& grad, const Tensor& a, const Tensor& b, double sigma, const Tensor& alpha,
         int64_t unit) -> Triple {
        const double number = alpha.item().toDouble();
        const auto found = expanded_product_gradients(UNITS[unit], grad, a, b, sigma, number);
        return {found.a, found.b, at::full(alpha.sizes(), found.alpha, alpha.options())};
      },
      [](const Tensor& grad, const Tensor& a, const Tensor& b, const Tensor& sigma,
         const Tensor& alpha, int64_t unit) -> Quadruple {
        const auto found = expanded_product_gradients(
            UNITS[unit], grad, a, b, sigma.item().toDouble(), alpha.item().toDouble());
        return {found.a, found.b, at::full(sigma.sizes(), found.sigma, sigma.options()),
                at::full(alpha.sizes(), found.alpha, alpha.options())};
      });
}

TORCH_LIBRARY_IMPL(zilu, CUDA, library) {
  implement_gpu<0>(library);
  implement_gpu<1>(library);
  implement_gpu<2>(library);
  implement_gpu<3>(library);
  implement_gpu<4>(library);
  implement_gpu<5>(library);
  implement_gated(
      library,
      [](const Tensor& a, const Tensor& b, double sigma, int64_t unit) {
        return gpu_gated_product(UNITS[unit], a, b, sigma);
      },
      [](const Tensor& a, const Tensor& b, const Tensor& sigma, int64_t unit) {
        return gpu_gated_product(UNITS[unit], a, b, sigma);
      },
      [](const Tensor& grad, const Tensor& a, const Tensor& b, double sigma, int64_t unit) -> Pair {
        auto [by_a, by_b, _] = gpu_gated_product_gradients(UNITS[unit], grad, a, b, sigma);
        return {by_a, by_b};
      },
      [](const Tensor& grad, const Tensor& a, const Tensor& b, const Tensor& sigma,
         int64_t unit) -> Triple {
        return gpu_gated_product_gradients(UNITS[unit], grad, a, b, sigma);
      });
  implement_expanded(
      library,
      [](const Tensor& x, double sigma, const Tensor& alpha, int64_t unit) {
        return gpu_expanded(UNITS[unit], x, sigma, alpha);
      },
      [](const Tensor& x, const Tensor& sigma, const Tensor& alpha, int64_t unit) {
        return gpu_expanded(UNITS[unit], x, sigma, alpha);
      },
      [](const Tensor& grad, const Tensor& x, double sigma, const Tensor& alpha,
         int64_t unit) -> Pair {
        auto [by_x, _, by_alpha] = gpu_expanded_gradients(UNITS[unit], grad, x, sigma, alpha);
        return {by_x, by_alpha};
      },
      [](const Tensor& grad, const Tensor& x, const Tensor& sigma, const Tensor& alpha,
         int64_t unit) -> Triple {
        return gpu_expanded_gradients(UNITS[unit], grad, x, sigma, alpha);
      });
  implement_expanded_product(
      library,
      [](const Tensor& a, const Tensor& b, double sigma, const Tensor& alpha, int64_t unit) {
        return gpu_expanded_product(UNITS[unit], a, b, sigma, alpha);
      },
      [](const Tensor& a, const Tensor& b, const Tensor& sigma, const Tensor& alpha,
         int64_t unit) { return gpu_expanded_product(UNITS[unit], a, b, sigma, alpha); },
      [](const Tensor& grad, const Tensor& a, const Tensor& b, double sigma, const Tensor& alpha,
         int64_t unit) -> Triple {
        auto [by_a, by_b, _, by_alpha] =
            gpu_expanded_product_gradients(UNITS[unit], grad, a, b, sigma, alpha);
        return {by_a, by_b, by_alpha};
      },
      [](const Tensor& grad, const Tensor& a, const Tensor& b, const Tensor& sigma,
         const Tensor& alpha, int64_t unit) -> Quadruple {
        return gpu_expanded_product_gradients(UNITS[unit], grad, a, b, sigma, alpha);
      });
}

TORCH_LIBRARY_IMPL(zilu, Meta, library) {
  for (int64_t unit = 0; unit < int64_t(std::size(UNITS)); ++unit) {
    implement_meta(library, NAMES[unit]);
    if (!saves_output(unit)) continue;
    implement_inplace(
        library, NAMES[unit], [](const Tensor& x, double) { return x; },
        [](const Tensor& x, const Tensor&) { return x; },
        [](const Tensor& x, const Tensor&, const Tensor&) { return x; });
  }
  implement_gated(
      library,
      [](const Tensor& a, const Tensor&, double, int64_t) { return at::empty_like(a); },
      [](const Tensor& a, const Tensor&, const Tensor&, int64_t) { return at::empty_like(a); },
      [](const Tensor&, const Tensor& a, const Tensor& b, double, int64_t) -> Pair {
        return {at::empty_like(a), at::empty_like(b)};
      },
      [](const Tensor&, const Tensor& a, const Tensor& b, const Tensor& sigma,
         int64_t) -> Triple {
        return {at::empty_like(a), at::empty_like(b), at::empty_like(sigma)};
      });
  implement_expanded(
      library,
      [](const Tensor& x, double, const Tensor&, int64_t) { return at::empty_like(x); },
      [](const Tensor& x, const Tensor&, const Tensor&, int64_t) { return at::empty_like(x); },
      [](const Tensor&, const Tensor& x, double, const Tensor& alpha, int64_t) -> Pair {
        return {at::empty_like(x), at::empty_like(alpha)};
      },
      [](const Tensor&, const Tensor& x, const Tensor& sigma, const Tensor& alpha,
         int64_t) -> Triple {
        return {at::empty_like(x), at::empty_like(sigma), at::empty_like(alpha)};
      });
  implement_expanded_product(
      library,
      [](const Tensor& a, const Tensor&, double, const Tensor&, int64_t) {
        return at::empty_like(a);
      },
      [](const Tensor& a, const Tensor&, const Tensor&, const Tensor&, int64_t) {
        return at::empty_like(a);
      },
      [](const Tensor&, const Tensor& a, const Tensor& b, double, const Tensor& alpha,
         int64_t) -> Triple {
        return {at::empty_like(a), at::empty_like(b), at::empty_like(alpha)};
      },
      [](const Tensor&, const Tensor& a, const Tensor& b, const Tensor& sigma,
         const Tensor& alpha, int64_t) -> Quadruple {
        return {at::empty_like(a), at::empty_like(b), at::empty_like(sigma),
                at::empty_like(alpha)};
      });
}

}  // namespace
}  // namespace zilu
