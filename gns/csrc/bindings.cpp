// The Python face of the kernels: plain arrays in, plain arrays filled. Nothing here knows of torch.
//
// Shapes are those of planes: the Gaussian's index runs fastest (means [3, N], sh_rest [K, 3, N], ...).
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
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

// Null where no array was given. An array without elements has no address either: it gets one, so as to count as given.
template <class A> auto pointer(const std::optional<A>& array) -> decltype(array->data()) {
  static std::remove_const_t<typename A::Scalar> nothing;
  if (!array) return nullptr;
  return array->data() ? array->data() : &nothing;
}

void require(bool condition, const char* message) {
  if (!condition) throw nb::value_error(message);
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
  void give(std::unique_ptr<Frame<T>> frame) {
    std::lock_guard lock(mutex);
    idle.push_back(std::move(frame));
  }
  void clear() {
    std::lock_guard lock(mutex);
    idle.clear();
  }
};

using Clock = std::chrono::steady_clock;

// One rendering: what its stages hand on, kept until the backward pass is done or nobody wants it any more.
template <class T> class Rendering {
 public:
  Rendering() : frame_(FramePool<T>::get().take()) {}
  ~Rendering() { FramePool<T>::get().give(std::move(frame_)); }

  void forward(const std::array<double, 4>& intrinsics, const std::array<int, 2>& size,
               const std::array<double, 16>& world_to_camera, In<T, 2> means, In<T, 2> log_scales, In<T, 2> quats,
               In<T, 1> opacity_logits, In<T, 3> sh_dc, In<T, 3> sh_rest, int sh_degree, const std::array<double, 3>& background,
               MaybeOut<T, 3> image, MaybeOut<T, 2> alpha, MaybeOut<T, 1> radii, MaybeIn<T, 2> edges,
               MaybeOut<T, 1> importance) {
    set_camera(intrinsics, size, world_to_camera);
    const Parameters<T> in = parameters(means, log_scales, quats, opacity_logits, sh_dc, sh_rest, sh_degree);
    const size_t width = size[0], height = size[1], n = in.count;
    require(image || importance, "nothing to render: give image, importance or both");
    require(!image || (image->shape(0) == 3 && image->shape(1) == height && image->shape(2) == width),
            "image must be [3, height, width]");
    require(!alpha || (alpha->shape(0) == height && alpha->shape(1) == width), "alpha must be [height, width]");
    require(!radii || radii->shape(0) == n, "radii must be [N]");
    require(bool(edges) == bool(importance), "edges and importance belong together");
    require(!edges || (edges->shape(0) == height && edges->shape(1) == width), "edges must be [height, width]");
    require(!importance || importance->shape(0) == n, "importance must be [N]");
    const T bg[3] = {T(background[0]), T(background[1]), T(background[2])};

    nb::gil_scoped_release release;
    const Kernels<T>& k = kernels<T>();
    Frame<T>& frame = *frame_;
    measure("project", [&] { k.project(frame, in, bool(image), pointer(radii)); });
    measure("sort", [&] { sort_by_depth(frame); });
    measure("tiles", [&] { k.list_instances(frame); });
    require_without_gil(frame.instances < UINT32_MAX, "more than 2^32 tile instances: the Gaussians are too large");
    measure("blend", [&] {
      k.blend(frame, bg, pointer(image), pointer(alpha), pointer(edges), pointer(importance));
    });
  }

  void backward(In<T, 2> means, In<T, 2> log_scales, In<T, 2> quats, In<T, 1> opacity_logits, In<T, 3> sh_dc, In<T, 3> sh_rest,
                int sh_degree, In<T, 3> image, In<T, 3> image_gradient, MaybeIn<T, 2> alpha_gradient,
                Array<T, 2> means_gradient, Array<T, 2> log_scales_gradient, Array<T, 2> quats_gradient,
                Array<T, 1> opacity_logits_gradient, Array<T, 3> sh_dc_gradient, Array<T, 3> sh_rest_gradient,
                MaybeOut<T, 2> abs_mean2d) {
    const Parameters<T> in = parameters(means, log_scales, quats, opacity_logits, sh_dc, sh_rest, sh_degree);
    require(in.count == frame_->count, "backward was given other Gaussians than forward");
    const size_t n = in.count, height = frame_->camera.height, width = frame_->camera.width;
    require(image.shape(1) == height && image.shape(2) == width, "image must be [3, height, width]");
    require(image_gradient.shape(0) == 3 && image_gradient.shape(1) == height && image_gradient.shape(2) == width,
            "the image's gradient must be [3, height, width]");
    require(!alpha_gradient || (alpha_gradient->shape(0) == height && alpha_gradient->shape(1) == width),
            "the alpha's gradient must be [height, width]");
    require(means_gradient.size() == 3 * n && log_scales_gradient.size() == 3 * n && quats_gradient.size() == 4 * n &&
                opacity_logits_gradient.size() == n && sh_dc_gradient.size() == 3 * n &&
                sh_rest_gradient.size() == sh_rest.size() && (!abs_mean2d || abs_mean2d->size() == 2 * n),
            "gradients must have the shapes of their parameters");
    const Gradients<T> out = {means_gradient.data(),  log_scales_gradient.data(), quats_gradient.data(),
                              opacity_logits_gradient.data(), sh_dc_gradient.data(),      sh_rest_gradient.data(),
                              pointer(abs_mean2d)};
    nb::gil_scoped_release release;
    const Kernels<T>& k = kernels<T>();
    const bool absolute = out.abs_mean2d != nullptr;
    measure("blend_backward", [&] {
      k.blend_backward(*frame_, image.data(), image_gradient.data(), pointer(alpha_gradient), absolute);
    });
    measure("project_backward", [&] { k.project_backward(*frame_, in, out); });
  }

  // Seconds each stage took, this time round.
  const std::map<std::string, double>& timings() const { return timings_; }
  int visible() const { return frame_->visible; }
  size_t instances() const { return frame_->instances; }
  size_t bytes() const { return frame_->bytes(); }

  // (pixel, Gaussian) pairs that contribute; slow, for benchmarks.
  size_t pairs() const { return kernels<T>().count_pairs(*frame_); }

  // Registers of pixels that the blending loops may visit; `lanes()` pixels in each.
  size_t blocks() const {
    size_t sum = 0;
    for (size_t i = 0; i < frame_->instances; ++i) sum += __builtin_popcountll(frame_->list[i].blocks);
    return sum;
  }

 private:
  template <class Body> void measure(const char* stage, Body body) {
    const auto start = Clock::now();
    body();
    timings_[stage] = std::chrono::duration<double>(Clock::now() - start).count();
  }

  static void require_without_gil(bool condition, const char* message) {
    if (condition) return;
    nb::gil_scoped_acquire acquire;
    throw nb::value_error(message);
  }

  void set_camera(const std::array<double, 4>& intrinsics, const std::array<int, 2>& size,
                  const std::array<double, 16>& m) {
    PinholeCamera<T>& camera = frame_->camera;
    require(size[0] > 0 && size[1] > 0, "an image has at least one pixel each way");
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
    camera.limit_x = T(kFrustumMargin * 0.5 * size[0] / intrinsics[0]);
    camera.limit_y = T(kFrustumMargin * 0.5 * size[1] / intrinsics[1]);
    frame_->tiles_x = (size[0] + kTile - 1) / kTile;
    frame_->tiles_y = (size[1] + kTile - 1) / kTile;
  }

  static Parameters<T> parameters(const In<T, 2>& means, const In<T, 2>& log_scales, const In<T, 2>& quats,
                                  const In<T, 1>& opacity_logits, const In<T, 3>& sh_dc, const In<T, 3>& sh_rest,
                                  int sh_degree) {
    const size_t n = opacity_logits.shape(0);
    require(n < size_t(INT32_MAX) / 2, "too many Gaussians");
    require(means.shape(0) == 3 && means.shape(1) == n, "means must be planes [3, N]");
    require(log_scales.shape(0) == 3 && log_scales.shape(1) == n, "log_scales must be planes [3, N]");
    require(quats.shape(0) == 4 && quats.shape(1) == n, "quats must be planes [4, N]");
    require(sh_dc.shape(0) == 1 && sh_dc.shape(1) == 3 && sh_dc.shape(2) == n, "sh_dc must be planes [1, 3, N]");
    require(sh_rest.shape(1) == 3 && sh_rest.shape(2) == n, "sh_rest must be planes [K, 3, N]");
    require(sh_degree >= 0 && sh_degree <= 3 && sh_rest.shape(0) + 1 >= size_t((sh_degree + 1) * (sh_degree + 1)),
            "sh_degree must be 0 to 3 and sh_rest hold its coefficients");
    return {static_cast<int>(n), sh_degree,     means.data(), log_scales.data(),
            quats.data(),        opacity_logits.data(), sh_dc.data(), sh_rest.data()};
  }

  std::unique_ptr<Frame<T>> frame_;
  std::map<std::string, double> timings_;
};

