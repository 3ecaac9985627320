/* XXH64 of a page, with seed 0. Source: doc/xxhash_spec.md of xxHash, "XXH64 Algorithm Description". */
#ifndef XSTREAM_HASHES_H
#define XSTREAM_HASHES_H

#include <stdint.h>
#include "words.h"

#define XS_HASH_PAGE 4096

static const uint64_t xs_prime[6] = {
    0, 0x9E3779B185EBCA87ULL, 0xC2B2AE3D27D4EB4FULL, 0x165667B19E3779F9ULL, 0x85EBCA77C2B2AE63ULL,
    0x27D4EB2F165667C5ULL,
};

static inline uint64_t xs_rotated(uint64_t value, int bits) {
    return value << bits | value >> (64 - bits);
}

static inline uint64_t xs_hash_round(uint64_t lane, uint64_t input) {
    return xs_rotated(lane + input * xs_prime[2], 31) * xs_prime[1];
}

static inline uint64_t xs_page_hash(const uint8_t *page) {
    uint64_t lanes[4] = {xs_prime[1] + xs_prime[2], xs_prime[2], 0, 0 - xs_prime[1]};
    uint64_t hash;
    int at, lane;
    for (at = 0; at < XS_HASH_PAGE / 8; at += 4)
        for (lane = 0; lane < 4; lane++)
            lanes[lane] = xs_hash_round(lanes[lane], xs_load64(page, at + lane));
    hash = xs_rotated(lanes[0], 1) + xs_rotated(lanes[1], 7) + xs_rotated(lanes[2], 12) + xs_rotated(lanes[3], 18);
    for (lane = 0; lane < 4; lane++)
        hash = (hash ^ xs_hash_round(0, lanes[lane])) * xs_prime[1] + xs_prime[4];
    hash += XS_HASH_PAGE;  /* the length; no bytes remain after whole stripes */
    hash = (hash ^ hash >> 33) * xs_prime[2];
    hash = (hash ^ hash >> 29) * xs_prime[3];
    return hash ^ hash >> 32;
}

#endif
