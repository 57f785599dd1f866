// The sum of two tensors and its LayerNorm, for CPUs with AVX-512 BF16.
//
// Everything is bfloat16; means and variances are float32, of the rounded sum.
//
// Built by stx_core/inference/native.py, which also names the arguments.

#include <cmath>
#include <cstdint>

#include "lanes.h"

namespace {

inline __m512 load(const uint16_t* from) {
  return to_float32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}

inline void store(uint16_t* to, __m512 x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), to_bfloat16(x));
}

}  // namespace

// width is a multiple of 16.
extern "C" void stx_add_norm(const uint16_t* one, const uint16_t* other, const uint16_t* weight,
                             const uint16_t* bias, uint16_t* sum, uint16_t* norm, int64_t rows,
                             int64_t width, float epsilon) {
#pragma omp parallel for
  for (int64_t start = 0; start < rows * width; start += width) {
    uint16_t* x = sum + start;
    __m512 total = _mm512_setzero_ps(), squares = _mm512_setzero_ps();
    for (int64_t i = 0; i < width; i += LANES) {
      store(x + i, _mm512_add_ps(load(one + start + i), load(other + start + i)));
      total = _mm512_add_ps(total, load(x + i));
    }
    const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(total) / float(width));
    for (int64_t i = 0; i < width; i += LANES) {
      const __m512 apart = _mm512_sub_ps(load(x + i), mean);
      squares = _mm512_fmadd_ps(apart, apart, squares);
    }
    const float variance = _mm512_reduce_add_ps(squares) / float(width);
    const __m512 inverse = _mm512_set1_ps(1.f / std::sqrt(variance + epsilon));
    for (int64_t i = 0; i < width; i += LANES) {
      const __m512 factor = _mm512_mul_ps(inverse, load(weight + i));
      const __m512 apart = _mm512_sub_ps(load(x + i), mean);
      store(norm + start + i, _mm512_fmadd_ps(apart, factor, load(bias + i)));
    }
  }
}
