// Preloaded by `run`: the driver's files. A virtual machine cannot make device nodes, so programs that look for
// /dev/davinci0 or /usr/local/Ascend/driver are shown the files below EMULATED_ROOT instead, and a listing of /dev
// has them too. Nothing else is touched.
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <map>
#include <mutex>
#include <string>
#include <sys/stat.h>
#include <unistd.h>

namespace {
const char *const SHOWN[] = {"/dev/davinci", "/dev/devmm_svm", "/dev/hisi_hdc", "/usr/local/Ascend/driver"};

template <typename F> F real(const char *name) { return reinterpret_cast<F>(dlsym(RTLD_NEXT, name)); }

// The path to use instead, or the path itself.
struct Shown {
    char other[4096];
    const char *path;
    explicit Shown(const char *asked) : path(asked) {
        const char *root = asked && asked[0] == '/' ? getenv("EMULATED_ROOT") : nullptr;
        if (!root) return;
        for (const char *prefix : SHOWN)
            if (strncmp(asked, prefix, strlen(prefix)) == 0) {
                snprintf(other, sizeof other, "%s%s", root, asked);
                path = other;
                return;
            }
    }
};

std::mutex lock;
std::map<DIR *, DIR *> listings;        // of /dev → of the files shown in it
}  // namespace

#define AT_PATH(result, name, parameters, path, call, type)                      \
    extern "C" result name parameters {                                          \
        static auto next = real<result(*) type>(#name);                          \
        Shown shown(path);                                                       \
        return next call;                                                        \
    }

AT_PATH(int, access, (const char *p, int mode), p, (shown.path, mode), (const char *, int))
AT_PATH(int, faccessat, (int at, const char *p, int mode, int flags), p, (at, shown.path, mode, flags), (int, const char *, int, int))
AT_PATH(int, stat, (const char *p, struct stat *s), p, (shown.path, s), (const char *, struct stat *))
AT_PATH(int, stat64, (const char *p, struct stat64 *s), p, (shown.path, s), (const char *, struct stat64 *))
AT_PATH(int, lstat, (const char *p, struct stat *s), p, (shown.path, s), (const char *, struct stat *))
AT_PATH(int, lstat64, (const char *p, struct stat64 *s), p, (shown.path, s), (const char *, struct stat64 *))
AT_PATH(int, fstatat, (int at, const char *p, struct stat *s, int f), p, (at, shown.path, s, f), (int, const char *, struct stat *, int))
AT_PATH(int, fstatat64, (int at, const char *p, struct stat64 *s, int f), p, (at, shown.path, s, f), (int, const char *, struct stat64 *, int))
AT_PATH(int, execve, (const char *p, char *const argv[], char *const envp[]), p, (shown.path, argv, envp), (const char *, char *const[], char *const[]))
AT_PATH(int, execv, (const char *p, char *const argv[]), p, (shown.path, argv), (const char *, char *const[]))
AT_PATH(int, statx, (int at, const char *p, int flags, unsigned mask, struct statx *s), p, (at, shown.path, flags, mask, s), (int, const char *, int, unsigned, struct statx *))

#define OPEN(name, parameters, path, first, type)                                \
    extern "C" int name parameters {                                             \
        static auto next = real<int(*) type>(#name);                             \
        mode_t mode = 0;                                                         \
        if (flags & (O_CREAT | O_TMPFILE)) {                                     \
            va_list more;                                                        \
            va_start(more, flags);                                               \
            mode = va_arg(more, mode_t);                                         \
            va_end(more);                                                        \
        }                                                                        \
        Shown shown(path);                                                       \
        return next first;                                                       \
    }
OPEN(open, (const char *p, int flags, ...), p, (shown.path, flags, mode), (const char *, int, ...))
OPEN(open64, (const char *p, int flags, ...), p, (shown.path, flags, mode), (const char *, int, ...))
OPEN(openat, (int at, const char *p, int flags, ...), p, (at, shown.path, flags, mode), (int, const char *, int, ...))
OPEN(openat64, (int at, const char *p, int flags, ...), p, (at, shown.path, flags, mode), (int, const char *, int, ...))

extern "C" DIR *opendir(const char *path) {
    static auto next = real<DIR *(*)(const char *)>("opendir");
    DIR *listing = next(Shown(path).path);
    const char *root = getenv("EMULATED_ROOT");
    if (listing && root && (strcmp(path, "/dev") == 0 || strcmp(path, "/dev/") == 0)) {
        DIR *more = next((std::string(root) + "/dev").c_str());
        std::lock_guard<std::mutex> guard(lock);
        if (more) listings[listing] = more;
    }
    return listing;
}
template <typename E> E *next_entry(DIR *listing, E *(*next)(DIR *)) {
    if (E *entry = next(listing)) return entry;
    DIR *more;
    {
        std::lock_guard<std::mutex> guard(lock);
        auto found = listings.find(listing);
        if (found == listings.end()) return nullptr;
        more = found->second;
    }
    E *entry;
    do entry = next(more);
    while (entry && entry->d_name[0] == '.');
    return entry;
}
extern "C" dirent *readdir(DIR *listing) { return next_entry(listing, real<dirent *(*)(DIR *)>("readdir")); }
extern "C" dirent64 *readdir64(DIR *listing) { return next_entry(listing, real<dirent64 *(*)(DIR *)>("readdir64")); }
extern "C" int closedir(DIR *listing) {
    static auto next = real<int (*)(DIR *)>("closedir");
    {
        std::lock_guard<std::mutex> guard(lock);
        auto found = listings.find(listing);
        if (found != listings.end()) { next(found->second); listings.erase(found); }
    }
    return next(listing);
}
