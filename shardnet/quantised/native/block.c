/* The two halves of a block of Llama's shape around its attention. All between the products is float32.

   As in the products, what comes of a row depends on that row alone. */

#include "inside.h"

#define PARTS 16 /* sums that run beside each other, so that they can be one vector */
#define AT_ONCE 64 /* rows */

static float *address(int64_t number) { return (float *)(uintptr_t)number; }

static Rows floats(float *at, int64_t stride) {
    const Rows rows = {(char *)at, stride, FLOAT32};
    return rows;
}

static void read_row(const Rows *rows, int64_t row, int64_t num, float *to) {
    const void *from = row_at(rows, row);
    if (rows->kind == FLOAT32) memcpy(to, from, (size_t)num * 4);
    else if (rows->kind == BFLOAT16)
        for (int64_t i = 0; i < num; i++) to[i] = number_at(from, BFLOAT16, i);
    else
        for (int64_t i = 0; i < num; i++) to[i] = number_at(from, FLOAT16, i);
}

static void normalise(const float *row, const float *norm, double eps, int64_t num, float *to) {
    float parts[PARTS] = {0}, sum = 0;
    for (int64_t i = 0; i + PARTS <= num; i += PARTS)
        for (int j = 0; j < PARTS; j++) parts[j] += row[i + j] * row[i + j];
    for (int j = 0; j < PARTS; j++) sum += parts[j];
    for (int64_t i = num / PARTS * PARTS; i < num; i++) sum += row[i] * row[i];
    const float scale = (float)(1.0 / sqrt((double)sum / (double)num + eps));
    for (int64_t i = 0; i < num; i++) to[i] = row[i] * scale * norm[i];
}

static void add(float *to, const float *other, int64_t num) {
    if (!other) return;
    for (int64_t i = 0; i < num; i++) to[i] += other[i];
}

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

/* gate_up [2 I]: its first half becomes the activated gate times up. */
static void gate(float *gate_up, int64_t num, int64_t activation) {
    if (activation == SILU) {
        for (int64_t i = 0; i < num; i++) gate_up[i] = gate_up[i] / (1.0f + exp_of(-gate_up[i])) * gate_up[num + i];
    } else {
        for (int64_t i = 0; i < num; i++) {
            const float x = gate_up[i], inner = 1.595769122f * (x + 0.044715f * x * x * x);
            gate_up[i] = x / (1.0f + exp_of(-inner)) * gate_up[num + i];
        }
    }
}

/* Turns the heads of a row by its angles; `half` is room for one half of a head. */
static void turn(float *row, const float *cos, const float *sin, int64_t num_heads, int64_t size, float *half) {
    const int64_t d = size / 2;
    for (int64_t h = 0; h < num_heads; h++, row += size) {
        memcpy(half, row, (size_t)d * 4);
        for (int64_t i = 0; i < d; i++) row[i] = row[i] * cos[i] + row[d + i] * sin[i];
        for (int64_t i = 0; i < d; i++) row[d + i] = row[d + i] * cos[d + i] + half[i] * sin[d + i];
    }
}

int32_t shardnet_before(const Before *c) {
    const Weight qkv = weight_of(&c->qkv);
    const int64_t H = qkv.num_inputs, N = qkv.num_outputs, d = c->head_size, at_once = least(AT_ONCE, c->num_rows);
    const Rows hidden = {(char *)address(c->hidden), c->hidden_stride, (int)c->kind};
    const Rows out = {(char *)address(c->out), N, (int)c->kind};
    const Rows cos = {(char *)address(c->cos), d, (int)c->kind}, sin = {(char *)address(c->sin), d, (int)c->kind};
    if (c->num_rows <= 0) return DONE;
    float *memory = malloc((size_t)(at_once * (H + N) + 3 * d) * 4);
    if (!memory) return NO_MEMORY;
    float *normal = memory, *heads = memory + at_once * H, *angles = heads + at_once * N;
    int32_t failure = DONE;
    for (int64_t first = 0; first < c->num_rows && !failure; first += at_once) {
        const int64_t num = least(at_once, c->num_rows - first);
        for (int64_t r = 0; r < num; r++) {
            read_row(&hidden, first + r, H, heads); /* nothing is there yet */
            normalise(heads, address(c->norm), c->eps, H, normal + r * H);
        }
        const Rows from = floats(normal, H), to = floats(heads, N);
        failure = product(&qkv, &from, &to, num, (Parallel)(uintptr_t)c->parallel, (unsigned)c->num_threads);
        for (int64_t r = 0; r < num && !failure; r++) {
            add(heads + r * N, address(c->bias), N);
            if (c->num_turned) {
                read_row(&cos, first + r, d, angles);
                read_row(&sin, first + r, d, angles + d);
                turn(heads + r * N, angles, angles + d, c->num_turned, d, angles + 2 * d);
            }
            put(heads + r * N, N, &out, first + r, 0);
        }
    }
    free(memory);
    return failure;
}

/* Some rows of the second half. `sum` and `other` have room for [num, H], `inner` for [num, 2 I]. */
static int32_t some_behind(const Behind *c, int64_t first, int64_t num, float *sum, float *other, float *inner) {
    const Weight out = weight_of(&c->out), gate_up = weight_of(&c->gate_up), down = weight_of(&c->down);
    const int64_t H = out.num_outputs, I = down.num_inputs;
    const Parallel parallel = (Parallel)(uintptr_t)c->parallel;
    const unsigned threads = (unsigned)c->num_threads;
    const Rows hidden = {(char *)address(c->hidden), c->hidden_stride, (int)c->kind};
    const Rows result = {(char *)address(c->result), H, (int)c->kind};
    const Rows all_seen = {(char *)address(c->seen), c->seen_stride, (int)c->kind};
    const Rows seen = {row_at(&all_seen, first), c->seen_stride, (int)c->kind};
    const Rows sums = floats(sum, H), others = floats(other, H), inners = floats(inner, 2 * I);
    if (product(&out, &seen, &sums, num, parallel, threads)) return NO_MEMORY;
    for (int64_t r = 0; r < num; r++) {
        float *own = sum + r * H;
        add(own, address(c->out_bias), H);
        read_row(&hidden, first + r, H, other + r * H);
        add(own, other + r * H, H);
        normalise(own, address(c->norm), c->eps, H, other + r * H);
    }
    if (product(&gate_up, &others, &inners, num, parallel, threads)) return NO_MEMORY;
    for (int64_t r = 0; r < num; r++) {
        add(inner + r * 2 * I, address(c->gate_up_bias), 2 * I);
        gate(inner + r * 2 * I, I, c->activation);
    }
    if (product(&down, &inners, &others, num, parallel, threads)) return NO_MEMORY;
    for (int64_t r = 0; r < num; r++) {
        add(other + r * H, address(c->down_bias), H);
        add(other + r * H, sum + r * H, H);
        put(other + r * H, H, &result, first + r, 0);
    }
    return DONE;
}

int32_t shardnet_behind(const Behind *c) {
    const int64_t H = c->out.num_outputs, I = c->down.num_inputs, at_once = least(AT_ONCE, c->num_rows);
    if (c->num_rows <= 0) return DONE;
    float *memory = malloc((size_t)(at_once * (2 * H + 2 * I)) * 4);
    if (!memory) return NO_MEMORY;
    float *other = memory + at_once * H, *inner = other + at_once * H;
    int32_t failure = DONE;
    for (int64_t first = 0; first < c->num_rows && !failure; first += at_once)
        failure = some_behind(c, first, least(at_once, c->num_rows - first), memory, other, inner);
    free(memory);
    return failure;
}
