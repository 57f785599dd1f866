// Attention over packed sequences of different lengths, for CPUs with AVX-512 BF16.
//
// Queries, keys and values are bfloat16, sums are float32. Each sequence attends to itself only, so
// no token is padding. A task is one sequence and one key head: its keys and values are brought
// into the order that VDPBF16PS multiplies (pairs of bfloat16, summed in float32), then six
// queries at a time are multiplied with all their keys, run through softmax, and multiplied with
// all their values.
//
// Built by stx_core/inference/native.py, which also names the arguments.

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <limits>

namespace {

constexpr int LANES = 16;  // float32 of one register
constexpr int ROWS = 6;    // queries at a time: with 4 registers of keys they fill the register file
constexpr float LOG2_E = 1.44269504f;

struct Strided {
  const uint16_t* data;
  int64_t token;
  int64_t head;
  const uint16_t* at(int64_t i, int64_t h) const { return data + i * token + h * head; }
};

struct Problem {
  Strided query, key, value;
  uint16_t* out;  // (T, heads, D), contiguous
  const int32_t* offsets;
  int32_t n_sequences, heads, key_heads;
  float scale;
  int32_t left, right;  // keys seen before and after a query; negative: all
  const float* bias;    // (heads, n, n) added to scaled scores, or null
  int64_t bias_head, bias_row;
};

inline int rounded_up(int n, int step) { return (n + step - 1) / step * step; }

// 2^x by a Taylor polynomial around the nearest integer; relative error 2e-6.
inline __m512 exp2_16(__m512 x) {
  x = _mm512_max_ps(x, _mm512_set1_ps(-126.f));
  const __m512 whole = _mm512_roundscale_ps(x, 0);
  const __m512 part = _mm512_sub_ps(x, whole);
  __m512 sum = _mm512_set1_ps(1.3333558e-3f);
  sum = _mm512_fmadd_ps(sum, part, _mm512_set1_ps(9.6181291e-3f));
  sum = _mm512_fmadd_ps(sum, part, _mm512_set1_ps(5.5504109e-2f));
  sum = _mm512_fmadd_ps(sum, part, _mm512_set1_ps(2.4022651e-1f));
  sum = _mm512_fmadd_ps(sum, part, _mm512_set1_ps(6.9314718e-1f));
  sum = _mm512_fmadd_ps(sum, part, _mm512_set1_ps(1.f));
  return _mm512_scalef_ps(sum, whole);
}

inline __m512 multiply_pairs(__m512 sum, __m512i a, __m512i b) {
  return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
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
  void reserve(size_t bytes) {
    if (bytes <= size_) return;
    std::free(data_);
    size_ = (bytes + 63) / 64 * 64;
    data_ = static_cast<char*>(std::aligned_alloc(64, size_));
  }
  char* data() const { return data_; }

 private:
  char* data_ = nullptr;
  size_t size_ = 0;
};

template <int D>
class Attention {
 public:
  Attention(const Problem& problem, Scratch& scratch, int sequence, int key_head)
      : p_(problem),
        start_(problem.offsets[sequence]),
        length_(problem.offsets[sequence + 1] - problem.offsets[sequence]),
        padded_(rounded_up(length_, 2 * LANES)),
        key_head_(key_head) {
    const size_t ordered = size_t(padded_) * D * sizeof(uint16_t);
    const size_t scores = size_t(ROWS) * padded_ * sizeof(float);
    scratch.reserve(2 * ordered + scores + scores / 2);
    keys_ = reinterpret_cast<uint32_t*>(scratch.data());
    values_ = reinterpret_cast<uint32_t*>(scratch.data() + ordered);
    scores_ = reinterpret_cast<float*>(scratch.data() + 2 * ordered);
    weights_ = reinterpret_cast<uint16_t*>(scratch.data() + 2 * ordered + scores);
  }

  void run() {
    order_keys();
    order_values();
    const int group = p_.heads / p_.key_heads;
    for (int head = key_head_ * group; head < (key_head_ + 1) * group; head++) {
      for (int row = 0; row < length_; row += ROWS) {
        switch (std::min(ROWS, length_ - row)) {
          case 6: rows<6>(head, row); break;
          case 5: rows<5>(head, row); break;
          case 4: rows<4>(head, row); break;
          case 3: rows<3>(head, row); break;
          case 2: rows<2>(head, row); break;
          default: rows<1>(head, row);
        }
      }
    }
  }

 private:
  static constexpr int PAIRS = D / 2;
  static constexpr int PARTS = D / 32;  // registers of 32 bfloat16 that hold one vector

