// The sum of two tensors and its LayerNorm, for CPUs with AVX-512 BF16.
//
// Everything is bfloat16; means and variances are float32, of the rounded sum.
//
// Called by stx_core/inference/native.py.

#include <cmath>
#include <cstdint>

#include "arguments.h"
#include "lanes.h"

namespace {

inline __m512 load(const uint16_t* from) {
  return to_float32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}

inline void store(uint16_t* to, __m512 x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), to_bfloat16(x));
}

}  // namespace

extern "C" Status stx_add_norm(const AddNormArguments* arguments) {
  if (arguments->size != sizeof *arguments) return OTHER_SIZE;
  // Of their own: fields would be read again after each store.
  const uint16_t *a = arguments->a, *b = arguments->b;
  const uint16_t *weight = arguments->weight, *bias = arguments->bias;
  uint16_t *sum = arguments->sum, *norm = arguments->norm;
  const int64_t n_rows = arguments->n_rows, width = arguments->width;
  const float epsilon = arguments->epsilon;
#pragma omp parallel for
  for (int64_t start = 0; start < n_rows * width; start += width) {
    uint16_t* x = sum + start;
    __m512 total = _mm512_setzero_ps(), squares = _mm512_setzero_ps();
    for (int64_t i = 0; i < width; i += LANES) {
      store(x + i, _mm512_add_ps(load(a + start + i), load(b + start + i)));
      total = _mm512_add_ps(total, load(x + i));
    }
    const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(total) / float(width));
    for (int64_t i = 0; i < width; i += LANES) {
      const __m512 centred = _mm512_sub_ps(load(x + i), mean);
      squares = _mm512_fmadd_ps(centred, centred, squares);
    }
    const float variance = _mm512_reduce_add_ps(squares) / float(width);
    const __m512 inverse = _mm512_set1_ps(1.f / std::sqrt(variance + epsilon));
    for (int64_t i = 0; i < width; i += LANES) {
      const __m512 factor = _mm512_mul_ps(inverse, load(weight + i));
      const __m512 centred = _mm512_sub_ps(load(x + i), mean);
      store(norm + start + i, _mm512_fmadd_ps(centred, factor, load(bias + i)));
    }
  }
  return OK;
}
