// The Python face of the kernels: a struct of arrays in, a struct of arrays filled. Nothing here knows of torch.
//
// Shapes are those of planes: the Gaussian's index runs fastest (means [3, N], sh_rest [K, 3, N], ...).
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#if defined(GNS_COUNTERS)
#include <chrono>
#include <map>
#endif
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/frame.h"
#include "cpu/threads.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace gns {
namespace {

template <class T, int N> using Array = nb::ndarray<T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
template <class T, int N> using In = Array<const T, N>;
template <class T, int N> using MaybeIn = std::optional<In<T, N>>;
template <class T, int N> using MaybeOut = std::optional<Array<T, N>>;

// An argument that must be of the right type as it is: nanobind would otherwise convert an array of another one into a
// copy, fill that and drop it.
auto as_is(const char* name) { return nb::arg(name).noconvert(); }
auto maybe(const char* name) { return nb::arg(name).noconvert().none(); }

// Null where no array was given. An array without elements has no address either: it gets one, so as to count as given.
template <class A> auto pointer(const std::optional<A>& array) -> decltype(array->data()) {
  static std::remove_const_t<typename A::Scalar> nothing;
  if (!array) return nullptr;
  return array->data() ? array->data() : &nothing;
}

void require(bool condition, const char* message) {
  if (!condition) throw nb::value_error(message);
}
// Kernels count pixels, tiles and rows in int, with room for their margins; and compute with columns and rows in float,
// where the last of more than 2^24 could be rounded to one outside the image.
void require_size(int64_t height, int64_t width) {
  constexpr int64_t kMostPixels = int64_t(1) << 30, kMostAcross = int64_t(1) << 24;
  require(height > 0 && width > 0, "an image has at least one pixel each way");
  require(height <= kMostAcross && width <= kMostAcross, "an image has at most 2^24 pixels each way");
  require(width <= kMostPixels / height, "an image has at most 2^30 pixels");
}
// numpy and torch can view bytes as numbers that begin anywhere, which is undefined to read.
template <class A> bool is_aligned(const A& array) {
  return reinterpret_cast<uintptr_t>(array.data()) % alignof(typename A::Scalar) == 0;
}
template <class A> bool is_aligned(const std::optional<A>& array) { return !array || is_aligned(*array); }
template <class... A> void require_aligned(const A&... arrays) {
  require((is_aligned(arrays) && ...), "an array begins between two numbers: give a copy of it");
}
template <class A> void require_image(const A& array, size_t height, size_t width, const char* message) {
  require(array.shape(0) == 3 && array.shape(1) == height && array.shape(2) == width, message);
}
template <class A> void require_map(const std::optional<A>& array, size_t height, size_t width, const char* message) {
  require(!array || (array->shape(0) == height && array->shape(1) == width), message);
}

template <class T> const Kernels<T>& kernels();
template <> const Kernels<float>& kernels() { return instruction_set().single; }
template <> const Kernels<double>& kernels() { return instruction_set().twofold; }

// Frames that nobody uses at the moment; their memory is warm.
template <class T> struct FramePool {
  std::mutex mutex;
  std::vector<std::unique_ptr<Frame<T>>> idle;
  static FramePool& get() {
    static FramePool* pool = new FramePool;  // never destroyed: Python may release frames very late
    return *pool;
  }
  std::unique_ptr<Frame<T>> take() {
    std::lock_guard lock(mutex);
    if (idle.empty()) return std::make_unique<Frame<T>>();
    auto frame = std::move(idle.back());
    idle.pop_back();
    return frame;
  }
  // Called by a destructor, which must not throw: without memory for the list the frame goes.
  void give(std::unique_ptr<Frame<T>> frame) noexcept {
    std::lock_guard lock(mutex);
    try {
      idle.push_back(std::move(frame));
    } catch (const std::bad_alloc&) {
    }
  }
  void clear() {
    std::lock_guard lock(mutex);
    idle.clear();
  }
  size_t bytes() {
    std::lock_guard lock(mutex);
    size_t sum = 0;
    for (const auto& frame : idle) sum += frame->bytes();
    return sum;
  }
};

// The six parameter groups, or their gradients.
template <class One, class Two, class Three> struct Groups {
  Two means, log_scales, quats;
  One opacity_logits;
  Three sh_dc, sh_rest;
  size_t count() const { return opacity_logits.shape(0); }

  void check() const {
    const size_t n = count();
    require_aligned(means, log_scales, quats, opacity_logits, sh_dc, sh_rest);
    require(n < size_t(INT32_MAX) / 2, "too many Gaussians");
    require(means.shape(0) == 3 && means.shape(1) == n, "means must be planes [3, N]");
    require(log_scales.shape(0) == 3 && log_scales.shape(1) == n, "log_scales must be planes [3, N]");
    require(quats.shape(0) == 4 && quats.shape(1) == n, "quats must be planes [4, N]");
    require(sh_dc.shape(0) == 1 && sh_dc.shape(1) == 3 && sh_dc.shape(2) == n, "sh_dc must be planes [1, 3, N]");
    require(sh_rest.shape(1) == 3 && sh_rest.shape(2) == n, "sh_rest must be planes [K, 3, N]");
  }
};
template <class T> using ParameterArrays = Groups<In<T, 1>, In<T, 2>, In<T, 3>>;
template <class T> using GradientArrays = Groups<Array<T, 1>, Array<T, 2>, Array<T, 3>>;

// What a rendering reads, see RenderInputs in gns/gaussian_renderer/backends/protocol.py.
template <class T> struct RenderInputs {
  PinholeCamera<T> camera;
  ParameterArrays<T> arrays;
  int sh_degree;
  T background[3];
  MaybeIn<T, 2> edges;

  RenderInputs(const std::array<double, 4>& intrinsics, const std::array<int, 2>& size,
               const std::array<double, 16>& world_to_camera, const ParameterArrays<T>& parameters, int degree,
               const std::array<double, 3>& colour, MaybeIn<T, 2> edge_map, bool antialiased)
      : arrays(parameters), sh_degree(degree), background{T(colour[0]), T(colour[1]), T(colour[2])},
        edges(std::move(edge_map)) {
    set_camera(intrinsics, size, world_to_camera);
    camera.antialiased = antialiased;
    require_aligned(edges);
    require(degree >= 0 && degree <= 3 && arrays.sh_rest.shape(0) + 1 >= size_t((degree + 1) * (degree + 1)),
            "sh_degree must be 0 to 3 and sh_rest hold its coefficients");
    require_map(edges, camera.height, camera.width, "edges must be [height, width]");
  }

  Parameters<T> parameters() const {
    return {static_cast<int>(arrays.count()), sh_degree, arrays.means.data(), arrays.log_scales.data(),
            arrays.quats.data(), arrays.opacity_logits.data(), arrays.sh_dc.data(), arrays.sh_rest.data()};
  }

 private:
  void set_camera(const std::array<double, 4>& intrinsics, const std::array<int, 2>& size,
                  const std::array<double, 16>& m) {
    require_size(size[1], size[0]);
    camera.width = size[0];
    camera.height = size[1];
    camera.fx = T(intrinsics[0]);
    camera.fy = T(intrinsics[1]);
    camera.cx = T(intrinsics[2]);
    camera.cy = T(intrinsics[3]);
    for (int row = 0; row < 3; ++row) {
      for (int column = 0; column < 3; ++column) camera.rotation[3 * row + column] = T(m[4 * row + column]);
      camera.translation[row] = T(m[4 * row + 3]);
    }
    for (int i = 0; i < 3; ++i)
      camera.center[i] = T(-(m[i] * m[3] + m[4 + i] * m[7] + m[8 + i] * m[11]));
    camera.limit_x = T(frustum_limit(size[0], intrinsics[0]));
    camera.limit_y = T(frustum_limit(size[1], intrinsics[1]));
  }
};

// Where its results go; see RenderTargets there.
template <class T> struct RenderTargets {
  MaybeOut<T, 3> image;
  MaybeOut<T, 2> alpha;
  MaybeOut<T, 1> radii, importance;
  MaybeOut<T, 2> inverse_depth;
  MaybeOut<int32_t, 2> counts;
};

// The way back; see RenderGradients there.
template <class T> struct RenderGradients {
  In<T, 3> image;
  MaybeIn<T, 2> alpha;
  GradientArrays<T> parameters;
  MaybeOut<T, 2> abs_mean2d, mean2d;
  MaybeIn<T, 2> inverse_depth;

  Gradients<T> pointers() const {
    return {parameters.means.data(), parameters.log_scales.data(), parameters.quats.data(),
            parameters.opacity_logits.data(), parameters.sh_dc.data(), parameters.sh_rest.data(),
            pointer(abs_mean2d), pointer(mean2d)};
  }
};

// One rendering: what its stages hand on, kept until the backward pass is done or nobody wants it any more.
template <class T> class Rendering {
 public:
  Rendering(const RenderInputs<T>& inputs, const RenderTargets<T>& targets)
      : inputs_(inputs), has_image_(targets.image), frame_(FramePool<T>::get().take()) {
    try {
      forward(targets);
    } catch (...) {
      FramePool<T>::get().give(std::move(frame_));
      throw;
    }
  }
  ~Rendering() { FramePool<T>::get().give(std::move(frame_)); }

  void backward(In<T, 3> image, const RenderGradients<T>& gradients, MaybeIn<T, 2> inverse_depth) {
    const size_t n = inputs_.arrays.count(), height = inputs_.camera.height, width = inputs_.camera.width;
    require_aligned(image, inverse_depth);
    require(has_image_, "this rendering drew no image, only importance: there is nothing to go back from");
    require_image(image, height, width, "image must be [3, height, width]");
    require_image(gradients.image, height, width, "the image's gradient must be [3, height, width]");
    require_map(gradients.alpha, height, width, "the alpha's gradient must be [height, width]");
    require_map(inverse_depth, height, width, "the inverse depth must be [height, width]");
    require_map(gradients.inverse_depth, height, width, "the inverse depth's gradient must be [height, width]");
    require(!gradients.inverse_depth || inverse_depth, "the inverse depth's gradient needs the inverse depth");
    require(gradients.parameters.count() == n &&
                gradients.parameters.sh_rest.shape(0) == inputs_.arrays.sh_rest.shape(0),
            "gradients must have the shapes of their parameters");
    require_map(gradients.abs_mean2d, 2, n, "the absolute screen gradient must be [2, N]");
    require_map(gradients.mean2d, 2, n, "the signed screen gradient must be [2, N]");
    const Parameters<T> in = inputs_.parameters();
    const Gradients<T> out = gradients.pointers();

    nb::gil_scoped_release release;
    std::lock_guard lock(backward_mutex_);  // another Python thread may be inside, with the same frame
    const Kernels<T>& k = kernels_;
    stage("blend_backward", [&] {
      k.blend_backward(*frame_,
                       {image.data(), pointer(inverse_depth), gradients.image.data(), pointer(gradients.alpha),
                        pointer(gradients.inverse_depth)},
                       out.abs_mean2d != nullptr);
    });
    stage("project_backward", [&] { k.project_backward(*frame_, in, out); });
  }

#if defined(GNS_COUNTERS)
  // Seconds each stage took, this time round.
  const std::map<std::string, double>& timings() const { return timings_; }
  int visible() const { return frame_->visible; }
  size_t instances() const { return frame_->instances; }
  size_t bytes() const { return frame_->bytes(); }

  // (pixel, Gaussian) pairs that contribute; slow.
  size_t pairs() const { return kernels_.count_pairs(*frame_); }

  // Registers of pixels that the blending loops may visit; `lanes()` pixels in each.
  size_t blocks() const {
    size_t sum = 0;
    for (size_t i = 0; i < frame_->instances; ++i) sum += __builtin_popcountll(frame_->list[i].blocks);
    return sum;
  }
#endif

 private:
  void forward(const RenderTargets<T>& targets) {
    const auto& [image, alpha, radii, importance, inverse_depth, counts] = targets;
    const size_t width = inputs_.camera.width, height = inputs_.camera.height, n = inputs_.arrays.count();
    require(image || importance, "nothing to render: give image, importance or both");
    if (image) require_image(*image, height, width, "image must be [3, height, width]");
    require_map(alpha, height, width, "alpha must be [height, width]");
    require_map(inverse_depth, height, width, "the inverse depth must be [height, width]");
    require_map(counts, height, width, "counts must be [height, width]");
    require(image || !(inverse_depth || counts), "inverse depth and counts are drawn with the image");
    require(!radii || radii->shape(0) == n, "radii must be [N]");
    require(bool(inputs_.edges) == bool(importance), "edges and importance belong together");
    require(!importance || importance->shape(0) == n, "importance must be [N]");
    Frame<T>& frame = *frame_;
    frame.camera = inputs_.camera;
    frame.tiles_x = (frame.camera.width + kTile - 1) / kTile;
    frame.tiles_y = (frame.camera.height + kTile - 1) / kTile;
    const Parameters<T> in = inputs_.parameters();

    nb::gil_scoped_release release;
    const Kernels<T>& k = kernels_;
    stage("project", [&] { k.project(frame, in, bool(image), pointer(radii)); });
    stage("sort", [&] { sort_by_depth(frame); });
    stage("tiles", [&] { k.list_instances(frame); });
    require_without_gil(frame.instances < UINT32_MAX, "more than 2^32 tile instances: the Gaussians are too large");
    stage("blend", [&] {
      k.blend(frame, inputs_.background, {pointer(image), pointer(alpha), pointer(inverse_depth), pointer(counts)},
              pointer(inputs_.edges), pointer(importance));
    });
  }

#if defined(GNS_COUNTERS)
  template <class Body> void stage(const char* name, Body body) {
    using Clock = std::chrono::steady_clock;
    const auto start = Clock::now();
    body();
    timings_[name] = std::chrono::duration<double>(Clock::now() - start).count();
  }
  std::map<std::string, double> timings_;
#else
  template <class Body> void stage(const char*, Body body) { body(); }
#endif

  static void require_without_gil(bool condition, const char* message) {
    if (condition) return;
    nb::gil_scoped_acquire acquire;
    throw nb::value_error(message);
  }

  const RenderInputs<T> inputs_;  // keeps the arrays alive
  const bool has_image_;
  const Kernels<T>& kernels_ = kernels<T>();  // frames of one instruction set mean nothing to the others
  std::mutex backward_mutex_;
  std::unique_ptr<Frame<T>> frame_;
};

template <class G, class One, class Two, class Three> void bind_groups(nb::module_& m, const char* name) {
  nb::class_<G>(m, name).def(
      "__init__",
      [](G* self, Two means, Two log_scales, Two quats, One opacity_logits, Three sh_dc, Three sh_rest) {
        const G groups = {means, log_scales, quats, opacity_logits, sh_dc, sh_rest};
        groups.check();
        new (self) G(groups);
      },
      as_is("means"), as_is("log_scales"), as_is("quats"), as_is("opacity_logits"), as_is("sh_dc"), as_is("sh_rest"));
}

// Height and width of a rendered image and its photo; throws unless they and the mask are of one size.
template <class T>
std::pair<size_t, size_t> compared_size(const In<T, 3>& image, const In<uint8_t, 3>& target,
                                        const MaybeIn<uint8_t, 2>& mask) {
  const size_t height = image.shape(1), width = image.shape(2);
  require_size(height, width);
  require_image(image, height, width, "image must be [3, height, width]");
  require(target.shape(0) == height && target.shape(1) == width && target.shape(2) == 3,
          "target must be [height, width, 3], the size of the image");
  require_map(mask, height, width, "mask must be [height, width]");
  return {height, width};
}

// Everything that there is once for each precision, as a module of its own.
template <class T> void bind(nb::module_ m) {
  bind_groups<ParameterArrays<T>, In<T, 1>, In<T, 2>, In<T, 3>>(m, "Parameters");
  bind_groups<GradientArrays<T>, Array<T, 1>, Array<T, 2>, Array<T, 3>>(m, "Gradients");
  nb::class_<RenderInputs<T>>(m, "RenderInputs")
      .def(nb::init<const std::array<double, 4>&, const std::array<int, 2>&, const std::array<double, 16>&,
                    const ParameterArrays<T>&, int, const std::array<double, 3>&, MaybeIn<T, 2>, bool>(),
           "intrinsics"_a, "size"_a, "world_to_camera"_a, "parameters"_a, "sh_degree"_a, "background"_a,
           maybe("edges"), "antialiased"_a = false);
  nb::class_<RenderTargets<T>>(m, "RenderTargets")
      .def(
          "__init__",
          [](RenderTargets<T>* self, MaybeOut<T, 3> image, MaybeOut<T, 2> alpha, MaybeOut<T, 1> radii,
             MaybeOut<T, 1> importance, MaybeOut<T, 2> inverse_depth, MaybeOut<int32_t, 2> counts) {
            require_aligned(image, alpha, radii, importance, inverse_depth, counts);
            new (self) RenderTargets<T>{image, alpha, radii, importance, inverse_depth, counts};
          },
          maybe("image"), maybe("alpha"), maybe("radii"), maybe("importance"), maybe("inverse_depth") = nb::none(),
          maybe("counts") = nb::none());
  nb::class_<RenderGradients<T>>(m, "RenderGradients")
      .def(
          "__init__",
          [](RenderGradients<T>* self, In<T, 3> image, MaybeIn<T, 2> alpha, const GradientArrays<T>& parameters,
             MaybeOut<T, 2> abs_mean2d, MaybeOut<T, 2> mean2d, MaybeIn<T, 2> inverse_depth) {
            require_aligned(image, alpha, abs_mean2d, mean2d, inverse_depth);
            new (self) RenderGradients<T>{image, alpha, parameters, abs_mean2d, mean2d, inverse_depth};
          },
          as_is("image"), maybe("alpha"), "parameters"_a, maybe("abs_mean2d"), maybe("mean2d"),
          maybe("inverse_depth") = nb::none());

  nb::class_<Rendering<T>>(m, "Rendering")
      .def(nb::init<const RenderInputs<T>&, const RenderTargets<T>&>(), "inputs"_a, "targets"_a)
      .def("backward", &Rendering<T>::backward, as_is("image"), "gradients"_a,
           maybe("inverse_depth") = nb::none())
#if defined(GNS_COUNTERS)
      .def_prop_ro("timings",
                   [](const Rendering<T>& rendering) {
                     nb::dict out;
                     for (const auto& [stage, seconds] : rendering.timings()) out[stage.c_str()] = seconds;
                     return out;
                   })
      .def_prop_ro("visible", &Rendering<T>::visible)
      .def_prop_ro("instances", &Rendering<T>::instances)
      .def_prop_ro("blocks", &Rendering<T>::blocks)
      .def_prop_ro("pairs", &Rendering<T>::pairs)
      .def_prop_ro("bytes", &Rendering<T>::bytes)
#endif
      ;

  m.def(
      "photometric_loss",
      [](In<T, 3> image, In<uint8_t, 3> target, MaybeIn<uint8_t, 2> mask, MaybeOut<T, 3> gradient, bool squared) {
        const auto [height, width] = compared_size(image, target, mask);
        require_aligned(image, gradient);
        if (gradient) require_image(*gradient, height, width, "gradient must have the shape of the image");
        nb::gil_scoped_release release;
        return kernels<T>().photometric_loss(static_cast<int>(width), static_cast<int>(height), image.data(),
                                             target.data(), pointer(mask), pointer(gradient), squared);
      },
      as_is("image"), as_is("target"), maybe("mask"), maybe("gradient"), "squared"_a = false);
  m.def(
      "dissimilarity",
      [](In<T, 3> image, In<uint8_t, 3> target, MaybeIn<uint8_t, 2> mask, Array<T, 2> out) {
        const auto [height, width] = compared_size(image, target, mask);
        require_aligned(image, out);
        require(out.shape(0) == height && out.shape(1) == width, "out must be [height, width]");
        nb::gil_scoped_release release;
        kernels<T>().dissimilarity(static_cast<int>(width), static_cast<int>(height), image.data(), target.data(),
                                   pointer(mask), out.data());
      },
      as_is("image"), as_is("target"), maybe("mask"), as_is("out"));
}

void adam(const std::vector<std::array<Array<float, 1>, 4>>& tensors, const std::vector<double>& rates,
          const std::vector<int64_t>& steps, const std::vector<double>& decays, double beta1, double beta2,
          double epsilon) {
  require(tensors.size() == rates.size() && tensors.size() == steps.size() && tensors.size() == decays.size(),
          "one rate, one step and one decay for each tensor");
  std::vector<AdamTensor> work;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const auto& [parameter, gradient, first, second] = tensors[i];
    const size_t count = parameter.shape(0);
    require(gradient.shape(0) == count && first.shape(0) == count && second.shape(0) == count,
            "parameter, gradient and moments must have the same size");
    require_aligned(parameter, gradient, first, second);
    require(steps[i] > 0, "steps count from 1");
    const double t = static_cast<double>(steps[i]);
    work.push_back({parameter.data(), gradient.data(), first.data(), second.data(), count, beta1, beta2,
                    static_cast<float>(epsilon), static_cast<float>(rates[i] / (1 - std::pow(beta1, t))),
                    static_cast<float>(1 / std::sqrt(1 - std::pow(beta2, t))), static_cast<float>(1 - decays[i])});
  }
  nb::gil_scoped_release release;
  instruction_set().adam(work.data(), static_cast<int>(work.size()));
}

}  // namespace
}  // namespace gns

