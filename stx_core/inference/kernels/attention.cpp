// Attention over packed sequences of different lengths, for CPUs with AVX-512 BF16.
//
// Queries, keys and values are bfloat16, sums are float32. Each sequence attends to itself only, so
// no token is padding. A task is one sequence and one key head. 16 queries are a tile, one in each
// lane of a register, and one or two tiles meet a few keys at a time, of which VDPBF16PS multiplies
// a broadcast pair of numbers (QK). So each lane has the row maximum and the softmax of its own
// query, nothing is summed across lanes, and probabilities come out in the order in which they meet
// the values (PV).
//
// Called by stx_core/inference/native.py.

#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "arguments.h"
#include "lanes.h"

namespace {

constexpr int ROWS = 8;  // keys, or dimensions of values, that meet one or two tiles of queries
constexpr float LOG2_E = 1.44269504f;
constexpr float MASKED = -1e30f;  // score of a key that a query does not see

using Problem = AttentionArguments;

// Number i of each register next to number i of the other; in two registers, low half and high.
inline __m512i interleaved(__m512i a, __m512i b, int half) {
  alignas(64) static constexpr uint16_t order[2][32] = {
      {0, 32, 1, 33, 2, 34, 3, 35, 4, 36, 5, 37, 6, 38, 7, 39,
       8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47},
      {16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55,
       24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63}};
  return _mm512_permutex2var_epi16(a, _mm512_load_si512(order[half]), b);
}

// Both rounded to bfloat16: a pair per lane.
inline __m512i to_pairs(__m512 a, __m512 b) {
  const __m512i first = _mm512_castsi256_si512(to_bfloat16(a));
  const __m512i second = _mm512_castsi256_si512(to_bfloat16(b));
  return interleaved(first, second, 0);
}

// A 16 x 16 matrix of 32-bit numbers, one row per register, to its transpose.
inline void transpose(__m512i (&r)[16]) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; i++) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; i++) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
  }
}

// Memory of one thread, kept from call to call.
class Scratch {
 public:
  ~Scratch() { std::free(data_); }
  // At least so many bytes, or null when there are none.
  char* reserve(size_t bytes) {
    if (bytes <= size_) return data_;
    std::free(data_);
    size_ = (bytes + 63) / 64 * 64;
    data_ = static_cast<char*>(std::aligned_alloc(64, size_));
    if (!data_) size_ = 0;
    return data_;
  }

 private:
  char* data_ = nullptr;
  size_t size_ = 0;
};

template <int D>
class Attention {
 public:
  static size_t scratch_bytes(int length) {
    return 2 * packed_bytes(length) + 2 * TILE_BYTES + 2 * LANES * even(length) * sizeof(float);
  }

  Attention(const Problem& problem, char* scratch, int sequence, int key_head)
      : p_(problem),
        start_(problem.offsets[sequence]),
        length_(problem.offsets[sequence + 1] - problem.offsets[sequence]),
        key_head_(key_head),
        masked_(problem.bias || problem.left >= 0 || problem.right >= 0) {
    keys_ = reinterpret_cast<uint32_t*>(scratch);
    values_ = reinterpret_cast<uint32_t*>(scratch += packed_bytes(length_));
    queries_ = reinterpret_cast<uint32_t*>(scratch += packed_bytes(length_));
    output_ = reinterpret_cast<uint32_t*>(scratch += TILE_BYTES);
    scores_ = reinterpret_cast<float*>(scratch += TILE_BYTES);
  }

  void run() {
    pack_keys();
    pack_values();
    const int group = p_.n_heads / p_.n_key_heads;
    for (int head = key_head_ * group; head < (key_head_ + 1) * group; head++) {
      int row = 0;
      for (; row + LANES < length_; row += 2 * LANES) attend<2>(head, row);
      if (row < length_) attend<1>(head, row);
    }
  }

 private:
  static constexpr int PAIRS = D / 2;
  static constexpr int PARTS = D / 32;  // registers of 32 bfloat16 that hold one vector
  static constexpr size_t TILE_BYTES = 2 * PAIRS * LANES * sizeof(uint32_t);  // of two tiles

  static size_t even(int length) { return size_t(length + 1) / 2 * 2; }
  static size_t packed_bytes(int length) { return even(length) * PAIRS * sizeof(uint32_t); }

  // 32 numbers of a vector; those of the next head, which lie behind them, are wanted soon.
  static __m512i load(const Heads& vectors, int64_t token, int head, int part) {
    const uint16_t* from = vectors.at(token, head) + part * 32;
    _mm_prefetch(from + D, _MM_HINT_T0);
    return _mm512_loadu_si512(from);
  }

