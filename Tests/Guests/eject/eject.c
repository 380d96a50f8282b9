// Opens the tray of the CD drive that is named, as eject(1) does.
#include <errno.h>
#include <fcntl.h>
#include <linux/cdrom.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

int main(int count, char **words) {
    if (count != 2) return 2;
    int drive = open(words[1], O_RDONLY | O_NONBLOCK);
    if (drive < 0 || ioctl(drive, CDROM_LOCKDOOR, 0) < 0 || ioctl(drive, CDROMEJECT) < 0) {
        printf("RESULT eject: %s\n", strerror(errno));
        return 1;
    }
    return 0;
}
