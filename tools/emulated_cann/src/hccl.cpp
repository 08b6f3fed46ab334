// libhccl over shared memory, between processes of one host.
// A communicator is one shared segment: a slot per rank (who it is, how far it has come, what it is about to do),
// a staging buffer per rank, one for results, and a ring for every ordered pair of ranks. A collective is rounds of
// "write mine, meet, read theirs, meet". It runs to its end inside the call; waiting too long ends as HCCL ends it.
#include "machine.hpp"

#include "older.hpp"
#include "acl/error_codes/rt_error_codes.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <functional>
#include <linux/futex.h>
#include <map>
#include <memory>
#include <mutex>
#include <netinet/in.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

using namespace emulated;

namespace {
constexpr size_t STAGE = 1 << 20, RING = 1 << 18;
constexpr uint32_t MAX_RANKS = MAX_CARDS;

double now() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return double(t.tv_sec) + double(t.tv_nsec) * 1e-9;
}

struct alignas(64) Slot {
    std::atomic<int32_t> pid;
    int32_t card;
    uint64_t host;                      // virtual machines with states of their own are different hosts
    std::atomic<uint32_t> arrived;      // meetings this rank has come to
    std::atomic<uint64_t> started;      // collectives this rank has begun
    uint32_t kind, type, op, root;      // of the collective it has begun
    uint64_t count, largest;
};
struct alignas(64) Ring { std::atomic<uint64_t> head, tail; char bytes[RING]; };
struct Segment {
    std::atomic<uint32_t> bell;         // rung whenever anything changes
    Slot slots[MAX_RANKS];
    // then: STAGE per rank, STAGE for results, Ring per ordered pair
};

struct Comm {
    std::string name, segment_name;
    uint32_t ranks, rank;
    int card;
    uint64_t buffers;
    Segment *segment = nullptr;
    size_t length = 0;
    bool linked = false;                // the first collective makes the links
    HcclResult broken = HCCL_SUCCESS;
    std::mutex lock;

    char *stage(uint32_t r) { return reinterpret_cast<char *>(segment + 1) + size_t(r) * STAGE; }
    char *result() { return stage(ranks); }
    Ring *ring(uint32_t from, uint32_t to) { return reinterpret_cast<Ring *>(stage(ranks + 1)) + size_t(from) * ranks + to; }
    Slot &mine() { return segment->slots[rank]; }
};

size_t length_for(uint32_t ranks) {
    return sizeof(Segment) + (size_t(ranks) + 1) * STAGE + size_t(ranks) * ranks * sizeof(Ring);
}

