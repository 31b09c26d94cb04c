/* What the library offers. A weight [N, K] is 4 or 8 bits in groups of G inputs, packed as products.c says.

   Rows, of activations or results, are float32 (0), bfloat16 (1) or float16 (2), `stride` numbers from one to the next. */

#ifndef SHARDNET_PRODUCTS_H
#define SHARDNET_PRODUCTS_H

#include <stdint.h>

enum Floating { FLOAT32, BFLOAT16, FLOAT16 };
enum Failure { DONE, NO_MEMORY, NO_SUCH_ROW };

/* How GNU's OpenMP runs a function on threads; torch has one loaded, whose threads are shared with it. */
typedef void (*Parallel)(void (*work)(void *), void *job, unsigned num_threads, unsigned flags);

/* For which instructions it was compiled. */
const char *shardnet_way(void);

/* A weight, and where it goes to or comes from: as Python packs it, all in 8 bytes. */
typedef struct {
    int64_t blocks, units; /* addresses: bytes, and float32 for each tile */
    int64_t num_outputs, num_inputs, group, bits;
    int64_t rows, row_stride, row_kind; /* rows: an address; of a gather, int64 ids, one after the other */
    int64_t out, out_stride, out_kind;  /* out: an address */
    int64_t num_rows;
    int64_t parallel, num_threads; /* parallel: the address of a function, or 0 */
} Call;

/* out[r, n] = sum over k of rows[r, k] * weight[n, k]. */
int32_t shardnet_product(const Call *call);

/* out[i] = weight[ids[i]], as the numbers that it stands for. */
int32_t shardnet_gather(const Call *call);

/* Whether a few products and rows come out as they do when reckoned one by one: 0, or the number of the first that does not. */
int32_t shardnet_trial(void);

/* The same for one shape; 0 where it is right. */
int32_t shardnet_trial_of(int64_t num_outputs, int64_t num_inputs, int64_t group, int32_t bits, int64_t num_rows,
                          int32_t row_kind, int32_t out_kind);

#endif
