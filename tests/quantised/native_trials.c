/* Products of many shapes, in memory of exactly their size, so that a sanitizer sees what is read beside it. */

#include <stdio.h>
#include <stdlib.h>

#include "products.h"

enum { H = 96, I = 64, HEADS = 4, SIZE = 16, T = 70 };

static int64_t room(int64_t num_bytes) { return (int64_t)(uintptr_t)calloc((size_t)num_bytes, 1); }

static Matrix matrix_of(int64_t num_outputs, int64_t num_inputs) {
    const int64_t tiles = (num_outputs + 15) / 16;
    const Matrix matrix = {room(tiles * num_inputs / 32 * 320), room(tiles * 4), num_outputs, num_inputs, 32, 4};
    return matrix;
}

static void leave(const Matrix *matrix) {
    free((void *)(uintptr_t)matrix->blocks);
    free((void *)(uintptr_t)matrix->units);
}

/* Both halves of a block of zeros: what goes in comes out. */
static int blocks_are_wrong(int64_t kind) {
    const int64_t width = kind == FLOAT32 ? 4 : 2;
    const Matrix qkv = matrix_of(HEADS * SIZE, H), out = matrix_of(H, 64), gate_up = matrix_of(2 * I, H), down = matrix_of(H, I);
    const int64_t norm = room(H * 4), bias = room(2 * I * 4), hidden = room(T * H * width), seen = room(T * 64 * width);
    const int64_t heads = room(T * HEADS * SIZE * width), result = room(T * H * width), angles = room(T * SIZE * width);
    uint8_t *first = (uint8_t *)(uintptr_t)hidden, *back = (uint8_t *)(uintptr_t)result;
    first[width - 1] = 0x40;
    const Before before = {qkv, norm, bias, 1e-5, hidden, H, kind, heads, T, angles, angles, 3, SIZE, 0, 1};
    const Behind behind = {out, gate_up, down, norm, 0, bias, 0, 1e-5, SILU, hidden, H, seen, 64, result, kind, T, 0, 1};
    const int wrong = shardnet_before(&before) || shardnet_behind(&behind) || back[width - 1] != 0x40;
    const int64_t all[] = {norm, bias, hidden, seen, heads, result, angles};
    for (int i = 0; i < 7; i++) free((void *)(uintptr_t)all[i]);
    leave(&qkv), leave(&out), leave(&gate_up), leave(&down);
    return wrong;
}

int main(void) {
    const int64_t outputs[] = {1, 15, 16, 33}, inputs[] = {32, 96, 256}, groups[] = {16, 32, 64, 96, 128, 256};
    int32_t wrong = 0, tried = 0;
    for (int n = 0; n < 4; n++)
        for (int k = 0; k < 3; k++)
            for (int g = 0; g < 6; g++)
                for (int32_t bits = groups[g] == 16 ? 8 : 4; bits <= 8; bits += 4)
                    for (int64_t rows = 1; rows <= 21; rows = rows < 9 ? rows + 1 : rows + 4) {
                        if (inputs[k] % groups[g]) continue;
                        const int32_t kind = (int32_t)(rows % 3);
                        tried++;
                        wrong += shardnet_trial_of(outputs[n], inputs[k], groups[g], bits, rows, kind, (kind + n) % 3) != 0;
                    }
    for (int n = 0; n < 4; n++)
        for (int k = 0; k < 3; k++)
            wrong += shardnet_packing_trial(outputs[n], inputs[k], Q4_1) + shardnet_packing_trial(outputs[n], inputs[k], STORED_FLOAT32);
    for (int64_t kind = FLOAT32; kind <= FLOAT16; kind++) wrong += blocks_are_wrong(kind);
    printf("%s: %d of %d are wrong\n", shardnet_way(), wrong, tried);
    return tried < 500 || wrong || shardnet_trial();
}