  // To [16 keys][pair of dimensions][key]: one load is the same pair of 16 keys.
  void order_keys() {
    for (int first = 0; first < padded_; first += LANES) {
      for (int part = 0; part < PARTS; part++) {
        __m512i block[16];
        for (int i = 0; i < 16; i++) {
          const bool real = first + i < length_;
          block[i] = real ? _mm512_loadu_si512(p_.key.at(start_ + first + i, key_head_) + part * 32)
                          : _mm512_setzero_si512();
        }
        transpose(block);
        uint32_t* to = keys_ + size_t(first) * PAIRS + part * 16 * LANES;
        for (int i = 0; i < 16; i++) _mm512_store_si512(to + i * LANES, block[i]);
      }
    }
  }

  // To [pair of tokens][dimension]: one load is the same pair of tokens for 16 dimensions.
  void order_values() {
    const __m512i low = interleaving(0), high = interleaving(16);
    for (int token = 0; token < padded_; token += 2) {
      for (int part = 0; part < PARTS; part++) {
        const __m512i a = value(token, part), b = value(token + 1, part);
        uint32_t* to = values_ + size_t(token) / 2 * D + part * 32;
        _mm512_store_si512(to, _mm512_permutex2var_epi16(a, low, b));
        _mm512_store_si512(to + 16, _mm512_permutex2var_epi16(a, high, b));
      }
    }
  }

  __m512i value(int token, int part) const {
    return token < length_ ? _mm512_loadu_si512(p_.value.at(start_ + token, key_head_) + part * 32)
                           : _mm512_setzero_si512();
  }

  static __m512i interleaving(int first) {
    alignas(64) uint16_t index[32];
    for (int i = 0; i < 16; i++) {
      index[2 * i] = first + i;
      index[2 * i + 1] = 32 + first + i;
    }
    return _mm512_load_si512(index);
  }

  int first_key(int row) const { return p_.left < 0 ? 0 : std::max(0, row - p_.left); }
  int last_key(int row) const {
    return p_.right < 0 ? length_ : int(std::min<int64_t>(length_, int64_t(row) + p_.right + 1));
  }

  template <int R>
  void rows(int head, int row) {
    // Multiples of 32, so that the weights of each pair of tokens are written.
    const int from = first_key(row) / 32 * 32;
    const int to = rounded_up(last_key(row + R - 1), 32);
    int key = from;
    for (; key + 4 * LANES <= to; key += 4 * LANES) score<R, 4>(head, row, key);
    for (; key < to; key += 2 * LANES) score<R, 2>(head, row, key);
    float inverse[R];
    for (int r = 0; r < R; r++) {
      if (p_.bias) add_bias(head, row, r);
      inverse[r] = softmax(row, r, from, to);
    }
    constexpr int AT_ONCE = D / LANES < 4 ? D / LANES : 4;
    for (int part = 0; part < D / LANES; part += AT_ONCE) {
      mix<R, AT_ONCE>(head, row, from, to, part, inverse);
    }
  }

  // Scores of R queries with C x 16 keys.
  template <int R, int C>
  void score(int head, int row, int key) {
    __m512 sum[R][C];
    for (auto& line : sum)
      for (auto& one : line) one = _mm512_setzero_ps();
    const uint16_t* query[R];
    for (int r = 0; r < R; r++) query[r] = p_.query.at(start_ + row + r, head);
    const uint32_t* keys = keys_ + size_t(key) * PAIRS;
    for (int pair = 0; pair < PAIRS; pair++) {
      __m512i column[C];
      for (int c = 0; c < C; c++)
        column[c] = _mm512_load_si512(keys + (size_t(c) * PAIRS + pair) * LANES);
      for (int r = 0; r < R; r++) {
        const __m512i both = _mm512_set1_epi32(two(query[r] + 2 * pair));
        for (int c = 0; c < C; c++) sum[r][c] = multiply_pairs(sum[r][c], both, column[c]);
      }
    }
    for (int r = 0; r < R; r++)
      for (int c = 0; c < C; c++) _mm512_store_ps(line(r) + key + c * LANES, sum[r][c]);
  }

  static int32_t two(const uint16_t* pair) {
    int32_t both;
    __builtin_memcpy(&both, pair, sizeof both);
    return both;
  }

  float* line(int r) const { return scores_ + size_t(r) * padded_; }
  uint16_t* weights(int r) const { return weights_ + size_t(r) * padded_; }

  // Scores become scaled scores plus bias, divided by the scale that softmax multiplies with.
  void add_bias(int head, int row, int r) {
    const float* bias = p_.bias + head * p_.bias_head + (row + r) * p_.bias_row;
    const __m512 unscale = _mm512_set1_ps(1.f / p_.scale);
    for (int key = 0; key < length_; key += LANES) {
      const __mmask16 real = __mmask16((1u << std::min(LANES, length_ - key)) - 1);
      const __m512 more = _mm512_maskz_loadu_ps(real, bias + key);
      const __m512 sum = _mm512_fmadd_ps(more, unscale, _mm512_load_ps(line(r) + key));
      _mm512_store_ps(line(r) + key, sum);
    }
  }

