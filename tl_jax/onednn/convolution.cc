// Convolutions of oneDNN for XLA's CPU programs: forward, gradient to the input, to the kernel.
//
// Images are NHWC and kernels HWIO, as in JAX. A convolution is cut into parts, each of some images
// (or, of one image, some rows), which XLA's own threads compute side by side: oneDNN is told to
// use one thread, so that no second pool of threads competes with XLA's. The cuts depend on the
// program alone, so a sum is taken in the same order however many threads there are.

#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "depthwise.h"
#include "oneapi/dnnl/dnnl.hpp"
#include "parallel.h"
#include "problem.h"
#include "xla/ffi/api/ffi.h"

namespace tl_jax {
namespace {

using dnnl::memory;

// Never destroyed, as all that is shared: XLA's threads may still run when the process ends.
dnnl::engine& Engine() {
  static auto* engine = new dnnl::engine(dnnl::engine::kind::cpu, 0);
  return *engine;
}

memory::data_type Type(const Problem& p) {
  return p.is_bfloat16 ? memory::data_type::bf16 : memory::data_type::f32;
}

// oneDNN's view of arrays: it names dimensions in torch's order, whatever the layout.
memory::desc Images(const Dims& nhwc, memory::data_type type) {
  return {{nhwc[0], nhwc[3], nhwc[1], nhwc[2]}, type, memory::format_tag::nhwc};
}

memory::desc Kernel(const Problem& p, memory::data_type type, bool as_it_suits) {
  const Dims& k = p.kernel;
  using Tag = memory::format_tag;
  if (p.groups == 1) return {{k[3], k[2], k[0], k[1]}, type, as_it_suits ? Tag::any : Tag::hwio};
  Dims dims{p.groups, k[3] / p.groups, k[2], k[0], k[1]};
  return {dims, type, as_it_suits ? Tag::any : Tag::hwigo};
}

dnnl::primitive_attr OwnScratch() {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attributes;
}

// Describes the convolution; `make` is called with the description and the layout of its kernel.
template <typename Make>
void Describe(const Problem& p, const memory::desc& kernel, const Make& make) {
  auto algorithm = dnnl::algorithm::convolution_direct;
  auto x = Images(p.x, Type(p)), y = Images(p.y, Type(p));
  Dims before{p.pads[0], p.pads[2]}, after{p.pads[1], p.pads[3]}, dense{0, 0};
  dnnl::convolution_forward::primitive_desc forward(
      Engine(), dnnl::prop_kind::forward_training, algorithm, x,
      p.kind == kForward ? kernel : Kernel(p, Type(p), true), y, p.stride, dense, before, after,
      OwnScratch());
  if (p.kind == kForward) {
    make(forward, forward.weights_desc());
  } else if (p.kind == kInputGradient) {
    dnnl::convolution_backward_data::primitive_desc backward(
        Engine(), algorithm, x, kernel, y, p.stride, dense, before, after, forward, OwnScratch());
    make(backward, backward.weights_desc());
  } else {
    dnnl::convolution_backward_weights::primitive_desc backward(
        Engine(), algorithm, x, kernel, y, p.stride, dense, before, after, forward, OwnScratch());
    make(backward, backward.diff_weights_desc());
  }
}

// The type of the kernel inside oneDNN: partial sums of its gradient stay in float32.
memory::data_type KernelType(const Problem& p) {
  return p.kind == kKernelGradient ? memory::data_type::f32 : Type(p);
}

// A convolution prepared for execution. It is not changed afterwards: threads may share it.
class Convolution {
 public:
  explicit Convolution(const Problem& problem) : problem_(problem) {
    OneThread one_thread;
    // Parts of other sizes may have no fast code for the layout that the first one chooses for all.
    while (!PrepareSteps() && problem_.parts > 1) --problem_.parts;
    plain_ = Kernel(problem, Type(problem), false);
    PrepareReorders();
  }

  // The code that computes it, such as "brgconv:avx512_core".
  const std::string& code() const { return code_; }

