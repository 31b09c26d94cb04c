/* Attention of some queries of one session to its keys and values.

   Keys are looked at in tiles of 64, which begin at multiples of 64 of a session's tokens, and what was seen so far is
   scaled when a larger score comes (Dao et al. 2022, FlashAttention). So what comes of a query depends on it and on what it
   may see alone, and neither on how many come with it nor on where the rows lie. Where the processor multiplies pairs of
   bfloat16, keys, values and weights are such pairs; else all is float32. Keys and values may be kept in 8 bits: as codes
   of each head, and behind them a scale and a middle in bfloat16 (see kv_rows.py). As pairs codes are multiplied as they
   are, whole numbers that bfloat16 holds exactly; scales go to scores and weights, and middles to sums of their own. */

#include "look.h"

/* ---- a tile as it is multiplied ---- */

/* What lies half a tile behind is needed soon; beside these rows of a head lie those of the others. */
ALWAYS void fetch_ahead(const char *keys, const char *values, int64_t row) {
    for (int64_t byte = 0; byte < row; byte += 64) {
        __builtin_prefetch(keys + KEYS / 2 * row + byte);
        __builtin_prefetch(values + KEYS / 2 * row + byte);
    }
}

/* Where the rows of some tokens begin, for a head; beyond `num` of them, the zeros. */
static void find_rows(const Look *l, int64_t head, int64_t first, int64_t num, const char **keys, const char **values) {
    const int64_t size = kept_bytes(l->a), row = size * l->a->num_kv_heads;
    const Run *run = l->session->runs;
    int64_t start = 0;
    for (int64_t i = 0; i < KEYS; i++) {
        keys[i] = values[i] = l->nothing;
        if (i >= num) continue;
        while (first + i >= start + run->num_rows) start += run++->num_rows;
        const int64_t at = (first + i - start) * row + head * size;
        keys[i] = (const char *)(uintptr_t)run->keys + at;
        values[i] = (const char *)(uintptr_t)run->values + at;
        if (head == l->kv_head) fetch_ahead(keys[i], values[i], row);
    }
}

#if HAS_PAIRS
/* 16 rows of up to 16 pairs become 16 columns, of which the first `num` are written. */
static void turn_over(const char *const *rows, int64_t offset, int64_t num, float *to) {
    __m512i a[16], b[16];
    const __mmask16 mask = (__mmask16)((1u << num) - 1);
    for (int i = 0; i < 16; i++) a[i] = _mm512_maskz_loadu_epi32(mask, rows[i] + 4 * offset);
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
        a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
        a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
        a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        const __m512i low = _mm512_shuffle_i32x4(a[i], a[i + 4], 0x88), high = _mm512_shuffle_i32x4(a[i], a[i + 4], 0xdd);
        const __m512i other_low = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0x88);
        const __m512i other_high = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0xdd);
        b[i] = _mm512_shuffle_i32x4(low, other_low, 0x88);
        b[i + 4] = _mm512_shuffle_i32x4(high, other_high, 0x88);
        b[i + 8] = _mm512_shuffle_i32x4(low, other_low, 0xdd);
        b[i + 12] = _mm512_shuffle_i32x4(high, other_high, 0xdd);
    }
    for (int i = 0; i < num; i++) _mm512_storeu_si512(to + i * KEYS, b[i]);
}

static void pack_pairs(const Look *l, const char *const *keys, const char *const *values) {
    for (int64_t i = 0; i < KEYS; i += 16)
        for (int64_t j = 0; j < l->steps; j += 16) turn_over(keys + i, j, least(16, l->steps - j), l->keys + j * KEYS + i);
    for (int64_t i = 0; i < l->value_steps; i++) {
        const uint16_t *a = (const uint16_t *)values[2 * i], *b = (const uint16_t *)values[2 * i + 1];
        uint32_t *to = (uint32_t *)l->values + i * l->wide;
        for (int64_t c = 0; c < l->a->head_size; c++) to[c] = a[c] | (uint32_t)b[c] << 16;
    }
}

static void note_scales(const Look *l, const char *const *heads, float *scales) {
    for (int64_t i = 0; i < KEYS; i++) {
        scales[i] = number_at(heads[i] + l->a->head_size, BFLOAT16, 0);
        scales[KEYS + i] = number_at(heads[i] + l->a->head_size, BFLOAT16, 1);
    }
}

