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

/* out[r, n] = sum over k of rows[r, k] * weight[n, k]; `parallel` may be NULL. */
int32_t shardnet_product(const void *blocks, int64_t num_outputs, int64_t num_inputs, int64_t group, int32_t bits, float unit,
                         const void *rows, int64_t row_stride, int32_t row_kind, void *out, int64_t out_stride,
                         int32_t out_kind, int64_t num_rows, Parallel parallel, uint32_t num_threads);

/* out[i] = weight[ids[i]], as the numbers that it stands for. */
int32_t shardnet_gather(const void *blocks, int64_t num_outputs, int64_t num_inputs, int64_t group, int32_t bits, float unit,
                        const int64_t *ids, void *out, int64_t out_stride, int32_t out_kind, int64_t num_ids);

/* Whether a few products and rows come out as they do when reckoned one by one: 0, or the number of the first that does not. */
int32_t shardnet_trial(void);

/* The same for one shape; 0 where it is right. */
int32_t shardnet_trial_of(int64_t num_outputs, int64_t num_inputs, int64_t group, int32_t bits, int64_t num_rows,
                          int32_t row_kind, int32_t out_kind);

#endif
