/* MD5 (RFC 1321) of many texts at once: a step of it waits for the one before, so sixteen texts take hardly longer
 * than one. What the format of aggregates asks for; nothing relies on it for security. */
#include "columns.h"

#define LANES 16
#define BLOCK 64
#define LANES_MIN 3 /* with fewer texts than that, one after the other is as fast */

typedef uint32_t lanes_t __attribute__((vector_size(4 * LANES)));

#define ROTATED(x, s) (((x) << (s)) | ((x) >> (32 - (s))))
#define F(b, c, d) ((d) ^ ((b) & ((c) ^ (d))))
#define G(b, c, d) ((c) ^ ((d) & ((b) ^ (c))))
#define H(b, c, d) ((b) ^ (c) ^ (d))
#define I(b, c, d) ((c) ^ ((b) | ~(d)))
#define STEP(f, a, b, c, d, word, constant, s)  \
    a += f(b, c, d) + (word) + (constant);      \
    a = ROTATED(a, s) + b;

/* All 64 steps over words w[0] to w[15], for one text or for sixteen. */
#define ROUNDS(a, b, c, d, w)                                                                              \
    STEP(F, a, b, c, d, w[0], 0xd76aa478u, 7) STEP(F, d, a, b, c, w[1], 0xe8c7b756u, 12)                   \
    STEP(F, c, d, a, b, w[2], 0x242070dbu, 17) STEP(F, b, c, d, a, w[3], 0xc1bdceeeu, 22)                  \
    STEP(F, a, b, c, d, w[4], 0xf57c0fafu, 7) STEP(F, d, a, b, c, w[5], 0x4787c62au, 12)                   \
    STEP(F, c, d, a, b, w[6], 0xa8304613u, 17) STEP(F, b, c, d, a, w[7], 0xfd469501u, 22)                  \
    STEP(F, a, b, c, d, w[8], 0x698098d8u, 7) STEP(F, d, a, b, c, w[9], 0x8b44f7afu, 12)                   \
    STEP(F, c, d, a, b, w[10], 0xffff5bb1u, 17) STEP(F, b, c, d, a, w[11], 0x895cd7beu, 22)                \
    STEP(F, a, b, c, d, w[12], 0x6b901122u, 7) STEP(F, d, a, b, c, w[13], 0xfd987193u, 12)                 \
    STEP(F, c, d, a, b, w[14], 0xa679438eu, 17) STEP(F, b, c, d, a, w[15], 0x49b40821u, 22)                \
    STEP(G, a, b, c, d, w[1], 0xf61e2562u, 5) STEP(G, d, a, b, c, w[6], 0xc040b340u, 9)                    \
    STEP(G, c, d, a, b, w[11], 0x265e5a51u, 14) STEP(G, b, c, d, a, w[0], 0xe9b6c7aau, 20)                 \
    STEP(G, a, b, c, d, w[5], 0xd62f105du, 5) STEP(G, d, a, b, c, w[10], 0x02441453u, 9)                   \
    STEP(G, c, d, a, b, w[15], 0xd8a1e681u, 14) STEP(G, b, c, d, a, w[4], 0xe7d3fbc8u, 20)                 \
    STEP(G, a, b, c, d, w[9], 0x21e1cde6u, 5) STEP(G, d, a, b, c, w[14], 0xc33707d6u, 9)                   \
    STEP(G, c, d, a, b, w[3], 0xf4d50d87u, 14) STEP(G, b, c, d, a, w[8], 0x455a14edu, 20)                  \
    STEP(G, a, b, c, d, w[13], 0xa9e3e905u, 5) STEP(G, d, a, b, c, w[2], 0xfcefa3f8u, 9)                   \
    STEP(G, c, d, a, b, w[7], 0x676f02d9u, 14) STEP(G, b, c, d, a, w[12], 0x8d2a4c8au, 20)                 \
    STEP(H, a, b, c, d, w[5], 0xfffa3942u, 4) STEP(H, d, a, b, c, w[8], 0x8771f681u, 11)                   \
    STEP(H, c, d, a, b, w[11], 0x6d9d6122u, 16) STEP(H, b, c, d, a, w[14], 0xfde5380cu, 23)                \
    STEP(H, a, b, c, d, w[1], 0xa4beea44u, 4) STEP(H, d, a, b, c, w[4], 0x4bdecfa9u, 11)                   \
    STEP(H, c, d, a, b, w[7], 0xf6bb4b60u, 16) STEP(H, b, c, d, a, w[10], 0xbebfbc70u, 23)                 \
    STEP(H, a, b, c, d, w[13], 0x289b7ec6u, 4) STEP(H, d, a, b, c, w[0], 0xeaa127fau, 11)                  \
    STEP(H, c, d, a, b, w[3], 0xd4ef3085u, 16) STEP(H, b, c, d, a, w[6], 0x04881d05u, 23)                  \
    STEP(H, a, b, c, d, w[9], 0xd9d4d039u, 4) STEP(H, d, a, b, c, w[12], 0xe6db99e5u, 11)                  \
    STEP(H, c, d, a, b, w[15], 0x1fa27cf8u, 16) STEP(H, b, c, d, a, w[2], 0xc4ac5665u, 23)                 \
    STEP(I, a, b, c, d, w[0], 0xf4292244u, 6) STEP(I, d, a, b, c, w[7], 0x432aff97u, 10)                   \
    STEP(I, c, d, a, b, w[14], 0xab9423a7u, 15) STEP(I, b, c, d, a, w[5], 0xfc93a039u, 21)                 \
    STEP(I, a, b, c, d, w[12], 0x655b59c3u, 6) STEP(I, d, a, b, c, w[3], 0x8f0ccc92u, 10)                  \
    STEP(I, c, d, a, b, w[10], 0xffeff47du, 15) STEP(I, b, c, d, a, w[1], 0x85845dd1u, 21)                 \
    STEP(I, a, b, c, d, w[8], 0x6fa87e4fu, 6) STEP(I, d, a, b, c, w[15], 0xfe2ce6e0u, 10)                  \
    STEP(I, c, d, a, b, w[6], 0xa3014314u, 15) STEP(I, b, c, d, a, w[13], 0x4e0811a1u, 21)                 \
    STEP(I, a, b, c, d, w[4], 0xf7537e82u, 6) STEP(I, d, a, b, c, w[11], 0xbd3af235u, 10)                  \
    STEP(I, c, d, a, b, w[2], 0x2ad7d2bbu, 15) STEP(I, b, c, d, a, w[9], 0xeb86d391u, 21)

