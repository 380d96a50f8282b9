#include "CLZ4.h"

#include <limits.h>
#include <lz4.h>

long ospite_lz4_unpack(const void *block, size_t count, void *content, size_t capacity) {
    if (count > INT_MAX || capacity > INT_MAX) return -1;
    int size = LZ4_decompress_safe(block, content, (int)count, (int)capacity);
    return size < 0 ? -1 : size;
}
