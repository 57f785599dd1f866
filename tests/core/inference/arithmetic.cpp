// The arithmetic of the kernels by itself, for tests: n registers of 16 lanes.

#include "lanes.h"

extern "C" void multiply_pairs_of(const float* sum, const uint32_t* a, const uint32_t* b,
                                  float* out, int64_t n) {
  for (int64_t i = 0; i < n * LANES; i += LANES)
    _mm512_store_ps(out + i, multiply_pairs(_mm512_load_ps(sum + i), _mm512_load_si512(a + i),
                                            _mm512_load_si512(b + i)));
}

extern "C" void to_bfloat16_of(const float* x, uint16_t* out, int64_t n) {
  for (int64_t i = 0; i < n * LANES; i += LANES)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), to_bfloat16(_mm512_load_ps(x + i)));
}

extern "C" void exp2_of(const float* x, float* out, int64_t n) {
  for (int64_t i = 0; i < n * LANES; i += LANES)
    _mm512_store_ps(out + i, exp2_16(_mm512_load_ps(x + i)));
}
