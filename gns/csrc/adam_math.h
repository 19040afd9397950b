// Adam (Kingma & Ba, 2015, Algorithm 1) with torch's semantics: ε is added to the root of the corrected second moment.
// Weight decay is decoupled from the gradient (Loshchilov & Hutter, 2019, Algorithm 2), but not in units of the rate.
#pragma once

#include "backend.h"

namespace gns {

// The same for all elements of a tensor. `step` is rate / (1 − β₁ᵗ) and `inverse_root` is 1 / √(1 − β₂ᵗ): the bias
// corrections of step t, worked out once. `keep` is 1 − decay.
template <class R> struct AdamFactors {
  R beta1, one_minus_beta1, beta2, one_minus_beta2, epsilon;
  R step, inverse_root, keep;
};

// One element's parameter θ, and the moments m and v of its gradient.
template <class R> struct AdamElement { R parameter, first_moment, second_moment; };

// m ← β₁ m + (1 − β₁) g,  v ← β₂ v + (1 − β₂) g²,  θ ← keep · θ − step · m / (√v / √(1 − β₂ᵗ) + ε).
template <class R> GNS_MATH AdamElement<R> adam_step(const AdamElement<R>& e, R gradient, const AdamFactors<R>& f) {
  const R m = fma(f.beta1, e.first_moment, f.one_minus_beta1 * gradient);
  const R v = fma(f.beta2, e.second_moment, f.one_minus_beta2 * gradient * gradient);
  return {fnma(f.step, m / fma(sqrt(v), f.inverse_root, f.epsilon), f.keep * e.parameter), m, v};
}

}  // namespace gns
