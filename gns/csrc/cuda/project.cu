// From raw parameters to splats on the screen, a thread a Gaussian.
#include "tiles.cuh"

namespace gns {

// Adds one band of coefficients, from the one numbered kFirst on. Without branches inside, so that all its loads are in
// flight together.
template <int kFirst, int kCount>
GNS_DEVICE void add_band(const Parameters& in, const float (&basis)[15], int i, float (&colour)[3]) {
  const size_t n = in.count;
#pragma unroll
  for (int k = kFirst; k < kFirst + kCount; ++k)
    for (int c = 0; c < 3; ++c) colour[c] = fma(basis[k], in.sh_rest[(3 * k + c) * n + i], colour[c]);
}

// Returns whether all coefficients were finite.
GNS_DEVICE bool evaluate_colour(const Parameters& in, const PinholeCamera<float>& camera, const Vec3<float>& mean,
                                int i, float (&colour)[3]) {
  const size_t n = in.count;
  for (int c = 0; c < 3; ++c) colour[c] = fma(float(kSH0), in.sh_dc[c * n + i], 0.5f);
  if (in.sh_degree > 0) {
    float inverse, basis[15];
    sh_basis(view_direction(camera, mean, inverse), in.sh_degree, basis, 0.0f);
    add_band<0, 3>(in, basis, i, colour);
    if (in.sh_degree > 1) add_band<3, 5>(in, basis, i, colour);
    if (in.sh_degree > 2) add_band<8, 7>(in, basis, i, colour);
  }
  const bool usable = finite(colour[0]) && finite(colour[1]) && finite(colour[2]);
  for (float& channel : colour) channel = max(channel, 0.0f);
  return usable;
}

// What project hands on for one Gaussian, in the arrays' order.
struct ProjectOutputs {
  float4 *splats, *footprints;
  int *depth_keys, *tile_counts;
  float* radii;
};

// Writes all that belongs to a Gaussian that is drawn; returns whether it is.
GNS_DEVICE bool project_one(const PinholeCamera<float>& camera, const Parameters& in, bool with_colour, int i,
                            const ProjectOutputs& out) {
  const RawGeometry raw = load_geometry(in, i);
  const Projection<float> p = project<float, float>(camera, raw.mean, raw.log_scale, raw.quat);
  const float logit = in.opacity_logits[i];
  const Opacity<float> opacity = activate_opacity(logit, 0.0f);

  // Level of the α = 1/255 ellipse, dᵀΣ₂⁻¹d = 2 ln(255·o).
  const float level = float(2 * kLn2) * (opacity.log2_value - float(kLog2MinAlpha));
  const float half_x = sqrt(level * p.a), half_y = sqrt(level * p.c);
  const float x0 = max(ceilf(p.u - half_x - 0.5f), 0.0f);
  const float x1 = min(floorf(p.u + half_x - 0.5f), float(camera.width) - 1.0f);
  const float y0 = max(ceilf(p.v - half_y - 0.5f), 0.0f);
  const float y1 = min(floorf(p.v + half_y - 0.5f), float(camera.height) - 1.0f);

  // A chain of comparisons that are all false for NaN: a Gaussian with a broken parameter is simply not drawn.
  bool drawn = p.view.z > float(kNear) && finite(p.view.z) && finite(p.u) && finite(p.v) && p.determinant > 0.0f &&
               finite(p.determinant) && finite(p.a) && finite(p.c) && level >= 0.0f && finite(logit) && x0 <= x1 &&
               y0 <= y1;
  for (const float log_scale : raw.log_scale) drawn = drawn && finite(log_scale);
  if (!drawn) return false;

  // A little more than the ellipse, so that rounding can only add pixels to look at.
  const float safe_level = fma(level, 1.0f + 1e-5f, 1e-5f);
  const float inverse_a = 1.0f / p.a, inverse_det = 1.0f / p.determinant;
  const Footprint f = {p.u,
                       p.v,
                       sqrt(safe_level * p.a),
                       safe_level,
                       inverse_a,
                       p.b * inverse_a,
                       p.determinant * inverse_a,
                       p.b * sqrt(safe_level / p.c),
                       int(x0),
                       int(x1),
                       int(y0),
                       int(y1)};
  const float conic_a = p.c * inverse_det, conic_b = -(p.b * inverse_det), conic_c = p.a * inverse_det;
  const float middle = 0.5f * (p.a + p.c), spread = 0.5f * (p.a - p.c);
  const float radius = sqrt(level * (middle + sqrt(fma(spread, spread, p.b * p.b))));
  const float depth = p.view.z;

  float colour[3] = {0.0f, 0.0f, 0.0f};
  if (with_colour && !evaluate_colour(in, camera, raw.mean, i, colour)) return false;

  float4* splat = out.splats + size_t(i) * kSplat;
  splat[0] = make_float4(f.x, f.y, __uint_as_float(pack_span(f.x0, f.x1)), __uint_as_float(pack_span(f.y0, f.y1)));
  splat[1] = make_float4(float(-0.5 * kLog2E) * conic_a, float(-kLog2E) * conic_b, float(-0.5 * kLog2E) * conic_c,
                         opacity.log2_value);
  splat[2] = make_float4(colour[0], colour[1], colour[2], depth);
  float4* footprint = out.footprints + size_t(i) * kFootprint;
  footprint[0] = make_float4(f.half_width, f.level, f.inverse_a, f.slope);
  footprint[1] = make_float4(f.residual, f.x_top, 0.0f, 0.0f);

  int tiles = 0;
  for (int column = first_column(f); column <= last_column(f); ++column)
    tiles += span_length(tiles_of_column(f, column));
  out.tile_counts[i] = tiles;
  out.depth_keys[i] = __float_as_int(depth);  // positive floats order like their bits
  if (out.radii) out.radii[i] = radius;
  return true;
}

}  // namespace gns

extern "C" __global__ void __launch_bounds__(256, 4)
    project(GNS_CAMERA_ARGUMENTS, int count, int sh_degree, int with_colour, const float* means,
            const float* log_scales, const float* quats, const float* opacity_logits, const float* sh_dc, const float* sh_rest,
            float4* splats, float4* footprints, int* depth_keys, int* tile_counts, float* radii) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const gns::Parameters in = {count, sh_degree, means, log_scales, quats, opacity_logits, sh_dc, sh_rest};
  const gns::ProjectOutputs out = {splats, footprints, depth_keys, tile_counts, radii};
  if (gns::project_one(GNS_CAMERA, in, with_colour != 0, i, out)) return;
  depth_keys[i] = 0x7FFFFFFF;  // behind everything
  tile_counts[i] = 0;
  if (radii) radii[i] = 0.0f;
}