NB_MODULE(gns_native, m) {
  using namespace gns;
  nb::set_leak_warnings(false);  // frames may outlive the interpreter in reference cycles of autograd graphs
  m.doc() = "Native kernels of gns; use gns.gaussian_renderer and gns.losses.";
  m.attr("SOURCE_HASH") = GNS_SOURCE_HASH;
  bind<float>(m.def_submodule("float32"));
  bind<double>(m.def_submodule("float64"));
  m.def("adam", &adam, as_is("tensors"), "rates"_a, "steps"_a, "decays"_a, "beta1"_a, "beta2"_a, "epsilon"_a);
  m.def("release_memory", [] {
    FramePool<float>::get().clear();
    FramePool<double>::get().clear();
  });
  m.def("kept_bytes", [] { return FramePool<float>::get().bytes() + FramePool<double>::get().bytes(); });
  m.def("thread_count", &thread_count);
  m.def("set_thread_count", &set_thread_count, "count"_a, nb::call_guard<nb::gil_scoped_release>());
  m.def("instruction_sets", [] {
    std::vector<std::string> names;
    for (auto set = available_instruction_sets(); *set; ++set) names.emplace_back((*set)->name);
    return names;
  });
  m.def("use_instruction_set", [](const std::string& name) {
    if (!use_instruction_set(name.c_str())) throw nb::value_error(("no such instruction set here: " + name).c_str());
  });
#if defined(GNS_COUNTERS)
  m.def("lanes", [] { return instruction_set().lanes; });
  m.def("multiply_adds", [](int64_t rounds) { return instruction_set().multiply_adds(rounds); }, "rounds"_a,
        nb::call_guard<nb::gil_scoped_release>());
#endif
}
