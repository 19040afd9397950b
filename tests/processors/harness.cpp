// Runs the CPU kernels without Python, so that they can be built for another processor and run in an emulator.
// usage: harness INPUT OUTPUT; see test_processors.py for both layouts.
#include <cmath>
#include <cstdio>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/frame.h"

using namespace gns;

static void read(std::FILE* file, void* to, size_t bytes) {
  if (std::fread(to, 1, bytes, file) != bytes) std::exit(3);
}
static void write(std::FILE* file, const std::vector<float>& values) {
  std::fwrite(values.data(), sizeof(float), values.size(), file);
}

int main(int, char** argv) {
  std::FILE* in = std::fopen(argv[1], "rb");
  std::FILE* out = std::fopen(argv[2], "wb");
  if (!in || !out) return 2;
  int head[4];  // width, height, N, spherical-harmonic degree
  read(in, head, sizeof head);
  const int width = head[0], height = head[1], n = head[2], degree = head[3];
  const size_t pixels = size_t(width) * height, terms = (degree + 1) * (degree + 1) - 1;
  float camera[4 + 16];  // fx, fy, cx, cy; world to camera
  read(in, camera, sizeof camera);
  const size_t sizes[6] = {3, 3, 4, 1, 3, 3 * terms};
  std::vector<float> parameters[6], gradients[6];
  for (int k = 0; k < 6; ++k) {
    parameters[k].resize(sizes[k] * n);
    gradients[k].assign(sizes[k] * n, 0.0f);
    read(in, parameters[k].data(), parameters[k].size() * sizeof(float));
  }
  std::vector<uint8_t> photo(3 * pixels);
  read(in, photo.data(), photo.size());

  const InstructionSet& set = instruction_set();
  std::printf("%s, %d lanes\n", set.name, set.lanes);
  const Kernels<float>& kernels = set.single;
  Frame<float> frame;
  PinholeCamera<float>& c = frame.camera;
  c.width = width;
  c.height = height;
  c.fx = camera[0], c.fy = camera[1], c.cx = camera[2], c.cy = camera[3];
  const float* m = camera + 4;
  for (int row = 0; row < 3; ++row) {
    for (int column = 0; column < 3; ++column) c.rotation[3 * row + column] = m[4 * row + column];
    c.translation[row] = m[4 * row + 3];
    c.center[row] = -(m[row] * m[3] + m[4 + row] * m[7] + m[8 + row] * m[11]);
  }
  c.limit_x = float(frustum_limit(width, c.fx));
  c.limit_y = float(frustum_limit(height, c.fy));
  frame.tiles_x = (width + kTile - 1) / kTile;
  frame.tiles_y = (height + kTile - 1) / kTile;
  const Parameters<float> raw = {n, degree, parameters[0].data(), parameters[1].data(), parameters[2].data(),
                                 parameters[3].data(), parameters[4].data(), parameters[5].data()};
  std::vector<float> image(3 * pixels), alpha(pixels), radii(n), importance(n), edges(pixels), gradient(3 * pixels);
  for (size_t i = 0; i < pixels; ++i) edges[i] = photo[3 * i] / 255.0f;
  const float background[3] = {0.2f, 0.4f, 0.6f};
  kernels.project(frame, raw, true, radii.data());
  sort_by_depth(frame);
  kernels.list_instances(frame);
  kernels.blend(frame, background, {image.data(), alpha.data(), nullptr, nullptr}, edges.data(), importance.data());
  const double loss =
      kernels.photometric_loss(width, height, image.data(), photo.data(), nullptr, gradient.data(), false);
  std::vector<float> abs_mean2d(2 * n), mean2d(2 * n);
  kernels.blend_backward(frame, {image.data(), nullptr, gradient.data(), nullptr, nullptr}, true);
  kernels.project_backward(frame, raw, {gradients[0].data(), gradients[1].data(), gradients[2].data(),
                                        gradients[3].data(), gradients[4].data(), gradients[5].data(),
                                        abs_mean2d.data(), mean2d.data()});
  // One step of Adam on the means, with the gradients as they are.
  std::vector<float> stepped = parameters[0], spent = gradients[0], first(3 * n), second(3 * n);
  const AdamTensor tensor = {stepped.data(), spent.data(), first.data(), second.data(), size_t(3 * n), 0.9, 0.999,
                             1e-15f, float(0.01 / (1 - 0.9)), float(1 / std::sqrt(1 - 0.999)), 1.0f};
  set.adam(&tensor, 1);

  write(out, image);
  write(out, alpha);
  write(out, radii);
  write(out, importance);
  write(out, {float(loss)});
  for (const auto& values : gradients) write(out, values);
  write(out, abs_mean2d);
  write(out, mean2d);
  write(out, stepped);
  return std::fclose(out);
}
