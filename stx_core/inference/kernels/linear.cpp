// Linear layers for CPUs with AVX-512 BF16: x W' + b, with or without GELU.
//
// Inputs, weights and outputs are bfloat16, sums are float32. The weights of 64 outputs are a
// panel, in which the pairs of numbers that VDPBF16PS multiplies lie next to each other. Six rows
// of the input meet a panel at a time: 24 sums, four registers of weights and one of input fill the
// register file. A thread takes as many rows as its second-level cache keeps through all panels.
//
// Each output is summed in the order of its inputs, whatever rows are beside it.
//
// Built by stx_core/inference/native.py, which also names the arguments.

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "lanes.h"

namespace {

constexpr int ROWS = 6;
constexpr int WIDTH = 4;  // registers of a panel
constexpr int PANEL = WIDTH * LANES;
constexpr int64_t CACHED = 1 << 18;  // numbers of the input that stay in the cache
constexpr int64_t MOST_ROWS = 192;
constexpr int64_t TASKS = 16;  // of a thread at least, so that none waits long for another

struct Problem {
  const uint16_t* input;   // (rows, inputs)
  const uint32_t* weight;  // (panels, inputs / 2, PANEL)
  const uint16_t* bias;    // (outputs,) or null
  uint16_t* out;           // (rows, outputs)
  int64_t rows, inputs, outputs;
};

// x * (normal distribution function of x) = x / (1 + 2^-g(x)). g is odd; x * (three terms in x^2)
// gives the result to 1.5e-3 of it, or to 3e-6 where it is smaller than 2e-3: less than bfloat16
// rounds away.
inline __m512 gelu(__m512 x) {
  const __m512 square = _mm512_min_ps(_mm512_mul_ps(x, x), _mm512_set1_ps(36.f));
  __m512 sum = _mm512_set1_ps(1.12422604e-3f);
  sum = _mm512_fmadd_ps(sum, square, _mm512_set1_ps(-1.07491121e-1f));
  sum = _mm512_fmadd_ps(sum, square, _mm512_set1_ps(-2.30062089f));
  const __m512 power = exp2_16(_mm512_mul_ps(sum, x));
  return _mm512_mul_ps(x, _mm512_rcp14_ps(_mm512_add_ps(power, _mm512_set1_ps(1.f))));
}

// R rows from one on, times one panel.
template <int R, bool GELU>
void multiply(const Problem& p, int64_t row, int64_t panel) {
  const int64_t first = panel * PANEL;
  const uint16_t* input = p.input + row * p.inputs;
  const uint32_t* weight = p.weight + first * (p.inputs / 2);
  __mmask16 real[WIDTH];
  __m512 sum[R][WIDTH];
  for (int w = 0; w < WIDTH; w++) {
    const int64_t at = first + w * LANES;
    real[w] = first_lanes(p.outputs - at);
    const __m512 bias = p.bias ? to_float32(_mm256_maskz_loadu_epi16(real[w], p.bias + at))
                               : _mm512_setzero_ps();
    for (int r = 0; r < R; r++) sum[r][w] = bias;
  }
#pragma GCC unroll 4
  for (int64_t pair = 0; pair < p.inputs / 2; pair++) {
    __m512i column[WIDTH];
    for (int w = 0; w < WIDTH; w++)
      column[w] = _mm512_load_si512(weight + pair * PANEL + w * LANES);
    for (int r = 0; r < R; r++) {
      int32_t two;
      std::memcpy(&two, input + r * p.inputs + 2 * pair, sizeof two);
      const __m512i both = _mm512_set1_epi32(two);
      for (int w = 0; w < WIDTH; w++) sum[r][w] = multiply_pairs(sum[r][w], column[w], both);
    }
  }
  // Unrolled, or sums would go to memory first.
#pragma GCC unroll 16
  for (int r = 0; r < R; r++) {
#pragma GCC unroll 16
    for (int w = 0; w < WIDTH; w++) {
      const __m512 y = GELU ? gelu(sum[r][w]) : sum[r][w];
      uint16_t* to = p.out + (row + r) * p.outputs + first + w * LANES;
      _mm256_mask_storeu_epi16(to, real[w], to_bfloat16(y));
    }
  }
}

template <bool GELU>
void multiply_rows(const Problem& p, int64_t row, int64_t end, int64_t panel) {
  for (; row + ROWS <= end; row += ROWS) multiply<ROWS, GELU>(p, row, panel);
  switch (end - row) {
    case 5: multiply<5, GELU>(p, row, panel); break;
    case 4: multiply<4, GELU>(p, row, panel); break;
    case 3: multiply<3, GELU>(p, row, panel); break;
    case 2: multiply<2, GELU>(p, row, panel); break;
    case 1: multiply<1, GELU>(p, row, panel); break;
    default: break;
  }
}

template <bool GELU>
void multiply_all(const Problem& p) {
  const int64_t block = std::clamp<int64_t>(CACHED / p.inputs / ROWS, 1, MOST_ROWS / ROWS) * ROWS;
  const int64_t blocks = (p.rows + block - 1) / block;
  const int64_t panels = (p.outputs + PANEL - 1) / PANEL;
  // Few blocks of rows are cut by panels.
  const int64_t together = std::clamp<int64_t>(
      panels * blocks / (TASKS * omp_get_max_threads()), 1, std::max<int64_t>(1, panels));
  const int64_t parts = (panels + together - 1) / together;
#pragma omp parallel for schedule(dynamic)
  for (int64_t task = 0; task < blocks * parts; task++) {
    const int64_t row = task / parts * block;
    const int64_t first = task % parts * together;
    for (int64_t panel = first; panel < std::min(panels, first + together); panel++)
      multiply_rows<GELU>(p, row, std::min(p.rows, row + block), panel);
  }
}

}  // namespace

extern "C" void stx_linear(const uint16_t* input, const uint32_t* weight, const uint16_t* bias,
                           uint16_t* out, int64_t rows, int64_t inputs, int64_t outputs,
                           int32_t gelu) {
  const Problem problem{input, weight, bias, out, rows, inputs, outputs};
  if (gelu) {
    multiply_all<true>(problem);
  } else {
    multiply_all<false>(problem);
  }
}
