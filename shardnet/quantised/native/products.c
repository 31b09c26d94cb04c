/* Products of a few rows with a weight of 4 or 8 bits, and rows of such a weight as floats.

   A weight [N, K] lies in tiles of 16 outputs, a tile in blocks of G inputs. A block is 16 scales and 16 minima (float16),
   and then the codes of 32 inputs after the other: vectors of 64 bytes, in which lane l has four inputs of output l. Of 8
   bits, vector j has inputs 4 j .. 4 j + 3. Of 4 bits, it has these in the low halves and 16 + 4 j .. in the high ones.
   All scales and minima of a tile are to be multiplied by its unit, a power of two.

   Rows are rounded to 8 bits in groups of 32, products are summed in whole numbers within a step, and steps in order in
   float32. So what comes of a row depends on that row alone, and not on how many come with it.

   Blocks are read in order. Of one row and two the processor fetches them ahead by itself, and takes a third longer where
   it is asked to; with more rows it is too busy to see so far, and takes up to half longer where it is not. */

#include <stdlib.h>

#include "lanes.h"
#include "products.h"

#define LOOKS_AHEAD 2    /* rows with which the processor fetches ahead by itself */
#define FETCHED 3072     /* bytes ahead, else */
#define CHUNK_BYTES (256 * 1024) /* of rows that are taken at a time, so that they stay in the processor's own memory */

/* Rows as whole numbers. */
typedef struct {
    int8_t *codes;   /* [rows, K] */
    float *scales;   /* [rows, K / 32] */
    float *sums;     /* [rows, K / step]: of a step's activations */
    int32_t *starts; /* [rows, K / step]: where the whole numbers of a step begin */
} Rounded;

const char *shardnet_way(void) { return WAY; }

ALWAYS int64_t step_of(const Weight *w) { return w->group < GROUP ? w->group : GROUP; }
ALWAYS int64_t tile_bytes(const Weight *w) { return w->num_inputs / w->group * block_bytes(w); }

/* ---- rows to whole numbers ---- */

/* A group of a row; a NaN or an infinity in it makes its scale a NaN, and with it all that comes of the row. */
ALWAYS void round_group(const float *numbers, int8_t *codes, float *scale) {
    uint32_t most = 0;
    for (int i = 0; i < GROUP; i++) {
        const uint32_t bits = bits_of_float(numbers[i]) & 0x7fffffffu;
        most = bits > most ? bits : most;
    }
    const float largest = float_of_bits(most);
    const int finite = most < 0x7f800000u;
    const int rounds = finite && largest >= 0x1p-119f; /* below that, 127 / largest is infinite */
    const float inverse = rounds ? 127.0f / largest : 0.0f;
    *scale = rounds ? largest / 127.0f : finite ? 0.0f : NAN;
    for (int i = 0; i < GROUP; i++) {
        /* Adding 1.5 * 2**23 rounds to the nearest whole number, which is then in the lowest bits. */
        const float number = finite ? numbers[i] : 0.0f;
        codes[i] = (int8_t)(bits_of_float(number * inverse + 0x1.8p23f) & 0xff);
    }
}

ALWAYS void round_row_of(const int kind, const Weight *w, const void *row, const Rounded *to, int64_t r) {
    const int64_t step = step_of(w), steps = w->num_inputs / step, groups = w->num_inputs / GROUP;
    int8_t *codes = to->codes + r * w->num_inputs;
    for (int64_t g = 0; g < groups; g++) {
        float numbers[GROUP], scale;
        for (int i = 0; i < GROUP; i++) numbers[i] = number_at(row, kind, g * GROUP + i);
        round_group(numbers, codes + g * GROUP, &scale);
        to->scales[r * groups + g] = scale;
        for (int64_t s = g * GROUP / step; s < (g + 1) * GROUP / step; s++) {
            int32_t sum = 0;
            for (int64_t i = s * step; i < (s + 1) * step; i++) sum += codes[i];
            to->sums[r * steps + s] = (float)sum * scale;
            to->starts[r * steps + s] = SIGNED_CODES && w->bits == 8 ? 128 * sum : 0;
        }
    }
}

static void round_row(const Weight *w, const void *row, int kind, const Rounded *to, int64_t r) {
    if (kind == FLOAT32) round_row_of(FLOAT32, w, row, to, r);
    else if (kind == BFLOAT16) round_row_of(BFLOAT16, w, row, to, r);
    else round_row_of(FLOAT16, w, row, to, r);
}

/* ---- a tile times some rows ---- */

ALWAYS void codes_of_step(const int bits, const int num, const uint8_t *at, Codes *codes) {
    if (bits == 4) {
        for (int j = 0; j < num / 2; j++) {
            const Codes both = LOAD_CODES(at + 64 * j);
            codes[j] = LOW_HALF(both);
            codes[j + num / 2] = HIGH_HALF(both);
        }
    } else {
        for (int j = 0; j < num; j++) codes[j] = TO_SIGNED(LOAD_CODES(at + 64 * j));
    }
}

