/* Blocks of Llama's shape, one after the other. All between the products is float32.

   As in the products, what comes of a row depends on that row alone. */

#include "inside.h"

#define PARTS 16 /* sums that run beside each other, so that they can be one vector */
#define AT_ONCE 64 /* rows between two products */

ALWAYS float *address(int64_t number) { return (float *)(uintptr_t)number; }

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

static void normalise(const float *row, const NormOf *by, int64_t num, float *to) {
    const float *norm = address(by->weight);
    float parts[PARTS] = {0}, sum = 0;
    for (int64_t i = 0; i + PARTS <= num; i += PARTS)
        for (int j = 0; j < PARTS; j++) parts[j] += row[i + j] * row[i + j];
    for (int j = 0; j < PARTS; j++) sum += parts[j];
    for (int64_t i = num / PARTS * PARTS; i < num; i++) sum += row[i] * row[i];
    const float scale = (float)(1.0 / sqrt((double)sum / (double)num + by->eps));
    for (int64_t i = 0; i < num; i++) to[i] = row[i] * scale * norm[i];
}

static void add(float *to, const float *other, int64_t num) {
    if (!other) return;
    for (int64_t i = 0; i < num; i++) to[i] += other[i];
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

/* What a step needs of its rows, and memory for some of them at a time. */
typedef struct {
    const Step *step;
    Rows hidden, heads, seen; /* [T, H], [T, N], [T, Q d] */
    Parallel parallel;
    unsigned threads;
    float *memory;
} Work;

/* Norm, queries, keys and values, and the turning of queries and keys, of some rows. */
static int32_t some_before(const Block *b, const Layer *layer, const Work *w, int64_t first, int64_t num) {
    const Weight qkv = weight_of(&b->qkv);
    const int64_t H = qkv.num_inputs, N = qkv.num_outputs, d = b->head_size, kind = w->step->kind;
    float *normal = w->memory, *heads = normal + num * H, *angles = heads + num * N;
    const Rows cos = {(char *)address(layer->cos), d, (int)kind}, sin = {(char *)address(layer->sin), d, (int)kind};
    for (int64_t r = 0; r < num; r++) {
        read_row(&w->hidden, first + r, H, heads); /* nothing is there yet */
        normalise(heads, &b->before_attention, H, normal + r * H);
    }
    const Rows from = floats(normal, H), to = floats(heads, N);
    if (product(&qkv, &from, &to, num, w->parallel, w->threads)) return NO_MEMORY;
    for (int64_t r = 0; r < num; r++) {
        float *own = heads + r * N;
        add(own, address(b->qkv_bias), N);
        for (int64_t h = 0; h < b->num_heads + b->num_kv_heads; h++) {
            const NormOf *norm = h < b->num_heads ? &b->query_norm : &b->key_norm;
            if (norm->weight) normalise(own + h * d, norm, d, own + h * d);
        }
        if (layer->cos) {
            read_row(&cos, first + r, d, angles);
            read_row(&sin, first + r, d, angles + d);
            turn(own, angles, angles + d, b->num_heads + b->num_kv_heads, d, angles + 2 * d);
        }
        put(own, N, &w->heads, first + r, 0);
    }
    return DONE;
}

/* What was seen goes through its product and is added; norm, gate and up, down, and added again. */
static int32_t some_behind(const Block *b, const Work *w, int64_t first, int64_t num) {
    const Weight out = weight_of(&b->out), gate_up = weight_of(&b->gate_up), down = weight_of(&b->down);
    const int64_t H = out.num_outputs, I = down.num_inputs;
    float *sum = w->memory, *other = sum + num * H, *inner = other + num * H;
    const Rows seen = {row_at(&w->seen, first), w->seen.stride, w->seen.kind};
    const Rows sums = floats(sum, H), others = floats(other, H), inners = floats(inner, 2 * I);
    if (product(&out, &seen, &sums, num, w->parallel, w->threads)) return NO_MEMORY;
    for (int64_t r = 0; r < num; r++) {
        float *own = sum + r * H;
        add(own, address(b->out_bias), H);
        if (b->behind_attention.weight) normalise(own, &b->behind_attention, H, own);
        read_row(&w->hidden, first + r, H, other + r * H);
        add(own, other + r * H, H);
        normalise(own, &b->before_mlp, H, other + r * H);
    }
    if (product(&gate_up, &others, &inners, num, w->parallel, w->threads)) return NO_MEMORY;
    for (int64_t r = 0; r < num; r++) {
        add(inner + r * 2 * I, address(b->gate_up_bias), 2 * I);
        gate(inner + r * 2 * I, I, b->activation);
    }
    if (product(&down, &inners, &others, num, w->parallel, w->threads)) return NO_MEMORY;
    for (int64_t r = 0; r < num; r++) {
        float *own = other + r * H;
        add(own, address(b->down_bias), H);
        if (b->behind_mlp.weight) normalise(own, &b->behind_mlp, H, own);
        add(own, sum + r * H, H);
        put(own, H, &w->hidden, first + r, 0);
    }
    return DONE;
}

static int32_t see(const Block *b, const Layer *layer, const Work *w) {
    const Step *step = w->step;
    Session *sessions = malloc((size_t)step->num_sessions * sizeof *sessions);
    if (!sessions) return NO_MEMORY;
    const int64_t *own = (const int64_t *)(uintptr_t)step->sessions, *runs = (const int64_t *)(uintptr_t)layer->runs;
    int64_t row = 0;
    for (int64_t i = 0; i < step->num_sessions; i++, own += 2) {
        const Session session = {(const Run *)(runs + 1), row, own[0], own[1]};
        sessions[i] = session;
        row += own[0];
        runs += 1 + *runs * 3;
    }
    const Attention attention = {(int)step->kind, w->heads.at, w->seen.at, b->num_heads, b->num_kv_heads, b->head_size,
                                 b->window, step->is_rounded != 0, (float)b->scaling, (float)b->softcap, sessions, step->num_sessions,
                                 w->parallel, w->threads};
    const int32_t failure = attend(&attention);
    free(sessions);
    return failure;
}

static int32_t run_block(const Block *b, const Layer *layer, const Work *w) {
    const int64_t num = w->step->num_rows;
    int32_t failure = DONE;
    for (int64_t first = 0; first < num && !failure; first += AT_ONCE)
        failure = some_before(b, layer, w, first, least(AT_ONCE, num - first));
    if (!failure) failure = see(b, layer, w);
    for (int64_t first = 0; first < num && !failure; first += AT_ONCE)
        failure = some_behind(b, w, first, least(AT_ONCE, num - first));
    return failure;
}

static int64_t more(int64_t a, int64_t b) { return a > b ? a : b; }

/* Numbers that a block needs at most: of rows of heads, of seen rows, and in float32 of some rows at a time. */
static void needs(const Block *b, int64_t num_rows, int64_t *heads, int64_t *seen, int64_t *floats) {
    const int64_t H = b->out.num_outputs, N = b->qkv.num_outputs, I = b->down.num_inputs, at_once = least(AT_ONCE, num_rows);
    *heads = more(*heads, num_rows * N);
    *seen = more(*seen, num_rows * b->num_heads * b->head_size);
    *floats = more(*floats, more(at_once * (H + N) + 3 * b->head_size, at_once * (2 * H + 2 * I)));
}

int32_t shardnet_blocks(const int64_t *blocks, const Layer *layers, int64_t num, const Step *step) {
    int64_t heads = 0, seen = 0, num_floats = 0;
    if (step->num_rows <= 0) return DONE;
    for (int64_t i = 0; i < num; i++) needs((const Block *)(uintptr_t)blocks[i], step->num_rows, &heads, &seen, &num_floats);
    char *memory = malloc((size_t)(num_floats + heads + seen) * 4);
    if (!memory) return NO_MEMORY;
    char *heads_at = memory + num_floats * 4, *seen_at = heads_at + heads * 4;
    int32_t failure = DONE;
    for (int64_t i = 0; i < num && !failure; i++) {
        const Block *b = (const Block *)(uintptr_t)blocks[i];
        const int kind = (int)step->kind;
        const Work work = {step,
                           {(char *)address(step->hidden), b->out.num_outputs, kind},
                           {heads_at, b->qkv.num_outputs, kind},
                           {seen_at, b->num_heads * b->head_size, kind},
                           (Parallel)(uintptr_t)step->parallel,
                           (unsigned)step->num_threads,
                           (float *)(void *)memory};
        failure = run_block(b, layers + i, &work);
    }
    free(memory);
    return failure;
}
