/* LANES outputs at a time: what the products need of a processor, for AVX-512, AVX2, NEON, and in plain C.

   LOOKS queries, and VECTORS vectors of what they look at, are as much as its registers hold in attention.

   A step is 16 or 32 inputs. The weights of a step are STEP / 4 vectors; in vector j, lane l has the codes of output l
   for inputs 4 j .. 4 j + 3. `dot_step` multiplies them with the activations of one row, in whole numbers. */

#ifndef SHARDNET_LANES_H
#define SHARDNET_LANES_H

#include "inside.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VNNI__)

#include <immintrin.h>
#define LANES 16
#define MOST_ROWS 8
#define SIGNED_CODES 0
#define WAY "avx512-vnni"
typedef __m512i Codes;
typedef __m512 Floats;
#define LOAD_CODES(at) _mm512_loadu_si512(at)
#define LOW_HALF(codes) _mm512_and_si512(codes, _mm512_set1_epi8(15))
#define HIGH_HALF(codes) _mm512_and_si512(_mm512_srli_epi16(codes, 4), _mm512_set1_epi8(15))
#define ZEROS() _mm512_setzero_ps()
#define LOAD_HALVES(at) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(at)))
#define TIMES(a, number) _mm512_mul_ps(a, _mm512_set1_ps(number))
#define PLUS_PRODUCT(sum, a, b) _mm512_fmadd_ps(a, b, sum)
#define PLUS_TIMES(sum, a, number) _mm512_fmadd_ps(a, _mm512_set1_ps(number), sum)
#define LOAD_FLOATS(at) _mm512_loadu_ps(at)
#define STORE(at, a) _mm512_storeu_ps(at, a)
#define STORE_HALVES(at, a) _mm256_storeu_si256((__m256i *)(at), _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT))
#define LOOKS 6
#define VECTORS 4
#if defined(__AVX512BF16__)
/* Lane l of `a` has two numbers in bfloat16, and so has `pair`: their products are added. */
#define HAS_PAIRS 1
#define PLUS_PAIRS(sum, a, pair)                                                                             \
    _mm512_dpbf16_ps(sum, (__m512bh)_mm512_castps_si512(a), (__m512bh)_mm512_set1_epi32((int)(pair)))
#endif

ALWAYS Floats dot_step(const int num, const Codes *weights, const int8_t *row, int32_t start) {
    __m512i sum = _mm512_set1_epi32(start);
    for (int j = 0; j < num; j++) {
        int32_t four;
        memcpy(&four, row + 4 * j, 4);
        sum = _mm512_dpbusd_epi32(sum, weights[j], _mm512_set1_epi32(four));
    }
    return _mm512_cvtepi32_ps(sum);
}

#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#include <immintrin.h>
#define LANES 8
#define MOST_ROWS 4
typedef __m256i Codes;
typedef __m256 Floats;
#define LOAD_CODES(at) _mm256_loadu_si256((const __m256i *)(at))
#define LOW_HALF(codes) _mm256_and_si256(codes, _mm256_set1_epi8(15))
#define HIGH_HALF(codes) _mm256_and_si256(_mm256_srli_epi16(codes, 4), _mm256_set1_epi8(15))
#define ZEROS() _mm256_setzero_ps()
#define LOAD_HALVES(at) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(at)))
#define TIMES(a, number) _mm256_mul_ps(a, _mm256_set1_ps(number))
#define PLUS_PRODUCT(sum, a, b) _mm256_fmadd_ps(a, b, sum)
#define PLUS_TIMES(sum, a, number) _mm256_fmadd_ps(a, _mm256_set1_ps(number), sum)
#define LOAD_FLOATS(at) _mm256_loadu_ps(at)
#define STORE(at, a) _mm256_storeu_ps(at, a)
#define STORE_HALVES(at, a) _mm_storeu_si128((__m128i *)(at), _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT))
#define LOOKS 4
#define VECTORS 2

#if defined(__AVXVNNI__) || (defined(__AVX512VNNI__) && defined(__AVX512VL__))
#define SIGNED_CODES 0
#define WAY "avx-vnni"
#if defined(__AVXVNNI__)
#define FOUR_PRODUCTS(sum, weights, row) _mm256_dpbusd_avx_epi32(sum, weights, row)
#else
#define FOUR_PRODUCTS(sum, weights, row) _mm256_dpbusd_epi32(sum, weights, row)
#endif
#else
/* Two products are added in 16 bits, so codes must be below 128: 8 bits become -128..127, and signs go to the row. */
#define SIGNED_CODES 1
#define WAY "avx2"
#define FOUR_PRODUCTS(sum, weights, row)                                                                     \
    _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8(weights),                   \
                                                                 _mm256_sign_epi8(row, weights)),            \
                                            _mm256_set1_epi16(1)))
#define TO_SIGNED(codes) _mm256_xor_si256(codes, _mm256_set1_epi8(-128))
#endif

ALWAYS Floats dot_step(const int num, const Codes *weights, const int8_t *row, int32_t start) {
    __m256i sum = _mm256_set1_epi32(start);
    for (int j = 0; j < num; j++) {
        int32_t four;
        memcpy(&four, row + 4 * j, 4);
        sum = FOUR_PRODUCTS(sum, weights[j], _mm256_set1_epi32(four));
    }
    return _mm256_cvtepi32_ps(sum);
}

#elif defined(__ARM_NEON) && defined(__aarch64__)

