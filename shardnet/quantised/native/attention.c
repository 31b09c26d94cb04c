/* Attention of many sessions in one step, each to its own keys and values: new ones are kept, and threads share the looks. */

#include "look.h"

#define TOGETHER 192 /* queries that share the tiles which were packed for them */
#define BESIDE 512   /* queries of all heads, where one thread does them together, as their keys lie beside each other */
#define LITTLE (1 << 20) /* multiplications that are not shared by threads */

typedef struct {
    const Attention *a;
    int64_t group, at_once, heads_at_once; /* tokens of a session that look together, and their heads of keys */
    int64_t taken;
    int failed;
} Job;

static int64_t parts_of(int64_t num, int64_t size) { return (num + size - 1) / size; }

static int64_t looks_of(const Job *job, const Session *s) {
    return parts_of(s->num_new, job->at_once) * parts_of(job->a->num_kv_heads, job->heads_at_once);
}

static void *memory_of(const Job *job, Look *l) {
    const int64_t size = job->a->head_size, queries = job->at_once * job->group * job->heads_at_once;
    l->a = job->a;
    l->group = job->group;
    l->paired = HAS_PAIRS && job->a->kind == BFLOAT16 && job->a->softcap == 0;
    l->steps = l->paired ? size / 2 : size;
    l->value_steps = l->paired ? KEYS / 2 : KEYS;
    l->wide = (size + 15) / 16 * 16;
    const int64_t tile = l->steps * KEYS + l->value_steps * l->wide;
    l->positions = calloc((size_t)(9 * size + tile + 4 * KEYS + queries * (l->steps + l->wide + 6)), 4);
    float *memory = (float *)(l->positions + queries);
    l->nothing = (const char *)memory;
    l->keys = memory + size;
    l->values = l->keys + l->steps * KEYS;
    l->queries = l->values + l->value_steps * l->wide;
    l->sums = l->queries + queries * l->steps;
    l->most = l->sums + queries * l->wide;
    l->total = l->most + queries;
    l->query_sums = l->total + queries;
    l->middles = l->query_sums + queries;
    l->scales = l->middles + queries;
    l->codes = (uint16_t *)(l->scales + 4 * KEYS);
    return l->positions;
}

static void look_some(void *shared) {
    Job *job = shared;
    Look l;
    void *memory = memory_of(job, &l);
    if (!memory) {
        __atomic_store_n(&job->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    const Session *s = job->a->sessions, *behind = s + job->a->num_sessions;
    int64_t before = 0;
    for (;;) {
        const int64_t own = __atomic_fetch_add(&job->taken, 1, __ATOMIC_RELAXED);
        while (s < behind && own >= before + looks_of(job, s)) before += looks_of(job, s++);
        if (s == behind) break;
        l.session = s;
        const int64_t num_parts = parts_of(job->a->num_kv_heads, job->heads_at_once);
        l.kv_head = (own - before) % num_parts * job->heads_at_once;
        l.num_kv_heads = least(job->heads_at_once, job->a->num_kv_heads - l.kv_head);
        l.first = (own - before) / num_parts * job->at_once;
        l.num = least(job->at_once, s->num_new - l.first);
        look(&l);
    }
    free(memory);
}

/* A head in 8 bits. One in which a number is not finite is none at all. */
static void encode(const char *head, int kind, int64_t size, char *to) {
    float low = INFINITY, high = -INFINITY, largest = 0;
    int finite = 1;
    for (int64_t i = 0; i < size; i++) {
        const float number = number_at(head, kind, i);
        finite &= number - number == 0.0f;
        low = number < low ? number : low;
        high = number > high ? number : high;
    }
    uint16_t halves[2] = {0x7fc0, 0x7fc0};
    if (finite) halves[1] = bfloat16_of(high - (high - low) * 0.5f);
    const float middle = number_at(halves, BFLOAT16, 1);
    for (int64_t i = 0; i < size; i++) {
        const float distance = fabsf(number_at(head, kind, i) - middle);
        largest = distance > largest ? distance : largest;
    }
    if (finite) halves[0] = bfloat16_of(largest / 126.5f);
    const float scale = number_at(halves, BFLOAT16, 0);
    for (int64_t i = 0; i < size; i++) {
        float code = finite && scale > 0.0f ? (number_at(head, kind, i) - middle) / scale : 0.0f;
        code = code < -127.0f ? -127.0f : code > 127.0f ? 127.0f : code;
        to[i] = (char)(bits_of_float(code + 0x1.8p23f) & 0xff); /* rounded, as in products.c */
    }
    memcpy(to + size, halves, 4);
}

static void keep(const Attention *a, const char *heads, char *to) {
    const int64_t width = a->kind == FLOAT32 ? 4 : 2, size = a->head_size * width, kept = kept_bytes(a);
    if (!a->is_rounded) memcpy(to, heads, (size_t)(a->num_kv_heads * size));
    else
        for (int64_t h = 0; h < a->num_kv_heads; h++) encode(heads + h * size, a->kind, a->head_size, to + h * kept);
}

/* Keys and values of the new tokens go behind those of their sessions. */
static void append(const Attention *a) {
    const int64_t width = a->kind == FLOAT32 ? 4 : 2, own = a->num_kv_heads * a->head_size * width;
    const int64_t queries = a->num_heads * a->head_size * width, row = a->num_kv_heads * kept_bytes(a);
    for (const Session *s = a->sessions; s < a->sessions + a->num_sessions; s++) {
        const Run *run = s->runs;
        int64_t start = 0;
        for (int64_t t = 0; t < s->num_new; t++) {
            while (s->length + t >= start + run->num_rows) start += run++->num_rows;
            const char *from = a->heads + (s->first_row + t) * (queries + 2 * own) + queries;
            const int64_t at = (s->length + t - start) * row;
            keep(a, from, (char *)(uintptr_t)run->keys + at);
            keep(a, from + own, (char *)(uintptr_t)run->values + at);
        }
    }
}

int32_t attend(const Attention *a) {
    int64_t work = 0, most_new = 0;
    for (int64_t i = 0; i < a->num_sessions; i++) {
        const Session *s = a->sessions + i;
        work += s->num_new * (s->length + s->num_new) * a->num_heads * a->head_size;
        most_new = most_new > s->num_new ? most_new : s->num_new;
    }
    if (most_new == 0) return DONE;
    append(a);
    const int is_shared = a->parallel && a->num_threads > 1 && work > LITTLE;
    Job job = {a, a->num_heads / a->num_kv_heads, 1, 1, 0, 0};
    if (job.group < TOGETHER) job.at_once = least(most_new, TOGETHER / job.group);
    if (!is_shared && job.at_once * job.group < BESIDE)
        job.heads_at_once = least(a->num_kv_heads, BESIDE / (job.at_once * job.group));
    if (is_shared) a->parallel(look_some, &job, a->num_threads, 0);
    else look_some(&job);
    return job.failed ? NO_MEMORY : DONE;
}
