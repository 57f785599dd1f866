// The AVX-512 that the kernels use, in plain C++: slow, for tests on CPUs without it.
//
// Numbers are rounded as the instructions round them; a NaN may be another NaN, and the reciprocal,
// which AVX-512 gives to 14 bits, is exact. Registers are vectors of the compiler (GCC, Clang).

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

typedef float __m512 __attribute__((vector_size(64), may_alias));
typedef int64_t __m512i __attribute__((vector_size(64), may_alias));
typedef int64_t __m256i __attribute__((vector_size(32), may_alias));
typedef uint16_t __m512bh __attribute__((vector_size(64), may_alias));
typedef uint16_t __m256bh __attribute__((vector_size(32), may_alias));
typedef uint16_t __mmask16;

constexpr int _MM_HINT_T0 = 3, _MM_FROUND_TO_NEG_INF = 1, _CMP_UNORD_Q = 3;

namespace portable {

typedef uint32_t U32 __attribute__((vector_size(64)));
typedef uint16_t U16 __attribute__((vector_size(32)));

template <class To, class From>
To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

// Subnormal numbers, of float32 or as bfloat16 widens to, become zero.
inline float flushed(uint32_t bits) {
  return bit_cast<float>((bits & 0x7f800000u) != 0 ? bits : bits & 0x80000000u);
}

inline float flushed(float x) { return flushed(bit_cast<uint32_t>(x)); }

template <class To, class From, class Function>
To each_lane(const From& from, const Function& function) {
  To to;
  for (int i = 0; i < 16; i++) to[i] = function(from[i]);
  return to;
}

// T at a time in each 128 bits: numbers of both by turns, from the low half or from the high.
template <class T>
__m512i unpack(__m512i a, __m512i b, int high) {
  constexpr int N = 16 / sizeof(T);
  T from[2][4 * N], to[4 * N];
  std::memcpy(from[0], &a, sizeof a);
  std::memcpy(from[1], &b, sizeof b);
  for (int i = 0; i < 4 * N; i++) to[i] = from[i % 2][i / N * N + high * N / 2 + i % N / 2];
  return bit_cast<__m512i>(to);
}

}  // namespace portable

inline __m512 _mm512_setzero_ps() { return __m512{}; }
inline __m512i _mm512_setzero_si512() { return __m512i{}; }
inline __m512 _mm512_set1_ps(float x) { return x - __m512{}; }
inline __m512i _mm512_set1_epi32(int32_t x) {
  return (__m512i)(uint32_t(x) - portable::U32{});
}
inline __m512 _mm512_castsi512_ps(__m512i x) { return (__m512)x; }
inline __m512i _mm512_castsi256_si512(__m256i x) {
  return __m512i{x[0], x[1], x[2], x[3]};
}

template <class T>
T portable_load(const void* from) {
  T x;
  std::memcpy(&x, from, sizeof x);
  return x;
}
inline __m512 _mm512_load_ps(const void* from) { return portable_load<__m512>(from); }
inline __m512i _mm512_load_si512(const void* from) { return portable_load<__m512i>(from); }
inline __m512i _mm512_loadu_si512(const void* from) { return portable_load<__m512i>(from); }
inline __m256i _mm256_loadu_si256(const void* from) { return portable_load<__m256i>(from); }
inline void _mm512_store_ps(void* to, __m512 x) { std::memcpy(to, &x, sizeof x); }
inline void _mm512_store_si512(void* to, __m512i x) { std::memcpy(to, &x, sizeof x); }
inline void _mm512_storeu_si512(void* to, __m512i x) { std::memcpy(to, &x, sizeof x); }
inline void _mm256_storeu_si256(void* to, __m256i x) { std::memcpy(to, &x, sizeof x); }
inline void _mm_prefetch(const void*, int) {}

// Masked: memory of other lanes is not touched.
inline __m512 _mm512_maskz_loadu_ps(__mmask16 mask, const float* from) {
  __m512 x{};
  for (int i = 0; i < 16; i++)
    if (mask >> i & 1) x[i] = from[i];
  return x;
}
inline __m256i _mm256_maskz_loadu_epi16(__mmask16 mask, const uint16_t* from) {
  portable::U16 x{};
  for (int i = 0; i < 16; i++)
    if (mask >> i & 1) x[i] = from[i];
  return (__m256i)x;
}
inline void _mm256_mask_storeu_epi16(uint16_t* to, __mmask16 mask, __m256i x) {
  const portable::U16 numbers = (portable::U16)x;
  for (int i = 0; i < 16; i++)
    if (mask >> i & 1) to[i] = numbers[i];
}
inline __m512 _mm512_mask_mov_ps(__m512 other, __mmask16 mask, __m512 x) {
  for (int i = 0; i < 16; i++)
    if (!(mask >> i & 1)) x[i] = other[i];
  return x;
}
inline __mmask16 _mm512_cmp_ps_mask(__m512 a, __m512 b, int) {  // unordered
  __mmask16 mask = 0;
  for (int i = 0; i < 16; i++) mask |= __mmask16(std::isunordered(a[i], b[i]) << i);
  return mask;
}

