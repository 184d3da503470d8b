// The gradient to depthwise kernels that are wider than oneDNN has fast code for.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "parallel.h"
#include "problem.h"

namespace tl_jax {

constexpr int64_t kMostRows = 8;

// The gradient for `kLanes` channels of a kernel that is `kColumns` wide, image by image, since one
// image's share of these channels stays in the cache. Each row is added up by itself first: sums of
// very many values lose digits.
template <int kLanes, int kColumns>
void DepthwiseGradient(const Problem& p, int64_t channel, const float* x, const float* dy,
                       float* dkernel) {
  using Lanes [[gnu::vector_size(kLanes * sizeof(float)), gnu::aligned(sizeof(float)),
                gnu::may_alias]] = float;
  const int64_t channels = p.x[3], height = p.x[1], width = p.x[2];
  auto at = [channel, channels](const float* map, int64_t pixel) -> const Lanes& {
    return *reinterpret_cast<const Lanes*>(map + pixel * channels + channel);
  };
  Lanes totals[kMostRows][kColumns] = {};
  for (int64_t image = 0; image < p.y[0]; ++image) {
    for (int64_t i = 0; i < p.kernel[0]; ++i) {
      for (int64_t row = 0; row < p.y[1]; ++row) {
        int64_t seen = row * p.stride[0] - p.pads[0] + i;
        if (seen < 0 || seen >= height) continue;
        int64_t pixels = (image * height + seen) * width;
        int64_t gradients = (image * p.y[1] + row) * p.y[2];
        Lanes sums[kColumns] = {};
        for (int64_t column = 0; column < p.y[2]; ++column) {
          Lanes gradient = at(dy, gradients + column);
          int64_t first = column * p.stride[1] - p.pads[2];
          if (first >= 0 && first + kColumns <= width) {
            for (int j = 0; j < kColumns; ++j) sums[j] += at(x, pixels + first + j) * gradient;
          } else {
            for (int j = 0; j < kColumns; ++j)
              if (first + j >= 0 && first + j < width)
                sums[j] += at(x, pixels + first + j) * gradient;
          }
        }
        for (int j = 0; j < kColumns; ++j) totals[i][j] += sums[j];
      }
    }
  }
  for (int64_t i = 0; i < p.kernel[0]; ++i)
    for (int j = 0; j < kColumns; ++j)
      std::memcpy(dkernel + (i * kColumns + j) * channels + channel, &totals[i][j], sizeof(Lanes));
}

inline bool IsWideDepthwise(const Problem& p) {
  return p.kind == kKernelGradient && p.groups == p.x[3] && p.groups == p.kernel[3] &&
         p.kernel[0] <= kMostRows && (p.kernel[1] == 5 || p.kernel[1] == 7);
}

template <int kColumns>
void WideDepthwiseGradient(ffi::ThreadPool& pool, const Problem& p, const float* x,
                           const float* dy, float* dkernel) {
  constexpr int64_t kLanes = 16;
  Parallel(pool, (p.groups + kLanes - 1) / kLanes, [&](int64_t i) {
    int64_t channel = i * kLanes, end = std::min(channel + kLanes, p.groups);
    if (end - channel == kLanes)
      return DepthwiseGradient<kLanes, kColumns>(p, channel, x, dy, dkernel);
    for (; channel + 8 <= end; channel += 8)
      DepthwiseGradient<8, kColumns>(p, channel, x, dy, dkernel);
    for (; channel < end; ++channel) DepthwiseGradient<1, kColumns>(p, channel, x, dy, dkernel);
  });
}

}  // namespace tl_jax
