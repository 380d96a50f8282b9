// A guest with a virtio display, keyboard and tablet: gives the screen the size that the host asks for, draws
// a pattern that the host knows, and says what arrives. C shows a
// cursor, H hides it, Escape ends it. Lines begin with RESULT.
#include <dirent.h>
#include <libdrm/drm.h>
#include <libdrm/drm_mode.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/input.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

enum { most_modes = 128, most_inputs = 8 };

static void fail(const char *what) {
    printf("RESULT %s: %s\n", what, strerror(errno));
    exit(1);
}

static int card;
static uint32_t connector, controller;

static void find_screen(void) {
    uint32_t connectors[4], controllers[4];
    struct drm_mode_card_res resources = {
        .connector_id_ptr = (uintptr_t)connectors, .count_connectors = 4,
        .crtc_id_ptr = (uintptr_t)controllers, .count_crtcs = 4,
    };
    card = open("/dev/dri/card0", O_RDWR);
    if (card < 0) fail("no card");
    if (ioctl(card, DRM_IOCTL_MODE_GETRESOURCES, &resources) < 0) fail("no resources");
    printf("RESULT screens %u\n", resources.count_connectors);
    connector = connectors[0];
    controller = controllers[0];
}

// The mode that the monitor prefers.
static struct drm_mode_modeinfo preferred_mode(void) {
    static struct drm_mode_modeinfo modes[most_modes];
    struct drm_mode_get_connector request = {.connector_id = connector};
    // Without room for modes the driver asks the monitor again.
    if (ioctl(card, DRM_IOCTL_MODE_GETCONNECTOR, &request) < 0) fail("no connector");
    if (request.count_modes > most_modes) request.count_modes = most_modes;
    request.modes_ptr = (uintptr_t)modes;
    request.count_props = 0;
    request.count_encoders = 0;
    if (ioctl(card, DRM_IOCTL_MODE_GETCONNECTOR, &request) < 0) fail("no modes");
    for (uint32_t index = 0; index < request.count_modes && index < most_modes; index++)
        if (modes[index].type & DRM_MODE_TYPE_PREFERRED) return modes[index];
    return modes[0];
}

// The host's test computes the same.
static uint32_t pattern(uint32_t x, uint32_t y) { return (x * 77 ^ y * 91 ^ x * y) & 0xFFFFFF; }

static void show(struct drm_mode_modeinfo mode) {
    struct drm_mode_create_dumb buffer = {.width = mode.hdisplay, .height = mode.vdisplay, .bpp = 32};
    if (ioctl(card, DRM_IOCTL_MODE_CREATE_DUMB, &buffer) < 0) fail("no buffer");
    struct drm_mode_map_dumb map = {.handle = buffer.handle};
    if (ioctl(card, DRM_IOCTL_MODE_MAP_DUMB, &map) < 0) fail("no map");
    uint8_t *bytes = mmap(NULL, buffer.size, PROT_READ | PROT_WRITE, MAP_SHARED, card, (off_t)map.offset);
    if (bytes == MAP_FAILED) fail("no memory");
    for (uint32_t y = 0; y < buffer.height; y++) {
        uint32_t *row = (uint32_t *)(bytes + (uint64_t)y * buffer.pitch);
        for (uint32_t x = 0; x < buffer.width; x++) row[x] = pattern(x, y);
    }
    munmap(bytes, buffer.size);
    struct drm_mode_fb_cmd frame = {
        .width = buffer.width, .height = buffer.height, .pitch = buffer.pitch, .bpp = 32, .depth = 24,
        .handle = buffer.handle,
    };
    if (ioctl(card, DRM_IOCTL_MODE_ADDFB, &frame) < 0) fail("no frame buffer");
    struct drm_mode_crtc request = {
        .crtc_id = controller, .fb_id = frame.fb_id, .set_connectors_ptr = (uintptr_t)&connector,
        .count_connectors = 1, .mode = mode, .mode_valid = 1,
    };
    if (ioctl(card, DRM_IOCTL_MODE_SETCRTC, &request) < 0) fail("no mode");
    printf("RESULT shows %ux%u\n", buffer.width, buffer.height);
}

