// Linear layers for CPUs with AVX-512 BF16: x W' + b, with or without GELU, or the maximum of rows.
//
// Inputs, weights and outputs are bfloat16, sums are float32. The weights of 64 outputs are a
// panel, in which the pairs of numbers that VDPBF16PS multiplies lie next to each other. A tile of
// the output is six rows of a panel: 24 sums, four registers of weights and one with a broadcast
// pair of the input fill the register file. A thread takes as many rows as its second-level cache
// keeps through all panels.
//
// Each output is summed in the order of its inputs, whatever rows are beside it.
//
// Called by stx_core/inference/native.py.

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>

#include "arguments.h"
#include "lanes.h"

namespace {

constexpr int ROWS = 6;
constexpr int WIDTH = 4;  // registers of a panel
constexpr int PANEL = WIDTH * LANES;
constexpr int64_t CACHED = 1 << 18;  // numbers of the input that stay in the cache
constexpr int64_t MOST_ROWS = 192;
constexpr int64_t TASKS = 16;  // of a thread at least, so that none waits long for another

using Problem = LinearArguments;

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

// A tile: R rows from one on with one panel.
template <int R>
[[gnu::always_inline]] inline void multiply(const Problem& p, int64_t row, int64_t panel,
                                            __m512 (&sum)[R][WIDTH]) {
  const uint16_t* input = p.input + row * p.n_inputs;
  const uint32_t* weight = p.weight + panel * PANEL * (p.n_inputs / 2);
  for (int w = 0; w < WIDTH; w++) {
    const int64_t at = panel * PANEL + w * LANES;
    const __mmask16 valid = lanes(0, p.n_outputs - at);
    const __m512 bias = p.bias ? to_float32(_mm256_maskz_loadu_epi16(valid, p.bias + at))
                               : _mm512_setzero_ps();
    for (int r = 0; r < R; r++) sum[r][w] = bias;
  }
#pragma GCC unroll 4
  for (int64_t pair = 0; pair < p.n_inputs / 2; pair++) {
    __m512i column[WIDTH];
    for (int w = 0; w < WIDTH; w++)
      column[w] = _mm512_load_si512(weight + pair * PANEL + w * LANES);
    for (int r = 0; r < R; r++) {
      int32_t bits;
      std::memcpy(&bits, input + r * p.n_inputs + 2 * pair, sizeof bits);
      const __m512i broadcast = _mm512_set1_epi32(bits);
      for (int w = 0; w < WIDTH; w++) sum[r][w] = multiply_pairs(sum[r][w], column[w], broadcast);
    }
  }
}

// 16 numbers of a row of the output; there is less of the last panel.
inline void store(const Problem& p, int64_t row, int64_t panel, int w, __m512 y) {
  const int64_t at = panel * PANEL + w * LANES;
  const __mmask16 valid = lanes(0, p.n_outputs - at);
  _mm256_mask_storeu_epi16(p.out + row * p.n_outputs + at, valid, to_bfloat16(y));
}

// Calls use(row, register, sums) for R rows. Loops are unrolled, or sums would go to memory first.
template <int R, class Use>
[[gnu::always_inline]] inline void use_rows(const Problem& p, int64_t row, int64_t panel,
                                            const Use& use) {
  __m512 sum[R][WIDTH];
  multiply<R>(p, row, panel, sum);
#pragma GCC unroll 16
  for (int r = 0; r < R; r++) {
#pragma GCC unroll 16
    for (int w = 0; w < WIDTH; w++) use(row + r, w, sum[r][w]);
  }
}

template <class Use>
void for_rows(const Problem& p, int64_t row, int64_t end, int64_t panel, const Use& use) {
  for (; row + ROWS <= end; row += ROWS) use_rows<ROWS>(p, row, panel, use);
  switch (end - row) {
    case 5: use_rows<5>(p, row, panel, use); break;
    case 4: use_rows<4>(p, row, panel, use); break;
    case 3: use_rows<3>(p, row, panel, use); break;
    case 2: use_rows<2>(p, row, panel, use); break;
    case 1: use_rows<1>(p, row, panel, use); break;
    default: break;
  }
}

// Calls use(block, panel) for all of them; the larger of input and weights comes to the cache once.
template <class Use>
void for_blocks(const Problem& p, int64_t rows, int64_t blocks, const Use& use) {
  const int64_t panels = (p.n_outputs + PANEL - 1) / PANEL;
  const bool rows_first = rows >= p.n_outputs;
  // Few blocks are cut by panels.
  const int64_t wanted = rows_first ? panels * blocks / (TASKS * omp_get_max_threads())
                                    : CACHED / 2 / (PANEL * p.n_inputs);
  const int64_t together = std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, panels));
  const int64_t parts = (panels + together - 1) / together;
#pragma omp parallel for schedule(dynamic)
  for (int64_t task = 0; task < blocks * parts; task++) {
    const int64_t block = rows_first ? task / parts : task % blocks;
    const int64_t first = (rows_first ? task % parts : task / blocks) * together;
    for (int64_t panel = first; panel < std::min(panels, first + together); panel++)
      use(block, panel);
  }
}

}  // namespace

extern "C" {

Status stx_linear(const LinearArguments* arguments) {
  if (arguments->size != sizeof *arguments) return OTHER_SIZE;
  const Problem p = *arguments;
  const int64_t tiles = std::clamp<int64_t>(CACHED / p.n_inputs / ROWS, 1, MOST_ROWS / ROWS);
  const int64_t height = tiles * ROWS;
  const int64_t blocks = (p.n_rows + height - 1) / height;
  for_blocks(p, p.n_rows, blocks, [&](int64_t block, int64_t panel) {
    const int64_t first = block * height, end = std::min(p.n_rows, first + height);
    const auto as_is = [&](int64_t row, int w, __m512 y) { store(p, row, panel, w, y); };
    const auto by_gelu = [&](int64_t row, int w, __m512 y) { store(p, row, panel, w, gelu(y)); };
    if (p.gelu) {
      for_rows(p, first, end, panel, by_gelu);
    } else {
      for_rows(p, first, end, panel, as_is);
    }
  });
  return OK;
}

// The maximum of each output over the rows of a segment; -inf of none.
Status stx_linear_max(const LinearArguments* arguments) {
  if (arguments->size != sizeof *arguments) return OTHER_SIZE;
  const Problem p = *arguments;
  for_blocks(p, p.n_rows, p.n_segments, [&](int64_t segment, int64_t panel) {
    __m512 row_max[WIDTH];
    __mmask16 nan[WIDTH] = {};  // the maximum of NaN and a number is a number
    const __m512 lowest = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
    for (auto& lane_max : row_max) lane_max = lowest;
    const auto take = [&](int64_t, int w, __m512 y) {
      row_max[w] = _mm512_max_ps(row_max[w], y);
      nan[w] |= _mm512_cmp_ps_mask(y, y, _CMP_UNORD_Q);
    };
    for_rows(p, p.offsets[segment], p.offsets[segment + 1], panel, take);
    const __m512 quiet_nan = _mm512_set1_ps(std::numeric_limits<float>::quiet_NaN());
    for (int w = 0; w < WIDTH; w++)
      store(p, segment, panel, w, _mm512_mask_mov_ps(row_max[w], nan[w], quiet_nan));
  });
  return OK;
}
}
