/* Rows of a weight as a file has them into the layout of products.c, without a copy of the weight in between.

   Where the file has the same groups its codes are kept. All else becomes floats, a row at a time, and is rounded as
   `quantised/rounding.py` says: whole rows of 8 bits by their greatest number, groups of 4 bits between their least and
   their greatest; scales and middles are bfloat16. */

#include "blocks.h"
#include "lanes.h"

#define TINY 0x1p-126f
enum { TOP = 15, MOST_POWER = 96 }; /* as packing.py */

/* What a thread needs beside what it fills: a tile as whole numbers. */
typedef struct {
    uint8_t *codes;            /* [16, K] */
    float *scales, *minima;    /* [K / G, 16] */
    uint16_t *halves;          /* [2, K / G, 16] */
    float *numbers;            /* [K] */
    float *of_row[2];          /* [K / 16] scales and minima of one row */
} Room;

typedef struct {
    Weight weight;
    const Pack *call;
    int64_t taken;
    int32_t failure;
} Packing;

static int64_t room_bytes(const Weight *w) {
    const int64_t K = w->num_inputs, groups = K / w->group;
    return 4 * (2 * groups * TILE + K + 2 * (K / 16)) + 2 * (2 * groups * TILE) + TILE * K;
}

static Room room_in(char *memory, const Weight *w) {
    const int64_t K = w->num_inputs, groups = K / w->group;
    Room room;
    room.scales = (float *)memory;
    room.minima = room.scales + groups * TILE;
    room.numbers = room.minima + groups * TILE;
    room.of_row[0] = room.numbers + K;
    room.of_row[1] = room.of_row[0] + K / 16;
    room.halves = (uint16_t *)(room.of_row[1] + K / 16);
    room.codes = (uint8_t *)(room.halves + 2 * groups * TILE);
    return room;
}

/* ---- floats to codes ---- */

ALWAYS float kept(float number) { return float_of_bits((uint32_t)bfloat16_of(number) << 16); }

ALWAYS void round_numbers(const float *numbers, int64_t num, float scale, float minimum, float most, uint8_t *codes) {
    const float step = scale < TINY ? TINY : scale;
    for (int64_t i = 0; i < num; i++) {
        const float code = rintf((numbers[i] - minimum) / step);
        const float low = code > 0.0f ? code : 0.0f;
        codes[i] = (uint8_t)(int32_t)(low < most ? low : most);
    }
}

/* Returns whether all numbers are finite. `num` is a multiple of 16, which are looked at side by side. */
ALWAYS int least_and_greatest(const float *numbers, int64_t num, float *least_one, float *greatest) {
    float low[16], high[16];
    uint32_t most[16] = {0}, most_of_all = 0;
    memcpy(low, numbers, sizeof low);
    memcpy(high, numbers, sizeof high);
    for (int64_t k = 0; k < num; k += 16) {
        for (int i = 0; i < 16; i++) {
            const float number = numbers[k + i];
            const uint32_t bits = bits_of_float(number) & 0x7fffffffu;
            most[i] = bits > most[i] ? bits : most[i];
            low[i] = number < low[i] ? number : low[i];
            high[i] = number > high[i] ? number : high[i];
        }
    }
    *least_one = low[0];
    *greatest = high[0];
    for (int i = 0; i < 16; i++) {
        most_of_all = most[i] > most_of_all ? most[i] : most_of_all;
        *least_one = low[i] < *least_one ? low[i] : *least_one;
        *greatest = high[i] > *greatest ? high[i] : *greatest;
    }
    return most_of_all < 0x7f800000u;
}

static int round_row(const Weight *w, const float *numbers, int64_t lane, const Room *to) {
    const float most = w->bits == 8 ? 255.0f : 15.0f, middle = w->bits == 8 ? 128.0f : 8.0f;
    for (int64_t g = 0; g < w->num_inputs / w->group; g++) {
        const float *group = numbers + g * w->group;
        float low, high;
        if (!least_and_greatest(group, w->group, &low, &high)) return 0;
        float scale, minimum;
        if (w->bits == 8) {
            scale = kept((high > -low ? high : -low) / 127.0f);
            minimum = scale * -middle;
        } else {
            scale = kept((high - low) / most);
            minimum = kept(low + middle * scale) - middle * scale;
        }
        round_numbers(group, w->group, scale, minimum, most, to->codes + lane * w->num_inputs + g * w->group);
        to->scales[g * TILE + lane] = scale;
        to->minima[g * TILE + lane] = minimum;
    }
    return 1;
}

