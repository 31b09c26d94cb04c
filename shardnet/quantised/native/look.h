/* Some queries of one session that look together. */

#ifndef SHARDNET_LOOK_H
#define SHARDNET_LOOK_H

#include "lanes.h"

#define KEYS 64 /* that are looked at together */

typedef struct {
    const Attention *a;
    const Session *session;
    int64_t kv_head, num_kv_heads; /* that are looked at: rows of keys and values are read once for all of them */
    int64_t first, num;            /* tokens of the session that look */
    int64_t group;                 /* queries of one token that share keys */
    int paired;
    int64_t steps, value_steps, wide; /* of a query and a key; of a tile's values; numbers of a value, and zeros behind them */
    float *keys;    /* [steps, KEYS]: numbers, or pairs of them */
    float *values;  /* [value_steps, wide], the same */
    float *queries; /* [queries, steps]: of each head one token after the other, of each token its group */
    int64_t *positions; /* [queries] */
    float *sums;    /* [queries, wide]: of what was seen so far */
    float *most;    /* [queries]: the largest score so far */
    float *total;   /* [queries]: of the weights so far */
    float *query_sums; /* [queries]: of their numbers; this and what follows for codes as pairs alone */
    float *middles;    /* [queries]: what the values' middles add to all of a query's sums */
    float *scales;     /* [4, KEYS]: scales and middles of a tile's keys, then those of its values */
    uint16_t *codes;   /* [16, head_size]: of some keys, as bfloat16 */
    const char *nothing; /* a row of zeros */
} Look;

/* Bytes of a head of a token's keys, or values. */
ALWAYS int64_t kept_bytes(const Attention *a) {
    return a->is_rounded ? a->head_size + 4 : a->head_size * (a->kind == FLOAT32 ? 4 : 2);
}

/* Have the queries see what they may. Keys and values are there. */
void look(const Look *look);

#endif
