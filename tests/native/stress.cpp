// The kernels and the thread pool, called as a program with many threads may call them; built under a sanitizer by
// benchmarks/check_native.py. Ends with status 1 where two renderings of the same differ by a bit, or an exception of a
// task is lost.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <random>
#include <stdexcept>
#include <thread>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/frame.h"
#include "cpu/threads.h"

using namespace gns;

namespace {

constexpr int kWidth = 83, kHeight = 45, kGaussians = 3000, kDegree = 2, kTerms = (kDegree + 1) * (kDegree + 1) - 1;
constexpr size_t kImage = size_t(kWidth) * kHeight;

void require(bool condition, const char* what) {
  if (condition) return;
  std::printf("FAILED: %s\n", what);
  std::exit(1);
}

// Everything that a rendering reads.
template <class T> struct Problem {
  std::vector<T> planes[6];
  std::vector<uint8_t> photo = std::vector<uint8_t>(3 * kImage);
  std::vector<T> edges = std::vector<T>(kImage);

  explicit Problem(unsigned seed) {
    std::mt19937 random(seed);
    auto uniform = [&](double low, double high) { return T(std::uniform_real_distribution<>(low, high)(random)); };
    const int sizes[6] = {3, 3, 4, 1, 3, 3 * kTerms};
    for (int k = 0; k < 6; ++k)
      for (int i = 0; i < sizes[k] * kGaussians; ++i)
        planes[k].push_back(k == 1 ? uniform(-4, -2) : k == 3 ? uniform(-4, 4) : uniform(-1, 1));
    for (int i = 0; i < kGaussians; ++i) planes[0][2 * kGaussians + i] += T(3);  // in front of the camera
    for (uint8_t& level : photo) level = static_cast<uint8_t>(random() & 255);
    for (size_t i = 0; i < kImage; ++i) edges[i] = photo[3 * i] / T(255);
  }
};

// Everything that a rendering writes, forward and backward, and a step of the optimiser.
template <class T> struct Outcome {
  std::vector<T> image = std::vector<T>(3 * kImage), alpha = std::vector<T>(kImage), by_image = std::vector<T>(3 * kImage);
  std::vector<T> unlike = std::vector<T>(kImage);
  std::vector<T> inverse_depth = std::vector<T>(kImage), by_inverse_depth = std::vector<T>(kImage, T(0.5));
  std::vector<int32_t> counts = std::vector<int32_t>(kImage);
  std::vector<T> radii = std::vector<T>(kGaussians), importance = std::vector<T>(kGaussians);
  std::vector<T> absolute = std::vector<T>(2 * kGaussians), is_signed = std::vector<T>(2 * kGaussians);
  std::vector<T> gradients[6];
  double loss = 0;

  bool operator==(const Outcome& other) const {
    for (int k = 0; k < 6; ++k)
      if (gradients[k] != other.gradients[k]) return false;
    return image == other.image && alpha == other.alpha && inverse_depth == other.inverse_depth &&
           counts == other.counts && radii == other.radii && importance == other.importance &&
           absolute == other.absolute && is_signed == other.is_signed && loss == other.loss && unlike == other.unlike;
  }
};

template <class T> const Kernels<T>& kernels_of(const InstructionSet& set);
template <> const Kernels<float>& kernels_of(const InstructionSet& set) { return set.single; }
template <> const Kernels<double>& kernels_of(const InstructionSet& set) { return set.twofold; }

template <class T> void set_camera(Frame<T>& frame) {
  PinholeCamera<T>& c = frame.camera = {};
  c.width = kWidth, c.height = kHeight;
  c.fx = c.fy = T(kWidth), c.cx = T(kWidth / 2.0), c.cy = T(kHeight / 2.0);
  for (int i = 0; i < 9; ++i) c.rotation[i] = T(i % 4 == 0);
  for (int i = 0; i < 3; ++i) c.translation[i] = c.center[i] = T(0);
  c.limit_x = T(frustum_limit(kWidth, c.fx)), c.limit_y = T(frustum_limit(kHeight, c.fy));
  frame.tiles_x = (kWidth + kTile - 1) / kTile;
  frame.tiles_y = (kHeight + kTile - 1) / kTile;
}

// With `maps` the pictures of inverse depth and counts as well, for which other loops are run, and the squared loss.
template <class T> Outcome<T> render(const Problem<T>& problem, Frame<T>& frame, bool maps) {
  const Kernels<T>& k = kernels_of<T>(instruction_set());
  Outcome<T> out;
  for (int i = 0; i < 6; ++i) out.gradients[i].assign(problem.planes[i].size(), T(0));
  set_camera(frame);
  const auto& p = problem.planes;
  const Parameters<T> raw = {kGaussians, kDegree, p[0].data(), p[1].data(), p[2].data(), p[3].data(), p[4].data(), p[5].data()};
  const T background[3] = {T(0.2), T(0.4), T(0.6)};
  k.project(frame, raw, true, out.radii.data());
  sort_by_depth(frame);
  k.list_instances(frame);
  T* const depth = maps ? out.inverse_depth.data() : nullptr;
  k.blend(frame, background, {out.image.data(), out.alpha.data(), depth, maps ? out.counts.data() : nullptr},
          problem.edges.data(), out.importance.data());
  const bool squared = maps;
  out.loss = k.photometric_loss(kWidth, kHeight, out.image.data(), problem.photo.data(), nullptr, out.by_image.data(),
                                squared);
  k.dissimilarity(kWidth, kHeight, out.image.data(), problem.photo.data(), nullptr, out.unlike.data());
  k.blend_backward(frame, {out.image.data(), depth, out.by_image.data(), nullptr, maps ? out.by_inverse_depth.data() : nullptr},
                   true);
  auto& g = out.gradients;
  k.project_backward(frame, raw, {g[0].data(), g[1].data(), g[2].data(), g[3].data(), g[4].data(), g[5].data(),
                                  out.absolute.data(), out.is_signed.data()});
  return out;
}

void step(const Problem<float>& problem, Outcome<float>& outcome) {
  std::vector<float> values = problem.planes[0], first(values.size()), second(values.size());
  const AdamTensor tensor = {values.data(), outcome.gradients[0].data(), first.data(), second.data(), values.size(),
                             0.9, 0.999, 1e-15f, 0.1f, 30.0f, 1.0f};
  instruction_set().adam(&tensor, 1);
  for (float value : outcome.gradients[0]) require(value == 0.0f, "spent gradients are zero");
}

// Several callers at once, each with frames of its own: one has the pool, the others work alone.
template <class T>
void render_from_many_threads(const Problem<T>& problem, const Outcome<T> (&expected)[2], int callers) {
  std::vector<std::thread> threads;
  for (int i = 0; i < callers; ++i) {
    threads.emplace_back([&] {
      Frame<T> frame;
      for (bool maps : {false, true})
        require(render(problem, frame, maps) == expected[maps], "every caller has the same bits");
    });
  }
  for (std::thread& thread : threads) thread.join();
}

void throw_from_tasks(int tasks) {
  std::atomic<int> ran{0};
  bool caught = false;
  try {
    parallel_for(tasks, [&](int task) {
      ++ran;
      if (task % 3 != 1) return;
      std::this_thread::sleep_for(std::chrono::microseconds(100));  // the others come to theirs meanwhile
      throw std::runtime_error("planted");
    });
  } catch (const std::runtime_error&) {
    caught = true;
  }
  require(caught, "an exception of a task reaches the caller");
  std::vector<int> done(100);  // and the pool works as before
  parallel_for(100, [&](int task) { done[task] = task + 1; });
  for (int task = 0; task < 100; ++task) require(done[task] == task + 1, "every task runs once");
}

void run_inside_a_task() {
  std::vector<int> sums(16);
  parallel_for(16, [&](int outer) {
    std::vector<int> inner(32);
    parallel_for(32, [&](int i) { inner[i] = i; });
    for (int value : inner) sums[outer] += value;
  });
  for (int sum : sums) require(sum == 31 * 16, "a task may have tasks");
}

void change_the_number_while_others_run(int rounds) {
  std::atomic<bool> over{false};
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&] {
      while (!over) {
        std::vector<int> done(40);
        parallel_for(40, [&](int task) { done[task] = 1; });
        for (int value : done) require(value == 1, "no task is lost when the pool changes");
      }
    });
  }
  for (int round = 0; round < rounds; ++round) {
    set_thread_count(1 + round % 5);
    std::this_thread::yield();
  }
  over = true;
  for (std::thread& thread : threads) thread.join();
}