static void pack_codes(const Look *l, const char *const *keys, const char *const *values) {
    const int64_t size = l->a->head_size;
    const char *rows[16];
    note_scales(l, keys, l->scales);
    note_scales(l, values, l->scales + 2 * KEYS);
    for (int64_t i = 0; i < KEYS; i += 16) {
        for (int64_t k = 0; k < 16; k++) {
            const int8_t *from = (const int8_t *)keys[i + k];
            uint16_t *to = l->codes + k * size;
            for (int64_t j = 0; j < size; j++) to[j] = (uint16_t)(bits_of_float((float)from[j]) >> 16);
            rows[k] = (const char *)to;
        }
        for (int64_t j = 0; j < l->steps; j += 16) turn_over(rows, j, least(16, l->steps - j), l->keys + j * KEYS + i);
    }
    for (int64_t i = 0; i < l->value_steps; i++) {
        const int8_t *a = (const int8_t *)values[2 * i], *b = (const int8_t *)values[2 * i + 1];
        uint32_t *to = (uint32_t *)l->values + i * l->wide;
        for (int64_t c = 0; c < size; c++)
            to[c] = bits_of_float((float)a[c]) >> 16 | (bits_of_float((float)b[c]) & 0xffff0000u);
    }
}
#else
static void pack_pairs(const Look *l, const char *const *keys, const char *const *values) {
    (void)l, (void)keys, (void)values;
}
#define pack_codes pack_pairs
#endif

ALWAYS void pack_numbers(const int kind, const Look *l, const char *const *keys, const char *const *values) {
    const int64_t size = l->a->head_size;
    for (int64_t i = 0; i < KEYS; i++)
        for (int64_t j = 0; j < size; j++) l->keys[j * KEYS + i] = number_at(keys[i], kind, j);
    for (int64_t i = 0; i < KEYS; i++)
        for (int64_t c = 0; c < size; c++) l->values[i * l->wide + c] = number_at(values[i], kind, c);
}

/* The numbers of a head that is kept in 8 bits; `stride` lies between two of them. */
ALWAYS void decode(const Look *l, const char *head, float *to, int64_t stride) {
    const int8_t *codes = (const int8_t *)head;
    const float scale = number_at(head + l->a->head_size, BFLOAT16, 0);
    const float middle = number_at(head + l->a->head_size, BFLOAT16, 1);
    for (int64_t i = 0; i < l->a->head_size; i++) to[i * stride] = (float)codes[i] * scale + middle;
}

static void pack_rounded(const Look *l, const char *const *keys, const char *const *values) {
    for (int64_t i = 0; i < KEYS; i++) decode(l, keys[i], l->keys + i, KEYS);
    for (int64_t i = 0; i < KEYS; i++) decode(l, values[i], l->values + i * l->wide, 1);
}

static void pack_tile(const Look *l, int64_t head, int64_t first, int64_t num) {
    const char *keys[KEYS], *values[KEYS];
    find_rows(l, head, first, num, keys, values);
    if (l->a->is_rounded && l->paired) pack_codes(l, keys, values);
    else if (l->a->is_rounded) pack_rounded(l, keys, values);
    else if (l->paired) pack_pairs(l, keys, values);
    else if (l->a->kind == FLOAT32) pack_numbers(FLOAT32, l, keys, values);
    else if (l->a->kind == BFLOAT16) pack_numbers(BFLOAT16, l, keys, values);
    else pack_numbers(FLOAT16, l, keys, values);
}

/* ---- some queries and a tile ---- */

ALWAYS Floats plus(const int paired, Floats sum, Floats a, float b) {
    return paired ? PLUS_PAIRS(sum, a, bits_of_float(b)) : PLUS_TIMES(sum, a, b);
}

/* scores [num, KEYS] = queries times keys. `num` and `paired` are constants wherever these are called. */
ALWAYS void score(const int num, const int paired, const Look *l, const float *queries, float *scores) {
    for (int64_t k = 0; k < KEYS; k += VECTORS * LANES) {
        Floats sums[LOOKS][VECTORS];
        for (int r = 0; r < num; r++)
            for (int v = 0; v < VECTORS; v++) sums[r][v] = ZEROS();
        for (int64_t j = 0; j < l->steps; j++) {
            Floats keys[VECTORS];
            for (int v = 0; v < VECTORS; v++) keys[v] = LOAD_FLOATS(l->keys + j * KEYS + k + v * LANES);
            for (int r = 0; r < num; r++)
                for (int v = 0; v < VECTORS; v++) sums[r][v] = plus(paired, sums[r][v], keys[v], queries[r * l->steps + j]);
        }
        for (int r = 0; r < num; r++)
            for (int v = 0; v < VECTORS; v++) STORE(scores + r * KEYS + k + v * LANES, sums[r][v]);
    }
}

