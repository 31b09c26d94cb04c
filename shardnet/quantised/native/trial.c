/* Products and rows of packed weights against the same, reckoned one number after the other in double precision. */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "products.h"

#define TILE 16
#define GROUP 32

typedef struct {
    int64_t num_outputs, num_inputs, group;
    int32_t bits;
    uint8_t *blocks;
    float *units;
    double *numbers; /* [N, K]: what the weight stands for */
} Trial;

static Call call_of(const Trial *t, const void *rows, int64_t row_kind, void *out, int64_t out_stride, int64_t out_kind,
                    int64_t num_rows) {
    const Matrix matrix = {(int64_t)(uintptr_t)t->blocks, (int64_t)(uintptr_t)t->units, t->num_outputs, t->num_inputs,
                           t->group, t->bits};
    const Call call = {matrix, (int64_t)(uintptr_t)rows, t->num_inputs, row_kind, (int64_t)(uintptr_t)out, out_stride, out_kind,
                       num_rows, 0, 1};
    return call;
}

static uint32_t drawn(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* The float16 of n / 256, for |n| below 256. */
static uint16_t half_of_256ths(int n) {
    const uint16_t sign = n < 0 ? 0x8000 : 0;
    int rest = n < 0 ? -n : n, exponent = 15 + 2;
    if (!rest) return sign;
    for (; rest < 1024; rest *= 2) exponent--;
    return (uint16_t)(sign | exponent << 10 | (rest - 1024));
}

static void put_code(const Trial *t, uint8_t *block, int64_t lane, int64_t k, int code) {
    uint8_t *codes = block + 4 * TILE;
    if (t->bits == 8) {
        codes[64 * (k / 4) + 4 * lane + k % 4] = (uint8_t)code;
    } else {
        uint8_t *both = codes + k / 32 * 256 + 64 * (k % 16 / 4) + 4 * lane + k % 4;
        *both = (uint8_t)(k % 32 < 16 ? *both | code : *both | code << 4);
    }
}

static void draw_weight(Trial *t, uint32_t *state) {
    const int64_t groups = t->num_inputs / t->group, block_bytes = 4 * TILE + t->group * t->bits * TILE / 8;
    for (int64_t n = 0; n < t->num_outputs; n++) {
        const float unit = t->units[n / TILE] = n / TILE % 2 ? 0.25f : 1.0f;
        for (int64_t g = 0; g < groups; g++) {
            uint8_t *block = t->blocks + (n / TILE * groups + g) * block_bytes;
            const int scale = (int)(drawn(state) % 255) - 127, minimum = (int)(drawn(state) % 511) - 255;
            const uint16_t halves[2] = {half_of_256ths(scale), half_of_256ths(minimum)};
            memcpy(block + 2 * (n % TILE), &halves[0], 2);
            memcpy(block + 2 * TILE + 2 * (n % TILE), &halves[1], 2);
            for (int64_t k = 0; k < t->group; k++) {
                const int code = (int)(drawn(state) >> 4) & ((1 << t->bits) - 1);
                put_code(t, block, n % TILE, k, code);
                t->numbers[n * t->num_inputs + g * t->group + k] = (code * scale + minimum) / 256.0 * unit;
            }
        }
    }
}

/* Numbers that all three kinds have, as bytes and as they are. */
static void draw_row(int64_t num, int32_t kind, void *row, float *numbers, uint32_t *state) {
    for (int64_t k = 0; k < num; k++) {
        const int n = (int)(drawn(state) % 255) - 127;
        numbers[k] = (float)n / 256.0f;
        uint32_t bits;
        memcpy(&bits, &numbers[k], 4);
        if (kind == FLOAT32) ((float *)row)[k] = numbers[k];
        else ((uint16_t *)row)[k] = kind == BFLOAT16 ? (uint16_t)(bits >> 16) : half_of_256ths(n);
    }
}

/* The rounded row, as numbers. */
static void round_like_it(int64_t num, float *numbers) {
    for (int64_t g = 0; g < num; g += GROUP) {
        float largest = 0;
        for (int64_t k = g; k < g + GROUP; k++) largest = fmaxf(largest, fabsf(numbers[k]));
        const float inverse = largest > 0 ? 127.0f / largest : 0;
        for (int64_t k = g; k < g + GROUP; k++) numbers[k] = nearbyintf(numbers[k] * inverse) * (largest / 127.0f);
    }
}

static double result_at(const void *out, int32_t kind, int64_t i) {
    if (kind == FLOAT32) return ((const float *)out)[i];
    const uint16_t half = ((const uint16_t *)out)[i];
    float number;
    const uint32_t bits = (uint32_t)half << 16;
    memcpy(&number, &bits, 4);
    if (kind == BFLOAT16) return number;
    const double size = ldexp((half & 0x3ff) | (half & 0x7c00 ? 0x400 : 0), ((half >> 10 & 31) ? (half >> 10 & 31) : 1) - 25);
    return half & 0x8000 ? -size : size;
}

static int32_t is_close(double got, double want, double size, int32_t kind) {
    const double ulp = kind == FLOAT32 ? 0x1p-23 : kind == BFLOAT16 ? 0x1p-8 : 0x1p-11;
    return fabs(got - want) <= 1e-6 * size + ulp * fabs(want) + 1e-7;
}

static int32_t wrong_products(const Trial *t, const float *row, const void *out, int32_t kind) {
    for (int64_t n = 0; n < t->num_outputs; n++) {
        double sum = 0, size = 0;
        for (int64_t k = 0; k < t->num_inputs; k++) {
            const double product = row[k] * t->numbers[n * t->num_inputs + k];
            sum += product;
            size += fabs(product);
        }
        if (!is_close(result_at(out, kind, n), sum, size, kind)) return 1;
    }
    return 0;
}

static int32_t wrong_rows(const Trial *t) {
    float *row = malloc((size_t)t->num_inputs * 4);
    int32_t wrong = row == 0;
    for (int64_t n = 0; n < t->num_outputs && !wrong; n++) {
        const Call call = call_of(t, &n, 0, row, t->num_inputs, FLOAT32, 1);
        wrong = shardnet_gather(&call) != DONE;
        for (int64_t k = 0; k < t->num_inputs && !wrong; k++) wrong = row[k] != t->numbers[n * t->num_inputs + k];
    }
    free(row);
    return wrong;
}

static int32_t wrong_in(const Trial *t, int64_t num_rows, int32_t row_kind, int32_t out_kind, char *rows, float *numbers,
                        char *out, uint32_t *state) {
    const int64_t K = t->num_inputs, N = t->num_outputs;
    for (int64_t r = 0; r < num_rows; r++) {
        draw_row(K, row_kind, rows + r * K * (row_kind ? 2 : 4), numbers + r * K, state);
        round_like_it(K, numbers + r * K);
    }
    const Call call = call_of(t, rows, row_kind, out, N, out_kind, num_rows);
    int32_t wrong = shardnet_product(&call) != DONE;
    for (int64_t r = 0; r < num_rows && !wrong; r++)
        wrong = wrong_products(t, numbers + r * K, out + r * N * (out_kind ? 2 : 4), out_kind);
    return wrong || wrong_rows(t);
}

int32_t shardnet_trial_of(int64_t num_outputs, int64_t num_inputs, int64_t group, int32_t bits, int64_t num_rows,
                          int32_t row_kind, int32_t out_kind) {
    const int64_t tiles = (num_outputs + TILE - 1) / TILE;
    const size_t num_bytes = (size_t)(tiles * (num_inputs / group) * (4 * TILE + group * bits * TILE / 8));
    Trial t = {num_outputs, num_inputs, group, bits, calloc(num_bytes, 1), 0, 0};
    t.units = malloc((size_t)tiles * 4);
    t.numbers = malloc((size_t)(num_outputs * num_inputs) * 8);
    char *rows = calloc((size_t)(num_rows * num_inputs), row_kind ? 2 : 4);
    float *numbers = malloc((size_t)(num_rows * num_inputs) * 4);
    char *out = malloc((size_t)(num_rows * num_outputs) * (out_kind ? 2 : 4));
    uint32_t state = 1;
    int32_t wrong = 1;
    if (t.blocks && t.units && t.numbers && rows && numbers && out) {
        draw_weight(&t, &state);
        wrong = wrong_in(&t, num_rows, row_kind, out_kind, rows, numbers, out, &state);
    }
    free(out);
    free(numbers);
    free(rows);
    free(t.numbers);
    free(t.units);
    free(t.blocks);
    return wrong;
}

/* A row of a file that stands for numbers which are known: Q4_1, or float32 of which the greatest is 127. */
static void draw_stored(int64_t stored, int64_t num, uint8_t *row, double *numbers, uint32_t *state) {
    if (stored == STORED_FLOAT32) {
        for (int64_t k = 0; k < num; k++) {
            const float number = k ? (float)(drawn(state) % 255) - 127 : 127;
            memcpy(row + 4 * k, &number, 4);
            numbers[k] = number;
        }
        return;
    }
    for (int64_t g = 0; g < num / GROUP; g++, row += 20) {
        const int scale = (int)(drawn(state) % 255) - 127, minimum = (int)(drawn(state) % 511) - 255;
        const uint16_t halves[2] = {half_of_256ths(scale), half_of_256ths(minimum)};
        memcpy(row, halves, 4);
        for (int k = 0; k < 16; k++) {
            row[4 + k] = (uint8_t)drawn(state);
            numbers[g * GROUP + k] = ((row[4 + k] & 15) * scale + minimum) / 256.0;
            numbers[g * GROUP + 16 + k] = ((row[4 + k] >> 4) * scale + minimum) / 256.0;
        }
    }
}

/* Rows of a file in reverse order, laid out and looked up. */
int32_t shardnet_packing_trial(int64_t num_outputs, int64_t num_inputs, int64_t stored) {
    const int64_t bits = stored == Q4_1 ? 4 : 8, group = stored == Q4_1 ? 32 : num_inputs;
    const int64_t row_bytes = stored == Q4_1 ? num_inputs / GROUP * 20 : 4 * num_inputs, tiles = (num_outputs + TILE - 1) / TILE;
    Trial t = {num_outputs, num_inputs, group, (int32_t)bits, 0, 0, 0};
    t.blocks = malloc((size_t)(tiles * (num_inputs / group) * (4 * TILE + group * bits * TILE / 8)));
    t.units = malloc((size_t)tiles * 4);
    t.numbers = malloc((size_t)(num_outputs * num_inputs) * 8);
    uint8_t *rows = malloc((size_t)(num_outputs * row_bytes));
    int64_t *order = malloc((size_t)num_outputs * 8);
    uint32_t state = 1;
    int32_t wrong = 1;
    if (t.blocks && t.units && t.numbers && rows && order) {
        for (int64_t n = 0; n < num_outputs; n++) {
            order[n] = num_outputs - 1 - n;
            draw_stored(stored, num_inputs, rows + order[n] * row_bytes, t.numbers + n * num_inputs, &state);
        }
        const Matrix matrix = call_of(&t, 0, 0, 0, 0, 0, 0).matrix;
        const Pack call = {matrix, (int64_t)(uintptr_t)rows, row_bytes, stored, (int64_t)(uintptr_t)order, 0, num_outputs, 0, 1};
        wrong = shardnet_pack(&call) != DONE || wrong_rows(&t);
    }
    free(order);
    free(rows);
    free(t.numbers);
    free(t.units);
    free(t.blocks);
    return wrong;
}

int32_t shardnet_trial(void) {
    static const struct { int64_t outputs, inputs, group; int32_t bits; } SHAPES[] = {
        {35, 96, 32, 4}, {16, 256, 128, 4}, {35, 96, 32, 8}, {17, 160, 160, 8}, {20, 96, 16, 8},
    };
    int32_t number = 0;
    for (int64_t outputs = 16; outputs <= 35; outputs += 19)
        for (int64_t stored = STORED_FLOAT32; stored <= Q4_1; stored += Q4_1 - STORED_FLOAT32) {
            number++;
            if (shardnet_packing_trial(outputs, 96, stored)) return number;
        }
    for (size_t i = 0; i < sizeof SHAPES / sizeof *SHAPES; i++)
        for (int64_t rows = 1; rows <= 9; rows++) {
            const int32_t kind = (int32_t)(rows % 3);
            number++;
            if (shardnet_trial_of(SHAPES[i].outputs, SHAPES[i].inputs, SHAPES[i].group, SHAPES[i].bits, rows, kind, kind))
                return number;
        }
    for (int32_t kind = FLOAT32; kind <= FLOAT16; kind++)
        for (int32_t is_rounded = 0; is_rounded <= 1; is_rounded++) {
            number++;
            if (shardnet_trial_of_attention(24, 6, 2, kind ? 70 : 0, kind, is_rounded)) return number;
        }
    return 0;
}
