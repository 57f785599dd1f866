// What stx_core/inference/native.py passes to a kernel: a struct, field by field as declared there.
//
// Its first field is its size as the caller declares it, which each kernel compares with its own.

#pragma once

#include <cstdint>

enum Status : int32_t {
  OK = 0,
  OTHER_SIZE = 1,  // the caller declares another struct
  NO_MEMORY = 2,
  NO_KERNEL = 3,  // of such a head size
};

// (T, heads, D); numbers of a head are next to each other.
struct Heads {
  const uint16_t* data;
  int64_t token_stride, head_stride;

  const uint16_t* at(int64_t token, int64_t head) const {
    return data + token * token_stride + head * head_stride;
  }
};

struct AttentionArguments {
  int64_t size;
  Heads query, key, value;
  uint16_t* out;           // (T, heads, D), contiguous
  const int32_t* offsets;  // (n_sequences + 1,)
  const float* bias;       // (heads, keys, queries) added to scaled scores, or null
  int64_t bias_head_stride, bias_key_stride;
  int32_t n_sequences, n_heads, n_key_heads, head_size;
  int32_t left, right;  // keys seen before and after a query; negative: all
  float scale;
};

struct LinearArguments {
  int64_t size;
  const uint16_t* input;   // (n_rows, n_inputs)
  const uint32_t* weight;  // (panels, n_inputs / 2, 64) pairs of numbers
  const uint16_t* bias;    // (n_outputs,) or null
  uint16_t* out;           // (n_rows, n_outputs), or (n_segments, n_outputs) for the maximum
  const int64_t* offsets;  // (n_segments + 1,) for the maximum
  int64_t n_rows, n_segments, n_inputs, n_outputs;
  int32_t gelu;  // of what comes out; not for the maximum
};

struct AddNormArguments {
  int64_t size;
  const uint16_t *a, *b;           // (n_rows, width)
  const uint16_t *weight, *bias;   // (width,)
  uint16_t *sum, *norm;            // (n_rows, width)
  int64_t n_rows, width;           // the width is a multiple of 16
  float epsilon;
};
