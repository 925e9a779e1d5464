/* The executable kine-ARCH: linked statically, with everything kine needs inside as an archive (build.py).
 *
 * It unpacks the archive once for each content, into a directory that only its owner can write, and becomes the
 * program in it by execve: one process, with the name it was called by. Where no directory will do, the archive
 * is unpacked into memory, for this run. Nothing here needs /proc, HOME or /tmp, except memory, which needs /proc.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <zstd.h>

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif

struct file {
    const char *name;
    uint64_t size;
    mode_t mode;
};
/* files[], in the archive's order; UNPACKED, their size; CONTENT, their hash */
#include "files.h"
#define FILES (sizeof files / sizeof *files)

__asm__(".section .rodata\n.balign 16\n.global archive\n.hidden archive\narchive:\n.incbin \"" ARCHIVE "\"\n"
        ".global archive_end\n.hidden archive_end\narchive_end:\n.previous\n");
extern const unsigned char archive[] __attribute__((visibility("hidden")));
extern const unsigned char archive_end[] __attribute__((visibility("hidden")));

extern char **environ;

static char reasons[4096]; /* why no place would do, for the message */

static bool refuse(const char *place, const char *format, ...)
{
    size_t used = strlen(reasons);
    va_list values;
    va_start(values, format);
    if (used < sizeof reasons - 1) {
        used += (size_t)snprintf(reasons + used, sizeof reasons - used, "\n  %s: ", place);
        if (used < sizeof reasons - 1)
            vsnprintf(reasons + used, sizeof reasons - used, format, values);
    }
    va_end(values);
    return false;
}

/* ---- the archive: the files' contents, one after the other */

struct reader {
    ZSTD_DStream *stream;
    ZSTD_inBuffer in;
    unsigned char *buffer;
    size_t capacity, have, at;
};

static bool open_archive(struct reader *from)
{
    memset(from, 0, sizeof *from);
    from->in = (ZSTD_inBuffer){archive, (size_t)(archive_end - archive), 0};
    from->capacity = 1 << 20;
    from->buffer = malloc(from->capacity);
    from->stream = ZSTD_createDStream();
    return from->buffer && from->stream && !ZSTD_isError(ZSTD_DCtx_setParameter(from->stream, ZSTD_d_windowLogMax, 27));
}

static void close_archive(struct reader *from)
{
    ZSTD_freeDStream(from->stream);
    free(from->buffer);
}

/* The next bytes, `most` at most; 0 at the end or where the archive is damaged. */
static size_t next(struct reader *from, uint64_t most, const unsigned char **bytes)
{
    if (from->at == from->have) {
        ZSTD_outBuffer out = {from->buffer, from->capacity, 0};
        while (out.pos == 0) {
            size_t before = from->in.pos;
            size_t left = ZSTD_decompressStream(from->stream, &out, &from->in);
            if (ZSTD_isError(left) || (out.pos == 0 && from->in.pos == before))
                return 0;
        }
        from->have = out.pos;
        from->at = 0;
    }
    size_t count = from->have - from->at;
    if (count > most)
        count = most;
    *bytes = from->buffer + from->at;
    from->at += count;
    return count;
}

static bool write_all(int fd, const unsigned char *bytes, size_t count)
{
    while (count > 0) {
        ssize_t written = write(fd, bytes, count);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return false;
        bytes += written;
        count -= (size_t)written;
    }
    return true;
}

static bool unpack_file(struct reader *from, uint64_t size, int fd)
{
    const unsigned char *bytes;
    for (uint64_t left = size; left > 0;) {
        size_t count = next(from, left, &bytes);
        if (count == 0) {
            errno = EILSEQ;
            return false;
        }
        if (!write_all(fd, bytes, count))
            return false;
        left -= count;
    }
    return true;
}

/* ---- a directory */

