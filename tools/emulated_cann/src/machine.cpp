#include "machine.hpp"

#include <cerrno>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <mutex>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace emulated {
namespace {

const Soc SOCS[] = {
    {"Ascend910A", 32, 32, 32, false},    {"Ascend910ProB", 30, 30, 32, false}, {"Ascend910B1", 24, 48, 64, true},
    {"Ascend910B2", 24, 48, 64, true},    {"Ascend910B3", 20, 40, 64, true},    {"Ascend910B4", 20, 40, 32, true},
    {"Ascend910_9392", 24, 48, 64, true},
};

const char *env(const char *name, const char *otherwise) {
    const char *value = getenv(name);
    return value && *value ? value : otherwise;
}

std::string state_path() {
    const char *set = getenv("EMULATED_STATE");
    return set && *set ? set : "/dev/shm/emulated-cann-" + std::to_string(getuid());
}

// The lock is flock on the file, so that a killed process never leaves it taken.
struct Shared {
    int fd;
    Card *cards;
    Shared() {
        fd = open(state_path().c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (fd < 0 || ftruncate(fd, sizeof(Card) * MAX_CARDS) != 0) {
            perror(("emulated CANN: " + state_path()).c_str());
            abort();
        }
        void *at = mmap(nullptr, sizeof(Card) * MAX_CARDS, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (at == MAP_FAILED) { perror("emulated CANN: mmap"); abort(); }
        cards = static_cast<Card *>(at);
    }
};

std::mutex in_process;

// flock belongs to the open file description, which a fork shares; a child must open its own.
Shared &shared() {
    static Shared *mine = nullptr;
    static pid_t owner = 0;
    if (!mine || owner != getpid()) { mine = new Shared; owner = getpid(); }
    return *mine;
}

struct Locked {
    std::lock_guard<std::mutex> threads{in_process};
    Shared &state = shared();
    Locked() { while (flock(state.fd, LOCK_EX) != 0 && errno == EINTR) {} }
    ~Locked() { flock(state.fd, LOCK_UN); }
};

bool alive(pid_t pid) { return kill(pid, 0) == 0 || errno != ESRCH; }

Holder *holder(Card &card, pid_t pid) {
    Holder *free_slot = nullptr;
    for (Holder &h : card.holders) {
        if (h.pid == pid) return &h;
        if (!free_slot && (h.pid == 0 || !alive(h.pid))) free_slot = &h;
    }
    if (!free_slot) { fprintf(stderr, "emulated CANN: more than %d processes on one card\n", MAX_HOLDERS); abort(); }
    *free_slot = Holder{pid, 0, 0};
    return free_slot;
}

uint64_t used_locked(int physical, Card &card) {
    double held_mb = 0;
    uint64_t total = 0;
    if (fault("busy", physical, &held_mb)) total += uint64_t((held_mb > 0 ? held_mb : 1024) * 1048576);
    if (fault("oom", physical)) total += hbm_bytes();
    for (Holder &h : card.holders)
        if (h.pid && alive(h.pid)) total += h.bytes;
    return total;
}

thread_local std::string recent;
std::mutex poison_lock;
int poisoned_code = 0;
std::string poisoned_text;
}  // namespace

const Soc &soc() {
    static const Soc *found = [] {
        std::string name = env("EMULATED_SOC", "910B3");
        if (name.rfind("Ascend", 0) != 0) name = "Ascend" + name;
        for (const Soc &s : SOCS)
            if (name == s.name) return &s;
        fprintf(stderr, "emulated CANN: EMULATED_SOC=%s is not one of:", name.c_str());
        for (const Soc &s : SOCS) fprintf(stderr, " %s", s.name + 6);
        fprintf(stderr, "\n");
        abort();
    }();
    return *found;
}

int num_cards() {
    int n = atoi(env("EMULATED_NPUS", "8"));
    return n < 0 ? 0 : n > MAX_CARDS ? MAX_CARDS : n;
}

// A 64 GB card shows about 61.3 GiB to programs; the rest is the firmware's.
uint64_t hbm_bytes() {
    const char *set = getenv("EMULATED_HBM_GB");
    if (set && *set) return uint64_t(atof(set) * 1073741824.0);
    return uint64_t(soc().hbm_gb * 0.957 * 1073741824.0);
}

bool fault(const char *name, int card, double *value) {
    std::string all = env("EMULATED_FAULTS", "");
    size_t at = 0;
    while (at <= all.size()) {
        size_t end = all.find(',', at);
        if (end == std::string::npos) end = all.size();
        std::string one = all.substr(at, end - at);
        at = end + 1;
        std::string number;
        if (size_t eq = one.find('='); eq != std::string::npos) { number = one.substr(eq + 1); one.resize(eq); }
        std::string want = name;
        if (card >= 0) want += ":" + std::to_string(card);
        if (one != want) continue;
        if (value && !number.empty()) *value = atof(number.c_str());
        return true;
    }
    return false;
}

// CANN reads ids until the first thing that is not one: a space, an id beyond the cards. An id that does not
// rise makes the whole list invalid. Unset means all cards, empty means none.
Visible visible() {
    Visible result{{}, false};
    const char *text = getenv("ASCEND_RT_VISIBLE_DEVICES");
    if (!text) {
        for (int i = 0; i < num_cards(); ++i) result.cards.push_back(i);
        return result;
    }
    while (*text >= '0' && *text <= '9') {
        char *end;
        long id = strtol(text, &end, 10);
        if (id >= num_cards()) break;
        if (!result.cards.empty() && id <= result.cards.back()) return Visible{{}, true};
        result.cards.push_back(int(id));
        if (*end != ',') break;
        text = end + 1;
    }
    return result;
}

int physical(int logical) {
    Visible v = visible();
    return logical >= 0 && logical < int(v.cards.size()) ? v.cards[logical] : -1;
}

void enter(int physical) {
    Locked lock;
    holder(lock.state.cards[physical], getpid());
}

bool charge(int physical, uint64_t bytes) {
    Locked lock;
    Card &card = lock.state.cards[physical];
    double short_mb = 0;                // a card that has less than it says
    uint64_t budget = fault("short", physical, &short_mb) ? uint64_t(short_mb * 1048576) : hbm_bytes();
    if (used_locked(physical, card) + bytes > budget) return false;
    holder(card, getpid())->bytes += bytes;
    return true;
}

void release(int physical, uint64_t bytes) {
    Locked lock;
    Holder *h = holder(lock.state.cards[physical], getpid());
    h->bytes = h->bytes > bytes ? h->bytes - bytes : 0;
}

uint64_t used(int physical) {
    Locked lock;
    return used_locked(physical, lock.state.cards[physical]);
}

int foreign_comms(int physical) {
    Locked lock;
    for (Holder &h : lock.state.cards[physical].holders)
        if (h.pid && h.pid != getpid() && h.comms > 0 && alive(h.pid)) return h.pid;
    return 0;
}

void count_comm(int physical, int change) {
    Locked lock;
    holder(lock.state.cards[physical], getpid())->comms += change;
}

std::string stamp() {
    timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    tm local;
    localtime_r(&now.tv_sec, &local);
    char date[40], all[64];
    strftime(date, sizeof date, "%Y-%m-%d-%H:%M:%S", &local);
    snprintf(all, sizeof all, "%s.%03ld.%03ld", date, now.tv_nsec / 1000000, now.tv_nsec / 1000 % 1000);
    return all;
}

static void plog(const std::string &text) {
    const char *set = getenv("ASCEND_PROCESS_LOG_PATH");
    if (!set || !*set) return;      // a real CANN would write below $HOME; a test rig must not
    std::string folder = set;
    mkdir(folder.c_str(), 0750);
    mkdir((folder += "/debug").c_str(), 0750);
    mkdir((folder += "/plog").c_str(), 0750);
    static const std::string born = [] {
        std::string s;
        for (char c : stamp())
            if (c >= '0' && c <= '9') s += c;
        return s.substr(0, 17);
    }();
    std::string path = folder + "/plog-" + std::to_string(getpid()) + "_" + born + ".log";
    if (FILE *f = fopen(path.c_str(), "a")) {
        fprintf(f, "[ERROR] EMULATED(%d):%s %s\n", getpid(), stamp().c_str(), text.c_str());
        fclose(f);
    }
}

int fail(int code, const char *format, ...) {
    char text[4096];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    recent = "[PID: " + std::to_string(getpid()) + "] " + stamp() + " " + text;
    plog(text);
    return code;
}

void poison(int code, const std::string &text) {
    std::lock_guard<std::mutex> guard(poison_lock);
    poisoned_code = code;
    poisoned_text = "[PID: " + std::to_string(getpid()) + "] " + stamp() + " " + text;
    plog(text);
}

int poisoned() {
    std::lock_guard<std::mutex> guard(poison_lock);
    if (poisoned_code) recent = poisoned_text;
    return poisoned_code;
}

const char *recent_error() {
    static thread_local std::string handed_out;
    handed_out.swap(recent);
    recent.clear();
    return handed_out.empty() ? nullptr : handed_out.c_str();
}

void not_emulated(const char *name) {
    fprintf(stderr, "emulated CANN: %s is not emulated (docs/emulated-cann.md)\n", name);
    fflush(stderr);
    abort();
}

double seconds(const char *emulated_name, const char *real_name, double otherwise) {
    if (const char *s = getenv(emulated_name); s && *s) return atof(s);
    if (const char *s = getenv(real_name); s && *s) return atof(s);
    return otherwise;
}
}  // namespace emulated