ALWAYS void fetch_step(const int bytes, const uint8_t *at) {
    for (int byte = 0; byte < bytes; byte += 64) __builtin_prefetch(at + FETCHED + byte);
}

/* `num_rows`, `bits` and `step` are constants wherever this is called, so that all loops over them are unrolled. */
ALWAYS void tile_times(const int num_rows, const int bits, const int step, const Weight *w, const uint8_t *tile,
                       const Rounded *rows, int64_t first, float *out) {
    const int64_t K = w->num_inputs, blocks = K / w->group, steps = w->group / step;
    const int64_t next = block_bytes(w);
    for (int lane = 0; lane < TILE; lane += LANES) {
        Floats sums[8];
        for (int r = 0; r < num_rows; r++) sums[r] = ZEROS();
        const uint8_t *block = tile;
        int64_t s = 0;
        for (int64_t b = 0; b < blocks; b++, block += next) {
            const Floats scales = LOAD_HALVES(block + 2 * lane);
            const Floats minima = LOAD_HALVES(block + 2 * TILE + 2 * lane);
            const uint8_t *at = block + HEADER + 4 * lane;
            for (int64_t i = 0; i < steps; i++, s++, at += step * bits * TILE / 8) {
                Codes codes[GROUP / 4];
                if (num_rows > LOOKS_AHEAD) fetch_step(step * bits * TILE / 8 + HEADER, at);
                codes_of_step(bits, step / 4, at, codes);
                for (int r = 0; r < num_rows; r++) {
                    const int64_t row = first + r, here = row * (K / step) + s;
                    const float scale = rows->scales[row * (K / GROUP) + s * step / GROUP];
                    const Floats whole = dot_step(step / 4, codes, rows->codes + row * K + s * step, rows->starts[here]);
                    sums[r] = PLUS_PRODUCT(sums[r], whole, TIMES(scales, scale));
                    sums[r] = PLUS_TIMES(sums[r], minima, rows->sums[here]);
                }
            }
        }
        for (int r = 0; r < num_rows; r++) STORE(out + r * TILE + lane, sums[r]);
    }
}

#define WITH_ROWS(n)                                                                                                  \
    static __attribute__((noinline)) void tile_times_##n(const Weight *w, const uint8_t *tile, const Rounded *rows,   \
                                                         int64_t first, float *out) {                                 \
        if (w->bits == 4) tile_times(n, 4, 32, w, tile, rows, first, out);                                            \
        else if (w->group >= GROUP) tile_times(n, 8, 32, w, tile, rows, first, out);                                  \
        else tile_times(n, 8, 16, w, tile, rows, first, out);                                                         \
    }
WITH_ROWS(1)
WITH_ROWS(2)
WITH_ROWS(3)
WITH_ROWS(4)
#if MOST_ROWS == 8
WITH_ROWS(5)
WITH_ROWS(6)
WITH_ROWS(7)
WITH_ROWS(8)
#endif

typedef void TileTimes(const Weight *, const uint8_t *, const Rounded *, int64_t, float *);
static TileTimes *const BY_ROWS[] = {
    tile_times_1, tile_times_2, tile_times_3, tile_times_4,
#if MOST_ROWS == 8
    tile_times_5, tile_times_6, tile_times_7, tile_times_8,
#endif
};

/* ---- the work of a product, which threads share ---- */

typedef struct {
    const Weight *weight;
    const Rows *rows, *out;
    Rounded rounded;
    int64_t first, num;   /* rows of this chunk */
    int64_t at_a_time;    /* rows to round, or tiles, that a thread takes */
    int64_t taken;        /* so far, by all threads */
} Job;

static void round_some(void *shared) {
    Job *job = shared;
    for (;;) {
        const int64_t from = __atomic_fetch_add(&job->taken, job->at_a_time, __ATOMIC_RELAXED);
        if (from >= job->num) return;
        for (int64_t r = from; r < least(from + job->at_a_time, job->num); r++) {
            round_row(job->weight, row_at(job->rows, job->first + r), job->rows->kind, &job->rounded, r);
        }
    }
}

static void multiply_tile(const Job *job, int64_t tile) {
    const Weight *w = job->weight;
    const uint8_t *blocks = w->blocks + tile * tile_bytes(w);
    const int64_t columns = least(TILE, w->num_outputs - tile * TILE);
    float sums[MOST_ROWS * TILE];
    for (int64_t r = 0; r < job->num; r += MOST_ROWS) {
        const int64_t num = least(MOST_ROWS, job->num - r);
        BY_ROWS[num - 1](w, blocks, &job->rounded, r, sums);
        for (int64_t i = 0; i < num * TILE; i++) sums[i] *= w->units[tile];
        for (int64_t i = 0; i < num; i++) put(sums + i * TILE, columns, job->out, job->first + r + i, tile * TILE);
    }
}