static void remove_tree(int parent, const char *name)
{
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *entries = fd < 0 ? NULL : fdopendir(fd);
    if (entries != NULL) {
        for (struct dirent *entry; (entry = readdir(entries)) != NULL;)
            if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 && unlinkat(fd, entry->d_name, 0) != 0)
                remove_tree(fd, entry->d_name);
        closedir(entries);
    } else if (fd >= 0) {
        close(fd);
    }
    unlinkat(parent, name, AT_REMOVEDIR);
}

/* Which start of the machine this is: what was written before a loss of power may not be whole after it. */
static void this_boot(char boot[64])
{
    memset(boot, 0, 64);
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        if (read(fd, boot, 63) < 0)
            boot[0] = 0;
        close(fd);
    }
}

static bool unpack_tree(int directory)
{
    struct reader from;
    bool whole = open_archive(&from);
    if (whole && mkdirat(directory, "lib", 0700) != 0)
        whole = false;
    for (size_t i = 0; whole && i < FILES; i++) {
        int fd = openat(directory, files[i].name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, files[i].mode);
        whole = fd >= 0 && unpack_file(&from, files[i].size, fd) && fchmod(fd, files[i].mode) == 0;
        int reason = errno;
        if (fd >= 0 && close(fd) != 0 && whole)
            whole = false;
        else
            errno = reason;
    }
    int reason = errno;
    close_archive(&from);
    errno = reason;
    return whole;
}