/* ---- a tile ---- */

/* The largest scale or minimum of a tile is brought to between 2**14 and 2**15. Returns 0 where one is no finite number. */
static int put_numbers(const Weight *w, const Room *from, uint8_t *tile, float *unit) {
    const int64_t groups = w->num_inputs / w->group, next = block_bytes(w);
    uint32_t most = 0;
    for (int64_t i = 0; i < 2 * groups * TILE; i++) { /* minima lie behind the scales */
        const uint32_t bits = bits_of_float(from->scales[i]) & 0x7fffffffu;
        most = bits > most ? bits : most;
    }
    if (most >= 0x7f800000u) return 0;
    int exponent;
    frexpf(float_of_bits(most), &exponent);
    int power = TOP - exponent;
    power = power < -MOST_POWER ? -MOST_POWER : power > MOST_POWER ? MOST_POWER : power;
    *unit = ldexpf(1.0f, -power);
    const float factor = ldexpf(1.0f, power);
    for (int64_t g = 0; g < groups; g++) {
        for (int lane = 0; lane < TILE; lane += LANES) {
            uint8_t *at = tile + g * next + 2 * lane;
            STORE_HALVES(at, TIMES(LOAD_FLOATS(from->scales + g * TILE + lane), factor));
            STORE_HALVES(at + 2 * TILE, TIMES(LOAD_FLOATS(from->minima + g * TILE + lane), factor));
        }
    }
    return 1;
}

/* Four bytes of an output after the other: of 8 bits these are four codes, of 4 bits eight. */
ALWAYS void put_words(const uint8_t *from, const int num_words, uint8_t *to) {
    for (int j = 0; j < num_words; j++) memcpy(to + 64 * j, from + 4 * j, 4);
}

static void put_codes(const Weight *w, const Room *from, uint8_t *tile) {
    const int64_t K = w->num_inputs, next = block_bytes(w);
    for (int64_t first = 0; first < K; first += w->group) {
        uint8_t *block = tile + first / w->group * next + HEADER;
        for (int64_t lane = 0; lane < TILE; lane++) {
            const uint8_t *codes = from->codes + lane * K + first;
            uint8_t *to = block + 4 * lane;
            if (w->bits == 8) {
                for (int64_t k = 0; k < w->group; k += 16, to += 256) put_words(codes + k, 4, to);
                continue;
            }
            for (int64_t k = 0; k < w->group; k += 32, to += 256) {
                uint8_t both[16];
                for (int i = 0; i < 16; i++) both[i] = (uint8_t)(codes[k + i] | codes[k + 16 + i] << 4);
                put_words(both, 4, to);
            }
        }
    }
}

/* Blocks of Q4_0 and Q4_1 have two codes in a byte as tiles have. */
ALWAYS void put_blocks(const Weight *w, const uint8_t *const *rows, const int block_size, const int numbers_bytes,
                       const Room *room, uint8_t *tile) {
    const int64_t groups = w->num_inputs / w->group, next = block_bytes(w);
    uint16_t *scales = room->halves, *minima = room->halves + groups * TILE;
    for (int64_t g = 0; g < groups; g++) {
        uint8_t *to = tile + g * next + HEADER;
        for (int lane = 0; lane < TILE; lane++) {
            const uint8_t *from = rows[lane] + g * block_size;
            memcpy(scales + g * TILE + lane, from, 2);
            if (numbers_bytes == 4) memcpy(minima + g * TILE + lane, from + 2, 2);
            put_words(from + numbers_bytes, 4, to + 4 * lane);
        }
    }
    for (int64_t i = 0; i < groups * TILE; i += LANES) {
        const Floats wide = LOAD_HALVES(scales + i);
        STORE(room->scales + i, wide);
        STORE(room->minima + i, numbers_bytes == 4 ? LOAD_HALVES(minima + i) : TIMES(wide, -8.0f));
    }
}

static void take_whole(const Weight *w, const BlockKind *kind, const uint8_t *row, int64_t lane, const Room *room) {
    const Whole whole = {room->codes + lane * w->num_inputs, room->of_row[0], room->of_row[1]};
    unpack_row(kind, row, w->num_inputs, whole);
    for (int64_t g = 0; g < w->num_inputs / w->group; g++) {
        room->scales[g * TILE + lane] = whole.scales[g];
        room->minima[g * TILE + lane] = whole.minima[g];
    }
}