static const uint32_t BEGINNING[4] = {0x67452301u, 0xefcdab89u, 0x98badcfeu, 0x10325476u};

/* One text while it is hashed: whole blocks where they stand, then the last one or two, padded. */
struct reading {
    const uint8_t *at;
    size_t whole;      /* blocks left where the text stands */
    size_t padded;     /* blocks left of `end` */
    size_t end_blocks; /* of `end`, in all */
    size_t index;      /* of the text */
    uint8_t end[2 * BLOCK];
};

static void open_text(struct reading *reading, struct span text, size_t index)
{
    size_t rest = text.size % BLOCK;
    uint64_t bits = (uint64_t)text.size << 3;

    reading->at = text.start;
    reading->whole = text.size / BLOCK;
    reading->padded = reading->end_blocks = rest < BLOCK - 8 ? 1 : 2;
    reading->index = index;
    memset(reading->end, 0, sizeof reading->end);
    if (rest)
        memcpy(reading->end, text.start + text.size - rest, rest);
    reading->end[rest] = 0x80;
    memcpy(reading->end + reading->end_blocks * BLOCK - 8, &bits, 8);
}

static const uint8_t *next_block(struct reading *reading)
{
    const uint8_t *block;

    if (reading->whole) {
        block = reading->at;
        reading->at += BLOCK;
        reading->whole--;
        return block;
    }
    block = reading->end + (reading->end_blocks - reading->padded) * BLOCK;
    reading->padded--;
    return block;
}

static void finish(struct reading *reading, const uint32_t start[4], uint8_t *digest)
{
    uint32_t a = start[0], b = start[1], c = start[2], d = start[3], w[16];

    while (reading->whole || reading->padded) {
        uint32_t a0 = a, b0 = b, c0 = c, d0 = d;
        memcpy(w, next_block(reading), BLOCK);
        ROUNDS(a, b, c, d, w)
        a += a0;
        b += b0;
        c += c0;
        d += d0;
    }
    memcpy(digest, &a, 4);
    memcpy(digest + 4, &b, 4);
    memcpy(digest + 8, &c, 4);
    memcpy(digest + 12, &d, 4);
}

