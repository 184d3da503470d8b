// What a convolution is: sizes, steps, borders; and how it is cut into parts.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace tl_jax {

using Dims = std::vector<int64_t>;

enum Kind : int64_t { kForward = 0, kInputGradient = 1, kKernelGradient = 2 };

// One convolution: its shapes (x and y as NHWC, the kernel as HWIO) decide everything.
struct Problem {
  int64_t kind;
  int64_t is_bfloat16;
  int64_t groups;
  int64_t parts;  // At most so many parts.
  Dims stride;    // Rows, columns.
  Dims pads;      // Top, bottom, left, right.
  Dims x, kernel, y;

  int64_t item() const { return is_bfloat16 ? 2 : 4; }

  Dims key() const {
    Dims key{kind, is_bfloat16, groups, parts};
    for (const Dims* dims : {&stride, &pads, &x, &kernel, &y})
      key.insert(key.end(), dims->begin(), dims->end());
    return key;
  }
};

// Rows or images [begin, end) of part `i` of `parts`.
struct Range {
  int64_t begin, end;
  Range(int64_t total, int64_t parts, int64_t i)
      : begin(total * i / parts), end(total * (i + 1) / parts) {}
  int64_t size() const { return end - begin; }
};

// A part of a convolution, and where it begins in x and y (in values).
struct Part {
  Problem problem;
  int64_t x_begin = 0, y_begin = 0;
};

inline std::vector<Part> ImageParts(const Problem& whole, int64_t parts) {
  std::vector<Part> result;
  for (int64_t i = 0; i < parts; ++i) {
    Range images(whole.x[0], parts, i);
    Part part{whole};
    part.problem.x[0] = part.problem.y[0] = images.size();
    part.x_begin = images.begin * whole.x[1] * whole.x[2] * whole.x[3];
    part.y_begin = images.begin * whole.y[1] * whole.y[2] * whole.y[3];
    result.push_back(part);
  }
  return result;
}

// Of one image: some rows of y, with the rows of x that they see.
inline std::vector<Part> RowParts(const Problem& whole, int64_t parts) {
  std::vector<Part> result;
  for (int64_t i = 0; i < parts; ++i) {
    Range rows(whole.y[1], parts, i);
    int64_t first = rows.begin * whole.stride[0] - whole.pads[0];
    int64_t last = (rows.end - 1) * whole.stride[0] - whole.pads[0] + whole.kernel[0];
    int64_t begin = std::max<int64_t>(first, 0), end = std::min(last, whole.x[1]);
    Part part{whole};
    part.problem.x[1] = end - begin;
    part.problem.y[1] = rows.size();
    part.problem.pads[0] = begin - first;
    part.problem.pads[1] = last - end;
    part.x_begin = begin * whole.x[2] * whole.x[3];
    part.y_begin = rows.begin * whole.y[2] * whole.y[3];
    result.push_back(part);
  }
  return result;
}

inline std::vector<Part> PartsOf(const Problem& whole) {
  // A border narrower than the kernel leaves no part that sees the border alone.
  bool is_narrow = std::max(whole.pads[0], whole.pads[1]) < whole.kernel[0];
  if (whole.x[0] == 1 && whole.kind != kInputGradient && is_narrow)
    return RowParts(whole, std::max<int64_t>(1, std::min(whole.parts, whole.y[1] / 4)));
  return ImageParts(whole, std::min(whole.parts, whole.x[0]));
}

}  // namespace tl_jax
