// The few calls of zlib that Ospite needs, without its macros. Bodies are in CZlib.c.
#ifndef OSPITE_CZLIB_H
#define OSPITE_CZLIB_H
#include <stddef.h>
#include <stdint.h>

/// A new compressor of level 0 to 9; NULL without memory.
void *ospite_deflate_new(int level);
void ospite_deflate_free(void *stream);
/// Changes the level for what comes next; 0 on success.
int ospite_deflate_level(void *stream, int level);
/// Compresses all of `input` and flushes (Z_SYNC_FLUSH, or Z_FINISH) into `output`; returns the bytes, or -1 when
/// `capacity` does not do.
long ospite_deflate(
    void *stream, const void *input, size_t count, void *output, size_t capacity, int finish);
/// Room that is enough for `count` bytes in any case.
size_t ospite_deflate_bound(size_t count);

/// A new decompressor; NULL without memory.
void *ospite_inflate_new(void);
void ospite_inflate_free(void *stream);
/// Decompresses until `input` or `capacity` is used up; returns the bytes, or -1 for what is no zlib data.
long ospite_inflate(
    void *stream, const void *input, size_t count, void *output, size_t capacity, size_t *taken);

uint32_t ospite_crc32(uint32_t crc, const void *bytes, size_t count);

#endif