  // Operands: x and kernel, dy and kernel, or x and dy.
  void Run(ffi::ThreadPool& pool, void* left, void* right, void* result) const {
    size_t size = (layout_.get_size() + 63) / 64 * 64;
    if (problem_.kind != kKernelGradient) {
      Lease packed(reorders_.empty() ? 0 : size);
      void* kernel = right;
      if (!reorders_.empty()) {
        kernel = packed.data();
        Parallel(pool, reorders_.size(), [&](int64_t i) { reorders_[i].Run(right, kernel); });
      }
      Parallel(pool, steps_.size(), [&](int64_t i) {
        bool forward = problem_.kind == kForward;
        Step(steps_[i], forward ? left : result, kernel, forward ? result : left);
      });
      return;
    }
    bool direct = reorders_.empty() && steps_.size() == 1;
    Lease partial(direct ? 0 : size * steps_.size());
    char* sums = direct ? static_cast<char*>(result) : partial.data();
    Parallel(pool, steps_.size(),
             [&](int64_t i) { Step(steps_[i], left, sums + i * size, right); });
    if (direct) return;
    if (steps_.size() > 1) AddUp(pool, sums, size);
    if (reorders_.empty()) {
      std::memcpy(result, sums, layout_.get_size());
    } else {
      Parallel(pool, reorders_.size(), [&](int64_t i) { reorders_[i].Run(sums, result); });
    }
  }

 private:
  struct PartStep {
    dnnl::primitive primitive;
    Part part;
    memory::desc scratch;
  };

  struct Reorder {
    dnnl::reorder primitive;
    memory::desc from, to, scratch;
    void Run(void* source, void* target) const {
      dnnl::stream stream(Engine());
      Lease lease(scratch.get_size());
      primitive.execute(stream, {{DNNL_ARG_FROM, memory(from, Engine(), source)},
                                 {DNNL_ARG_TO, memory(to, Engine(), target)},
                                 {DNNL_ARG_SCRATCHPAD, memory(scratch, Engine(), lease.data())}});
      stream.wait();
    }
  };

  // Returns whether all parts have fast code.
  bool PrepareSteps() {
    bool are_fast = true;
    steps_.clear();
    layout_ = Kernel(problem_, KernelType(problem_), true);
    for (const Part& part : PartsOf(problem_)) {
      Describe(part.problem, layout_, [&](const auto& description, const memory::desc& chosen) {
        code_ = description.impl_info_str();
        are_fast = are_fast && code_.find("ref") == std::string::npos &&
                   code_.find("gemm") == std::string::npos;
        layout_ = chosen;
        steps_.push_back({dnnl::primitive(description), part, description.scratchpad_desc()});
      });
    }
    return are_fast;
  }

  void Step(const PartStep& step, void* x, void* kernel, void* y) const {
    const Problem& p = step.part.problem;
    memory images(Images(p.x, Type(p)), Engine(),
                  static_cast<char*>(x) + step.part.x_begin * p.item());
    memory outputs(Images(p.y, Type(p)), Engine(),
                   static_cast<char*>(y) + step.part.y_begin * p.item());
    memory weights(layout_, Engine(), kernel);
    Lease lease(step.scratch.get_size());
    memory scratch(step.scratch, Engine(), lease.data());
    dnnl::stream stream(Engine());
    bool forward = p.kind == kForward;
    step.primitive.execute(
        stream, {{p.kind == kInputGradient ? DNNL_ARG_DIFF_SRC : DNNL_ARG_SRC, images},
                 {p.kind == kKernelGradient ? DNNL_ARG_DIFF_WEIGHTS : DNNL_ARG_WEIGHTS, weights},
                 {forward ? DNNL_ARG_DST : DNNL_ARG_DIFF_DST, outputs},
                 {DNNL_ARG_SCRATCHPAD, scratch}});
    stream.wait();
  }

  // Adds the partial gradients into the first, always in the order of the parts.
  void AddUp(ffi::ThreadPool& pool, char* sums, size_t size) const {
    int64_t values = size / sizeof(float), blocks = std::max<int64_t>(1, values / 16384);
    Parallel(pool, blocks, [&](int64_t i) {
      Range range(values, blocks, i);
      float* total = reinterpret_cast<float*>(sums);
      for (size_t part = 1; part < steps_.size(); ++part) {
        const float* more = reinterpret_cast<const float*>(sums + part * size);
        for (int64_t j = range.begin; j < range.end; ++j) total[j] += more[j];
      }
    });
  }

  // Between JAX's layout of the kernel and oneDNN's: a large kernel by slices of its outputs, if
  // oneDNN can cut its own layout there.
  void PrepareReorders() {
    if (layout_ == plain_) return;
    bool is_large = layout_.get_size() > (1 << 18);
    for (int64_t slices = is_large ? problem_.parts : 1;; --slices) {
      if (plain_.get_dims()[0] % slices) continue;
      try {
        reorders_ = Reorders(slices);
        return;
      } catch (const dnnl::error&) {
        if (slices == 1) throw;
      }
    }
  }