// A child has none of the threads of its parent.
void fork_and_run() {
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    std::vector<int> done(50);
    parallel_for(50, [&](int task) { done[task] = 1; });
    for (int value : done)
      if (value != 1) _exit(1);
    _exit(0);
  }
  int status = 1;
  waitpid(child, &status, 0);
  require(status == 0, "a forked child starts threads of its own");
}

template <class T> void all_of(unsigned seed) {
  const Problem<T> problem(seed);
  set_thread_count(1);
  Frame<T> frame;
  const Outcome<T> expected[2] = {render(problem, frame, false), render(problem, frame, true)};
  require(std::isfinite(expected[0].loss) && expected[0].loss > 0, "there is something to see");
  for (int threads : {2, 4, 7}) {
    set_thread_count(threads);
    for (bool maps : {false, true})
      require(render(problem, frame, maps) == expected[maps], "the number of threads changes no bit");
  }
  render_from_many_threads(problem, expected, 3);
}

}  // namespace

int main(int, char** arguments) {
  const int rounds = std::atoi(arguments[1]);
  for (auto set = available_instruction_sets(); *set; ++set) {
    require(use_instruction_set((*set)->name), "an available instruction set can be used");
    for (int round = 0; round < rounds; ++round) {
      all_of<float>(round);
      if (round % 4 == 0) all_of<double>(round);
    }
    const Problem<float> problem(1);
    Frame<float> frame;
    Outcome<float> outcome = render(problem, frame, false);
    step(problem, outcome);
    std::printf("%s: %d rounds\n", (*set)->name, rounds);
  }
  set_thread_count(4);
  for (int round = 0; round < 20 * rounds; ++round) throw_from_tasks(50);
  for (int round = 0; round < 20 * rounds; ++round) run_inside_a_task();
  change_the_number_while_others_run(10 * rounds);
#if !defined(__SANITIZE_THREAD__)  // which cannot follow a child of a process with threads
  for (int round = 0; round < rounds; ++round) fork_and_run();
#else
  (void)fork_and_run;
#endif
  std::printf("everything ran\n");
}
