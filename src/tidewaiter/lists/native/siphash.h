/* SPDX-License-Identifier: Apache-2.0
 *
 * SipHash-1-3 (Aumasson and Bernstein, 2012): a hash under a secret key, so that nobody can write a list whose
 * names all meet in one place of the table. It is fed word by word, and asked for the hash of all prefixes of
 * a text on the way: `sip_words` as far as whole words go, `sip_end` for the rest.
 */
#ifndef TIDEWAITER_LISTS_SIPHASH_H
#define TIDEWAITER_LISTS_SIPHASH_H

#include <stdint.h>
#include <string.h>

struct sip {
	uint64_t v0, v1, v2, v3;
	size_t done; /* bytes */
};

static inline uint64_t sip_load(const unsigned char *from, size_t size)
{
	uint64_t word = 0;

	while (size--)
		word = word << 8 | from[size];
	return word;
}

static inline uint64_t sip_turn(uint64_t word, int bits)
{
	return word << bits | word >> (64 - bits);
}

static inline void sip_round(struct sip *s)
{
	s->v0 += s->v1, s->v1 = sip_turn(s->v1, 13) ^ s->v0, s->v0 = sip_turn(s->v0, 32);
	s->v2 += s->v3, s->v3 = sip_turn(s->v3, 16) ^ s->v2;
	s->v0 += s->v3, s->v3 = sip_turn(s->v3, 21) ^ s->v0;
	s->v2 += s->v1, s->v1 = sip_turn(s->v1, 17) ^ s->v2, s->v2 = sip_turn(s->v2, 32);
}

static inline void sip_word(struct sip *s, uint64_t word)
{
	s->v3 ^= word;
	sip_round(s);
	s->v0 ^= word;
}

static inline void sip_begin(struct sip *s, const unsigned char key[16])
{
	uint64_t k0 = sip_load(key, 8), k1 = sip_load(key + 8, 8);

	s->v0 = k0 ^ 0x736f6d6570736575ULL;
	s->v1 = k1 ^ 0x646f72616e646f6dULL;
	s->v2 = k0 ^ 0x6c7967656e657261ULL;
	s->v3 = k1 ^ 0x7465646279746573ULL;
	s->done = 0;
}

/* Takes the whole words of the first `size` bytes. */
static inline void sip_words(struct sip *s, const unsigned char *text, size_t size)
{
	for (; s->done + 8 <= size; s->done += 8)
		sip_word(s, sip_load(text + s->done, 8));
}

/* The hash of the first `size` bytes; the state, a copy, is used up. */
static inline uint64_t sip_end(struct sip s, const unsigned char *text, size_t size)
{
	sip_word(&s, (uint64_t)size << 56 | sip_load(text + s.done, size - s.done));
	s.v2 ^= 0xff;
	sip_round(&s);
	sip_round(&s);
	sip_round(&s);
	return s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}

#endif