  // To [key][pair of dimensions]: next to each other.
  void pack_keys() {
    for (int token = 0; token < length_; token++) {
      for (int part = 0; part < PARTS; part++) {
        const __m512i key = load(p_.key, start_ + token, key_head_, part);
        _mm512_store_si512(keys_ + size_t(token) * PAIRS + part * LANES, key);
      }
    }
  }

  // To [pair of tokens][dimension].
  void pack_values() {
    for (int token = 0; token < length_; token += 2) {
      for (int part = 0; part < PARTS; part++) {
        const __m512i a = load(p_.value, start_ + token, key_head_, part);
        const __m512i b = token + 1 < length_
                              ? load(p_.value, start_ + token + 1, key_head_, part)
                              : _mm512_setzero_si512();
        uint32_t* to = values_ + size_t(token) * PAIRS + part * 32;
        _mm512_store_si512(to, interleaved(a, b, 0));
        _mm512_store_si512(to + LANES, interleaved(a, b, 1));
      }
    }
  }

  // To [tile][pair of dimensions][query], for C tiles of queries.
  template <int C>
  void pack_queries(int head, int row) {
    for (int c = 0; c < C; c++) {
      for (int part = 0; part < PARTS; part++) {
        __m512i tile[LANES];
        for (int i = 0; i < LANES; i++) {
          const int at = row + c * LANES + i;
          tile[i] = at < length_ ? load(p_.query, start_ + at, head, part)
                                  : _mm512_setzero_si512();
        }
        transpose(tile);
        uint32_t* to = queries_ + (c * PAIRS + part * LANES) * LANES;
        for (int i = 0; i < LANES; i++) _mm512_store_si512(to + i * LANES, tile[i]);
      }
    }
  }

  // C tiles of queries, of which the first begins at a row.
  template <int C>
  void attend(int head, int row) {
    // Even, as pairs of values begin there.
    const int first = p_.left < 0 ? 0 : std::max(0, row - p_.left) / 2 * 2;
    const int64_t seen = int64_t(row) + C * LANES + p_.right;
    const int last = p_.right < 0 ? length_ : int(std::min<int64_t>(length_, seen));
    pack_queries<C>(head, row);
    __m512 row_max[C], inverse_sum[C];
    for (auto& tile_max : row_max) tile_max = _mm512_set1_ps(MASKED);
    int key = first;
    for (; key + ROWS <= last; key += ROWS) qk_scores<ROWS, C>(head, row, first, key, row_max);
    for (; key < last; key++) qk_scores<1, C>(head, row, first, key, row_max);
    softmax<C>(last - first, row_max, inverse_sum);
    for (int d = 0; d < D; d += ROWS) pv<C>(first, last, d, inverse_sum);
    store_output<C>(head, row);
  }

  // Scores of R keys, to [key][query], and the row maximum of each query.
  template <int R, int C>
  void qk_scores(int head, int row, int first, int key, __m512 (&row_max)[C]) {
    __m512 sum[R][C];
    for (auto& row_sums : sum)
      for (auto& tile_sum : row_sums) tile_sum = _mm512_setzero_ps();
    const uint32_t* keys = keys_ + size_t(key) * PAIRS;
    for (int pair = 0; pair < PAIRS; pair++) {
      __m512i query[C];
      for (int c = 0; c < C; c++)
        query[c] = _mm512_load_si512(queries_ + (c * PAIRS + pair) * LANES);
      for (int r = 0; r < R; r++) {
        const __m512i broadcast = _mm512_set1_epi32(keys[r * PAIRS + pair]);
        for (int c = 0; c < C; c++) sum[r][c] = multiply_pairs(sum[r][c], query[c], broadcast);
      }
    }
    for (int r = 0; r < R; r++) {
      for (int c = 0; c < C; c++) {
        if (masked_) sum[r][c] = masked(sum[r][c], head, row + c * LANES, key + r);
        row_max[c] = _mm512_max_ps(row_max[c], sum[r][c]);
        _mm512_store_ps(scores_ + (size_t(key + r - first) * C + c) * LANES, sum[r][c]);
      }
    }
  }

  // With the bias, divided by the scale that softmax multiplies with; masked outside the window.
  __m512 masked(__m512 score, int head, int row, int key) const {
    if (p_.bias) {
      const float* from = p_.bias + head * p_.bias_head_stride + key * p_.bias_key_stride + row;
      const __m512 bias = _mm512_maskz_loadu_ps(lanes(0, length_ - row), from);
      score = _mm512_fmadd_ps(bias, _mm512_set1_ps(1.f / p_.scale), score);
    }
    const int first = p_.right < 0 ? 0 : key - p_.right - row;
    const int end = p_.left < 0 ? LANES : key + p_.left + 1 - row;
    return _mm512_mask_mov_ps(_mm512_set1_ps(MASKED), lanes(first, end), score);
  }

