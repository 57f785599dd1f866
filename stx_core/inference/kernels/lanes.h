// What the kernels share: registers of 16 float32, and bfloat16 in pairs.

#pragma once

#ifdef STX_PORTABLE  // only for tests
#include "portable.h"
#else
#include <immintrin.h>
#endif

#include <algorithm>
#include <cstdint>

constexpr int LANES = 16;

inline __m512 multiply_pairs(__m512 sum, __m512i a, __m512i b) {
  return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}

inline __m256i to_bfloat16(__m512 x) { return (__m256i)_mm512_cvtneps_pbh(x); }

inline __m512 to_float32(__m256i x) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}

// The lanes from one number to another, which may lie outside of a register.
inline __mmask16 lanes(int64_t from, int64_t to) {
  from = std::clamp<int64_t>(from, 0, LANES);
  to = std::clamp<int64_t>(to, from, LANES);
  return __mmask16((1u << to) - (1u << from));
}

// 2^x: the power of the fraction by a polynomial, relative error 7.5e-5, a thirtieth of what
// bfloat16 keeps.
inline __m512 exp2_16(__m512 x) {
  const __m512 fraction = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF);
  __m512 sum = _mm512_set1_ps(7.8024552e-2f);
  sum = _mm512_fmadd_ps(sum, fraction, _mm512_set1_ps(2.2606718e-1f));
  sum = _mm512_fmadd_ps(sum, fraction, _mm512_set1_ps(6.9583349e-1f));
  sum = _mm512_fmadd_ps(sum, fraction, _mm512_set1_ps(9.9992523e-1f));
  return _mm512_scalef_ps(sum, x);
}
