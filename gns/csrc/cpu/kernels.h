// What every instruction set's build provides.
#pragma once

#include "frame.h"

namespace gns::GNS_ISA {

template <class T> void project(Frame<T>&, const Parameters<T>&, bool with_colour, T* radii);
template <class T> void list_instances(Frame<T>&);
template <class T>
void blend(Frame<T>&, const T* background, const Pictures<T>&, const T* edges, T* importance);
template <class T> void blend_backward(Frame<T>&, const PictureGradients<T>&, bool absolute);
template <class T> void project_backward(Frame<T>&, const Parameters<T>&, const Gradients<T>&);
template <class T>
double photometric_loss(int width, int height, const T* image, const uint8_t* target, const uint8_t* mask, T* gradient,
                        bool squared);
template <class T>
void dissimilarity(int width, int height, const T* image, const uint8_t* target, const uint8_t* mask, T* out);
void adam(const AdamTensor*, int tensors);
#if defined(GNS_COUNTERS)
template <class T> size_t count_pairs(const Frame<T>&);
double multiply_adds(int64_t rounds);
#endif

}  // namespace gns::GNS_ISA