template <class T> void bind(nb::module_& m, const char* name) {
  nb::class_<Rendering<T>>(m, name)
      .def(nb::init<>())
      .def("forward", &Rendering<T>::forward, "intrinsics"_a, "size"_a, "world_to_camera"_a, "means"_a, "log_scales"_a,
           "quats"_a, "opacity_logits"_a, "sh_dc"_a, "sh_rest"_a, "sh_degree"_a, "background"_a, "image"_a.none(),
           "alpha"_a.none(), "radii"_a.none(), "edges"_a.none(), "importance"_a.none())
      .def("backward", &Rendering<T>::backward, "means"_a, "log_scales"_a, "quats"_a, "opacity_logits"_a, "sh_dc"_a,
           "sh_rest"_a, "sh_degree"_a, "image"_a, "image_gradient"_a, "alpha_gradient"_a.none(), "means_gradient"_a,
           "log_scales_gradient"_a, "quats_gradient"_a, "opacity_logits_gradient"_a, "sh_dc_gradient"_a, "sh_rest_gradient"_a,
           "abs_mean2d"_a.none())
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
      .def_prop_ro("bytes", &Rendering<T>::bytes);

  m.def(
      "photometric_loss",
      [](In<T, 3> image, In<uint8_t, 3> target, MaybeIn<uint8_t, 2> mask, MaybeOut<T, 3> gradient) {
        const size_t height = image.shape(1), width = image.shape(2);
        require(image.shape(0) == 3, "image must be [3, height, width]");
        require(target.shape(0) == height && target.shape(1) == width && target.shape(2) == 3,
                "target must be [height, width, 3], the size of the image");
        require(!mask || (mask->shape(0) == height && mask->shape(1) == width), "mask must be [height, width]");
        require(!gradient || (gradient->shape(0) == 3 && gradient->shape(1) == height && gradient->shape(2) == width),
                "gradient must have the shape of the image");
        nb::gil_scoped_release release;
        return kernels<T>().photometric_loss(static_cast<int>(width), static_cast<int>(height), image.data(),
                                             target.data(), pointer(mask), pointer(gradient));
      },
      "image"_a, "target"_a, "mask"_a.none(), "gradient"_a.none());
}