  // Scores of n keys become probabilities, not yet divided by their sum, [pair of keys][query].
  template <int C>
  void softmax(int n, const __m512 (&row_max)[C], __m512 (&inverse_sum)[C]) {
    const __m512 scale = _mm512_set1_ps(p_.scale * LOG2_E);
    for (int c = 0; c < C; c++) {
      const __m512 shift = _mm512_mul_ps(row_max[c], scale);
      const auto power = [&](int key) {
        const __m512 score = _mm512_load_ps(scores_ + (size_t(key) * C + c) * LANES);
        return exp2_16(_mm512_fmsub_ps(score, scale, shift));
      };
      __m512 sum = _mm512_setzero_ps();
      for (int key = 0; key < n; key += 2) {
        const __m512 a = power(key), b = key + 1 < n ? power(key + 1) : _mm512_setzero_ps();
        sum = _mm512_add_ps(sum, _mm512_add_ps(a, b));
        _mm512_store_si512(probabilities(key, c, C), to_pairs(a, b));
      }
      inverse_sum[c] = _mm512_div_ps(_mm512_set1_ps(1.f), sum);
    }
  }

  // Where the scores of an earlier key were.
  uint32_t* probabilities(int key, int c, int tiles) const {
    return reinterpret_cast<uint32_t*>(scores_) + (size_t(key) / 2 * tiles + c) * LANES;
  }

  // Weighted sums of a few dimensions from d on, to [tile][pair of dimensions][query].
  template <int C>
  void pv(int first, int last, int d, const __m512 (&inverse_sum)[C]) {
    __m512 sum[ROWS][C];
    for (auto& row_sums : sum)
      for (auto& tile_sum : row_sums) tile_sum = _mm512_setzero_ps();
    for (int key = first; key < last; key += 2) {
      const uint32_t* values = values_ + size_t(key) * PAIRS + d;
      __m512i probability[C];
      for (int c = 0; c < C; c++)
        probability[c] = _mm512_load_si512(probabilities(key - first, c, C));
      for (int r = 0; r < ROWS; r++) {
        const __m512i broadcast = _mm512_set1_epi32(values[r]);
        for (int c = 0; c < C; c++)
          sum[r][c] = multiply_pairs(sum[r][c], probability[c], broadcast);
      }
    }
    for (int c = 0; c < C; c++) {
      for (int r = 0; r < ROWS; r += 2) {
        const __m512 a = _mm512_mul_ps(sum[r][c], inverse_sum[c]);
        const __m512 b = _mm512_mul_ps(sum[r + 1][c], inverse_sum[c]);
        _mm512_store_si512(output_ + (c * PAIRS + (d + r) / 2) * LANES, to_pairs(a, b));
      }
    }
  }

  template <int C>
  void store_output(int head, int row) const {
    for (int c = 0; c < C; c++) {
      const int64_t token = start_ + row + c * LANES;
      const int n = std::min(LANES, length_ - row - c * LANES);
      for (int part = 0; part < PARTS; part++) {
        const uint32_t* from = output_ + (c * PAIRS + part * LANES) * LANES;
        __m512i tile[LANES];
        for (int i = 0; i < LANES; i++) tile[i] = _mm512_load_si512(from + i * LANES);
        transpose(tile);
        for (int i = 0; i < n; i++) {
          uint16_t* to = p_.out + ((token + i) * p_.n_heads + head) * D + part * 32;
          _mm512_storeu_si512(to, tile[i]);
        }
      }
    }
  }

  const Problem& p_;
  const int start_, length_, key_head_;
  const bool masked_;
  uint32_t* keys_;
  uint32_t* values_;
  uint32_t* queries_;
  uint32_t* output_;
  float* scores_;
};

template <int D>
Status attend(const Problem& problem) {
  const int tasks = problem.n_sequences * problem.n_key_heads;
  bool complete = true;
#pragma omp parallel reduction(&& : complete)
  {
    static thread_local Scratch scratch;
#pragma omp for schedule(dynamic, 4)
    for (int task = 0; task < tasks; task++) {
      const int sequence = task / problem.n_key_heads;
      const int length = problem.offsets[sequence + 1] - problem.offsets[sequence];
      if (length <= 0) continue;
      char* memory = scratch.reserve(Attention<D>::scratch_bytes(length));
      if (memory) {
        Attention<D>(problem, memory, sequence, task % problem.n_key_heads).run();
      } else {
        complete = false;
      }
    }
  }
  return complete ? OK : NO_MEMORY;
}

}  // namespace

extern "C" Status stx_attention(const AttentionArguments* arguments) {
  if (arguments->size != sizeof *arguments) return OTHER_SIZE;
  switch (arguments->head_size) {
    case 32: return attend<32>(*arguments);
    case 64: return attend<64>(*arguments);
    case 128: return attend<128>(*arguments);
    default: return NO_KERNEL;
  }
}