  static __mmask16 seen(int key, int first, int last) {
    uint32_t mask = 0xffff;
    if (key < first) mask &= first - key >= LANES ? 0u : 0xffffu << (first - key);
    if (key + LANES > last) mask &= last <= key ? 0u : 0xffffu >> (key + LANES - last);
    return __mmask16(mask);
  }

  // Weights, not yet divided by their sum; the sum's inverse.
  float softmax(int row, int r, int from, int to) {
    const int first = first_key(row + r), last = last_key(row + r);
    const float* scores = line(r);
    __m512 highest = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
    for (int key = from; key < to; key += LANES) {
      const __mmask16 mask = seen(key, first, last);
      highest = _mm512_mask_max_ps(highest, mask, highest, _mm512_load_ps(scores + key));
    }
    const __m512 scale = _mm512_set1_ps(p_.scale * LOG2_E);
    const __m512 shift = _mm512_mul_ps(_mm512_set1_ps(_mm512_reduce_max_ps(highest)), scale);
    __m512 sum[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    for (int key = from; key < to; key += 2 * LANES) {
      __m512 power[2];
      for (int i = 0; i < 2; i++) {
        const int at = key + i * LANES;
        const __m512 x = _mm512_fmsub_ps(_mm512_load_ps(scores + at), scale, shift);
        power[i] = _mm512_maskz_mov_ps(seen(at, first, last), exp2_16(x));
        sum[i] = _mm512_add_ps(sum[i], power[i]);
      }
      _mm512_storeu_si512(weights(r) + key, (__m512i)_mm512_cvtne2ps_pbh(power[1], power[0]));
    }
    return 1.f / _mm512_reduce_add_ps(_mm512_add_ps(sum[0], sum[1]));
  }

  // Weighted sums of values for R queries and C x 16 dimensions.
  template <int R, int C>
  void mix(int head, int row, int from, int to, int part, const float (&inverse)[R]) {
    __m512 sum[R][C];
    for (auto& line : sum)
      for (auto& one : line) one = _mm512_setzero_ps();
    for (int token = from; token < to; token += 2) {
      const uint32_t* values = values_ + size_t(token) / 2 * D + part * LANES;
      __m512i column[C];
      for (int c = 0; c < C; c++) column[c] = _mm512_load_si512(values + c * LANES);
      for (int r = 0; r < R; r++) {
        const __m512i both = _mm512_set1_epi32(two(weights(r) + token));
        for (int c = 0; c < C; c++) sum[r][c] = multiply_pairs(sum[r][c], both, column[c]);
      }
    }
    for (int r = 0; r < R; r++) {
      uint16_t* out = p_.out + (int64_t(start_ + row + r) * p_.heads + head) * D + part * LANES;
      const __m512 factor = _mm512_set1_ps(inverse[r]);
      for (int c = 0; c < C; c++) {
        const __m256bh rounded = _mm512_cvtneps_pbh(_mm512_mul_ps(sum[r][c], factor));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + c * LANES), (__m256i)rounded);
      }
    }
  }

  const Problem& p_;
  const int start_, length_, padded_, key_head_;
  uint32_t* keys_;
  uint32_t* values_;
  float* scores_;
  uint16_t* weights_;
};

template <int D>
void attend(const Problem& problem) {
  const int tasks = problem.n_sequences * problem.key_heads;
#pragma omp parallel
  {
    static thread_local Scratch scratch;
#pragma omp for schedule(dynamic, 4)
    for (int task = 0; task < tasks; task++) {
      const int sequence = task / problem.key_heads;
      if (problem.offsets[sequence + 1] > problem.offsets[sequence]) {
        Attention<D>(problem, scratch, sequence, task % problem.key_heads).run();
      }
    }
  }
}

}  // namespace

extern "C" {

int stx_attention_supported() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512bf16");
}

// 0, or 1 for a head size that there is no kernel for.
int stx_attention(const uint16_t* query, int64_t query_token, int64_t query_head,
                  const uint16_t* key, int64_t key_token, int64_t key_head, const uint16_t* value,
                  int64_t value_token, int64_t value_head, uint16_t* out, const int32_t* offsets,
                  int32_t n_sequences, int32_t heads, int32_t key_heads, int32_t head_size,
                  float scale, int32_t left, int32_t right, const float* bias, int64_t bias_head,
                  int64_t bias_row) {
  const Problem problem{{query, query_token, query_head},
                        {key, key_token, key_head},
                        {value, value_token, value_head},
                        out,
                        offsets,
                        n_sequences,
                        heads,
                        key_heads,
                        scale,
                        left,
                        right,
                        bias,
                        bias_head,
                        bias_row};
  switch (head_size) {
    case 32: attend<32>(problem); return 0;
    case 64: attend<64>(problem); return 0;
    case 128: attend<128>(problem); return 0;
    default: return 1;
  }
}
}
