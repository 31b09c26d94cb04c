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

/* A block of zeros: what goes in comes out. */
static int blocks_are_wrong(int64_t kind, int64_t is_rounded) {
    const int64_t width = kind == FLOAT32 ? 4 : 2, kept = is_rounded ? SIZE + 4 : SIZE * width;
    const NormOf norm = {room(H * 4), 1e-5}, none = {0, 0};
    const int64_t bias = room(2 * I * 4), angles = room(T * SIZE * width), hidden = room(T * H * width);
    const int64_t keys = room(T * kept), values = room(T * kept);
    const Block block = {matrix_of((HEADS + 2) * SIZE, H), matrix_of(H, HEADS * SIZE), matrix_of(2 * I, H), matrix_of(H, I),
                         norm, norm, none, none, none, none, 0, 0, bias, 0, SILU, HEADS, 1, SIZE, 0, 1.0, 0.0};
    const int64_t runs[] = {1, keys, values, T}, sessions[] = {T, 0}, own = (int64_t)(uintptr_t)&block;
    const Layer layer = {angles, angles, (int64_t)(uintptr_t)runs};
    const Step step = {hidden, kind, T, is_rounded, (int64_t)(uintptr_t)sessions, 1, 0, 1};
    uint8_t *first = (uint8_t *)(uintptr_t)hidden;
    first[width - 1] = 0x40;
    const int wrong = shardnet_blocks(&own, &layer, 1, &step) || first[width - 1] != 0x40;
    const int64_t all[] = {norm.weight, bias, hidden, keys, values, angles};
    for (int i = 0; i < 6; i++) free((void *)(uintptr_t)all[i]);
    leave(&block.qkv), leave(&block.out), leave(&block.gate_up), leave(&block.down);
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
    for (int64_t kind = FLOAT32; kind <= FLOAT16; kind++) wrong += blocks_are_wrong(kind, 0) + blocks_are_wrong(kind, 1);
    for (int64_t size = 2; size <= 160; size += size < 40 ? 2 : 40)
        for (int64_t group = 1; group <= 9; group += 4)
            for (int32_t kind = 0; kind < 6; kind++) {
                tried++;
                wrong += shardnet_trial_of_attention(size, 2 * group, 2, size % 3 * 40, kind / 2, kind % 2) != 0;
            }
    printf("%s: %d of %d are wrong\n", shardnet_way(), wrong, tried);
    return tried < 500 || wrong || shardnet_trial();
}
