/* Base64 to bytes, strictly: 32 letters at a time where the processor can. */
#include "columns.h"

#define BAD 0x80 /* a bit that no value of a letter has */

static const uint8_t VALUES[256] = {
    255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
    255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
    255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,  62, 255, 255, 255,  63,
     52,  53,  54,  55,  56,  57,  58,  59,  60,  61, 255, 255, 255, 255, 255, 255,
    255,   0,   1,   2,   3,   4,   5,   6,   7,   8,   9,  10,  11,  12,  13,  14,
     15,  16,  17,  18,  19,  20,  21,  22,  23,  24,  25, 255, 255, 255, 255, 255,
    255,  26,  27,  28,  29,  30,  31,  32,  33,  34,  35,  36,  37,  38,  39,  40,
     41,  42,  43,  44,  45,  46,  47,  48,  49,  50,  51, 255, 255, 255, 255, 255,
    255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
    255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
    255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
    255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
    255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
    255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
    255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
    255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
};

/* Decode whole groups of four letters, without padding; 0 if a letter is none. */
static int decode_groups(const uint8_t *from, size_t size, uint8_t *to)
{
    uint8_t seen = 0;

    for (; size; size -= 4, from += 4, to += 3) {
        uint8_t a = VALUES[from[0]], b = VALUES[from[1]], c = VALUES[from[2]], d = VALUES[from[3]];
        seen |= (uint8_t)(a | b | c | d);
        to[0] = (uint8_t)(a << 2 | b >> 4);
        to[1] = (uint8_t)(b << 4 | c >> 2);
        to[2] = (uint8_t)(c << 6 | d);
    }
    return !(seen & BAD);
}

#if defined(__x86_64__)
#include <immintrin.h>

#define STEP 32 /* letters; 24 bytes, but 32 are written */
#define LETTERS_MIN 44 /* that stand for so many */
#define TWICE(...) _mm256_setr_epi8(__VA_ARGS__, __VA_ARGS__)

/* Decode from the start for as long as there is room to write beyond what counts; return how many letters were read. It
 * stops before letters that are none. The tables are those of Muła and Lemire, "Faster Base64 Encoding and Decoding
 * Using AVX2 Instructions". */
__attribute__((target("avx2"))) static size_t decode_avx2(const uint8_t *from, size_t size, uint8_t *to)
{
    const __m256i low_bad = TWICE(0x15, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x13, 0x1a, 0x1b, 0x1b,
                                  0x1b, 0x1a);
    const __m256i high_bad = TWICE(0x10, 0x10, 0x01, 0x02, 0x04, 0x08, 0x04, 0x08, 0x10, 0x10, 0x10, 0x10, 0x10, 0x10,
                                   0x10, 0x10);
    const __m256i shifts = TWICE(0, 16, 19, 4, -65, -65, -71, -71, 0, 0, 0, 0, 0, 0, 0, 0);
    const __m256i order = TWICE(2, 1, 0, 6, 5, 4, 10, 9, 8, 14, 13, 12, -1, -1, -1, -1);
    const __m256i together = _mm256_setr_epi32(0, 1, 2, 4, 5, 6, 7, 7);
    const __m256i slash = _mm256_set1_epi8(0x2f);
    size_t at = 0;

    for (; size - at >= LETTERS_MIN; at += STEP, to += STEP / 4 * 3) {
        __m256i letters = _mm256_loadu_si256((const __m256i *)(const void *)(from + at));
        __m256i high = _mm256_and_si256(_mm256_srli_epi32(letters, 4), slash);
        __m256i low = _mm256_and_si256(letters, slash);
        if (!_mm256_testz_si256(_mm256_shuffle_epi8(low_bad, low), _mm256_shuffle_epi8(high_bad, high)))
            break;
        letters = _mm256_add_epi8(
            letters, _mm256_shuffle_epi8(shifts, _mm256_add_epi8(_mm256_cmpeq_epi8(letters, slash), high)));
        letters = _mm256_maddubs_epi16(letters, _mm256_set1_epi32(0x01400140));
        letters = _mm256_madd_epi16(letters, _mm256_set1_epi32(0x00011000));
        letters = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(letters, order), together);
        _mm256_storeu_si256((__m256i *)(void *)to, letters);
    }
    return at;
}

static size_t decode_wide(const uint8_t *from, size_t size, uint8_t *to)
{
    static int known, can;

    if (!known) {
        __builtin_cpu_init();
        can = __builtin_cpu_supports("avx2") != 0;
        known = 1;
    }
    return can ? decode_avx2(from, size, to) : 0;
}
#else
static size_t decode_wide(const uint8_t *from, size_t size, uint8_t *to)
{
    (void)from;
    (void)size;
    (void)to;
    return 0;
}
#endif

Py_ssize_t base64_size(struct span text)
{
    size_t padding = 0;

    if (text.size % 4)
        return -1;
    if (text.size && text.start[text.size - 1] == '=')
        padding = text.start[text.size - 2] == '=' ? 2 : 1;
    return (Py_ssize_t)(text.size / 4 * 3 - padding);
}

int base64_decode(struct span text, uint8_t *to)
{
    const uint8_t *from = text.start;
    size_t whole = text.size, at;
    uint8_t last[4] = {'A', 'A', 'A', 'A'}, bytes[3];
    int padding = 0;

    if (whole && from[whole - 1] == '=') {
        padding = from[whole - 2] == '=' ? 2 : 1;
        whole -= 4;
    }
    at = decode_wide(from, whole, to);
    if (!decode_groups(from + at, whole - at, to + at / 4 * 3))
        return 0;
    if (!padding)
        return 1;
    memcpy(last, from + whole, (size_t)(4 - padding));
    if (!decode_groups(last, sizeof last, bytes) || bytes[3 - padding]) /* bits that are lost: others may know why */
        return 0;
    memcpy(to + whole / 4 * 3, bytes, (size_t)(3 - padding));
    return 1;
}
