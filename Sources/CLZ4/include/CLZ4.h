// The one call of liblz4 that Ospite needs. Its body is in CLZ4.c.
#ifndef OSPITE_CLZ4_H
#define OSPITE_CLZ4_H
#include <stddef.h>

/// Unpacks one block (lz4_Block_format.md) of `count` bytes; returns the bytes of its content, or -1 for what is
/// no block or has more content than `capacity`. Reads and writes nothing outside of both.
long ospite_lz4_unpack(const void *block, size_t count, void *content, size_t capacity);

#endif