// A cursor of 64 x 64 whose lower half is not there. The host's test computes the same.
static void show_cursor(void) {
    struct drm_mode_create_dumb buffer = {.width = 64, .height = 64, .bpp = 32};
    if (ioctl(card, DRM_IOCTL_MODE_CREATE_DUMB, &buffer) < 0) fail("no cursor's buffer");
    struct drm_mode_map_dumb map = {.handle = buffer.handle};
    if (ioctl(card, DRM_IOCTL_MODE_MAP_DUMB, &map) < 0) fail("no cursor's map");
    uint8_t *bytes = mmap(NULL, buffer.size, PROT_READ | PROT_WRITE, MAP_SHARED, card, (off_t)map.offset);
    if (bytes == MAP_FAILED) fail("no cursor's memory");
    for (uint32_t y = 0; y < 64; y++) {
        uint32_t *row = (uint32_t *)(bytes + (uint64_t)y * buffer.pitch);
        for (uint32_t x = 0; x < 64; x++) row[x] = y < 32 ? 0xFF000000 | x << 18 | y << 3 : 0;
    }
    munmap(bytes, buffer.size);
    struct drm_mode_cursor2 request = {
        .flags = DRM_MODE_CURSOR_BO | DRM_MODE_CURSOR_MOVE, .crtc_id = controller, .x = 100, .y = 50,
        .width = 64, .height = 64, .handle = buffer.handle, .hot_x = 3, .hot_y = 5,
    };
    if (ioctl(card, DRM_IOCTL_MODE_CURSOR2, &request) < 0) fail("no cursor");
    printf("RESULT cursor\n");
}

static void hide_cursor(void) {
    struct drm_mode_cursor2 request = {.flags = DRM_MODE_CURSOR_BO, .crtc_id = controller};
    if (ioctl(card, DRM_IOCTL_MODE_CURSOR2, &request) < 0) fail("the cursor stays");
    printf("RESULT no cursor\n");
}

static struct pollfd inputs[most_inputs];
static nfds_t input_count;

static void open_inputs(void) {
    DIR *folder = opendir("/dev/input");
    struct dirent *entry;
    if (!folder) fail("no /dev/input");
    while ((entry = readdir(folder)) && input_count < most_inputs) {
        char path[300], name[128] = "";
        if (strncmp(entry->d_name, "event", 5) != 0) continue;
        snprintf(path, sizeof path, "/dev/input/%s", entry->d_name);
        int device = open(path, O_RDONLY);
        if (device < 0) continue;
        ioctl(device, EVIOCGNAME(sizeof name), name);
        if (strncmp(name, "Ospite", 6) != 0) {
            close(device);
            continue;
        }
        struct input_absinfo axis = {0};
        printf("RESULT input %s", name);
        if (ioctl(device, EVIOCGABS(ABS_Y), &axis) == 0) printf(", %d to %d", axis.minimum, axis.maximum);
        printf("\n");
        inputs[input_count++] = (struct pollfd){.fd = device, .events = POLLIN};
    }
    closedir(folder);
}

// False at the end.
static int take(int device) {
    static int x, y;
    struct input_event event;
    if (read(device, &event, sizeof event) != sizeof event) return 1;
    switch (event.type) {
    case EV_ABS: *(event.code == ABS_X ? &x : &y) = event.value; break;
    case EV_REL: printf("RESULT wheel %d\n", event.value); break;
    case EV_KEY:
        printf("RESULT key %d %d at %d %d\n", event.code, event.value, x, y);
        if (event.code == KEY_C && event.value == 1) show_cursor();
        if (event.code == KEY_H && event.value == 1) hide_cursor();
        return !(event.code == KEY_ESC && event.value == 0);
    }
    return 1;
}

int main(void) {
    struct drm_mode_modeinfo shown = {0};
    setvbuf(stdout, NULL, _IOLBF, 0);
    find_screen();
    open_inputs();
    for (;;) {
        struct drm_mode_modeinfo mode = preferred_mode();
        if (mode.hdisplay != shown.hdisplay || mode.vdisplay != shown.vdisplay) {
            show(mode);
            shown = mode;
        }
        if (poll(inputs, input_count, 200) <= 0) continue;
        for (nfds_t index = 0; index < input_count; index++)
            if (inputs[index].revents & POLLIN && !take(inputs[index].fd)) return 0;
    }
}