void wake(Segment *s) {
    s->bell.fetch_add(1);
    syscall(SYS_futex, &s->bell, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}
void rest(Segment *s, uint32_t seen) {
    timespec slice = {0, 20000000};
    syscall(SYS_futex, &s->bell, FUTEX_WAIT, seen, &slice, nullptr, 0);
}
// Wait until `done`, spinning briefly first: on few cores the other ranks need the processor.
bool await(Segment *s, double deadline, const std::function<bool()> &done) {
    for (int i = 0; i < 100; ++i) {
        if (done()) return true;
        sched_yield();
    }
    while (true) {
        uint32_t seen = s->bell.load();
        if (done()) return true;
        if (now() > deadline) return false;
        rest(s, seen);
    }
}

double connect_timeout() { return seconds("EMULATED_HCCL_CONNECT_TIMEOUT_S", "HCCL_CONNECT_TIMEOUT", 120); }
double exec_timeout() {
    double s = seconds("EMULATED_HCCL_EXEC_TIMEOUT_S", "HCCL_EXEC_TIMEOUT", 1836);
    return s == 0 ? 1e12 : s;           // 0: never
}

int check_environment() {
    if (const char *s = getenv("HCCL_CONNECT_TIMEOUT"); s && *s) {
        char *end;
        long v = strtol(s, &end, 10);
        if (*end || v < 120 || v > 7200)
            return fail(HCCL_E_PARA, "Config_Error_Invalid_Environment_Variable(EI0001): Value %s for environment variable HCCL_CONNECT_TIMEOUT is invalid. "
                        "Expected value : range[120, 7200].", s);
    }
    if (const char *s = getenv("HCCL_EXEC_TIMEOUT"); s && *s) {
        char *end;
        double v = strtod(s, &end);
        if (*end || v < 0 || v > 2147483647.0)
            return fail(HCCL_E_PARA, "Config_Error_Invalid_Environment_Variable(EI0001): Value %s for environment variable HCCL_EXEC_TIMEOUT is invalid. "
                        "Expected value : range[0, 2147483647].", s);
    }
    return 0;
}

std::string listed(const std::vector<uint32_t> &ranks) {
    std::string text;
    for (uint32_t r : ranks) text += std::to_string(r) + ",";
    return text;
}

uint64_t hash(const std::string &text) {
    uint64_t h = 1469598103934665603u;
    for (char c : text) h = (h ^ uint8_t(c)) * 1099511628211u;
    return h;
}

// ---- the segment ----
HcclResult open_segment(Comm &c) {
    c.length = length_for(c.ranks);
    for (int attempt = 0; attempt < 2; ++attempt) {
        int fd = shm_open(c.segment_name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (fd < 0) return HcclResult(fail(HCCL_E_SYSCALL, "shm_open %s: %s", c.segment_name.c_str(), strerror(errno)));
        if (ftruncate(fd, off_t(c.length)) != 0) { close(fd); return HcclResult(fail(HCCL_E_SYSCALL, "ftruncate: %s", strerror(errno))); }
        void *at = mmap(nullptr, c.length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
        close(fd);
        if (at == MAP_FAILED) return HcclResult(fail(HCCL_E_MEMORY, "mmap: %s", strerror(errno)));
        c.segment = static_cast<Segment *>(at);
        bool stale = false;              // a job that died while it was joining left its segment
        for (uint32_t r = 0; r < c.ranks; ++r) {
            int pid = c.segment->slots[r].pid.load();
            stale |= pid && kill(pid, 0) != 0 && errno == ESRCH;
        }
        if (!stale) return HCCL_SUCCESS;
        munmap(at, c.length);
        shm_unlink(c.segment_name.c_str());
    }
    return HcclResult(fail(HCCL_E_INTERNAL, "the segment %s stays stale", c.segment_name.c_str()));
}

HcclResult join(std::unique_ptr<Comm> c, HcclComm *out) {
    if (int bad = check_environment()) return HcclResult(bad);
    int device = current();
    c->card = device < 0 ? -1 : physical(device);
    if (c->card < 0) return HcclResult(fail(HCCL_E_RUNTIME, "no device is set on this thread (emulated CANN)"));
    if (!c->ranks || c->ranks > MAX_RANKS || c->rank >= c->ranks) return HcclResult(fail(HCCL_E_PARA, "rank %u of %u", c->rank, c->ranks));
    double seconds_missing = 0;
    if (fault("rank-missing", int(c->rank), &seconds_missing)) usleep(useconds_t((seconds_missing > 0 ? seconds_missing : 3600) * 1e6));
    if (int pid = foreign_comms(c->card); pid && !getenv("HCCL_NPU_SOCKET_PORT_RANGE"))
        return HcclResult(fail(HCCL_E_UNAVAIL, "Communication_Error_Bind_IP_Port(EI0020): Failed to enable listening for the NPU socket. "
                               "Reason: The IP address 192.0.2.%d and port 16666 have already been bound (process %d).", 10 + c->card, pid));
    if (!charge(c->card, c->buffers))
        return HcclResult(fail(HCCL_E_OOM, "Resource_Error_Insufficient_Device_Memory(EI0011): Failed to allocate [size: %llu] bytes of NPU memory.", (unsigned long long)c->buffers));
    auto give_up = [&](int code) {
        release(c->card, c->buffers);
        if (c->segment) { munmap(c->segment, c->length); shm_unlink(c->segment_name.c_str()); }
        return HcclResult(code);
    };
    if (HcclResult bad = open_segment(*c)) return give_up(bad);
    Slot &slot = c->mine();
    slot.card = c->card;
    slot.host = hash(getenv("EMULATED_STATE") ? getenv("EMULATED_STATE") : "");
    int32_t nobody = 0;
    if (!slot.pid.compare_exchange_strong(nobody, getpid()))
        return give_up(fail(HCCL_E_PARA, "rank %u is there twice (processes %d and %d)", c->rank, nobody, getpid()));
    wake(c->segment);
    std::vector<uint32_t> missing;
    bool all = await(c->segment, now() + connect_timeout(), [&] {
        missing.clear();
        for (uint32_t r = 0; r < c->ranks; ++r)
            if (!c->segment->slots[r].pid.load()) missing.push_back(r);
        return missing.empty();
    });
    if (!all)
        return give_up(fail(HCCL_E_TIMEOUT, "Ranktable_Detect_Failed(EI0015): topo exchange server get socket timeout! timeout[%.0f s]. "
                            "need connect rankNum is [%u], total connected num is [%u]. fault_info[\"Failed to connect agent[%s]\"]",
                            connect_timeout(), c->ranks, c->ranks - uint32_t(missing.size()), listed(missing).c_str()));
    for (uint32_t r = 0; r < c->ranks; ++r)
        if (r != c->rank && c->segment->slots[r].card == c->card && c->segment->slots[r].host == slot.host)
            return give_up(fail(HCCL_E_PARA, "Ranktable_Check_Failed(EI0014): ranks %u and %u have the same device id %d", std::min(r, c->rank),
                                std::max(r, c->rank), c->card));
    // Links are made by physical id, which a process can only resolve for the cards it is allowed to see.
    auto seen = visible().cards;
    for (uint32_t r = 0; r < c->ranks; ++r)
        if (c->segment->slots[r].host == slot.host && std::find(seen.begin(), seen.end(), c->segment->slots[r].card) == seen.end())
            return give_up(fail(HCCL_E_RUNTIME, "Inner_Error(EE9999): get error: phyid:%d is err, rank %u is on a card that ASCEND_RT_VISIBLE_DEVICES hides. "
                                "GetDeviceIndexByPhyId [device id error]", c->segment->slots[r].card, r));
    shm_unlink(c->segment_name.c_str());     // everybody has it; nothing is left behind
    count_comm(c->card, +1);
    *out = c.release();
    return HCCL_SUCCESS;
}

// ---- meetings ----
const char *const KINDS[] = {"Invalid", "Broadcast", "AllReduce", "Reduce", "Send", "Receive", "AllGather", "ReduceScatter", "AlltoAllV",
                             "AlltoAllVC", "AlltoAll", "Gather", "Scatter", "BatchSendRecv", "BatchPut", "BatchGet", "AllGatherV",
                             "ReduceScatterV"};
const char *kind_name(uint32_t k) { return k == HCCL_CMD_BARRIER ? "Barrier" : k < std::size(KINDS) ? KINDS[k] : "Other"; }

HcclResult late(Comm &c, uint32_t kind, const std::vector<uint32_t> &missing) {
    std::string who, gone;
    for (uint32_t r : missing) {
        who += (who.empty() ? "" : " ") + std::to_string(r);
        int pid = c.segment->slots[r].pid.load();
        if (pid && kill(pid, 0) != 0 && errno == ESRCH)
            gone += " Cluster Exception Location[IP/ID]:[192.0.2.1/" + std::to_string(c.segment->slots[r].card) +
                    "], ExceptionType:[Heartbeat Lost Occurred], Possible Reason:1. Process has exited.";
    }
    if (!c.linked) {
        c.broken = HCCL_E_TIMEOUT;
        return HcclResult(fail(HCCL_E_TIMEOUT, "Communication_Error_Get_Socket(EI0006): Getting socket times out. Reason: Remote Rank did not send the "
                               "data in time. rank[%u] timeout[%.0f s] remote rank: [%s].%s", c.rank, connect_timeout(), who.c_str(), gone.c_str()));
    }
    char text[1500];
    snprintf(text, sizeof text, "Communication_Error_Timeout(EI0002): The wait execution of the Notify register times out. Reason: The Notify register has not "
             "received the Notify record from remote rank: [%s]. base information: [taskType[Notify Wait], tag[%s_%s]]. group information: "
             "[group:[%s], rankSize[%u], rankId[%u]].%s", who.c_str(), kind_name(kind), c.name.c_str(), c.name.c_str(), c.ranks, c.rank, gone.c_str());
    poison(507048, text);                    // the launch itself succeeds; the next synchronisation fails
    c.broken = HCCL_E_REMOTE;
    return HCCL_SUCCESS;
}

struct Late { HcclResult code; };

void meet(Comm &c, uint32_t kind) {
    uint32_t turn = c.mine().arrived.fetch_add(1) + 1;
    wake(c.segment);
    std::vector<uint32_t> missing;
    if (await(c.segment, now() + (c.linked ? exec_timeout() : connect_timeout()), [&] {
            missing.clear();
            for (uint32_t r = 0; r < c.ranks; ++r)
                if (int32_t(c.segment->slots[r].arrived.load() - turn) < 0) missing.push_back(r);
            return missing.empty();
        })) {
        c.linked = true;
        return;
    }
    throw Late{late(c, kind, missing)};
}

// Every rank says what it is about to do, and all must agree. Returns the largest amount any rank named.
uint64_t begin(Comm &c, uint32_t kind, uint32_t type, uint32_t op, uint32_t root, uint64_t count, uint64_t largest) {
    Slot &s = c.mine();
    uint64_t ordinal = s.started.fetch_add(1) + 1;
    double after = 0;
    if (fault("rank-stuck", int(c.rank), &after) && ordinal > uint64_t(after)) usleep(3600u * 1000000u);
    s.kind = kind; s.type = type; s.op = op; s.root = root; s.count = count; s.largest = largest;
    meet(c, kind);
    HcclResult bad = HCCL_SUCCESS;
    for (uint32_t r = 0; r < c.ranks && !bad; ++r) {
        Slot &o = c.segment->slots[r];
        largest = std::max(largest, o.largest);
        auto differ = [&](const char *what, unsigned long long here, unsigned long long there) {
            if (here == there || bad) return;
            c.broken = HCCL_E_INTERNAL;
            bad = HcclResult(fail(HCCL_E_INTERNAL, "Inconsistent_Collective_Communication_Arguments_Between_Ranks(EI0005): The arguments for collective communication are inconsistent between ranks:parameter %s, "
                                  "local end %llu, remote end %llu (rank %u and rank %u)", what, here, there, c.rank, r));
        };
        differ("op type", kind, o.kind);
        differ("data type", type, o.type);
        differ("reduce op", op, o.op);
        differ("root", root, o.root);
        differ("count", count, o.count);
    }
    meet(c, kind);
    if (bad) throw Late{bad};
    return largest;
}

size_t size_of(HcclDataType type) {
    switch (type) {
#ifndef LACKS_HCCL_DATA_TYPE_HIF8
        case HCCL_DATA_TYPE_HIF8: case HCCL_DATA_TYPE_FP8E4M3: case HCCL_DATA_TYPE_FP8E5M2: case HCCL_DATA_TYPE_FP8E8M0: return 1;
#endif
        case HCCL_DATA_TYPE_INT8: case HCCL_DATA_TYPE_UINT8: return 1;
        case HCCL_DATA_TYPE_INT16: case HCCL_DATA_TYPE_UINT16: case HCCL_DATA_TYPE_FP16: case HCCL_DATA_TYPE_BFP16: return 2;
        case HCCL_DATA_TYPE_INT32: case HCCL_DATA_TYPE_UINT32: case HCCL_DATA_TYPE_FP32: return 4;
        case HCCL_DATA_TYPE_INT64: case HCCL_DATA_TYPE_UINT64: case HCCL_DATA_TYPE_FP64: return 8;
#ifndef LACKS_HCCL_DATA_TYPE_INT128
        case HCCL_DATA_TYPE_INT128: return 16;
#endif
        default: return 0;
    }
}

// ---- arithmetic: 16-bit floats are added in 32 bits and rounded once ----
float from_bf16(uint16_t b) { uint32_t u = uint32_t(b) << 16; float f; memcpy(&f, &u, 4); return f; }
uint16_t to_bf16(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    if ((u & 0x7fffffff) > 0x7f800000) return uint16_t((u >> 16) | 0x40);
    return uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}
float from_half(uint16_t h) { _Float16 x; memcpy(&x, &h, 2); return float(x); }
uint16_t to_half(float f) { _Float16 x = _Float16(f); uint16_t h; memcpy(&h, &x, 2); return h; }

template <typename T> T combine(T a, T b, HcclReduceOp op) {
    switch (op) {
        case HCCL_REDUCE_SUM: return T(a + b);
        case HCCL_REDUCE_PROD: return T(a * b);
        case HCCL_REDUCE_MAX: return a != a || a > b ? a : b;          // nan stays nan
        default: return a != a || a < b ? a : b;
    }
}
template <typename T> void reduce_plain(const std::vector<const char *> &in, char *out, size_t n, HcclReduceOp op) {
    for (size_t i = 0; i < n; ++i) {
        T sum = reinterpret_cast<const T *>(in[0])[i];
        for (size_t r = 1; r < in.size(); ++r) sum = combine(sum, reinterpret_cast<const T *>(in[r])[i], op);
        reinterpret_cast<T *>(out)[i] = sum;
    }
}
template <float (*FROM)(uint16_t), uint16_t (*TO)(float)>
void reduce_16(const std::vector<const char *> &in, char *out, size_t n, HcclReduceOp op) {
    for (size_t i = 0; i < n; ++i) {
        float sum = FROM(reinterpret_cast<const uint16_t *>(in[0])[i]);
        for (size_t r = 1; r < in.size(); ++r) sum = combine(sum, FROM(reinterpret_cast<const uint16_t *>(in[r])[i]), op);
        reinterpret_cast<uint16_t *>(out)[i] = TO(sum);
    }
}
void reduce(const std::vector<const char *> &in, char *out, size_t n, HcclDataType type, HcclReduceOp op) {
    switch (type) {
        case HCCL_DATA_TYPE_INT8: return reduce_plain<int8_t>(in, out, n, op);
        case HCCL_DATA_TYPE_INT16: return reduce_plain<int16_t>(in, out, n, op);
        case HCCL_DATA_TYPE_INT32: return reduce_plain<int32_t>(in, out, n, op);
        case HCCL_DATA_TYPE_INT64: return reduce_plain<int64_t>(in, out, n, op);
        case HCCL_DATA_TYPE_FP32: return reduce_plain<float>(in, out, n, op);
        case HCCL_DATA_TYPE_FP16: return reduce_16<from_half, to_half>(in, out, n, op);
        default: return reduce_16<from_bf16, to_bf16>(in, out, n, op);
    }
}
// What HCCL's reductions take: no unsigned types, no fp64; bf16 and int16 not on the first 910.
int check_reduce(HcclDataType type, HcclReduceOp op) {
    bool known = type == HCCL_DATA_TYPE_INT8 || type == HCCL_DATA_TYPE_INT32 || type == HCCL_DATA_TYPE_INT64 || type == HCCL_DATA_TYPE_FP16 ||
                 type == HCCL_DATA_TYPE_FP32 || (soc().bf16 && (type == HCCL_DATA_TYPE_BFP16 || type == HCCL_DATA_TYPE_INT16));
    if (!known) return fail(HCCL_E_NOT_SUPPORT, "Invalid_Argument_Collective_Communication_Operator(EI0003): reduction of data type %d is not supported on %s", int(type), soc().name);
    if (op > HCCL_REDUCE_MIN) return fail(HCCL_E_NOT_SUPPORT, "Invalid_Argument_Collective_Communication_Operator(EI0003): reduce op %d is not supported", int(op));
    if (type == HCCL_DATA_TYPE_INT16 && op == HCCL_REDUCE_PROD) return fail(HCCL_E_NOT_SUPPORT, "Invalid_Argument_Collective_Communication_Operator(EI0003): int16 prod is not supported");
    return 0;
}

// ---- running one operation: groups, locks, errors ----
struct Pending { bool p2p; Comm *comm; HcclSendRecvItem item; std::function<HcclResult()> call; };
thread_local int group_depth = 0;
thread_local std::vector<Pending> grouped;

HcclResult guarded(Comm *c, const std::function<void()> &body) {
    std::lock_guard<std::mutex> guard(c->lock);
    if (c->broken == HCCL_E_REMOTE) return HCCL_SUCCESS;      // a device that already failed takes launches; synchronising tells
    if (c->broken) return HcclResult(fail(c->broken, "the communicator %s has failed before", c->name.c_str()));
    try {
        body();
    } catch (const Late &l) {
        return l.code;
    }
    return HCCL_SUCCESS;
}
HcclResult collective(HcclComm handle, std::function<void(Comm &)> body) {
    auto *c = static_cast<Comm *>(handle);
    if (!c) return HcclResult(fail(HCCL_E_PTR, "the communicator is null"));
    auto call = [c, body] { return guarded(c, [&] { body(*c); }); };
    if (!group_depth) return call();
    grouped.push_back(Pending{false, c, {}, call});
    return HCCL_SUCCESS;
}

// All sends and receives of a batch move together, a piece at a time, so none waits for another.
void exchange(Comm &c, std::vector<HcclSendRecvItem> items) {
    struct State { HcclSendRecvItem *item; uint64_t done, bytes; };
    std::vector<State> states;
    for (auto &i : items) {
        if (i.remoteRank >= c.ranks) throw Late{HcclResult(fail(HCCL_E_PARA, "remote rank %u of %u", i.remoteRank, c.ranks))};
        states.push_back(State{&i, 0, i.count * size_of(i.dataType)});
    }
    double last = now();
    bool moved_once = false;
    while (true) {
        uint32_t seen = c.segment->bell.load();
        bool moved = false, all = true;
        std::map<std::pair<int, uint32_t>, bool> taken;       // items to the same peer keep their order
        std::vector<uint32_t> waiting;
        for (auto &s : states) {
            if (s.done == s.bytes) continue;
            bool send = s.item->sendRecvType == HCCL_SEND;
            all = false;
            waiting.push_back(s.item->remoteRank);
            if (taken[{send, s.item->remoteRank}]) continue;
            taken[{send, s.item->remoteRank}] = true;
            Ring *ring = send ? c.ring(c.rank, s.item->remoteRank) : c.ring(s.item->remoteRank, c.rank);
            uint64_t head = ring->head.load(), tail = ring->tail.load(), room = send ? RING - (head - tail) : head - tail;
            uint64_t n = std::min(room, s.bytes - s.done);
            char *buffer = static_cast<char *>(s.item->buf) + s.done;
            for (uint64_t k = 0; k < n;) {
                uint64_t at = (send ? head : tail) + k, here = at % RING, piece = std::min(n - k, uint64_t(RING) - here);
                if (send) memcpy(ring->bytes + here, buffer + k, piece);
                else memcpy(buffer + k, ring->bytes + here, piece);
                k += piece;
            }
            if (!n) continue;
            (send ? ring->head : ring->tail).fetch_add(n);
            s.done += n;
            moved = true;
        }
        if (all) { c.linked |= moved_once; return; }
        if (moved) {
            moved_once = true;
            last = now();
            wake(c.segment);
        } else {
            if (now() > last + (c.linked ? exec_timeout() : connect_timeout())) throw Late{late(c, HCCL_CMD_BATCH_SEND_RECV, waiting)};
            rest(c.segment, seen);
        }
    }
}

HcclResult point_to_point(HcclComm handle, const HcclSendRecvItem *items, uint32_t n) {
    auto *c = static_cast<Comm *>(handle);
    if (!c) return HcclResult(fail(HCCL_E_PTR, "the communicator is null"));
    std::vector<HcclSendRecvItem> all(items, items + n);
    if (group_depth) {
        for (auto &i : all) grouped.push_back(Pending{true, c, i, {}});
        return HCCL_SUCCESS;
    }
    return guarded(c, [&] { exchange(*c, all); });
}

// Rounds in which every rank gives `give[r]` bytes to rank r from `from + at[r]`, and takes likewise.
struct Piece { const char *from; uint64_t bytes; };
struct Place { char *to; uint64_t bytes; };
void all_to_all(Comm &c, uint32_t kind, const std::vector<Piece> &give, const std::vector<Place> &take, uint64_t largest) {
    const uint64_t part = STAGE / c.ranks;
    for (uint64_t at = 0; at < largest; at += part) {
        for (uint32_t r = 0; r < c.ranks; ++r)
            if (give[r].bytes > at) memcpy(c.stage(c.rank) + r * part, give[r].from + at, std::min(part, give[r].bytes - at));
        meet(c, kind);
        for (uint32_t r = 0; r < c.ranks; ++r)
            if (take[r].bytes > at) memcpy(take[r].to + at, c.stage(r) + c.rank * part, std::min(part, take[r].bytes - at));
        meet(c, kind);
    }
}

void gather_v(Comm &c, uint32_t kind, const char *from, uint64_t bytes, const std::vector<Place> &take, uint64_t largest) {
    for (uint64_t at = 0; at < largest; at += STAGE) {
        if (bytes > at) memcpy(c.stage(c.rank), from + at, std::min(uint64_t(STAGE), bytes - at));
        meet(c, kind);
        for (uint32_t r = 0; r < c.ranks; ++r)
            if (take[r].bytes > at) memcpy(take[r].to + at, c.stage(r), std::min(uint64_t(STAGE), take[r].bytes - at));
        meet(c, kind);
    }
}

// Rank r gets the reduction of everybody's piece r.
void reduce_scatter_v(Comm &c, uint32_t kind, const std::vector<Piece> &give, char *to, HcclDataType type, HcclReduceOp op, uint64_t largest) {
    const uint64_t size = size_of(type), part = STAGE / c.ranks / 64 * 64;
    for (uint64_t at = 0; at < largest; at += part) {
        for (uint32_t r = 0; r < c.ranks; ++r)
            if (give[r].bytes > at) memcpy(c.stage(c.rank) + r * part, give[r].from + at, std::min(part, give[r].bytes - at));
        meet(c, kind);
        if (give[c.rank].bytes > at) {
            std::vector<const char *> in;
            for (uint32_t r = 0; r < c.ranks; ++r) in.push_back(c.stage(r) + c.rank * part);
            reduce(in, to + at, std::min(part, give[c.rank].bytes - at) / size, type, op);
        }
        meet(c, kind);
    }
}

void all_reduce(Comm &c, uint32_t kind, const char *from, char *to, uint64_t count, HcclDataType type, HcclReduceOp op, int64_t only_root) {
    const uint64_t size = size_of(type), bytes = count * size;
    for (uint64_t at = 0; at < bytes; at += STAGE) {
        uint64_t n = std::min(uint64_t(STAGE), bytes - at), elements = n / size;
        memcpy(c.stage(c.rank), from + at, n);
        meet(c, kind);
        uint64_t first = elements * c.rank / c.ranks, last = elements * (c.rank + 1) / c.ranks;     // my share of the work
        std::vector<const char *> in;
        for (uint32_t r = 0; r < c.ranks; ++r) in.push_back(c.stage(r) + first * size);
        reduce(in, c.result() + first * size, last - first, type, op);
        meet(c, kind);
        if (only_root < 0 || only_root == c.rank) memcpy(to + at, c.result(), n);
        if (at + STAGE >= bytes) meet(c, kind);
    }
}

std::string unique() {
    static std::atomic<uint64_t> serial{0};
    timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    char text[100];
    snprintf(text, sizeof text, "%d_%llu_%llu", getpid(), (unsigned long long)t.tv_sec * 1000000ull + t.tv_nsec / 1000, (unsigned long long)serial++);
    return text;
}

uint64_t buffer_bytes(const HcclCommConfig *config) {
    double mb = seconds("HCCL_BUFFSIZE", "HCCL_BUFFSIZE", HCCL_COMM_DEFAULT_BUFFSIZE);
    if (config && config->hcclBufferSize != HCCL_COMM_BUFFSIZE_CONFIG_NOT_SET) mb = config->hcclBufferSize;
    return uint64_t(2 * mb * 1048576);       // one buffer for each direction
}

std::unique_ptr<Comm> make(uint32_t ranks, uint32_t rank, const std::string &id, const HcclCommConfig *config) {
    auto c = std::make_unique<Comm>();
    c->ranks = ranks;
    c->rank = rank;
    c->buffers = buffer_bytes(config);
    c->name = config && config->hcclCommName[0] ? config->hcclCommName : "127.0.0.1%lo_60000_0_" + id;
    char segment[100];
    snprintf(segment, sizeof segment, "/emulated-hccl-%u-%016llx", unsigned(getuid()), (unsigned long long)hash(id));
    c->segment_name = segment;
    return c;
}
const char ROOT_MARK[] = "emulated-hccl-root:";

// Root info is handed out by a server that listens on the host's port 60000 + card. Here the port is only tried.
int try_host_port() {
    const char *set = getenv("HCCL_IF_BASE_PORT");
    int base = set && *set ? atoi(set) : 60000, device = current();
    if (base < 1024 || base > 65520)
        return fail(HCCL_E_PARA, "Config_Error_Invalid_Environment_Variable(EI0001): Value %s for environment variable HCCL_IF_BASE_PORT is invalid. Expected value : range[1024, 65520].", set);
    int port = base + (device < 0 ? 0 : physical(device));
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), yes = 1;
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(uint16_t(port));
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    bool taken = fault("hccl-port-taken", -1) || bind(listener, reinterpret_cast<sockaddr *>(&address), sizeof address) != 0 || listen(listener, 1) != 0;
    close(listener);
    if (taken && !getenv("HCCL_HOST_SOCKET_PORT_RANGE"))
        return fail(HCCL_E_UNAVAIL, "Communication_Error_Bind_IP_Port(EI0019): Failed to enable listening for the host network adapter socket."
                    "Reason: The IP address 127.0.0.1 and port %d have already been bound.", port);
    return 0;
}

// ---- rank table: just enough JSON ----
struct Table { int ranks = 0; std::map<int, int> device_of; std::string error; };
Table read_table(const char *path) {
    Table t;
    struct stat st;
    if (lstat(path, &st) != 0 || !S_ISREG(st.st_mode)) { t.error = "path " + std::string(path) + " is not a valid real path"; return t; }
    std::string text(size_t(st.st_size), 0);
    if (FILE *f = fopen(path, "r")) { text.resize(fread(text.data(), 1, text.size(), f)); fclose(f); }
    auto value_after = [&](const std::string &key, size_t &at) -> std::string {
        size_t k = text.find("\"" + key + "\"", at);
        if (k == std::string::npos) return at = std::string::npos, "";
        size_t open = text.find('"', text.find(':', k)), close = text.find('"', open + 1);
        at = close;
        return open == std::string::npos || close == std::string::npos ? "" : text.substr(open + 1, close - open - 1);
    };
    size_t at = 0;
    if (value_after("status", at) != "completed") { t.error = "status is not completed"; return t; }
    for (at = 0; at != std::string::npos;) {
        size_t id_at = at;
        std::string id = value_after("device_id", id_at);
        if (id_at == std::string::npos) break;
        size_t rank_at = id_at;
        std::string rank = value_after("rank_id", rank_at);
        if (rank.empty()) { t.error = "a device has no rank_id"; return t; }
        if (!t.device_of.emplace(atoi(rank.c_str()), atoi(id.c_str())).second) { t.error = "rank_id " + rank + " is there twice"; return t; }
        at = rank_at;
    }
    t.ranks = int(t.device_of.size());
    for (int r = 0; r < t.ranks; ++r)
        if (!t.device_of.count(r)) t.error = "rank_id " + std::to_string(r) + " is missing";
    if (!t.ranks) t.error = "no device";
    return t;
}
}  // namespace

extern "C" {
HcclResult HcclGetRootInfo(HcclRootInfo *root) {
    if (int bad = check_environment()) return HcclResult(bad);
    if (int bad = try_host_port()) return HcclResult(bad);
    memset(root, 0, sizeof *root);
    snprintf(root->internal, sizeof root->internal, "%s%s", ROOT_MARK, unique().c_str());
    return HCCL_SUCCESS;
}
HcclResult HcclCommInitRootInfoConfig(uint32_t ranks, const HcclRootInfo *root, uint32_t rank, const HcclCommConfig *config, HcclComm *comm) {
    if (!root || !comm) return HcclResult(fail(HCCL_E_PTR, "a pointer is null"));
    if (strncmp(root->internal, ROOT_MARK, sizeof ROOT_MARK - 1) != 0) return HcclResult(fail(HCCL_E_PARA, "the root info is not from HcclGetRootInfo"));
    return join(make(ranks, rank, root->internal + sizeof ROOT_MARK - 1, config), comm);
}
HcclResult HcclCommInitRootInfo(uint32_t ranks, const HcclRootInfo *root, uint32_t rank, HcclComm *comm) {
    return HcclCommInitRootInfoConfig(ranks, root, rank, nullptr, comm);
}
HcclResult HcclCommInitClusterInfoConfig(const char *path, uint32_t rank, HcclCommConfig *config, HcclComm *comm) {
    static std::atomic<int> times{0};
    Table t = read_table(path);
    if (!t.error.empty()) return HcclResult(fail(HCCL_E_PARA, "Config_Error_Ranktable_Configuration(EI0004): The ranktable or rank is invalid: %s", t.error.c_str()));
    if (int(rank) >= t.ranks) return HcclResult(fail(HCCL_E_PARA, "Config_Error_Ranktable_Configuration(EI0004): The ranktable or rank is invalid: rank %u of %d", rank, t.ranks));
    int card = current() < 0 ? -1 : physical(current());
    if (t.device_of[int(rank)] != card)
        return HcclResult(fail(HCCL_E_PARA, "Config_Error_Ranktable_Configuration(EI0004): The ranktable or rank is invalid: rank %u is on device %d there and on %d here",
                               rank, t.device_of[int(rank)], card));
    std::string id = path;
    for (const char *name : {"MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID"})
        if (const char *value = getenv(name)) id += std::string("|") + value;
    return join(make(uint32_t(t.ranks), rank, id + "|" + std::to_string(times++), config), comm);
}
HcclResult HcclCommInitClusterInfo(const char *path, uint32_t rank, HcclComm *comm) { return HcclCommInitClusterInfoConfig(path, rank, nullptr, comm); }
HcclResult HcclCreateSubCommConfig(HcclComm *parent, uint32_t ranks, uint32_t *ids, uint64_t sub_id, uint32_t sub_rank, HcclCommConfig *config, HcclComm *sub) {
    if (!parent || !*parent) return HcclResult(fail(HCCL_E_PTR, "the communicator is null"));
    std::string id = static_cast<Comm *>(*parent)->segment_name + "|" + std::to_string(sub_id);
    for (uint32_t i = 0; i < ranks; ++i) id += "," + std::to_string(ids[i]);
    return join(make(ranks, sub_rank, id, config), sub);
}
HcclResult HcclCommDestroy(HcclComm handle) {
    auto *c = static_cast<Comm *>(handle);
    if (!c) return HcclResult(fail(HCCL_E_PTR, "the communicator is null"));
    release(c->card, c->buffers);
    count_comm(c->card, -1);
    munmap(c->segment, c->length);
    delete c;
    return HCCL_SUCCESS;
}

HcclResult HcclAllReduce(void *from, void *to, uint64_t count, HcclDataType type, HcclReduceOp op, HcclComm comm, aclrtStream) {
    if (int bad = check_reduce(type, op)) return HcclResult(bad);
    return collective(comm, [=](Comm &c) {
        begin(c, HCCL_CMD_ALLREDUCE, type, op, 0, count, 0);
        all_reduce(c, HCCL_CMD_ALLREDUCE, static_cast<char *>(from), static_cast<char *>(to), count, type, op, -1);
    });
}
HcclResult HcclReduce(void *from, void *to, uint64_t count, HcclDataType type, HcclReduceOp op, uint32_t root, HcclComm comm, aclrtStream) {
    if (int bad = check_reduce(type, op)) return HcclResult(bad);
    return collective(comm, [=](Comm &c) {
        begin(c, HCCL_CMD_REDUCE, type, op, root, count, 0);
        all_reduce(c, HCCL_CMD_REDUCE, static_cast<char *>(from), static_cast<char *>(to), count, type, op, root);
    });
}
HcclResult HcclBroadcast(void *buffer, uint64_t count, HcclDataType type, uint32_t root, HcclComm comm, aclrtStream) {
    return collective(comm, [=](Comm &c) {
        begin(c, HCCL_CMD_BROADCAST, type, 0, root, count, 0);
        uint64_t bytes = count * size_of(type);
        for (uint64_t at = 0; at < bytes; at += STAGE) {
            uint64_t n = std::min(uint64_t(STAGE), bytes - at);
            if (c.rank == root) memcpy(c.result(), static_cast<char *>(buffer) + at, n);
            meet(c, HCCL_CMD_BROADCAST);
            if (c.rank != root) memcpy(static_cast<char *>(buffer) + at, c.result(), n);
            meet(c, HCCL_CMD_BROADCAST);
        }
    });
}
HcclResult HcclScatter(void *from, void *to, uint64_t count, HcclDataType type, uint32_t root, HcclComm comm, aclrtStream) {
    return collective(comm, [=](Comm &c) {
        uint64_t bytes = count * size_of(type);
        begin(c, HCCL_CMD_SCATTER, type, 0, root, count, bytes);
        std::vector<Piece> give(c.ranks, Piece{nullptr, 0});
        std::vector<Place> take(c.ranks, Place{nullptr, 0});
        if (c.rank == root)
            for (uint32_t r = 0; r < c.ranks; ++r) give[r] = Piece{static_cast<char *>(from) + r * bytes, bytes};
        take[root] = Place{static_cast<char *>(to), bytes};
        all_to_all(c, HCCL_CMD_SCATTER, give, take, bytes);
    });
}
HcclResult HcclAllGather(void *from, void *to, uint64_t count, HcclDataType type, HcclComm comm, aclrtStream) {
    return collective(comm, [=](Comm &c) {
        uint64_t bytes = count * size_of(type);
        begin(c, HCCL_CMD_ALLGATHER, type, 0, 0, count, bytes);
        std::vector<Place> take;
        for (uint32_t r = 0; r < c.ranks; ++r) take.push_back(Place{static_cast<char *>(to) + r * bytes, bytes});
        gather_v(c, HCCL_CMD_ALLGATHER, static_cast<char *>(from), bytes, take, bytes);
    });
}
HcclResult HcclAllGatherV(void *from, uint64_t count, void *to, const void *counts, const void *places, HcclDataType type, HcclComm comm, aclrtStream) {
    auto *n = static_cast<const uint64_t *>(counts), *d = static_cast<const uint64_t *>(places);
    auto *c0 = static_cast<Comm *>(comm);
    std::vector<Place> take;
    for (uint32_t r = 0; c0 && r < c0->ranks; ++r) take.push_back(Place{static_cast<char *>(to) + d[r] * size_of(type), n[r] * size_of(type)});
    return collective(comm, [=](Comm &c) {
        uint64_t bytes = count * size_of(type), largest = begin(c, HCCL_CMD_ALLGATHER_V, type, 0, 0, 0, bytes);
        gather_v(c, HCCL_CMD_ALLGATHER_V, static_cast<char *>(from), bytes, take, largest);
    });
}
HcclResult HcclReduceScatter(void *from, void *to, uint64_t count, HcclDataType type, HcclReduceOp op, HcclComm comm, aclrtStream) {
    if (int bad = check_reduce(type, op)) return HcclResult(bad);
    return collective(comm, [=](Comm &c) {
        uint64_t bytes = count * size_of(type);
        begin(c, HCCL_CMD_REDUCE_SCATTER, type, op, 0, count, bytes);
        std::vector<Piece> give;
        for (uint32_t r = 0; r < c.ranks; ++r) give.push_back(Piece{static_cast<char *>(from) + r * bytes, bytes});
        reduce_scatter_v(c, HCCL_CMD_REDUCE_SCATTER, give, static_cast<char *>(to), type, op, bytes);
    });
}
HcclResult HcclReduceScatterV(void *from, const void *counts, const void *places, void *to, uint64_t, HcclDataType type, HcclReduceOp op, HcclComm comm, aclrtStream) {
    if (int bad = check_reduce(type, op)) return HcclResult(bad);
    auto *n = static_cast<const uint64_t *>(counts), *d = static_cast<const uint64_t *>(places);
    auto *c0 = static_cast<Comm *>(comm);
    std::vector<Piece> give;
    uint64_t most = 0;
    for (uint32_t r = 0; c0 && r < c0->ranks; ++r) {
        give.push_back(Piece{static_cast<char *>(from) + d[r] * size_of(type), n[r] * size_of(type)});
        most = std::max(most, give.back().bytes);
    }
    return collective(comm, [=](Comm &c) {
        uint64_t largest = begin(c, HCCL_CMD_REDUCE_SCATTER_V, type, op, 0, 0, most);
        reduce_scatter_v(c, HCCL_CMD_REDUCE_SCATTER_V, give, static_cast<char *>(to), type, op, largest);
    });
}
static HcclResult exchange_all(HcclCMDType kind, const void *from, std::vector<uint64_t> sent, std::vector<uint64_t> sent_at, HcclDataType out,
                               const void *to, std::vector<uint64_t> got, std::vector<uint64_t> got_at, HcclDataType in, HcclComm comm) {
    return collective(comm, [=](Comm &c) {
        std::vector<Piece> give;
        std::vector<Place> take;
        uint64_t most = 0;
        for (uint32_t r = 0; r < c.ranks; ++r) {
            give.push_back(Piece{static_cast<const char *>(from) + sent_at[r] * size_of(out), sent[r] * size_of(out)});
            take.push_back(Place{const_cast<char *>(static_cast<const char *>(to)) + got_at[r] * size_of(in), got[r] * size_of(in)});
            most = std::max({most, give.back().bytes, take.back().bytes});
        }
        uint64_t largest = begin(c, kind, 0, 0, 0, 0, most);
        all_to_all(c, kind, give, take, largest);
    });
}
static std::vector<uint64_t> numbers(const void *p, HcclComm comm) {
    auto *c = static_cast<Comm *>(comm);
    auto *n = static_cast<const uint64_t *>(p);
    return c ? std::vector<uint64_t>(n, n + c->ranks) : std::vector<uint64_t>();
}
HcclResult HcclAlltoAllV(const void *from, const void *sent, const void *sent_at, HcclDataType out, const void *to, const void *got, const void *got_at,
                         HcclDataType in, HcclComm comm, aclrtStream) {
    return exchange_all(HCCL_CMD_ALLTOALLV, from, numbers(sent, comm), numbers(sent_at, comm), out, to, numbers(got, comm), numbers(got_at, comm), in, comm);
}
HcclResult HcclAlltoAllVC(const void *from, const void *matrix, HcclDataType out, const void *to, HcclDataType in, HcclComm comm, aclrtStream) {
    auto *c = static_cast<Comm *>(comm);
    if (!c) return HcclResult(fail(HCCL_E_PTR, "the communicator is null"));
    auto *m = static_cast<const uint64_t *>(matrix);
    std::vector<uint64_t> sent, sent_at, got, got_at;
    uint64_t a = 0, b = 0;
    for (uint32_t r = 0; r < c->ranks; ++r) {
        sent.push_back(m[size_t(c->rank) * c->ranks + r]);
        got.push_back(m[size_t(r) * c->ranks + c->rank]);
        sent_at.push_back(a);
        got_at.push_back(b);
        a += sent.back();
        b += got.back();
    }
    return exchange_all(HCCL_CMD_ALLTOALLVC, from, sent, sent_at, out, to, got, got_at, in, comm);
}
HcclResult HcclAlltoAll(const void *from, uint64_t sent, HcclDataType out, const void *to, uint64_t got, HcclDataType in, HcclComm comm, aclrtStream) {
    auto *c = static_cast<Comm *>(comm);
    if (!c) return HcclResult(fail(HCCL_E_PTR, "the communicator is null"));
    std::vector<uint64_t> n(c->ranks, sent), m(c->ranks, got), at, bt;
    for (uint32_t r = 0; r < c->ranks; ++r) { at.push_back(r * sent); bt.push_back(r * got); }
    return exchange_all(HCCL_CMD_ALLTOALL, from, n, at, out, to, m, bt, in, comm);
}
HcclResult HcclBarrier(HcclComm comm, aclrtStream) {
    return collective(comm, [](Comm &c) { begin(c, HCCL_CMD_BARRIER, 0, 0, 0, 0, 0); });
}
HcclResult HcclBatchSendRecv(HcclSendRecvItem *items, uint32_t n, HcclComm comm, aclrtStream) { return point_to_point(comm, items, n); }
HcclResult HcclSend(void *buffer, uint64_t count, HcclDataType type, uint32_t peer, HcclComm comm, aclrtStream) {
    HcclSendRecvItem item{HCCL_SEND, buffer, count, type, peer};
    return point_to_point(comm, &item, 1);
}
HcclResult HcclRecv(void *buffer, uint64_t count, HcclDataType type, uint32_t peer, HcclComm comm, aclrtStream) {
    HcclSendRecvItem item{HCCL_RECV, buffer, count, type, peer};
    return point_to_point(comm, &item, 1);
}
HcclResult HcclGroupStart() { ++group_depth; return HCCL_SUCCESS; }
HcclResult HcclGroupEnd() {
    if (!group_depth) return HcclResult(fail(HCCL_E_PARA, "HcclGroupEnd without HcclGroupStart"));
    if (--group_depth) return HCCL_SUCCESS;
    std::vector<Pending> all;
    all.swap(grouped);
    std::vector<Comm *> order;
    std::map<Comm *, std::vector<HcclSendRecvItem>> batches;
    for (auto &p : all)
        if (p.p2p) {
            if (!batches.count(p.comm)) order.push_back(p.comm);
            batches[p.comm].push_back(p.item);
        }
    for (auto &p : all)
        if (!p.p2p)
            if (HcclResult bad = p.call()) return bad;
    for (Comm *c : order)
        if (HcclResult bad = guarded(c, [&] { exchange(*c, batches[c]); })) return bad;
    return HCCL_SUCCESS;
}

HcclResult HcclGetRankSize(HcclComm comm, uint32_t *n) { *n = static_cast<Comm *>(comm)->ranks; return HCCL_SUCCESS; }
HcclResult HcclGetRankId(HcclComm comm, uint32_t *r) { *r = static_cast<Comm *>(comm)->rank; return HCCL_SUCCESS; }
HcclResult HcclGetCommName(HcclComm comm, char *name) { snprintf(name, COMM_NAME_MAX_LENGTH, "%s", static_cast<Comm *>(comm)->name.c_str()); return HCCL_SUCCESS; }
HcclResult HcclGetCommAsyncError(HcclComm comm, HcclResult *error) { *error = static_cast<Comm *>(comm)->broken; return HCCL_SUCCESS; }
const char *HcclGetErrorString(HcclResult code) {
    static thread_local std::string text;
    text = "hccl result " + std::to_string(int(code));
    return text.c_str();
}
uint32_t HcclGetCommConfigCapability() { return HCCL_COMM_CONFIG_RESERVED; }
static int32_t settings[HCCL_CONFIG_RESERVED];      // sums here are always in rank order, so they are deterministic either way
HcclResult HcclSetConfig(HcclConfig config, HcclConfigValue value) { settings[config] = value.value; return HCCL_SUCCESS; }
HcclResult HcclGetConfig(HcclConfig config, HcclConfigValue *value) { value->value = settings[config]; return HCCL_SUCCESS; }
}
