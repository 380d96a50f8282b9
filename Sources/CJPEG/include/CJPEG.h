// Baseline JPEG files by libjpeg, whose errors are long jumps that Swift must not see.
#ifndef OSPITE_CJPEG_H
#define OSPITE_CJPEG_H
#include <stddef.h>
#include <stdint.h>

/// Compresses `width` x `height` pixels of red, green and blue, `quality` 1 to 100, into `output`; returns the
/// bytes, or -1 when they do not fit or libjpeg gives up.
long ospite_jpeg_compress(
    const uint8_t *pixels, int width, int height, int quality, uint8_t *output, size_t capacity);
/// The reverse; the size must be the one expected. Returns 0, or -1.
int ospite_jpeg_decompress(const uint8_t *input, size_t count, uint8_t *pixels, int width, int height);

#endif