/* `vectors` columns from `c` on: sums = sums * factor + weights times values. */
ALWAYS void add_columns(const int num, const int paired, const int vectors, const Look *l, const float *weights,
                        const float *factors, float *sums, int64_t c) {
    Floats own[LOOKS][VECTORS];
    for (int r = 0; r < num; r++)
        for (int v = 0; v < vectors; v++) own[r][v] = TIMES(LOAD_FLOATS(sums + r * l->wide + c + v * LANES), factors[r]);
    for (int64_t i = 0; i < l->value_steps; i++) {
        Floats values[VECTORS];
        for (int v = 0; v < vectors; v++) values[v] = LOAD_FLOATS(l->values + i * l->wide + c + v * LANES);
        for (int r = 0; r < num; r++)
            for (int v = 0; v < vectors; v++) own[r][v] = plus(paired, own[r][v], values[v], weights[r * KEYS + i]);
    }
    for (int r = 0; r < num; r++)
        for (int v = 0; v < vectors; v++) STORE(sums + r * l->wide + c + v * LANES, own[r][v]);
}

ALWAYS float capped(float x, float cap) { return cap * (1.0f - 2.0f / (exp_of(2.0f / cap * x) + 1.0f)); }

#define PARTS 16 /* of a sum or a maximum, so that they can be one vector */

/* scores [KEYS] become weights, of the keys `from` .. `to` of the tile; by what is what was seen before multiplied? */
static float soften(const Look *l, float *scores, int64_t from, int64_t to, float *most, float *total) {
    const float scaling = l->a->scaling, cap = l->a->softcap;
    float tops[PARTS], sums[PARTS] = {0}, top = *most, sum = 0;
    for (int i = 0; i < KEYS; i++) scores[i] *= scaling;
    if (cap > 0)
        for (int i = 0; i < KEYS; i++) scores[i] = capped(scores[i], cap);
    for (int i = 0; i < KEYS; i++) scores[i] = i >= from && i < to ? scores[i] : -INFINITY;
    for (int j = 0; j < PARTS; j++) tops[j] = -INFINITY;
    for (int i = 0; i < KEYS; i += PARTS)
        for (int j = 0; j < PARTS; j++) tops[j] = scores[i + j] > tops[j] ? scores[i + j] : tops[j];
    for (int j = 0; j < PARTS; j++) top = tops[j] > top ? tops[j] : top;
    if (top == -INFINITY) { /* nothing to be seen yet: a NaN alone leaves no weight, and the result is one */
        for (int i = 0; i < KEYS; i++) scores[i] = scores[i] == scores[i] ? 0.0f : scores[i];
        return 1.0f;
    }
    for (int i = 0; i < KEYS; i++) {
        const float weight = exp_of(scores[i] - top);
        scores[i] = scores[i] == -INFINITY ? 0.0f : weight;
    }
    for (int i = 0; i < KEYS; i += PARTS)
        for (int j = 0; j < PARTS; j++) sums[j] += scores[i + j];
    for (int j = 0; j < PARTS; j++) sum += sums[j];
    const float factor = exp_of(*most - top);
    *total = *total * factor + sum;
    *most = top;
    return factor;
}

#if HAS_PAIRS
/* 2 to the power of x, to within 2**-17: more than a weight in bfloat16 keeps. */
ALWAYS __m512 power_of_two(__m512 x) {
    const __m512 whole = _mm512_roundscale_ps(x, 0), rest = _mm512_sub_ps(x, whole);
    __m512 power = _mm512_set1_ps(9.6181291076e-3f);
    power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(5.5504108665e-2f));
    power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(2.4022650696e-1f));
    power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(6.9314718056e-1f));
    power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(power, whole);
}

ALWAYS uint64_t first_of(int64_t num) { return num <= 0 ? 0 : num >= 64 ? ~0ull : (1ull << num) - 1; }