static int take_floats(const Weight *w, int64_t stored, const uint8_t *row, int64_t lane, const Room *room) {
    const BlockKind *kind = block_kind(stored);
    if (kind) {
        const Whole whole = {room->codes + lane * w->num_inputs, room->of_row[0], room->of_row[1]};
        unpack_row(kind, row, w->num_inputs, whole);
        floats_of(kind, whole, w->num_inputs, room->numbers);
    } else if (stored == STORED_FLOAT32) {
        memcpy(room->numbers, row, (size_t)w->num_inputs * 4);
    } else {
        const int bfloat16 = stored == STORED_BFLOAT16;
        for (int64_t k = 0; k < w->num_inputs; k++) room->numbers[k] = number_at(row, bfloat16 ? BFLOAT16 : FLOAT16, k);
    }
    return round_row(w, room->numbers, lane, room);
}

static void clear_lanes(const Weight *w, int64_t from, const Room *room) {
    for (int64_t lane = from; lane < TILE; lane++) {
        memset(room->codes + lane * w->num_inputs, 0, (size_t)w->num_inputs);
        for (int64_t g = 0; g < w->num_inputs / w->group; g++)
            room->scales[g * TILE + lane] = room->minima[g * TILE + lane] = 0.0f;
    }
}

/* Outputs first .. first + num - 1 of those that came. */
static int pack_tile(const Weight *w, const Pack *call, int64_t first, const Room *room) {
    const int64_t num = least(TILE, call->num_rows - first), index = (call->first_row + first) / TILE;
    const int64_t *order = (const int64_t *)(uintptr_t)call->order;
    const BlockKind *kind = block_kind(call->stored);
    const int same = kind && kind->bits == w->bits && kind->group == w->group;
    uint8_t *tile = (uint8_t *)(uintptr_t)w->blocks + index * (w->num_inputs / w->group) * block_bytes(w);
    float *unit = (float *)(uintptr_t)w->units + index;
    const uint8_t *rows[TILE];
    for (int64_t i = 0; i < num; i++)
        rows[i] = (const uint8_t *)(uintptr_t)call->rows + (order ? order[first + i] : first + i) * call->row_bytes;
    if (same && num == TILE && call->stored == Q4_1) put_blocks(w, rows, 20, 4, room, tile);
    else if (same && num == TILE && call->stored == Q4_0) put_blocks(w, rows, 18, 2, room, tile);
    else {
        for (int64_t i = 0; i < num; i++) {
            if (same) take_whole(w, kind, rows[i], i, room);
            else if (!take_floats(w, call->stored, rows[i], i, room)) return 0;
        }
        clear_lanes(w, num, room);
        put_codes(w, room, tile);
    }
    return put_numbers(w, room, tile, unit);
}

static void pack_some(void *shared) {
    Packing *job = shared;
    char *memory = malloc((size_t)room_bytes(&job->weight));
    if (!memory) {
        __atomic_store_n(&job->failure, NO_MEMORY, __ATOMIC_RELAXED);
        return;
    }
    const Room room = room_in(memory, &job->weight);
    for (;;) {
        const int64_t first = __atomic_fetch_add(&job->taken, TILE, __ATOMIC_RELAXED);
        if (first >= job->call->num_rows) break;
        if (!pack_tile(&job->weight, job->call, first, &room))
            __atomic_store_n(&job->failure, NOT_FINITE, __ATOMIC_RELAXED);
    }
    free(memory);
}

/* Whether rows are as long as they have to be. */
static int are_whole(const Pack *call) {
    const int64_t K = call->matrix.num_inputs;
    const BlockKind *kind = block_kind(call->stored);
    if (!kind) return call->row_bytes == K * (call->stored == STORED_FLOAT32 ? 4 : 2);
    return K % kind->numbers == 0 && call->row_bytes == K / kind->numbers * kind->bytes;
}

int32_t shardnet_pack(const Pack *call) {
    Packing job = {weight_of(&call->matrix), call, 0, DONE};
    if (!are_whole(call)) return OTHER_ROWS;
    const Parallel parallel = (Parallel)(uintptr_t)call->parallel;
    if (!parallel || call->num_threads < 2) pack_some(&job);
    else parallel(pack_some, &job, (unsigned)call->num_threads, 0);
    return job.failure;
}
