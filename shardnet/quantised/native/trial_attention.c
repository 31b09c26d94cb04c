/* Attention of a few queries against the same, reckoned one number after the other in double precision. */

#include "inside.h"

enum { LENGTH = 75, NEW = 6, TOKENS = LENGTH + NEW, CUT = 30 };

typedef struct {
    int64_t heads, kv_heads, size, window;
    int kind, is_rounded;
    double *queries, *keys, *values; /* [NEW, heads, size], [TOKENS, kv_heads, size] */
    char *new_rows, *kept[4], *seen; /* of the step; keys and values before and behind the cut; what comes */
} Trial;

static int64_t width_of_kind(int kind) { return kind == FLOAT32 ? 4 : 2; }
static int64_t kept_of(const Trial *t) { return t->is_rounded ? t->size + 4 : t->size * width_of_kind(t->kind); }

/* Between -1/2 and 1/2, in 256ths, which all kinds have. */
static float drawn(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    return (float)((int)(*state >> 8) % 255 - 127) / 256.0f;
}

static void put_one(int kind, char *at, int64_t i, float number) {
    const Rows rows = {at, 1, kind};
    put(&number, 1, &rows, i, 0);
}

/* A head as it is kept: codes are 256ths, with a scale of as much and no middle. */
static void keep_head(const Trial *t, char *at, const double *numbers) {
    const uint16_t halves[2] = {bfloat16_of(1 / 256.0f), 0};
    for (int64_t i = 0; i < t->size; i++) {
        if (t->is_rounded) at[i] = (char)(int)(numbers[i] * 256);
        else put_one(t->kind, at, i, (float)numbers[i]);
    }
    if (t->is_rounded) memcpy(at + t->size, halves, 4);
}

static void draw_all(const Trial *t, uint32_t *state) {
    const int64_t row = t->kv_heads * t->size, heads = t->heads + 2 * t->kv_heads;
    for (int64_t i = 0; i < NEW * t->heads * t->size; i++) t->queries[i] = drawn(state) * 4;
    for (int64_t i = 0; i < TOKENS * row; i++) t->keys[i] = drawn(state), t->values[i] = drawn(state);
    for (int64_t token = 0; token < LENGTH; token++)
        for (int64_t h = 0; h < t->kv_heads; h++) {
            const int64_t place = ((token < CUT ? token : token - CUT) * t->kv_heads + h) * kept_of(t);
            keep_head(t, t->kept[token < CUT ? 0 : 1] + place, t->keys + token * row + h * t->size);
            keep_head(t, t->kept[token < CUT ? 2 : 3] + place, t->values + token * row + h * t->size);
        }
    for (int64_t token = 0; token < NEW; token++) {
        char *to = t->new_rows + token * heads * t->size * width_of_kind(t->kind);
        for (int64_t i = 0; i < heads * t->size; i++) {
            const int64_t key = i - t->heads * t->size, value = key - row, first = (LENGTH + token) * row;
            const double number = key < 0 ? t->queries[token * t->heads * t->size + i]
                                          : value < 0 ? t->keys[first + key] : t->values[first + value];
            put_one(t->kind, to, i, (float)number);
        }
    }
}

/* What one head of a new token sees, [size]. */
static void reckon(const Trial *t, int64_t token, int64_t head, double *seen) {
    const int64_t kv_head = head / (t->heads / t->kv_heads), row = t->kv_heads * t->size, position = LENGTH + token;
    const double *query = t->queries + (token * t->heads + head) * t->size;
    double total = 0;
    for (int64_t i = 0; i < t->size; i++) seen[i] = 0;
    for (int64_t n = t->window && position >= t->window ? position - t->window + 1 : 0; n <= position; n++) {
        double score = 0;
        for (int64_t i = 0; i < t->size; i++) score += query[i] * t->keys[n * row + kv_head * t->size + i];
        const double weight = exp(score);
        total += weight;
        for (int64_t i = 0; i < t->size; i++) seen[i] += weight * t->values[n * row + kv_head * t->size + i];
    }
    for (int64_t i = 0; i < t->size; i++) seen[i] /= total;
}

static int32_t wrong_in(const Trial *t, double *own) {
    const Run runs[] = {{(int64_t)(uintptr_t)t->kept[0], (int64_t)(uintptr_t)t->kept[2], CUT},
                        {(int64_t)(uintptr_t)t->kept[1], (int64_t)(uintptr_t)t->kept[3], TOKENS - CUT}};
    const Session session = {runs, 0, NEW, LENGTH};
    const Attention attention = {t->kind, t->new_rows, t->seen, t->heads, t->kv_heads, t->size, t->window,
                                 t->is_rounded, 1, 0, &session, 1, 0, 1};
    /* Weights in bfloat16, and new keys in 8 bits, are not exact. */
    const double most = t->is_rounded ? 0.03 : t->kind == FLOAT32 ? 1e-5 : 4e-3;
    if (attend(&attention)) return 1;
    for (int64_t token = 0; token < NEW; token++)
        for (int64_t head = 0; head < t->heads; head++) {
            reckon(t, token, head, own);
            for (int64_t i = 0; i < t->size; i++) {
                const int64_t at = (token * t->heads + head) * t->size + i;
                if (!(fabs((double)number_at(t->seen, t->kind, at) - own[i]) < most)) return 1;
            }
        }
    return 0;
}

int32_t shardnet_trial_of_attention(int64_t size, int64_t heads, int64_t kv_heads, int64_t window, int32_t kind,
                                    int32_t is_rounded) {
    Trial t = {heads, kv_heads, size, window, kind, is_rounded, 0, 0, 0, 0, {0}, 0};
    const int64_t row = kv_heads * kept_of(&t), width = width_of_kind(kind);
    t.queries = malloc((size_t)(NEW * heads * size) * 8);
    t.keys = malloc((size_t)(TOKENS * kv_heads * size) * 8);
    t.values = malloc((size_t)(TOKENS * kv_heads * size) * 8);
    t.new_rows = malloc((size_t)(NEW * (heads + 2 * kv_heads) * size * width));
    t.seen = malloc((size_t)(NEW * heads * size * width));
    for (int i = 0; i < 4; i++) t.kept[i] = malloc((size_t)((i % 2 ? TOKENS - CUT : CUT) * row));
    double *own = malloc((size_t)size * 8);
    uint32_t state = 1;
    int32_t wrong = 1;
    if (t.queries && t.keys && t.values && t.new_rows && t.seen && own && t.kept[0] && t.kept[1] && t.kept[2] && t.kept[3]) {
        draw_all(&t, &state);
        wrong = wrong_in(&t, own);
    }
    void *all[] = {t.queries, t.keys, t.values, t.new_rows, t.seen, own, t.kept[0], t.kept[1], t.kept[2], t.kept[3]};
    for (int i = 0; i < 10; i++) free(all[i]);
    return wrong;
}