/* The same as `soften` with weights as pairs, by powers of two. */
ALWAYS float soften_pairs(const Look *l, float *scores, int64_t from, int64_t to, float *most, float *total) {
    __m512 own[4];
    __mmask16 seen[4];
    const __m512 scaling = _mm512_set1_ps(l->a->scaling * 1.44269504f), none = _mm512_set1_ps(-INFINITY);
    const uint64_t mask = first_of(to) & ~first_of(from);
    for (int i = 0; i < 4; i++) {
        seen[i] = (__mmask16)(mask >> 16 * i);
        own[i] = _mm512_mask_mul_ps(none, seen[i], _mm512_loadu_ps(scores + 16 * i), scaling);
    }
    const __m512 larger = _mm512_max_ps(_mm512_max_ps(own[0], own[1]), _mm512_max_ps(own[2], own[3]));
    const float here = _mm512_reduce_max_ps(larger), top = here > *most ? here : *most;
    const float factor = *most == -INFINITY ? 0.0f : _mm512_cvtss_f32(power_of_two(_mm512_set1_ps(*most - top)));
    const __m512 shift = _mm512_set1_ps(top == -INFINITY ? 0.0f : top);
    for (int i = 0; i < 4; i++) own[i] = _mm512_maskz_mov_ps(seen[i], power_of_two(_mm512_sub_ps(own[i], shift)));
    const __m512 sum = _mm512_add_ps(_mm512_add_ps(own[0], own[1]), _mm512_add_ps(own[2], own[3]));
    *total = *total * factor + _mm512_reduce_add_ps(sum);
    if (l->a->is_rounded) {
        __m512 middle = _mm512_setzero_ps();
        for (int i = 0; i < 4; i++) {
            middle = _mm512_fmadd_ps(own[i], _mm512_loadu_ps(l->scales + 3 * KEYS + 16 * i), middle);
            own[i] = _mm512_mul_ps(own[i], _mm512_loadu_ps(l->scales + 2 * KEYS + 16 * i));
        }
        float *middles = l->middles + (most - l->most);
        *middles = *middles * factor + _mm512_reduce_add_ps(middle);
    }
    *most = top;
    for (int i = 0; i < 4; i++) _mm256_storeu_si256((__m256i *)scores + i, (__m256i)_mm512_cvtneps_pbh(own[i]));
    return factor;
}
#else
#define soften_pairs soften
#endif

static int64_t first_seen(const Look *l, int64_t position) {
    return l->a->window && position >= l->a->window ? position - l->a->window + 1 : 0;
}

/* The scores of codes become those of what they stand for. */
static void scale_scores(const Look *l, float *scores, float query_sum) {
    for (int i = 0; i < KEYS; i++) scores[i] = scores[i] * l->scales[i] + query_sum * l->scales[KEYS + i];
}

ALWAYS void look_at(const int num, const int paired, const Look *l, int64_t query, int64_t tile) {
    if (tile > l->positions[query + num - 1]) return;
    float weights[LOOKS * KEYS], factors[LOOKS];
    float *sums = l->sums + query * l->wide;
    score(num, paired, l, l->queries + query * l->steps, weights);
    for (int r = 0; r < num; r++) {
        const int64_t position = l->positions[query + r], from = first_seen(l, position) - tile;
        float *own = weights + r * KEYS, *most = l->most + query + r, *total = l->total + query + r;
        if (paired && l->a->is_rounded) scale_scores(l, own, l->query_sums[query + r]);
        factors[r] = paired ? soften_pairs(l, own, from, position + 1 - tile, most, total)
                            : soften(l, own, from, position + 1 - tile, most, total);
    }
    int64_t c = 0;
    for (; c + VECTORS * LANES <= l->wide; c += VECTORS * LANES)
        add_columns(num, paired, VECTORS, l, weights, factors, sums, c);
    for (; c < l->wide; c += LANES) add_columns(num, paired, 1, l, weights, factors, sums, c);
}

#define WITH_LOOKS(n)                                                                                              \
    static __attribute__((noinline)) void look_at_##n(const Look *l, int64_t query, int64_t tile) {                \
        if (HAS_PAIRS && l->paired) look_at(n, 1, l, query, tile);                                                 \
        else look_at(n, 0, l, query, tile);                                                                        \
    }
WITH_LOOKS(1)
WITH_LOOKS(2)
WITH_LOOKS(3)
WITH_LOOKS(4)
#if LOOKS == 6
WITH_LOOKS(5)
WITH_LOOKS(6)
#endif

