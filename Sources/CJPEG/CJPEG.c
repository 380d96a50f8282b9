#include "CJPEG.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include <jpeglib.h>

struct failure {
    struct jpeg_error_mgr manager;
    jmp_buf place;
};

static void give_up(j_common_ptr common) {
    struct failure *failure = (struct failure *)common->err;
    longjmp(failure->place, 1);
}

static void say_nothing(j_common_ptr common) { (void)common; }

long ospite_jpeg_compress(
    const uint8_t *pixels, int width, int height, int quality, uint8_t *output, size_t capacity) {
    struct jpeg_compress_struct compress;
    struct failure failure;
    unsigned char *volatile result = NULL;
    volatile long count = -1;
    unsigned char *buffer = NULL;
    unsigned long size = 0;
    compress.err = jpeg_std_error(&failure.manager);
    failure.manager.error_exit = give_up;
    failure.manager.output_message = say_nothing;
    jpeg_create_compress(&compress);
    if (setjmp(failure.place) == 0) {
        jpeg_mem_dest(&compress, &buffer, &size);
        compress.image_width = (JDIMENSION)width;
        compress.image_height = (JDIMENSION)height;
        compress.input_components = 3;
        compress.in_color_space = JCS_RGB;
        jpeg_set_defaults(&compress);
        jpeg_set_quality(&compress, quality, TRUE);
        compress.dct_method = JDCT_FASTEST;
        jpeg_start_compress(&compress, TRUE);
        while (compress.next_scanline < compress.image_height) {
            JSAMPROW row = (JSAMPROW)(pixels + (size_t)compress.next_scanline * (size_t)width * 3);
            jpeg_write_scanlines(&compress, &row, 1);
        }
        jpeg_finish_compress(&compress);
        result = buffer;
        if (size <= capacity) {
            for (unsigned long i = 0; i < size; i++) output[i] = buffer[i];
            count = (long)size;
        }
    }
    jpeg_destroy_compress(&compress);
    free(result);
    return count;
}

int ospite_jpeg_decompress(const uint8_t *input, size_t count, uint8_t *pixels, int width, int height) {
    struct jpeg_decompress_struct decompress;
    struct failure failure;
    volatile int outcome = -1;
    decompress.err = jpeg_std_error(&failure.manager);
    failure.manager.error_exit = give_up;
    failure.manager.output_message = say_nothing;
    jpeg_create_decompress(&decompress);
    if (setjmp(failure.place) == 0) {
        jpeg_mem_src(&decompress, input, count);
        jpeg_read_header(&decompress, TRUE);
        decompress.out_color_space = JCS_RGB;
        jpeg_start_decompress(&decompress);
        if (decompress.output_width == (JDIMENSION)width && decompress.output_height == (JDIMENSION)height &&
            decompress.output_components == 3) {
            while (decompress.output_scanline < decompress.output_height) {
                JSAMPROW row = pixels + (size_t)decompress.output_scanline * (size_t)width * 3;
                jpeg_read_scanlines(&decompress, &row, 1);
            }
            jpeg_finish_decompress(&decompress);
            outcome = 0;
        }
    }
    jpeg_destroy_decompress(&decompress);
    return outcome;
}