static void multiply_some(void *shared) {
    Job *job = shared;
    const int64_t tiles = (job->weight->num_outputs + TILE - 1) / TILE;
    for (;;) {
        const int64_t from = __atomic_fetch_add(&job->taken, job->at_a_time, __ATOMIC_RELAXED);
        if (from >= tiles) return;
        for (int64_t t = from; t < least(from + job->at_a_time, tiles); t++) multiply_tile(job, t);
    }
}

/* Each thread takes some of `num` at a time, about four times, so that slow cores take fewer. */
static void share(void (*work)(void *), Job *job, int64_t num, Parallel parallel, unsigned num_threads) {
    job->taken = 0;
    job->at_a_time = num;
    if (!parallel || num_threads < 2) {
        work(job);
        return;
    }
    job->at_a_time = (num + 4 * num_threads - 1) / (4 * num_threads);
    parallel(work, job, num_threads, 0);
}

static int64_t rounded_bytes(const Weight *w, int64_t rows) {
    const int64_t groups = w->num_inputs / GROUP, steps = w->num_inputs / step_of(w);
    return rows * (w->num_inputs + 4 * groups + 8 * steps);
}

static Rounded rounded_in(char *memory, const Weight *w, int64_t rows) {
    const int64_t groups = w->num_inputs / GROUP, steps = w->num_inputs / step_of(w);
    Rounded rounded;
    rounded.codes = (int8_t *)memory;
    rounded.scales = (float *)(memory + rows * w->num_inputs);
    rounded.sums = rounded.scales + rows * groups;
    rounded.starts = (int32_t *)(rounded.sums + rows * steps);
    return rounded;
}

int32_t product(const Weight *w, const Rows *rows, const Rows *out, int64_t num_rows, Parallel parallel,
                unsigned num_threads) {
    int64_t at_once = CHUNK_BYTES / w->num_inputs / MOST_ROWS * MOST_ROWS;
    if (at_once < MOST_ROWS) at_once = MOST_ROWS;
    at_once = least(at_once, num_rows);
    if (num_rows <= 0) return DONE;
    char *memory = malloc((size_t)rounded_bytes(w, at_once));
    if (!memory) return NO_MEMORY;
    Job job = {w, rows, out, rounded_in(memory, w, at_once), 0, 0, 0, 0};
    for (; job.first < num_rows; job.first += at_once) {
        job.num = least(at_once, num_rows - job.first);
        share(round_some, &job, job.num, job.num < 16 ? 0 : parallel, num_threads);
        share(multiply_some, &job, (w->num_outputs + TILE - 1) / TILE, parallel, num_threads);
    }
    free(memory);
    return DONE;
}

/* ---- rows of the weight as floats ---- */

static void gather_group(const Weight *w, const uint8_t *block, int64_t lane, int64_t part, float unit, float *numbers) {
    const int64_t step = step_of(w);
    uint16_t scale, minimum;
    memcpy(&scale, block + 2 * lane, 2);
    memcpy(&minimum, block + 2 * (TILE + lane), 2);
    const uint8_t *codes = block + HEADER + part * step * w->bits * TILE / 8 + 4 * lane;
    for (int64_t k = 0; k < step; k++) {
        const int64_t within = w->bits == 4 ? k % 16 : k;
        const int code = codes[64 * (within / 4) + within % 4];
        const int own = w->bits == 8 ? code : k < 16 ? code & 15 : code >> 4;
        numbers[k] = ((float)own * float_of_half(scale) + float_of_half(minimum)) * unit;
    }
}

static int32_t gather(const Weight *w, const int64_t *ids, int64_t num, const Rows *out) {
    const int64_t step = step_of(w), parts = w->group / step;
    for (int64_t i = 0; i < num; i++) {
        if (ids[i] < 0 || ids[i] >= w->num_outputs) return NO_SUCH_ROW;
        const uint8_t *tile = w->blocks + ids[i] / TILE * tile_bytes(w);
        for (int64_t s = 0; s < w->num_inputs / step; s++) {
            float numbers[GROUP];
            const uint8_t *block = tile + s / parts * block_bytes(w);
            gather_group(w, block, ids[i] % TILE, s % parts, w->units[ids[i] / TILE], numbers);
            put(numbers, step, out, i, s * step);
        }
    }
    return DONE;
}

/* ---- what is offered ---- */

int32_t shardnet_product(const Call *call) {
    const Weight weight = weight_of(&call->matrix);
    const Rows rows = {(char *)(uintptr_t)call->rows, call->row_stride, (int)call->row_kind};
    const Rows out = {(char *)(uintptr_t)call->out, call->out_stride, (int)call->out_kind};
    return product(&weight, &rows, &out, call->num_rows, (Parallel)(uintptr_t)call->parallel, (unsigned)call->num_threads);
}

int32_t shardnet_gather(const Call *call) {
    const Weight weight = weight_of(&call->matrix);
    const Rows out = {(char *)(uintptr_t)call->out, call->out_stride, (int)call->out_kind};
    return gather(&weight, (const int64_t *)(uintptr_t)call->rows, call->num_rows, &out);
}