void adam(const std::vector<std::array<Array<float, 1>, 4>>& tensors, const std::vector<double>& rates,
          const std::vector<int64_t>& steps, double beta1, double beta2, double epsilon) {
  require(tensors.size() == rates.size() && tensors.size() == steps.size(), "one rate and one step for each tensor");
  std::vector<AdamTensor> work;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const auto& [parameter, gradient, first, second] = tensors[i];
    const size_t count = parameter.shape(0);
    require(gradient.shape(0) == count && first.shape(0) == count && second.shape(0) == count,
            "parameter, gradient and moments must have the same size");
    require(steps[i] > 0, "steps count from 1");
    const double t = static_cast<double>(steps[i]);
    work.push_back({parameter.data(), gradient.data(), first.data(), second.data(), count, beta1, beta2,
                    static_cast<float>(epsilon), static_cast<float>(rates[i] / (1 - std::pow(beta1, t))),
                    static_cast<float>(1 / std::sqrt(1 - std::pow(beta2, t)))});
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
  bind<float>(m, "RenderingFloat");
  bind<double>(m, "RenderingDouble");
  m.def("adam", &adam, "tensors"_a, "rates"_a, "steps"_a, "beta1"_a, "beta2"_a, "epsilon"_a);
  m.def("release_memory", [] {
    FramePool<float>::get().clear();
    FramePool<double>::get().clear();
  });
  m.def("thread_count", &thread_count);
  m.def("set_thread_count", &set_thread_count, "count"_a, nb::call_guard<nb::gil_scoped_release>());
  m.def("instruction_sets", [] {
    std::vector<std::string> names;
    for (auto set = available_instruction_sets(); *set; ++set) names.emplace_back((*set)->name);
    return names;
  });
  m.def("instruction_set", [] { return std::string(instruction_set().name); });
  m.def("lanes", [] { return instruction_set().lanes; });
  m.def("multiply_adds", [](int64_t rounds) { return instruction_set().multiply_adds(rounds); }, "rounds"_a,
        nb::call_guard<nb::gil_scoped_release>());
  m.def("use_instruction_set", [](const std::string& name) {
    if (!use_instruction_set(name.c_str())) throw nb::value_error(("no such instruction set here: " + name).c_str());
  });
}
