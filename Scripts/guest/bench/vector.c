/* Floating point and vectors: scalar double, packed single, packed integers (SSE2), and the x87 unit. */
#include <emmintrin.h>
#include <math.h>
#include <string.h>
#include "workloads.h"

/* One operation is the pull of two of five bodies on each other. */
static uint64_t nbody(uint64_t count) {
    enum { bodies = 5 };
    static struct { double x, y, z, vx, vy, vz, mass; } body[bodies];
    for (int i = 0; i < bodies; i++) {
        body[i].x = 3 * i + 1, body[i].y = i * i - 2, body[i].z = 5 - i;
        body[i].vx = 0.1 * i, body[i].vy = 0.2 - 0.1 * i, body[i].vz = 0.05 * i;
        body[i].mass = 1.0 / (1 + i);
    }
    const double step = 0.001;
    for (uint64_t done = 0; done < count;) {
        for (int i = 0; i < bodies; i++) {
            for (int j = i + 1; j < bodies; j++, done++) {
                double dx = body[i].x - body[j].x, dy = body[i].y - body[j].y, dz = body[i].z - body[j].z;
                double square = dx * dx + dy * dy + dz * dz + 0.01;
                double pull = step / (square * sqrt(square));
                double left = body[j].mass * pull, right = body[i].mass * pull;
                body[i].vx -= dx * left, body[i].vy -= dy * left, body[i].vz -= dz * left;
                body[j].vx += dx * right, body[j].vy += dy * right, body[j].vz += dz * right;
            }
        }
        for (int i = 0; i < bodies; i++) {
            body[i].x += step * body[i].vx, body[i].y += step * body[i].vy, body[i].z += step * body[i].vz;
        }
    }
    uint64_t sum;
    memcpy(&sum, &body[1].x, sizeof sum);
    return sum;
}

/* One operation is y = a * x + y / 2 on four floats. */
static uint64_t saxpy(uint64_t count) {
    enum { places = 512 };
    static __m128 x[places], y[places];
    for (int i = 0; i < places; i++) {
        x[i] = _mm_set_ps(i, i + 1, i + 2, i + 3);
        y[i] = _mm_set1_ps(1);
    }
    const __m128 a = _mm_set1_ps(0.37f), half = _mm_set1_ps(0.5f);
    for (uint64_t done = 0; done < count; done += places) {
        for (int i = 0; i < places; i++) y[i] = _mm_add_ps(_mm_mul_ps(a, x[i]), _mm_mul_ps(y[i], half));
        BARRIER();
    }
    uint64_t sum = 0;
    memcpy(&sum, &y[places / 3], sizeof sum);
    return sum;
}

/* One operation is what is done to 16 bytes. */
static uint64_t packed(uint64_t count) {
    enum { places = 512 };
    static __m128i x[places], y[places];
    for (int i = 0; i < places; i++) {
        x[i] = _mm_set1_epi32((int)(i * 0x01030507u));
        y[i] = _mm_setzero_si128();
    }
    for (uint64_t done = 0; done < count; done += places) {
        for (int i = 0; i < places; i++) {
            __m128i sum = _mm_add_epi32(x[i], y[i]);
            __m128i low = _mm_mullo_epi16(sum, x[i]);
            __m128i mixed = _mm_xor_si128(_mm_srli_epi32(sum, 3), _mm_shuffle_epi32(low, 0x1B));
            y[i] = _mm_max_epi16(_mm_avg_epu8(mixed, low), _mm_unpacklo_epi8(mixed, sum));
        }
        BARRIER();
    }
    uint64_t sum = 0;
    memcpy(&sum, &y[places / 3], sizeof sum);
    return sum;
}

/* One operation is one step of Newton's method in 80 bits. */
static uint64_t x87(uint64_t count) {
    volatile long double start = 2;
    long double x = start, sum = 0;
    for (uint64_t i = 0; i < count; i++) {
        x = x - (x * x * x - x - 1) / (3 * x * x - 1) + 0.001L;
        sum += x * 0.5L;
    }
    uint64_t bits;
    memcpy(&bits, &sum, sizeof bits);
    return bits;
}

const struct workload vector_workloads[] = {
    {"nbody", nbody}, {"saxpy", saxpy}, {"packed", packed}, {"x87", x87}, {0, 0},
};