typedef void LookAt(const Look *, int64_t, int64_t);
static LookAt *const BY_LOOKS[] = {
    look_at_1, look_at_2, look_at_3, look_at_4,
#if LOOKS == 6
    look_at_5, look_at_6,
#endif
};

/* ---- the queries of some tokens of a session ---- */

/* Of a query, which row of the step it is of, and which head. */
static void place_of(const Look *l, int64_t query, int64_t *row, int64_t *head) {
    const int64_t of_head = l->num * l->group, token = query % of_head / l->group;
    *row = l->session->first_row + l->first + token;
    *head = (l->kv_head + query / of_head) * l->group + query % l->group;
}

static void read_queries(const Look *l) {
    const Attention *a = l->a;
    const int64_t row_heads = a->num_heads + 2 * a->num_kv_heads, width = a->kind == FLOAT32 ? 4 : 2;
    for (int64_t q = 0; q < l->num_kv_heads * l->num * l->group; q++) {
        int64_t row, head;
        place_of(l, q, &row, &head);
        const char *from = a->heads + (row * row_heads + head) * a->head_size * width;
        l->query_sums[q] = 0;
        for (int64_t i = 0; i < a->head_size && a->is_rounded; i++) l->query_sums[q] += number_at(from, a->kind, i);
        if (l->paired) memcpy(l->queries + q * l->steps, from, (size_t)a->head_size * 2);
        else
            for (int64_t i = 0; i < a->head_size; i++) l->queries[q * l->steps + i] = number_at(from, a->kind, i);
        l->positions[q] = l->session->length + row - l->session->first_row;
        l->most[q] = -INFINITY;
        l->total[q] = l->middles[q] = 0;
    }
}

static void write_seen(const Look *l) {
    const Attention *a = l->a;
    const Rows seen = {a->seen, a->num_heads * a->head_size, a->kind};
    for (int64_t q = 0; q < l->num_kv_heads * l->num * l->group; q++) {
        float *own = l->sums + q * l->wide;
        int64_t row, head;
        place_of(l, q, &row, &head);
        for (int64_t i = 0; i < a->head_size; i++) own[i] = (own[i] + l->middles[q]) / l->total[q];
        put(own, a->head_size, &seen, row, head * a->head_size);
    }
}

/* Whether a value of the tile is no finite number: a weight of 0 does not keep such a one from those who may not see it. */
static int is_odd(const Look *l) {
    const uint32_t all = 0x7f800000u, low = l->paired ? 0x7f80u : 0; /* exponents of infinities and NaNs */
    int odd = 0;
    for (int64_t i = 0; i < l->value_steps * l->wide; i++) {
        const uint32_t bits = bits_of_float(l->values[i]);
        odd |= (bits & all) == all || (low && (bits & low) == low);
    }
    for (int i = 2 * KEYS; i < 4 * KEYS && l->paired && l->a->is_rounded; i++) odd |= (bits_of_float(l->scales[i]) & all) == all;
    return odd;
}

/* `num` queries of a head, from `query` on, and a tile of which each has what it may see alone. */
static void look_apart(const Look *l, int64_t head, int64_t query, int64_t num, int64_t tile) {
    for (int64_t q = query; q < query + num; q++) {
        if (l->positions[q] < tile) continue;
        pack_tile(l, head, tile, least(KEYS, l->positions[q] + 1 - tile));
        BY_LOOKS[0](l, q, tile);
    }
}

void look(const Look *l) {
    const int64_t num = l->num * l->group, end = l->session->length + l->first + l->num;
    read_queries(l);
    memset(l->sums, 0, (size_t)(l->num_kv_heads * num * l->wide) * 4);
    for (int64_t tile = first_seen(l, l->positions[0]) / KEYS * KEYS; tile < end; tile += KEYS)
        for (int64_t head = 0; head < l->num_kv_heads; head++) {
            const int64_t rows = least(KEYS, end - tile);
            pack_tile(l, l->kv_head + head, tile, rows);
            if (l->positions[0] + 1 - tile < rows && is_odd(l)) look_apart(l, l->kv_head + head, head * num, num, tile);
            else
                for (int64_t q = 0; q < num; q += LOOKS) BY_LOOKS[least(LOOKS, num - q) - 1](l, head * num + q, tile);
        }
    write_seen(l);
}
