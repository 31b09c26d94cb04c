/* Rows of weights as files have them: blocks of ggml, or floats. What comes out is what `loader/gguf/blocks.py` makes of
   them, to the last bit. The layouts: https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h */

#ifndef SHARDNET_BLOCKS_H
#define SHARDNET_BLOCKS_H

#include "inside.h"

/* A row as whole numbers: (code - zero) * scale + minimum. */
typedef struct {
    uint8_t *codes;          /* [K] */
    float *scales, *minima; /* [K / group of the kind]; minima that stand for a zero, too */
} Whole;

typedef struct {
    int64_t numbers, bytes; /* of a block */
    int64_t group;
    int bits; /* of codes: 4 where all are below 16, else 8 */
    int zero;
    void (*unpack)(const uint8_t *block, Whole to); /* one block */
} BlockKind;

ALWAYS float half_at(const uint8_t *at) {
    uint16_t half;
    memcpy(&half, at, 2);
    return float_of_half(half);
}

/* Low halves of 16 or 32 bytes, and then the high ones. */
ALWAYS void nibbles(const uint8_t *packed, const int run, uint8_t *codes) {
    for (int i = 0; i < run; i++) codes[i] = packed[i] & 15;
    for (int i = 0; i < run; i++) codes[run + i] = packed[i] >> 4;
}

ALWAYS void fifth_bits(const uint8_t *packed, uint8_t *codes) {
    uint32_t bits;
    memcpy(&bits, packed, 4);
    for (int i = 0; i < 32; i++) codes[i] |= (uint8_t)((bits >> i & 1) << 4);
}

ALWAYS void one_scale(Whole to, float scale, float minimum) {
    to.scales[0] = scale;
    to.minima[0] = minimum;
}

static void unpack_q4_0(const uint8_t *block, Whole to) {
    nibbles(block + 2, 16, to.codes);
    one_scale(to, half_at(block), half_at(block) * -8);
}

static void unpack_q4_1(const uint8_t *block, Whole to) {
    nibbles(block + 4, 16, to.codes);
    one_scale(to, half_at(block), half_at(block + 2));
}

static void unpack_q5_0(const uint8_t *block, Whole to) {
    nibbles(block + 6, 16, to.codes);
    fifth_bits(block + 2, to.codes);
    one_scale(to, half_at(block), half_at(block) * -16);
}

static void unpack_q5_1(const uint8_t *block, Whole to) {
    nibbles(block + 8, 16, to.codes);
    fifth_bits(block + 4, to.codes);
    one_scale(to, half_at(block), half_at(block + 2));
}

static void unpack_q8_0(const uint8_t *block, Whole to) {
    for (int i = 0; i < 32; i++) to.codes[i] = block[2 + i] ^ 128;
    one_scale(to, half_at(block), half_at(block) * -128);
}

/* Of K blocks: eight scales and eight minima of 6 bits in 12 bytes, behind the two floats by which they are multiplied. */
ALWAYS void scales_and_minima(const uint8_t *block, Whole to) {
    const float scale = half_at(block), minimum = half_at(block + 2);
    const uint8_t *scales = block + 4, *minima = block + 8, *high = block + 12;
    for (int i = 0; i < 4; i++) {
        to.scales[i] = scale * (float)(scales[i] & 63);
        to.minima[i] = -(minimum * (float)(minima[i] & 63));
        to.scales[4 + i] = scale * (float)((high[i] & 15) | (scales[i] >> 2 & 48));
        to.minima[4 + i] = -(minimum * (float)(high[i] >> 4 | (minima[i] >> 2 & 48)));
    }
}

static void unpack_q4_k(const uint8_t *block, Whole to) {
    for (int i = 0; i < 4; i++) nibbles(block + 16 + 32 * i, 32, to.codes + 64 * i);
    scales_and_minima(block, to);
}

static void unpack_q5_k(const uint8_t *block, Whole to) {
    for (int i = 0; i < 4; i++) nibbles(block + 48 + 32 * i, 32, to.codes + 64 * i);
    for (int g = 0; g < 8; g++)
        for (int i = 0; i < 32; i++) to.codes[32 * g + i] |= (uint8_t)((block[16 + i] >> g & 1) << 4);
    scales_and_minima(block, to);
}

static void unpack_q6_k(const uint8_t *block, Whole to) {
    const float scale = half_at(block + 208);
    for (int half = 0; half < 2; half++) {
        uint8_t *codes = to.codes + 128 * half;
        nibbles(block + 64 * half, 64, codes);
        for (int part = 0; part < 4; part++)
            for (int i = 0; i < 32; i++)
                codes[32 * part + i] |= (uint8_t)((block[128 + 32 * half + i] >> 2 * part & 3) << 4);
    }
    for (int g = 0; g < 16; g++) {
        to.scales[g] = scale * (float)(int8_t)block[192 + g];
        to.minima[g] = to.scales[g] * -32;
    }
}

/* By `Stored` of products.h, behind the floats. */
static const BlockKind BLOCK_KINDS[] = {
    {32, 18, 32, 4, 8, unpack_q4_0},   {32, 20, 32, 4, 0, unpack_q4_1},    {32, 22, 32, 8, 16, unpack_q5_0},
    {32, 24, 32, 8, 0, unpack_q5_1},   {32, 34, 32, 8, 128, unpack_q8_0}, {256, 144, 32, 4, 0, unpack_q4_k},
    {256, 176, 32, 8, 0, unpack_q5_k}, {256, 210, 16, 8, 32, unpack_q6_k},
};

ALWAYS const BlockKind *block_kind(int64_t stored) { return stored < Q4_0 ? 0 : &BLOCK_KINDS[stored - Q4_0]; }

/* A row of blocks, as whole numbers. */
static void unpack_row(const BlockKind *kind, const uint8_t *row, int64_t num_inputs, Whole to) {
    for (int64_t k = 0; k < num_inputs; k += kind->numbers, row += kind->bytes) {
        const Whole here = {to.codes + k, to.scales + k / kind->group, to.minima + k / kind->group};
        kind->unpack(row, here);
    }
}

/* The same as floats, in the order of ggml's operations. */
ALWAYS void floats_of(const BlockKind *kind, Whole whole, int64_t num_inputs, float *numbers) {
    for (int64_t g = 0; g < num_inputs / kind->group; g++) {
        const uint8_t *codes = whole.codes + g * kind->group;
        const float scale = whole.scales[g], minimum = kind->zero ? 0.0f : whole.minima[g];
        float *to = numbers + g * kind->group;
        if (kind->zero)
            for (int64_t i = 0; i < kind->group; i++) to[i] = (float)(codes[i] - kind->zero) * scale;
        else
            for (int64_t i = 0; i < kind->group; i++) to[i] = (float)codes[i] * scale + minimum;
    }
}

#endif
