/* The program that launcher.c becomes: Python, with all it needs where the launcher says, and nothing else. */
#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <nss.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <unistd.h>

extern char **environ;

static char *files; /* a directory, or, from memory, ":NAME=DESCRIPTOR:…" */

static void give_back_variables(void)
{
    unsetenv("LD_LIBRARY_PATH");
    unsetenv("LD_PRELOAD");
    for (size_t i = 0; environ[i] != NULL;) {
        char *equals = strchr(environ[i], '=');
        if (strncmp(environ[i], "_KINE_LD_", 9) != 0 || equals == NULL) {
            i++;
            continue;
        }
        char *name = strndup(environ[i], (size_t)(equals - environ[i]));
        setenv(name + 6, equals + 1, 1);
        unsetenv(name);
        free(name);
        i = 0;
    }
}

static int descriptor(const char *variable)
{
    const char *text = getenv(variable);
    int fd = text != NULL ? atoi(text) : -1;
    unsetenv(variable);
    return fd;
}

/* Reads no configuration of a host whose libraries are not ours: names come from files and DNS, as in Go. */
static void own_lookups(void)
{
    __nss_configure_lookup("hosts", "files dns");
    static const char *databases[] = {"passwd", "group", "shadow", "services", "protocols", "networks", "ethers", "rpc"};
    for (size_t i = 0; i < sizeof databases / sizeof *databases; i++)
        __nss_configure_lookup(databases[i], "files");
}

/* gRPC's library ends the process where it cannot open /dev/urandom, as in a root that holds nothing: it is given
 * random bytes there, more than it reads. For every library, this is libc's open. */
int any_open(const char *path, int flags, ...) __asm__("open"); /* not the open64 that <fcntl.h> makes of the name */

int any_open(const char *path, int flags, ...)
{
    va_list values;
    va_start(values, flags);
    int fd = openat(AT_FDCWD, path, flags, (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(values, int) : 0);
    va_end(values);
    if (fd >= 0 || errno != ENOENT || strcmp(path, "/dev/urandom") != 0)
        return fd;
    char bytes[4096];
    fd = memfd_create("urandom", MFD_CLOEXEC);
    if (fd >= 0 && (getrandom(bytes, sizeof bytes, 0) != sizeof bytes || write(fd, bytes, sizeof bytes) != sizeof bytes ||
                    lseek(fd, 0, SEEK_SET) != 0)) {
        close(fd);
        fd = -1;
    }
    return fd;
}

/* A library that the next one needs, opened under a path that does not bear its name. */
static PyObject *open_library(PyObject *self, PyObject *path)
{
    const char *name = PyUnicode_AsUTF8(path);
    if (name == NULL)
        return NULL;
    if (dlopen(name, RTLD_NOW | RTLD_LOCAL) == NULL)
        return PyErr_Format(PyExc_ImportError, "%s", dlerror());
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {{"open_library", open_library, METH_O, NULL}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_kine", NULL, -1, methods, NULL, NULL, NULL, NULL};

static PyObject *own_module(void)
{
    PyObject *made = PyModule_Create(&module);
    if (made != NULL)
        PyModule_AddStringConstant(made, "files", files);
    return made;
}

static void place_of(const char *name, char *path, size_t size)
{
    char key[64];
    snprintf(key, sizeof key, ":%s=", name);
    const char *found = files[0] == ':' ? strstr(files, key) : NULL;
    if (found != NULL)
        snprintf(path, size, "/proc/self/fd/%d", atoi(found + strlen(key)));
    else
        snprintf(path, size, "%s/%s", files, name);
}

#define CHECK(call)                                                                                                    \
    do {                                                                                                               \
        PyStatus status = (call);                                                                                      \
        if (PyStatus_Exception(status))                                                                                \
            Py_ExitStatusException(status);                                                                            \
    } while (0)

int main(int argc, char **argv)
{
    PyPreConfig before;
    PyConfig config;
    char archive[4352];
    const char *told = getenv("_KINE_FILES");
    if (told == NULL) {
        fprintf(stderr, "kine: start the executable that unpacked this\n");
        return 1;
    }
    files = strdup(told);
    unsetenv("_KINE_FILES");
    char *executable = strdup(getenv("_KINE_EXECUTABLE") != NULL ? getenv("_KINE_EXECUTABLE") : "");
    unsetenv("_KINE_EXECUTABLE");
    int here = descriptor("_KINE_HERE"), use = descriptor("_KINE_USE");
    if (here >= 0) {
        if (fchdir(here) != 0)
            perror("kine: working directory");
        close(here);
    }
    if (use >= 0)
        fcntl(use, F_SETFD, FD_CLOEXEC);
    give_back_variables();
    own_lookups();
    prctl(PR_SET_NAME, "kine");
    place_of("kine.zip", archive, sizeof archive);

    PyPreConfig_InitIsolatedConfig(&before);
    before.utf8_mode = 1;
    CHECK(Py_PreInitialize(&before));
    PyImport_AppendInittab("_kine", own_module);
    PyConfig_InitIsolatedConfig(&config);
    config.site_import = 0;
    config.write_bytecode = 0;
    config.parse_argv = 0;
    config.install_signal_handlers = 1;
    config.module_search_paths_set = 1;
    CHECK(PyConfig_SetBytesString(&config, &config.program_name, executable));
    CHECK(PyConfig_SetBytesString(&config, &config.executable, executable));
    CHECK(PyConfig_SetBytesString(&config, &config.home, "/"));
    wchar_t *path = Py_DecodeLocale(archive, NULL);
    CHECK(PyWideStringList_Append(&config.module_search_paths, path));
    CHECK(PyConfig_SetBytesArgv(&config, argc, argv));
    CHECK(PyConfig_SetString(&config, &config.run_command, L"import kine_boot; kine_boot.main()"));
    CHECK(Py_InitializeFromConfig(&config));
    PyConfig_Clear(&config);
    return Py_RunMain();
}