void md5(struct span text, uint8_t *digest)
{
    struct reading reading;

    open_text(&reading, text, 0);
    finish(&reading, BEGINNING, digest);
}

/* Add a block of each lane to its state, rows of four words that stand one lane beside the other. */
static inline __attribute__((always_inline)) void add_blocks(uint32_t state[4][LANES], const uint8_t *const *blocks)
{
    uint32_t words[16][LANES] __attribute__((aligned(64)));
    lanes_t a, b, c, d, a0, b0, c0, d0, w[16];

    for (int lane = 0; lane < LANES; lane++) {
        uint32_t block[16];
        memcpy(block, blocks[lane], BLOCK);
        for (int word = 0; word < 16; word++)
            words[word][lane] = block[word];
    }
    memcpy(w, words, sizeof w);
    memcpy(&a0, state[0], sizeof a0);
    memcpy(&b0, state[1], sizeof b0);
    memcpy(&c0, state[2], sizeof c0);
    memcpy(&d0, state[3], sizeof d0);
    a = a0;
    b = b0;
    c = c0;
    d = d0;
    ROUNDS(a, b, c, d, w)
    a += a0;
    b += b0;
    c += c0;
    d += d0;
    memcpy(state[0], &a, sizeof a);
    memcpy(state[1], &b, sizeof b);
    memcpy(state[2], &c, sizeof c);
    memcpy(state[3], &d, sizeof d);
}

typedef void adder_t(uint32_t state[4][LANES], const uint8_t *const *blocks);

static void add_blocks_plain(uint32_t state[4][LANES], const uint8_t *const *blocks) { add_blocks(state, blocks); }

#if defined(__x86_64__)
__attribute__((target("avx2"))) static void add_blocks_avx2(uint32_t state[4][LANES], const uint8_t *const *blocks)
{
    add_blocks(state, blocks);
}

__attribute__((target("avx512f,avx512vl"))) static void add_blocks_avx512(uint32_t state[4][LANES],
                                                                           const uint8_t *const *blocks)
{
    add_blocks(state, blocks);
}
#endif

static adder_t *widest_adder(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl"))
        return add_blocks_avx512;
    if (__builtin_cpu_supports("avx2"))
        return add_blocks_avx2;
#endif
    return add_blocks_plain;
}

/* Begin the text `*next` in a lane, if there is one. */
static int begin(struct reading *reading, uint32_t state[4][LANES], int lane, const struct span *texts, size_t count,
                 size_t *next)
{
    if (*next >= count)
        return 0;
    open_text(reading, texts[*next], *next);
    (*next)++;
    for (int row = 0; row < 4; row++)
        state[row][lane] = BEGINNING[row];
    return 1;
}

void md5_all(const struct span *texts, size_t count, uint8_t *digests)
{
    static adder_t *adder;
    static const uint8_t nothing[BLOCK];
    struct reading readings[LANES];
    uint32_t state[4][LANES] __attribute__((aligned(64))) = {{0}};
    const uint8_t *blocks[LANES];
    int is_open[LANES], open = 0;
    size_t next = 0;

    if (!adder)
        adder = widest_adder();
    for (int lane = 0; lane < LANES; lane++)
        open += is_open[lane] = count >= LANES_MIN && begin(&readings[lane], state, lane, texts, count, &next);
    while (open >= LANES_MIN) {
        for (int lane = 0; lane < LANES; lane++)
            blocks[lane] = is_open[lane] ? next_block(&readings[lane]) : nothing;
        adder(state, blocks);
        for (int lane = 0; lane < LANES; lane++) {
            if (!is_open[lane] || readings[lane].whole || readings[lane].padded)
                continue;
            for (int row = 0; row < 4; row++)
                memcpy(digests + MD5_BYTES * readings[lane].index + 4 * row, &state[row][lane], 4);
            is_open[lane] = begin(&readings[lane], state, lane, texts, count, &next);
            open -= !is_open[lane];
        }
    }
    for (int lane = 0; lane < LANES; lane++) {
        if (is_open[lane]) {
            uint32_t own[4] = {state[0][lane], state[1][lane], state[2][lane], state[3][lane]};
            finish(&readings[lane], own, digests + MD5_BYTES * readings[lane].index);
        }
    }
    for (; next < count; next++)
        md5(texts[next], digests + MD5_BYTES * next);
}
