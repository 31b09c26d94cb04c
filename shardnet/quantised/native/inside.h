/* What the sources share: numbers of each kind, rows of them, and a product without the wrapping. */

#ifndef SHARDNET_INSIDE_H
#define SHARDNET_INSIDE_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "products.h"

#define ALWAYS static inline __attribute__((always_inline))

ALWAYS float float_of_bits(uint32_t bits) {
    float number;
    memcpy(&number, &bits, 4);
    return number;
}

ALWAYS uint32_t bits_of_float(float number) {
    uint32_t bits;
    memcpy(&bits, &number, 4);
    return bits;
}

/* float16, without the processor's help: exact, subnormal numbers too. */
ALWAYS float float_of_half(uint16_t half) {
    const uint32_t sign = (uint32_t)(half & 0x8000) << 16;
    const uint32_t rest = (uint32_t)(half & 0x7fff) << 13;
    if (rest >= (0x7c00u << 13)) return float_of_bits(sign | rest | 0x7f800000u);
    return float_of_bits(sign | bits_of_float(float_of_bits(rest) * 0x1p112f));
}

ALWAYS int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* exp to within 2 units in the last place, for -87 .. 88 and what lies beyond as for these; after Cephes. */
ALWAYS float exp_of(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    const float shifted = x * 1.44269504f + 0x1.8p23f, n = shifted - 0x1.8p23f;
    const float rest = x - n * 0.693359375f - n * -2.12194440e-4f;
    float power = 1.9875691500e-4f;
    power = power * rest + 1.3981999507e-3f;
    power = power * rest + 8.3334519073e-3f;
    power = power * rest + 4.1665795894e-2f;
    power = power * rest + 1.6666665459e-1f;
    power = power * rest + 5.0000001201e-1f;
    return (power * rest * rest + rest + 1.0f) * float_of_bits((bits_of_float(shifted) - 0x4b400000u + 127u) << 23);
}

typedef struct {
    const uint8_t *blocks;
    const float *units;
    int64_t num_outputs, num_inputs, group;
    int bits;
} Weight;

typedef struct {
    char *at;
    int64_t stride;
    int kind;
} Rows;

/* out[r, n] = sum over k of rows[r, k] * weight[n, k]. */
int32_t product(const Weight *w, const Rows *rows, const Rows *out, int64_t num_rows, Parallel parallel, unsigned num_threads);

#define TILE 16
#define GROUP 32              /* of activations that share a scale */
#define HEADER (2 * TILE * 2) /* bytes of scales and minima */

ALWAYS int64_t block_bytes(const Weight *w) { return HEADER + w->group * w->bits * TILE / 8; }

/* A session's rows, and its part in a step. */
typedef struct {
    const Run *runs;
    int64_t first_row, num_new; /* which rows of the step are its own */
    int64_t length;             /* tokens before them */
} Session;

typedef struct {
    int kind;          /* of all numbers */
    const char *heads; /* [T, Q + 2 K, d]: queries, keys, values */
    char *seen;        /* [T, Q d] */
    int64_t num_heads, num_kv_heads, head_size, window;
    int is_rounded; /* keys and values are kept in 8 bits */
    float scaling, softcap;
    const Session *sessions;
    int64_t num_sessions;
    Parallel parallel;
    unsigned num_threads;
} Attention;

/* Keep keys and values, and have queries see them. */
int32_t attend(const Attention *attention);

ALWAYS Weight weight_of(const Matrix *m) {
    const Weight weight = {(const uint8_t *)(uintptr_t)m->blocks, (const float *)(uintptr_t)m->units,
                           m->num_outputs, m->num_inputs, m->group, (int)m->bits};
    return weight;
}

ALWAYS int64_t width_of(const Rows *rows) { return rows->kind == FLOAT32 ? 4 : 2; }
ALWAYS char *row_at(const Rows *rows, int64_t row) { return rows->at + row * rows->stride * width_of(rows); }

ALWAYS float number_at(const void *row, int kind, int64_t i) {
    if (kind == FLOAT32) return ((const float *)row)[i];
    const uint16_t half = ((const uint16_t *)row)[i];
    return kind == BFLOAT16 ? float_of_bits((uint32_t)half << 16) : float_of_half(half);
}

ALWAYS uint16_t bfloat16_of(float number) {
    const uint32_t bits = bits_of_float(number);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((bits >> 16) | 0x40);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

ALWAYS uint16_t half_of(float number) {
    const uint32_t bits = bits_of_float(number), sign = bits >> 16 & 0x8000u, rest = bits & 0x7fffffffu;
    if (rest > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
    if (rest >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* 65520 and more */
    if (rest < 0x38800000u) /* subnormal: 2**-24 is one */
        return (uint16_t)(sign | (bits_of_float(float_of_bits(rest) + 0.5f) - 0x3f000000u));
    return (uint16_t)(sign | ((rest - 0x38000000u + 0xfffu + (rest >> 13 & 1)) >> 13));
}

ALWAYS void put(const float *numbers, int64_t num, const Rows *out, int64_t row, int64_t column) {
    char *at = row_at(out, row) + column * width_of(out);
    if (out->kind == FLOAT32) memcpy(at, numbers, (size_t)num * 4);
    else if (out->kind == BFLOAT16)
        for (int64_t i = 0; i < num; i++) ((uint16_t *)at)[i] = bfloat16_of(numbers[i]);
    else
        for (int64_t i = 0; i < num; i++) ((uint16_t *)at)[i] = half_of(numbers[i]);
}

#endif