inline __m512i _mm512_slli_epi32(__m512i x, int bits) {
  return (__m512i)((portable::U32)x << bits);
}
inline __m512i _mm512_cvtepu16_epi32(__m256i x) {
  return (__m512i)portable::each_lane<portable::U32>((portable::U16)x,
                                                     [](uint16_t one) { return uint32_t(one); });
}
inline __m512i _mm512_unpacklo_epi32(__m512i a, __m512i b) {
  return portable::unpack<uint32_t>(a, b, 0);
}
inline __m512i _mm512_unpackhi_epi32(__m512i a, __m512i b) {
  return portable::unpack<uint32_t>(a, b, 1);
}
inline __m512i _mm512_unpacklo_epi64(__m512i a, __m512i b) {
  return portable::unpack<uint64_t>(a, b, 0);
}
inline __m512i _mm512_unpackhi_epi64(__m512i a, __m512i b) {
  return portable::unpack<uint64_t>(a, b, 1);
}
inline __m512i _mm512_shuffle_i32x4(__m512i a, __m512i b, int order) {
  __m512i x;
  for (int i = 0; i < 8; i++) x[i] = (i < 4 ? a : b)[(order >> i / 2 * 2 & 3) * 2 + i % 2];
  return x;
}
inline __m512i _mm512_permutex2var_epi16(__m512i a, __m512i index, __m512i b) {
  const __m512bh from[2] = {(__m512bh)a, (__m512bh)b}, places = (__m512bh)index;
  __m512bh x;
  for (int i = 0; i < 32; i++) x[i] = from[places[i] >> 5 & 1][places[i] & 31];
  return (__m512i)x;
}

inline __m512 _mm512_add_ps(__m512 a, __m512 b) { return a + b; }
inline __m512 _mm512_sub_ps(__m512 a, __m512 b) { return a - b; }
inline __m512 _mm512_mul_ps(__m512 a, __m512 b) { return a * b; }
inline __m512 _mm512_div_ps(__m512 a, __m512 b) { return a / b; }
inline __m512 _mm512_rcp14_ps(__m512 x) { return 1.f / x; }
// The second where one is NaN.
inline __m512 _mm512_max_ps(__m512 a, __m512 b) { return a > b ? a : b; }
inline __m512 _mm512_min_ps(__m512 a, __m512 b) { return a < b ? a : b; }
inline __m512 _mm512_fmadd_ps(__m512 a, __m512 b, __m512 c) {
  for (int i = 0; i < 16; i++) c[i] = std::fma(a[i], b[i], c[i]);
  return c;
}
inline __m512 _mm512_fmsub_ps(__m512 a, __m512 b, __m512 c) { return _mm512_fmadd_ps(a, b, -c); }

// Halves are added to each other, as compilers do.
inline float _mm512_reduce_add_ps(__m512 x) {
  for (int width = 8; width; width /= 2)
    for (int i = 0; i < width; i++) x[i] += x[i + width];
  return x[0];
}

inline __m512 _mm512_reduce_ps(__m512 x, int) {  // what is above the next whole number below
  return portable::each_lane<__m512>(
      x, [](float one) { return std::isinf(one) ? 0.f : one - std::floor(one); });
}

// a * 2^floor(b)
inline __m512 _mm512_scalef_ps(__m512 a, __m512 b) {
  for (int i = 0; i < 16; i++) {
    // Beyond these powers, what is not 0 or infinite becomes so.
    const float power = std::fmin(std::fmax(std::floor(b[i]), -400.f), 400.f);
    a[i] = std::isnan(b[i]) ? b[i] : float(std::ldexp(double(a[i]), int(power)));
  }
  return a;
}

// Two steps, the high numbers first; each is rounded once, to the nearest even number, and neither
// takes nor gives subnormal ones (Intel's manual, VDPBF16PS).
inline __m512 _mm512_dpbf16_ps(__m512 sum, __m512bh a, __m512bh b) {
  const portable::U32 x = (portable::U32)a, y = (portable::U32)b;
  for (int i = 0; i < 16; i++) {
    const float high = std::fma(portable::flushed(x[i] & 0xffff0000u),
                                portable::flushed(y[i] & 0xffff0000u), portable::flushed(sum[i]));
    const float both = std::fma(portable::flushed(x[i] << 16), portable::flushed(y[i] << 16),
                                portable::flushed(high));
    sum[i] = portable::flushed(both);
  }
  return sum;
}

// To the nearest even number; subnormal ones become zero (Intel's manual, VCVTNEPS2BF16).
inline __m256bh _mm512_cvtneps_pbh(__m512 x) {
  return (__m256bh)portable::each_lane<portable::U16>(x, [](float one) {
    const uint32_t bits = portable::bit_cast<uint32_t>(portable::flushed(one));
    const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
    return uint16_t(nan ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  });
}