  std::vector<Reorder> Reorders(int64_t slices) const {
    bool back = problem_.kind == kKernelGradient;
    const memory::desc &from = back ? layout_ : plain_, &to = back ? plain_ : layout_;
    std::vector<Reorder> result;
    Dims size = plain_.get_dims(), offset(size.size(), 0);
    size[0] /= slices;
    for (int64_t i = 0; i < slices; ++i, offset[0] += size[0]) {
      auto cut = [&](const memory::desc& whole) {
        return slices == 1 ? whole : whole.submemory_desc(size, offset);
      };
      dnnl::reorder::primitive_desc description(Engine(), cut(from), Engine(), cut(to),
                                                OwnScratch());
      result.push_back({dnnl::reorder(description), cut(from), cut(to),
                        description.scratchpad_desc()});
    }
    return result;
  }

  Problem problem_;
  std::vector<PartStep> steps_;
  std::vector<Reorder> reorders_;
  memory::desc layout_, plain_;
  std::string code_;
};

// Prepared convolutions by problem; all are dropped when there are very many.
std::shared_ptr<const Convolution> Prepared(const Problem& problem) {
  static auto& mutex = *new std::mutex;
  static auto& known = *new std::map<Dims, std::shared_ptr<const Convolution>>;
  std::lock_guard<std::mutex> lock(mutex);
  auto [entry, is_new] = known.try_emplace(problem.key());
  if (!is_new) return entry->second;
  try {
    entry->second = std::make_shared<const Convolution>(problem);
  } catch (...) {
    known.erase(entry);
    throw;
  }
  auto result = entry->second;
  if (known.size() > 4096) known.clear();
  return result;
}

Dims List(ffi::Span<const int64_t> span) { return Dims(span.begin(), span.end()); }

ffi::Error Convolve(ffi::ThreadPool pool, ffi::AnyBuffer left, ffi::AnyBuffer right,
                    ffi::Result<ffi::AnyBuffer> result, int64_t kind, int64_t groups, int64_t parts,
                    ffi::Span<const int64_t> stride, ffi::Span<const int64_t> pads) {
  try {
    Dims a = List(left.dimensions()), b = List(right.dimensions()), c = List(result->dimensions());
    bool is_bfloat16 = left.element_type() == ffi::BF16;
    Problem problem{kind, is_bfloat16, groups, parts, List(stride), List(pads)};
    problem.x = kind == kInputGradient ? c : a;
    problem.kernel = kind == kKernelGradient ? c : b;
    problem.y = kind == kForward ? c : kind == kInputGradient ? a : b;
    if (IsWideDepthwise(problem) && !problem.is_bfloat16) {
      auto run = problem.kernel[1] == 5 ? WideDepthwiseGradient<5> : WideDepthwiseGradient<7>;
      run(pool, problem, left.typed_data<float>(), right.typed_data<float>(),
          result->typed_data<float>());
    } else {
      Prepared(problem)->Run(pool, left.untyped_data(), right.untyped_data(),
                             result->untyped_data());
    }
    return ffi::Error::Success();
  } catch (const std::exception& error) {
    return ffi::Error(ffi::ErrorCode::kInternal, std::string("oneDNN: ") + error.what());
  }
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(tl_jax_convolve, Convolve,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Attr<int64_t>("kind")
                                  .Attr<int64_t>("groups")
                                  .Attr<int64_t>("parts")
                                  .Attr<ffi::Span<const int64_t>>("stride")
                                  .Attr<ffi::Span<const int64_t>>("pads"));

// Writes the name of the code that oneDNN would run, such as "brgconv:avx512_core"; "" if it has
// none, and "tl_jax:depthwise" for that of depthwise.h, which takes float32 alone. `shapes` lists
// x, kernel and y, 12 numbers.
extern "C" void tl_jax_implementation(int64_t kind, int64_t is_bfloat16, int64_t groups,
                                      int64_t parts, const int64_t* stride, const int64_t* pads,
                                      const int64_t* shapes, char* name, int64_t capacity) {
  std::string found;
  try {
    Problem problem{kind, is_bfloat16, groups, parts, Dims(stride, stride + 2),
                    Dims(pads, pads + 4)};
    problem.x = Dims(shapes, shapes + 4);
    problem.kernel = Dims(shapes + 4, shapes + 8);
    problem.y = Dims(shapes + 8, shapes + 12);
    found = IsWideDepthwise(problem) ? "tl_jax:depthwise" : Prepared(problem)->code();
  } catch (const std::exception&) {
    found.clear();
  }
  std::strncpy(name, found.c_str(), capacity - 1);
  name[capacity - 1] = 0;
}

}  // namespace tl_jax
