/* What the library offers. A weight [N, K] is 4 or 8 bits in groups of G inputs, packed as products.c says.

   Rows, of activations or results, are float32 (0), bfloat16 (1) or float16 (2), `stride` numbers from one to the next. */

#ifndef SHARDNET_PRODUCTS_H
#define SHARDNET_PRODUCTS_H

#include <stdint.h>

enum Floating { FLOAT32, BFLOAT16, FLOAT16 };
enum Activation { SILU, GELU_TANH };
enum Failure { DONE, NO_MEMORY, NO_SUCH_ROW, NOT_FINITE, OTHER_ROWS };
enum Stored { STORED_FLOAT32, STORED_BFLOAT16, STORED_FLOAT16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K };

/* How GNU's OpenMP runs a function on threads; torch has one loaded, whose threads are shared with it. */
typedef void (*Parallel)(void (*work)(void *), void *job, unsigned num_threads, unsigned flags);

/* For which instructions it was compiled. */
const char *shardnet_way(void);

/* What follows is as Python packs it, each in 8 bytes; what is named like something that lies in memory is its address. */

typedef struct {
    int64_t blocks, units; /* bytes, and float32 for each tile */
    int64_t num_outputs, num_inputs, group, bits;
} Matrix;

/* A product, or a gather: `rows` is then int64 ids, one after the other. */
typedef struct {
    Matrix matrix;
    int64_t rows, row_stride, row_kind;
    int64_t out, out_stride, out_kind;
    int64_t num_rows;
    int64_t parallel, num_threads; /* parallel: of a function, or 0 */
} Call;

/* out[r, n] = sum over k of rows[r, k] * weight[n, k]. */
int32_t shardnet_product(const Call *call);

/* out[i] = weight[ids[i]], as the numbers that it stands for. */
int32_t shardnet_gather(const Call *call);

/* What a row is divided by its root mean square and multiplied by, float32; 0: it is left as it is. */
typedef struct {
    int64_t weight;
    double eps;
} NormOf;

/* A block of Llama's shape. Biases are float32, or 0. */
typedef struct {
    Matrix qkv, out, gate_up, down;
    NormOf before_attention, before_mlp;
    NormOf behind_attention, behind_mlp; /* or none */
    NormOf query_norm, key_norm;         /* of each head, or none */
    int64_t qkv_bias, out_bias, gate_up_bias, down_bias;
    int64_t activation; /* enum Activation */
    int64_t num_heads, num_kv_heads, head_size;
    int64_t window;          /* so many tokens are seen, each its own among them; 0: all */
    double scaling, softcap; /* softcap 0: none */
} Block;

/* Rows of keys and values, [rows, K, d] one after the other; or [rows, K, d + 4] bytes, where they are kept in 8 bits. */
typedef struct {
    int64_t keys, values, num_rows;
} Run;

/* What a block has of a step. */
typedef struct {
    int64_t cos, sin; /* [T, d]; sin with the sign of its half; 0: nothing is turned */
    int64_t runs;     /* of each session how many runs it has, and then these */
} Layer;

/* A step; all numbers of rows are of that kind. */
typedef struct {
    int64_t hidden, kind, num_rows; /* hidden [T, H], in the place of which the results come */
    int64_t is_rounded;             /* keys and values are kept in 8 bits */
    int64_t sessions, num_sessions; /* of each how many of the rows are its own, and how many tokens it had before */
    int64_t parallel, num_threads;
} Step;

/* Run `num` blocks, given by their addresses. */
int32_t shardnet_blocks(const int64_t *blocks, const Layer *layers, int64_t num, const Step *step);

/* Some outputs of a weight, as a file has them. */
typedef struct {
    Matrix matrix;
    int64_t rows, row_bytes, stored;      /* one row after the other */
    int64_t order;                        /* int64 for each output: which of the rows it is; 0: they are in order */
    int64_t first_row, num_rows;          /* outputs; the first is a multiple of 16 */
    int64_t parallel, num_threads;
} Pack;

/* Lays them out; what is behind the last output of the tile is zeros. */
int32_t shardnet_pack(const Pack *call);

/* Whether a few products, rows and looks come out as they do when reckoned one by one: 0, or the number of the first that does not. */
int32_t shardnet_trial(void);

/* The same for one shape; 0 where it is right. */
int32_t shardnet_trial_of(int64_t num_outputs, int64_t num_inputs, int64_t group, int32_t bits, int64_t num_rows,
                          int32_t row_kind, int32_t out_kind);
int32_t shardnet_trial_of_attention(int64_t size, int64_t heads, int64_t kv_heads, int64_t window, int32_t kind,
                                    int32_t is_rounded);

/* Of laying out rows of a file, Q4_1 or float32. */
int32_t shardnet_packing_trial(int64_t num_outputs, int64_t num_inputs, int64_t stored);

#endif
