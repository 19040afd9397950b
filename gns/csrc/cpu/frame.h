// What one rendering keeps between its stages, and for its backward pass.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "../splat_math.h"

namespace gns {

constexpr int kPixels = kTile * kTile;
constexpr int kGroup = 1024;        // Gaussians a task of the per-Gaussian stages

// Large buffers ask for huge pages: tiles read their splats from all over the memory, and each small page costs a walk.
inline void* allocate(size_t bytes) {
  constexpr size_t kHugePage = size_t(1) << 21;
  const size_t alignment = bytes >= kHugePage ? kHugePage : 64;
  const size_t rounded = (bytes + alignment - 1) / alignment * alignment;
  void* data = std::aligned_alloc(alignment, rounded);
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (data && alignment == kHugePage) (void)madvise(data, rounded, MADV_HUGEPAGE);
#endif
  return data;
}

// Uninitialised memory, aligned to a cache line, that only ever grows. Contents do not survive a growth.
template <class T> class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(data_); }

  T* ensure(size_t count) {
    if (count > capacity_) {
      std::free(data_);
      data_ = nullptr;
      capacity_ = count + count / 8;
      data_ = static_cast<T*>(allocate(capacity_ * sizeof(T)));
      if (!data_) {
        capacity_ = 0;
        throw std::bad_alloc();
      }
    }
    return data_;
  }
  T* get() const { return data_; }
  T& operator[](size_t i) const { return data_[i]; }
  size_t bytes() const { return capacity_ * sizeof(T); }

 private:
  T* data_ = nullptr;
  size_t capacity_ = 0;
};

// A Gaussian as the blending loops read it: (qa, qb, qc) is its Exponent, ql the binary logarithm of its opacity.
template <class T> struct alignas(sizeof(T) * 16) Splat {
  T x, y;
  T qa, qb, qc, ql;
  T red, green, blue;
  Conic<T> conic;
  T depth, unused[3];
};

// Where its α ≥ 1/255 ellipse lies.
template <class T> struct Footprint {
  int32_t x0, x1, y0, y1;  // its PixelBox
  Ellipse<T> ellipse;
};

// One Gaussian in one tile. A bit of `blocks` for every register of pixels that the ellipse meets.
struct Instance {
  uint32_t gaussian;
  uint32_t slot;  // instances are numbered Gaussian by Gaussian, near to far
  uint64_t blocks;
};
struct StagedInstance {
  uint32_t gaussian;
  uint32_t tile;
  uint64_t blocks;
};
struct Key {
  uint32_t depth;  // bits of the float: ordered as unsigned, since depths are positive
  uint32_t gaussian;
};

// Instances of one stretch of the depth order, before they are dealt to their tiles.
struct Stage {
  StagedInstance* data = nullptr;
  size_t count = 0, capacity = 0;
  size_t first_slot = 0;
  ~Stage() { std::free(data); }
};
constexpr int kStages = 32;

// Raw parameters as planes: component k of Gaussian i at [k·count + i].
template <class T> struct Parameters {
  int count;
  int sh_degree;        // degree to evaluate
  const T* means;       // [3][N]
  const T* log_scales;  // [3][N]
  const T* quats;       // [4][N]
  const T* opacity_logits;      // [N]
  const T* sh_dc;       // [1·3][N]
  const T* sh_rest;     // [K·3][N]
};
// Gradients in the same layout; added to. Those by the mean on the screen are in units of half the image, W/2 and H/2,
// each [2][N] or null; written, not added to.
template <class T> struct Gradients {
  T *means, *log_scales, *quats, *opacity_logits, *sh_dc, *sh_rest;
  T* abs_mean2d;  // sum over pixels of the absolute gradient
  T* mean2d;      // sum over pixels, which is the gradient itself
};

// The pictures that blending draws, [H][W] or [3][H][W]; null where one is not wanted. Inverse depth and counts come only
// with the image.
template <class T> struct Pictures {
  T *image, *alpha;
  T* inverse_depth;  // Σ α T / z
  int32_t* counts;   // Gaussians that contribute
};
// Pictures that were drawn, and the gradients by them; those of alpha and inverse depth are null where they are zero.
template <class T> struct PictureGradients {
  const T *image, *inverse_depth;
  const T *by_image, *by_alpha, *by_inverse_depth;
};

template <class T> struct Frame {
  PinholeCamera<T> camera;
  int tiles_x = 0, tiles_y = 0;
  int count = 0;    // Gaussians
  int visible = 0;
  size_t instances = 0;

  Buffer<Splat<T>> splats;           // by Gaussian
  Buffer<Footprint<T>> footprints;   // by Gaussian
  Buffer<uint32_t> slot_count;       // by Gaussian; 0 when not drawn
  Buffer<uint32_t> slot_begin;       // by Gaussian, where slot_count > 0
  Buffer<Key> keys, keys_sorted;     // visible ones, near to far in keys_sorted
  Buffer<int32_t> group_visible;
  Stage stages[kStages];
  Buffer<uint32_t> stage_tiles;      // [kStages][tiles]: counts, then write positions
  Buffer<uint32_t> tile_begin;       // [tiles + 1]
  Buffer<Instance> list;             // by tile, near to far
  Buffer<T> transmittance;           // [tiles][256], block by block; negative where the pixel stopped early
  Buffer<T> packets;                 // [instances][kPacket]
  Buffer<T> scores;                  // [instances]

  size_t bytes() const {
    size_t staged = 0;
    for (const Stage& stage : stages) staged += stage.capacity * sizeof(StagedInstance);
    return splats.bytes() + footprints.bytes() + slot_count.bytes() + slot_begin.bytes() + keys.bytes() +
           keys_sorted.bytes() + group_visible.bytes() + stage_tiles.bytes() + tile_begin.bytes() + list.bytes() +
           transmittance.bytes() + packets.bytes() + scores.bytes() + staged;
  }
};

// One tensor of an optimiser step, see adam().
struct AdamTensor {
  float *parameter, *gradient, *first, *second;
  size_t count;
  double beta1, beta2;
  float epsilon;
  float step;            // learning rate / (1 − β₁ᵗ)
  float inverse_root;    // 1 / sqrt(1 − β₂ᵗ)
  float keep;            // 1 − decay
};

// The stages, in order. One table for each instruction set.
template <class T> struct Kernels {
  void (*project)(Frame<T>&, const Parameters<T>&, bool with_colour, T* radii);
  void (*list_instances)(Frame<T>&);
  // edges [H][W] or null with importance [N]
  void (*blend)(Frame<T>&, const T* background, const Pictures<T>&, const T* edges, T* importance);
  void (*blend_backward)(Frame<T>&, const PictureGradients<T>&, bool absolute);
  void (*project_backward)(Frame<T>&, const Parameters<T>&, const Gradients<T>&);
  double (*photometric_loss)(int width, int height, const T* image, const uint8_t* target, const uint8_t* mask,
                             T* gradient, bool squared);
  void (*dissimilarity)(int width, int height, const T* image, const uint8_t* target, const uint8_t* mask, T* out);
#if defined(GNS_COUNTERS)
  size_t (*count_pairs)(const Frame<T>&);
#endif
};
struct InstructionSet {
  const char* name;
  Kernels<float> single;
  Kernels<double> twofold;
  void (*adam)(const AdamTensor*, int tensors);
#if defined(GNS_COUNTERS)
  int lanes;
  double (*multiply_adds)(int64_t rounds);
#endif
};

template <class T> void sort_by_depth(Frame<T>& frame);

}  // namespace gns
