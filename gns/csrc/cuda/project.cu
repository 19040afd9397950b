// From raw parameters to splats on the screen, a thread a Gaussian.
#include "tiles.cuh"

namespace gns {

// Returns whether all coefficients were finite.
GNS_DEVICE bool load_colour(const PinholeCamera<float>& camera, const Parameters& in, const Vec3<float>& mean, int i,
                            float (&colour)[3]) {
  const size_t n = in.count;
  auto coefficient = [&](int k, int c) { return in.sh_rest[(3 * k + c) * n + i]; };
  const float constant[3] = {in.sh_dc[i], in.sh_dc[n + i], in.sh_dc[2 * n + i]};
  return evaluate_colour(camera, mean, in.sh_degree, constant, coefficient, colour);
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
  const RawGeometry<float> raw = load_geometry(in, i);
  const Projection<float> p = project(camera, raw);
  const float logit = in.opacity_logits[i];
  const Opacity<float> opacity = seen_opacity(camera, p, logit);
  const float level = cutoff_level(opacity);
  const PixelBox<float> box = pixel_box(camera, p, level);
  if (!is_drawn(raw, logit, p, level, box)) return false;

  const Footprint f = {ellipse_of(p, level), int(box.x0), int(box.x1), int(box.y0), int(box.y1)};
  const Exponent<float> exponent = exponent_of(conic_of(p));
  const float longest = radius(p, level), depth = p.view.z;
  float colour[3] = {0.0f, 0.0f, 0.0f};
  if (with_colour && !load_colour(camera, in, raw.mean, i, colour)) return false;

  const Ellipse<float>& e = f.ellipse;
  float4* splat = out.splats + size_t(i) * kSplat;
  splat[0] = make_float4(e.x, e.y, __uint_as_float(pack_span(f.x0, f.x1)), __uint_as_float(pack_span(f.y0, f.y1)));
  splat[1] = make_float4(exponent.qa, exponent.qb, exponent.qc, opacity.log2_value);
  splat[2] = make_float4(colour[0], colour[1], colour[2], depth);
  float4* footprint = out.footprints + size_t(i) * kFootprint;
  footprint[0] = make_float4(e.half_width, e.level, e.inverse_a, e.slope);
  footprint[1] = make_float4(e.residual, e.x_top, 0.0f, 0.0f);

  int tiles = 0;
  for (int column = first_column(f); column <= last_column(f); ++column)
    tiles += span_length(tiles_of_column(f, column));
  out.tile_counts[i] = tiles;
  out.depth_keys[i] = __float_as_int(depth);  // positive floats order like their bits
  if (out.radii) out.radii[i] = longest;
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