#include <arm_neon.h>
#define LANES 4
#define MOST_ROWS 8
#define SIGNED_CODES 1
typedef uint8x16_t Codes;
typedef float32x4_t Floats;
#define LOAD_CODES(at) vld1q_u8(at)
#define LOW_HALF(codes) vandq_u8(codes, vdupq_n_u8(15))
#define HIGH_HALF(codes) vshrq_n_u8(codes, 4)
#define TO_SIGNED(codes) veorq_u8(codes, vdupq_n_u8(128))
#define ZEROS() vdupq_n_f32(0.0f)
#define LOAD_HALVES(at) vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((const uint16_t *)(at))))
#define TIMES(a, number) vmulq_n_f32(a, number)
#define PLUS_PRODUCT(sum, a, b) vfmaq_f32(sum, a, b)
#define PLUS_TIMES(sum, a, number) vfmaq_n_f32(sum, a, number)
#define LOAD_FLOATS(at) vld1q_f32(at)
#define STORE(at, a) vst1q_f32(at, a)
#define STORE_HALVES(at, a) vst1_u16((uint16_t *)(at), vreinterpret_u16_f16(vcvt_f16_f32(a)))
#define LOOKS 6
#define VECTORS 4

#if defined(__ARM_FEATURE_DOTPROD)
#define WAY "neon-dotprod"
#define FOUR_PRODUCTS(sum, weights, row, lane) vdotq_laneq_s32(sum, weights, row, lane)
#else
#define WAY "neon"
ALWAYS int32x4_t four_products(int32x4_t sum, int8x16_t weights, int32_t four) {
    const int8x16_t row = vreinterpretq_s8_s32(vdupq_n_s32(four));
    const int16x8_t low = vmull_s8(vget_low_s8(weights), vget_low_s8(row));
    return vpadalq_s16(sum, vpaddq_s16(low, vmull_high_s8(weights, row)));
}
#define FOUR_PRODUCTS(sum, weights, row, lane)                                                               \
    four_products(sum, weights, vgetq_lane_s32(vreinterpretq_s32_s8(row), lane))
#endif

ALWAYS Floats dot_step(const int num, const Codes *weights, const int8_t *row, int32_t start) {
    int32x4_t sum = vdupq_n_s32(start);
    for (int j = 0; j < num; j += 4) {
        const int8x16_t sixteen = vld1q_s8(row + 4 * j);
        sum = FOUR_PRODUCTS(sum, vreinterpretq_s8_u8(weights[j]), sixteen, 0);
        sum = FOUR_PRODUCTS(sum, vreinterpretq_s8_u8(weights[j + 1]), sixteen, 1);
        sum = FOUR_PRODUCTS(sum, vreinterpretq_s8_u8(weights[j + 2]), sixteen, 2);
        sum = FOUR_PRODUCTS(sum, vreinterpretq_s8_u8(weights[j + 3]), sixteen, 3);
    }
    return vcvtq_f32_s32(sum);
}

#else

/* Plain C, which a compiler may make vectors of; its own order of roundings, as nothing is fused. */
#define LANES 16
#define MOST_ROWS 4
#define SIGNED_CODES 0
#define WAY "plain"
#define LOOKS 4
#define VECTORS 1
typedef struct { uint8_t at[64]; } Codes;
typedef struct { float at[16]; } Floats;

ALWAYS Codes LOAD_CODES(const uint8_t *at) {
    Codes codes;
    memcpy(codes.at, at, 64);
    return codes;
}

ALWAYS Codes LOW_HALF(Codes codes) {
    for (int i = 0; i < 64; i++) codes.at[i] &= 15;
    return codes;
}

ALWAYS Codes HIGH_HALF(Codes codes) {
    for (int i = 0; i < 64; i++) codes.at[i] >>= 4;
    return codes;
}

ALWAYS Floats ZEROS(void) {
    Floats zeros = {{0}};
    return zeros;
}

ALWAYS Floats LOAD_HALVES(const void *at) {
    Floats loaded;
    for (int i = 0; i < 16; i++) {
        uint16_t half;
        memcpy(&half, (const uint8_t *)at + 2 * i, 2);
        loaded.at[i] = float_of_half(half);
    }
    return loaded;
}

ALWAYS Floats TIMES(Floats a, float number) {
    for (int i = 0; i < 16; i++) a.at[i] *= number;
    return a;
}

ALWAYS Floats PLUS_PRODUCT(Floats sum, Floats a, Floats b) {
    for (int i = 0; i < 16; i++) sum.at[i] += a.at[i] * b.at[i];
    return sum;
}

ALWAYS Floats PLUS_TIMES(Floats sum, Floats a, float number) {
    for (int i = 0; i < 16; i++) sum.at[i] += a.at[i] * number;
    return sum;
}

ALWAYS void STORE(float *at, Floats a) { memcpy(at, a.at, 64); }

ALWAYS Floats LOAD_FLOATS(const float *at) {
    Floats loaded;
    memcpy(loaded.at, at, 64);
    return loaded;
}

ALWAYS void STORE_HALVES(uint8_t *at, Floats a) {
    for (int i = 0; i < 16; i++) {
        const uint16_t half = half_of(a.at[i]);
        memcpy(at + 2 * i, &half, 2);
    }
}

ALWAYS Floats dot_step(const int num, const Codes *weights, const int8_t *row, int32_t start) {
    int32_t sums[16];
    for (int i = 0; i < 16; i++) sums[i] = start;
    for (int j = 0; j < num; j++)
        for (int i = 0; i < 16; i++)
            for (int k = 0; k < 4; k++) sums[i] += weights[j].at[4 * i + k] * row[4 * j + k];
    Floats floats;
    for (int i = 0; i < 16; i++) floats.at[i] = (float)sums[i];
    return floats;
}

#endif

#ifndef TO_SIGNED
#define TO_SIGNED(codes) (codes)
#endif

#ifndef HAS_PAIRS
#define HAS_PAIRS 0
#define PLUS_PAIRS(sum, a, pair) (sum)
#endif

#endif