/* Whether every file is there, of its size and ours. */
static bool sizes_agree(int directory)
{
    struct stat found;
    for (size_t i = 0; i < FILES; i++)
        if (fstatat(directory, files[i].name, &found, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(found.st_mode) ||
            found.st_uid != geteuid() || (found.st_mode & 022) != 0 || (uint64_t)found.st_size != files[i].size)
            return false;
    return true;
}

static bool contents_agree(int directory)
{
    static unsigned char other[1 << 16];
    struct reader from;
    bool same = open_archive(&from);
    for (size_t i = 0; same && i < FILES; i++) {
        int fd = openat(directory, files[i].name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        const unsigned char *bytes;
        same = fd >= 0;
        for (uint64_t left = files[i].size; same && left > 0;) {
            size_t count = next(&from, left < sizeof other ? left : sizeof other, &bytes);
            same = count > 0 && read(fd, other, count) == (ssize_t)count && memcmp(bytes, other, count) == 0;
            left -= count;
        }
        if (fd >= 0)
            close(fd);
    }
    close_archive(&from);
    return same;
}

static bool write_boot(int directory, const char boot[64])
{
    int fd = openat(directory, "boot", O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    bool written = fd >= 0 && write_all(fd, (const unsigned char *)boot, strlen(boot));
    if (fd >= 0)
        close(fd);
    return written;
}

static bool usable(int directory)
{
    char boot[64], then[64] = {0};
    if (!sizes_agree(directory))
        return false;
    int fd = openat(directory, "boot", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || read(fd, then, 63) < 0) {
        if (fd >= 0)
            close(fd);
        return false;
    }
    close(fd);
    this_boot(boot);
    return strcmp(boot, then) == 0 || (contents_agree(directory) && write_boot(directory, boot));
}

/* A lock on the file `used` in it, shared by those that run from it, is left open for the program's life. */
static int lock_use(int directory, int how)
{
    int fd = openat(directory, "used", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd >= 0 && flock(fd, how) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static void remove_others(int shelf)
{
    int copy = openat(shelf, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *entries = copy < 0 ? NULL : fdopendir(copy);
    if (entries == NULL)
        return;
    for (struct dirent *entry; (entry = readdir(entries)) != NULL;) {
        if (entry->d_name[0] == '.' || strcmp(entry->d_name, CONTENT) == 0 || strcmp(entry->d_name, "lock") == 0)
            continue;
        int directory = openat(shelf, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (directory < 0)
            continue;
        int use = lock_use(directory, LOCK_EX | LOCK_NB);
        if (use >= 0) {
            remove_tree(shelf, entry->d_name);
            close(use);
        }
        close(directory);
    }
    closedir(entries);
}

/* Nobody else may put something else in the directory's place: as for sshd's files. */
static bool path_is_safe(const char *path)
{
    char part[PATH_MAX];
    struct stat found;
    for (size_t end = 1; end <= strlen(path); end++) {
        if (path[end] != '/' && path[end] != 0)
            continue;
        memcpy(part, path, end);
        part[end] = 0;
        if (lstat(part, &found) != 0)
            return refuse(path, "%s", strerror(errno));
        if (found.st_uid != 0 && found.st_uid != geteuid())
            return refuse(path, "%s belongs to another user", part);
        if ((found.st_mode & 022) != 0 && (found.st_mode & S_ISVTX) == 0)
            return refuse(path, "others can write %s", part);
    }
    if (lstat("/", &found) == 0 && (found.st_mode & 022) != 0 && (found.st_mode & S_ISVTX) == 0)
        return refuse(path, "others can write /");
    return true;
}

struct place {
    int directory, use;
    char path[PATH_MAX + 128];
};

/* The unpacked files on `shelf`, which is ours, unpacked now if need be. */
static bool take(int shelf, const char *path, struct place *place)
{
    struct statvfs volume;
    int lock = openat(shelf, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (lock < 0)
        return refuse(path, "%s", strerror(errno));
    while (flock(lock, LOCK_EX) != 0)
        if (errno != EINTR) {
            int reason = errno;
            close(lock);
            return refuse(path, "no locks: %s", strerror(reason));
        }
    place->use = -1;
    place->directory = openat(shelf, CONTENT, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (place->directory >= 0 && !usable(place->directory)) {
        close(place->directory);
        place->directory = -1;
        remove_tree(shelf, CONTENT);
    }
    remove_others(shelf);
    if (place->directory < 0) {
        char boot[64];
        if (fstatvfs(shelf, &volume) == 0 && (uint64_t)volume.f_bavail * volume.f_frsize < UNPACKED + (4 << 20)) {
            refuse(path, "needs %d MB of space", (int)(UNPACKED >> 20) + 4);
        } else {
            this_boot(boot);
            int made = mkdirat(shelf, "new", 0700) != 0
                ? -1
                : openat(shelf, "new", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
            if (made >= 0 && unpack_tree(made) && write_boot(made, boot) && renameat(shelf, "new", shelf, CONTENT) == 0) {
                place->directory = made;
            } else {
                refuse(path, "%s", strerror(errno));
                if (made >= 0)
                    close(made);
                remove_tree(shelf, "new");
            }
        }
    }
    if (place->directory >= 0) {
        place->use = lock_use(place->directory, LOCK_SH);
        if (place->use < 0)
            refuse(path, "%s", strerror(errno));
    }
    close(lock);
    return place->use >= 0;
}

/* Unpacked into BASE/kine-UID, if BASE is there and will do. */
static bool unpack_in(const char *base, struct place *place)
{
    char real[PATH_MAX], path[PATH_MAX + 32];
    struct stat found;
    struct statvfs volume;
    if (realpath(base, real) == NULL)
        return refuse(base, "%s", strerror(errno));
    if (!path_is_safe(real))
        return false;
    snprintf(path, sizeof path, "%s/kine-%u", strcmp(real, "/") == 0 ? "" : real, (unsigned)geteuid());
    if (statvfs(real, &volume) == 0 && (volume.f_flag & ST_NOEXEC) != 0)
        return refuse(path, "mounted noexec");
    if (mkdir(path, 0700) != 0 && errno != EEXIST)
        return refuse(path, "%s", strerror(errno));
    int shelf = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (shelf < 0)
        return refuse(path, "%s", strerror(errno));
    bool done = false;
    if (fstat(shelf, &found) != 0 || found.st_uid != geteuid() || (found.st_mode & 022) != 0)
        refuse(path, "belongs to another user, or others can write it");
    else if (fstatvfs(shelf, &volume) == 0 && (volume.f_flag & ST_NOEXEC) != 0)
        refuse(path, "mounted noexec");
    else if (take(shelf, path, place)) {
        snprintf(place->path, sizeof place->path, "%s/%s", path, CONTENT);
        done = true;
    }
    close(shelf);
    return done;
}

/* ---- what the program is told: main.c reads and unsets it */

static void tell(const char *name, const char *format, ...)
{
    char *text = NULL;
    va_list values;
    va_start(values, format);
    if (vasprintf(&text, format, values) < 0 || setenv(name, text, 1) != 0) {
        fprintf(stderr, "kine: out of memory\n");
        _exit(1);
    }
    va_end(values);
    free(text);
}

/* Libraries that the environment names are those of another C library; main.c gives the variables back. */
static void put_aside(void)
{
    for (size_t i = 0; environ[i] != NULL;) {
        char *equals = strchr(environ[i], '=');
        if (strncmp(environ[i], "LD_", 3) != 0 || equals == NULL) {
            i++;
            continue;
        }
        char *name = strndup(environ[i], (size_t)(equals - environ[i]));
        char *other = NULL;
        if (name == NULL || asprintf(&other, "_KINE_%s", name) < 0)
            _exit(1);
        setenv(other, equals + 1, 1);
        unsetenv(name);
        free(name);
        free(other);
        i = 0;
    }
}

/* The path this was started by, which starts another worker. */
static void tell_executable(void)
{
    char path[PATH_MAX] = "";
    const char *started = (const char *)getauxval(AT_EXECFN);
    if (started != NULL && strncmp(started, "/dev/fd/", 8) != 0 && strncmp(started, "/proc/", 6) != 0 &&
        realpath(started, path) != NULL) {
        tell("_KINE_EXECUTABLE", "%s", path);
        return;
    }
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    tell("_KINE_EXECUTABLE", "%.*s", length > 0 ? (int)length : 0, path);
}

static void start_from(struct place *place, char **argv)
{
    int here = open(".", O_PATH | O_DIRECTORY); /* the program's loader is found from its directory; main.c returns */
    tell("_KINE_FILES", "%s", place->path);
    tell("_KINE_HERE", "%d", here);
    tell("LD_LIBRARY_PATH", "%s/lib", place->path);
    fcntl(place->use, F_SETFD, 0);
    tell("_KINE_USE", "%d", place->use);
    if (fchdir(place->directory) == 0)
        execve("./kine", argv, environ);
    refuse(place->path, "%s", strerror(errno));
    if (here >= 0 && fchdir(here) != 0)
        refuse(".", "%s", strerror(errno));
    close(here);
    close(place->use);
    close(place->directory);
    unsetenv("_KINE_HERE");
    unsetenv("_KINE_USE");
    unsetenv("LD_LIBRARY_PATH");
}

/* ---- memory: each file is one without a name, reached through /proc */

static int in_memory(struct reader *from, const struct file *file)
{
    int fd = memfd_create(file->name, MFD_EXEC);
    if (fd < 0)
        fd = memfd_create(file->name, 0);
    if (fd >= 0 && (!unpack_file(from, file->size, fd) || fchmod(fd, 0500) != 0)) {
        close(fd);
        fd = -1;
    }
    return fd;
}

/* The loader's path is written into the program over build.py's, which is longer. */
static bool name_loader(int program, uint64_t size, int loader)
{
    char path[32];
    int length = snprintf(path, sizeof path, "/proc/self/fd/%d", loader) + 1;
    char *bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, program, 0);
    if (bytes == MAP_FAILED)
        return false;
    char *found = memmem(bytes, size < 4096 ? size : 4096, LOADER, sizeof LOADER);
    if (found != NULL && (size_t)length <= sizeof LOADER)
        memcpy(found, path, (size_t)length);
    munmap(bytes, size);
    return found != NULL && (size_t)length <= sizeof LOADER;
}

static void start_in_memory(char **argv)
{
    struct reader from;
    struct stat found;
    int fds[FILES], program = -1, loader = -1;
    size_t text = 1, size = 1;
    if (stat("/proc/self/fd", &found) != 0) {
        refuse("memory", "needs /proc: %s", strerror(errno));
        return;
    }
    if (!open_archive(&from)) {
        refuse("memory", "out of memory");
        return;
    }
    for (size_t i = 0; i < FILES; i++)
        size += strlen(files[i].name) + 16;
    char *names = calloc(2, size), *preload = names + size;
    for (size_t i = 0; i < FILES; i++) {
        fds[i] = in_memory(&from, &files[i]);
        if (fds[i] < 0) {
            refuse("memory", "%s", strerror(errno));
            while (i-- > 0)
                close(fds[i]);
            return;
        }
        text += (size_t)sprintf(names + text - 1, "%s=%d:", files[i].name, fds[i]);
        if (strcmp(files[i].name, "kine") == 0)
            program = (int)i;
        if (strcmp(files[i].name, "loader") == 0)
            loader = (int)i;
    }
    close_archive(&from);
    /* What the program itself is linked with, each after what it needs; boot.py opens the rest when it is needed. */
    for (size_t n = 0; n < sizeof preloaded / sizeof *preloaded; n++)
        sprintf(preload + strlen(preload), "%s/proc/self/fd/%d", n > 0 ? ":" : "", fds[preloaded[n]]);
    tell("_KINE_FILES", ":%s", names);
    tell("LD_PRELOAD", "%s", preload);
    if (program >= 0 && loader >= 0 && name_loader(fds[program], files[program].size, fds[loader])) {
        char path[32];
        snprintf(path, sizeof path, "/proc/self/fd/%d", fds[program]);
        execve(path, argv, environ);
    }
    refuse("memory", "%s", strerror(errno));
}

int main(int argc, char **argv)
{
    static struct place place;
    static char cache[PATH_MAX];
    const char *chosen = getenv("KINE_UNPACK_DIR");
    const char *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME"), *given = getenv("CACHE_DIRECTORY");
    const char *bases[] = {NULL, NULL, NULL, "/var/cache", "/var/tmp", "/tmp"};
    (void)argc;
    /* An empty name would be a program without one; the kernel says the same since 5.18. */
    static char *nameless[] = {"kine", NULL};
    if (argv[0] == NULL)
        argv = nameless;
    put_aside();
    tell_executable();
    bool memory_only = chosen != NULL && strcmp(chosen, "memory") == 0;
    if (chosen != NULL && chosen[0] != 0 && !memory_only) {
        if (unpack_in(chosen, &place))
            start_from(&place, argv);
        fprintf(stderr, "kine: KINE_UNPACK_DIR will not do, looking elsewhere:%s\n", reasons);
        reasons[0] = 0;
    }
    if (given != NULL && given[0] == '/') /* systemd's CacheDirectory= */
        bases[0] = strndup(given, strcspn(given, ":"));
    if (xdg != NULL && xdg[0] == '/')
        bases[1] = xdg;
    struct stat owner;
    if (home != NULL && home[0] == '/' && home[1] != 0 && stat(home, &owner) == 0 && owner.st_uid == geteuid() &&
        (size_t)snprintf(cache, sizeof cache, "%s/.cache", home) < sizeof cache) {
        mkdir(cache, 0700); /* in a home of our own only: not root's in a user's */
        bases[2] = cache;
    }
    for (size_t i = 0; !memory_only && i < sizeof bases / sizeof *bases; i++)
        if (bases[i] != NULL && unpack_in(bases[i], &place))
            start_from(&place, argv);
    start_in_memory(argv);
    if (!memory_only && unpack_in(".", &place))
        start_from(&place, argv);
    fprintf(stderr, "kine: no place for the %d MB it unpacks; name a directory of your own with KINE_UNPACK_DIR:%s\n",
            (int)(UNPACKED >> 20) + 1, reasons);
    return 1;
}
