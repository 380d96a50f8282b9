#include "CZlib.h"

#include <stdlib.h>
#include <zlib.h>

void *ospite_deflate_new(int level) {
    z_stream *stream = calloc(1, sizeof *stream);
    if (stream && deflateInit(stream, level) != Z_OK) {
        free(stream);
        return NULL;
    }
    return stream;
}

void ospite_deflate_free(void *raw) {
    deflateEnd(raw);
    free(raw);
}

int ospite_deflate_level(void *raw, int level) {
    z_stream *stream = raw;
    stream->next_in = NULL;
    stream->avail_in = 0;
    // Everything was flushed before, so that nothing comes out here.
    unsigned char none[16];
    stream->next_out = none;
    stream->avail_out = sizeof none;
    return deflateParams(stream, level, Z_DEFAULT_STRATEGY) == Z_OK && stream->avail_out == sizeof none ? 0 : -1;
}

long ospite_deflate(
    void *raw, const void *input, size_t count, void *output, size_t capacity, int finish) {
    z_stream *stream = raw;
    if (count > 0x40000000 || capacity > 0x7fffffff) return -1;
    stream->next_in = (Bytef *)input;
    stream->avail_in = (uInt)count;
    stream->next_out = output;
    stream->avail_out = (uInt)capacity;
    int result = deflate(stream, finish ? Z_FINISH : Z_SYNC_FLUSH);
    if (finish ? result != Z_STREAM_END : (result != Z_OK || stream->avail_in != 0 || stream->avail_out == 0))
        return -1;
    return (long)(capacity - stream->avail_out);
}

size_t ospite_deflate_bound(size_t count) { return count + count / 1000 + 1024; }

void *ospite_inflate_new(void) {
    z_stream *stream = calloc(1, sizeof *stream);
    if (stream && inflateInit(stream) != Z_OK) {
        free(stream);
        return NULL;
    }
    return stream;
}

void ospite_inflate_free(void *raw) {
    inflateEnd(raw);
    free(raw);
}

long ospite_inflate(
    void *raw, const void *input, size_t count, void *output, size_t capacity, size_t *taken) {
    z_stream *stream = raw;
    if (count > 0x40000000 || capacity > 0x7fffffff) return -1;
    stream->next_in = (Bytef *)input;
    stream->avail_in = (uInt)count;
    stream->next_out = output;
    stream->avail_out = (uInt)capacity;
    int result = inflate(stream, Z_SYNC_FLUSH);
    if (result != Z_OK && result != Z_STREAM_END && result != Z_BUF_ERROR) return -1;
    *taken = count - stream->avail_in;
    return (long)(capacity - stream->avail_out);
}

uint32_t ospite_crc32(uint32_t crc, const void *bytes, size_t count) {
    return (uint32_t)crc32_z(crc, bytes, count);
}
