// libascendcl: devices, contexts, memory, streams and events of the virtual machine.
// Device memory is host memory, and a stream runs what it is given before the call returns, so an event that
// has been recorded is complete. The prototypes come from the headers in the torch_npu wheel.
#include "machine.hpp"

#include "acl/acl.h"
#include "acl/acl_op_compiler.h"
#include "acl/error_codes/rt_error_codes.h"

#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <dlfcn.h>
#include <map>
#include <mutex>
#include <sys/mman.h>
#include <unistd.h>

using namespace emulated;
namespace emulated { int poisoned(); const char *recent_error(); }

namespace {
struct Context { int device; };
struct Stream { int device, id; uint32_t overflow_switch; };
struct Event { uint64_t recorded_ns; };                  // 0: not yet
struct Physical { int fd, card; size_t size; };
struct Block { size_t size; int card; };

std::mutex lock;
std::map<void *, Block> blocks, host_blocks, reserved;   // by address
std::map<void *, size_t> mapped;
std::map<std::string, std::string> options;
std::atomic<bool> initialised{false};
int default_device = -1;                                 // aclInit may name one, for threads that set none
thread_local int set_device = -1;
int device_now() { return set_device >= 0 ? set_device : default_device; }

Context *context_of(int device) {
    static Context contexts[MAX_CARDS];
    contexts[device].device = device;
    return &contexts[device];
}

uint64_t now_ns() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return uint64_t(t.tv_sec) * 1000000000u + t.tv_nsec;
}

int bad_device(const char *what, int value) {
    return fail(ACL_ERROR_RT_INVALID_DEVICEID,
                "Invalid_Argument(EE1003): %s failed because value %d for parameter drv devId is invalid. "
                "Expected value: [0, %zu).", what, value, visible().cards.size());
}

int no_context(const char *what) {
    return fail(ACL_ERROR_RT_CONTEXT_NULL, "%s: this thread has set no device (emulated CANN)", what);
}

int unsupported(const char *what) {
    fprintf(stderr, "emulated CANN: %s is not emulated (docs/emulated-cann.md)\n", what);
    return fail(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, "%s is not emulated", what);
}

int bad_argument(const char *what) { return fail(ACL_ERROR_RT_PARAM_INVALID, "%s: an argument is invalid (emulated CANN)", what); }

int malloc_on_card(const char *what, void **at, size_t size) {
    if (device_now() < 0) return no_context(what);
    if (!at || !size) return bad_argument(what);
    int card = physical(device_now());
    if (card < 0) return bad_device(what, device_now());
    if (!charge(card, size))
        return fail(ACL_ERROR_RT_MEMORY_ALLOCATION,
                    "Memory_Allocation_Failure(EL0004): Failed to allocate memory.\n        Possible Cause: Available memory is insufficient.");
    void *p = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) { release(card, size); return fail(ACL_ERROR_RT_MEMORY_ALLOCATION, "the host refuses %zu bytes", size); }
    std::lock_guard<std::mutex> guard(lock);
    blocks[p] = Block{size, card};
    *at = p;
    return ACL_SUCCESS;
}

// The operators come after torch_npu's own registrations, and before the first of them can run.
void load_kernels() {
    Dl_info here;
    dladdr(reinterpret_cast<void *>(&load_kernels), &here);
    std::string path = here.dli_fname;
    path = path.substr(0, path.rfind('/')) + "/libemulated_kernels.so";
    if (!dlsym(RTLD_DEFAULT, "THPVariableClass")) return;      // a program without torch
    if (!dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL)) {
        fprintf(stderr, "emulated CANN: %s\n", dlerror());
        abort();
    }
}
}  // namespace

namespace emulated { int current() { return device_now(); } }

extern "C" {

// ---- life ----
static int default_device_of(const char *config) {
    if (!config) return -1;
    FILE *f = fopen(config, "r");
    if (!f) return -1;
    char text[4096];
    text[fread(text, 1, sizeof text - 1, f)] = 0;
    fclose(f);
    const char *key = strstr(text, "\"default_device\"");
    while (key && *key && (*key < '0' || *key > '9')) ++key;
    return key && *key ? atoi(key) : -1;
}
#ifdef LACKS_HcclCMDType
// An older torch_npu's task queue can miss the word that it is empty, and every operator here waits for that.
__attribute__((constructor)) static void without_task_queue() { setenv("TASK_QUEUE_ENABLE", "0", 0); }
#endif
aclError aclInit(const char *config) {
    if (fault("driver-missing", -1))
        return fail(507899, "Driver_Error(EL9999): drvGetDevNum failed, no access to the driver (emulated fault driver-missing)");
    if (visible().cards.empty())
        return fail(ACL_ERROR_RT_INVALID_DEVICEID,
                    "ChgUserDevIdToDeviceId failed because value 0 for parameter userDevId is invalid. Expected value: [0, 0).");
    if (const char *s = getenv("PER_STREAM_QUEUE"); s && *s && *s != '0')
        not_emulated("PER_STREAM_QUEUE=1 (collectives of several queues at once)");
    if (initialised.exchange(true)) return ACL_ERROR_REPEAT_INITIALIZE;
    default_device = default_device_of(config);
    load_kernels();
    return ACL_SUCCESS;
}
aclError aclFinalize() { initialised = false; return ACL_SUCCESS; }
const char *aclGetRecentErrMsg() { return recent_error(); }
aclError aclrtPeekAtLastError(aclrtLastErrLevel) { return poisoned(); }
aclError aclrtGetLastError(aclrtLastErrLevel) { return poisoned(); }
void aclAppLog(aclLogLevel, const char *, const char *, uint32_t, const char *, ...) {}

const char *aclrtGetSocName() { return soc().name; }
aclError aclGetCannAttributeList(const aclCannAttr **list, size_t *num) {
    static const aclCannAttr all[] = {ACL_CANN_ATTR_JIT_COMPILE, ACL_CANN_ATTR_INF_NAN, ACL_CANN_ATTR_BF16};
    *list = all;
    *num = soc().bf16 ? 3 : 1;
    return ACL_SUCCESS;
}
aclError aclGetCannAttribute(aclCannAttr attr, int32_t *value) {
    *value = attr == ACL_CANN_ATTR_JIT_COMPILE ? !soc().bf16 : soc().bf16;
    return ACL_SUCCESS;
}
aclError aclGetDeviceCapability(uint32_t, aclDeviceInfo info, int64_t *value) {
    switch (info) {
        case ACL_DEVICE_INFO_AI_CORE_NUM: *value = soc().cubes; return ACL_SUCCESS;
        case ACL_DEVICE_INFO_VECTOR_CORE_NUM: *value = soc().vectors; return ACL_SUCCESS;
        default: return unsupported("aclGetDeviceCapability of this kind");
    }
}
#ifndef LACKS_aclrtDevAttr
aclError aclrtGetDeviceInfo(uint32_t device, aclrtDevAttr attr, int64_t *value) {
    switch (attr) {
        case ACL_DEV_ATTR_AICORE_CORE_NUM:
        case ACL_DEV_ATTR_CUBE_CORE_NUM: *value = soc().cubes; return ACL_SUCCESS;
        case ACL_DEV_ATTR_VECTOR_CORE_NUM: *value = soc().vectors; return ACL_SUCCESS;
        case ACL_DEV_ATTR_TOTAL_GLOBAL_MEM_SIZE: *value = int64_t(hbm_bytes()); return ACL_SUCCESS;
        case ACL_DEV_ATTR_PHY_CHIP_ID: *value = physical(int(device)); return ACL_SUCCESS;
        case ACL_DEV_ATTR_IS_VIRTUAL: *value = 0; return ACL_SUCCESS;
        default: return unsupported("aclrtGetDeviceInfo of this kind");
    }
}
#endif
static const char *version() { const char *v = getenv("EMULATED_CANN_VERSION"); return v && *v ? v : "9.1.0"; }
aclError aclsysGetVersionStr(char *, char *text) { strcpy(text, version()); return ACL_SUCCESS; }
aclError aclsysGetCANNVersion(aclCANNPackageName, aclCANNPackageVersion *out) {
    memset(out, 0, sizeof *out);
    snprintf(out->version, sizeof out->version, "%s", version());
    return ACL_SUCCESS;
}

// ---- devices ----
aclError aclrtGetDeviceCount(uint32_t *count) {
    *count = 0;
    if (fault("driver-missing", -1)) return fail(507899, "Driver_Error(EL9999): drvGetDevNum failed (emulated fault driver-missing)");
    Visible v = visible();
    if (v.unordered)
        return fail(ACL_ERROR_RT_NO_DEVICE, "Invalid_Argument(EE1001): The argument is invalid.Reason: set ASCEND_RT_VISIBLE_DEVICES:%s error, "
                    "it must be configured in ascending order", getenv("ASCEND_RT_VISIBLE_DEVICES"));
    *count = uint32_t(v.cards.size());
    return ACL_SUCCESS;
}
aclError aclrtSetDevice(int32_t device) {
    int card = physical(device);
    if (card < 0) return bad_device("SetDevice", device);
    if (fault("unhealthy", card)) return fail(507033, "EL0003: the device %d does not start (emulated fault unhealthy)", device);
    if (set_device != device) enter(card);
    set_device = device;
    return ACL_SUCCESS;
}
aclError aclrtResetDevice(int32_t device) {
    if (physical(device) < 0) return bad_device("ResetDevice", device);
    if (set_device == device) set_device = -1;
    return ACL_SUCCESS;
}
aclError aclrtGetDevice(int32_t *device) {
    if (device_now() < 0) return no_context("aclrtGetDevice");
    *device = device_now();
    return ACL_SUCCESS;
}
aclError aclrtGetLogicDevIdByUserDevId(const int32_t user, int32_t *const logic) {
    if (physical(user) < 0) return bad_device("aclrtGetLogicDevIdByUserDevId", user);
    *logic = physical(user);
    return ACL_SUCCESS;
}
aclError aclrtGetPrimaryCtxState(int32_t device, uint32_t *flags, int32_t *active) {
    if (physical(device) < 0) return bad_device("aclrtGetPrimaryCtxState", device);
    if (flags) *flags = 0;
    *active = device_now() == device;
    return ACL_SUCCESS;
}
aclError aclrtSetCurrentContext(aclrtContext context) {
    if (!context) return bad_argument("aclrtSetCurrentContext");
    return aclrtSetDevice(static_cast<Context *>(context)->device);
}
aclError aclrtGetCurrentContext(aclrtContext *context) {
    if (device_now() < 0) return no_context("aclrtGetCurrentContext");
    *context = context_of(device_now());
    return ACL_SUCCESS;
}
aclError aclrtDeviceCanAccessPeer(int32_t *can, int32_t device, int32_t peer) {
    *can = device != peer && physical(device) >= 0 && physical(peer) >= 0;
    return ACL_SUCCESS;
}
aclError aclrtDeviceEnablePeerAccess(int32_t peer, uint32_t) {
    return physical(peer) < 0 ? bad_device("aclrtDeviceEnablePeerAccess", peer) : ACL_SUCCESS;   // one memory serves all cards
}
aclError aclrtDeviceGetBareTgid(int32_t *pid) { *pid = getpid(); return ACL_SUCCESS; }
#ifndef LACKS_aclrtUuid
aclError aclrtDeviceGetUuid(int32_t device, aclrtUuid *uuid) {
    if (physical(device) < 0) return bad_device("aclrtDeviceGetUuid", device);
    memset(uuid, 0, sizeof *uuid);
    snprintf(uuid->bytes, sizeof uuid->bytes, "emulated-%d", physical(device));
    return ACL_SUCCESS;
}
#endif
aclError aclrtGetDeviceUtilizationRate(int32_t device, aclrtUtilizationInfo *out) {
    if (physical(device) < 0) return bad_device("aclrtGetDeviceUtilizationRate", device);
    out->cubeUtilization = out->vectorUtilization = out->aicpuUtilization = 0;
    out->memoryUtilization = int32_t(used(physical(device)) * 100 / hbm_bytes());
    return ACL_SUCCESS;
}
aclError aclrtSynchronizeDevice() { return poisoned(); }
aclError aclrtSynchronizeDeviceWithTimeout(int32_t) { return poisoned(); }

// Settings that change nothing a CPU computes: the value is kept and given back.
aclError aclSetCompileopt(aclCompileOpt opt, const char *value) {
    std::lock_guard<std::mutex> guard(lock);
    options[std::to_string(int(opt))] = value ? value : "";
    return ACL_SUCCESS;
}
size_t aclGetCompileoptSize(aclCompileOpt opt) {
    std::lock_guard<std::mutex> guard(lock);
    return options[std::to_string(int(opt))].size() + 1;
}
aclError aclGetCompileopt(aclCompileOpt opt, char *value, size_t length) {
    std::lock_guard<std::mutex> guard(lock);
    snprintf(value, length, "%s", options[std::to_string(int(opt))].c_str());
    return ACL_SUCCESS;
}
static std::map<int, int64_t> sys_params;
aclError aclrtSetSysParamOpt(aclSysParamOpt opt, int64_t value) { std::lock_guard<std::mutex> g(lock); sys_params[opt] = value; return ACL_SUCCESS; }
aclError aclrtCtxSetSysParamOpt(aclSysParamOpt opt, int64_t value) { return aclrtSetSysParamOpt(opt, value); }
aclError aclrtGetSysParamOpt(aclSysParamOpt opt, int64_t *value) { std::lock_guard<std::mutex> g(lock); *value = sys_params[opt]; return ACL_SUCCESS; }
aclError aclrtSetOpWaitTimeout(uint32_t) { return ACL_SUCCESS; }
aclError aclrtSetOpExecuteTimeOut(uint32_t) { return ACL_SUCCESS; }
aclError aclrtSetOpExecuteTimeOutV2(uint64_t timeout, uint64_t *actual) { if (actual) *actual = timeout; return ACL_SUCCESS; }
aclError aclrtSetStreamFailureMode(aclrtStream, uint64_t) { return ACL_SUCCESS; }
#ifndef LACKS_aclrtStreamAttr
aclError aclrtSetStreamAttribute(aclrtStream, aclrtStreamAttr, aclrtStreamAttrValue *) { return ACL_SUCCESS; }
#endif
aclError aclrtSetStreamOverflowSwitch(aclrtStream s, uint32_t flag) { if (s) static_cast<Stream *>(s)->overflow_switch = flag; return ACL_SUCCESS; }
aclError aclrtGetStreamOverflowSwitch(aclrtStream s, uint32_t *flag) { *flag = s ? static_cast<Stream *>(s)->overflow_switch : 0; return ACL_SUCCESS; }
aclError aclrtSetDeviceSatMode(aclrtFloatOverflowMode mode) {
    return mode == ACL_RT_OVERFLOW_MODE_INFNAN ? ACL_SUCCESS : unsupported("aclrtSetDeviceSatMode(saturation): a CPU computes inf and nan");
}

// ---- memory ----
aclError aclrtMalloc(void **at, size_t size, aclrtMemMallocPolicy) { return malloc_on_card("aclrtMalloc", at, size); }
aclError aclrtMallocAlign32(void **at, size_t size, aclrtMemMallocPolicy) { return malloc_on_card("aclrtMallocAlign32", at, size); }
aclError aclrtFree(void *p) {
    Block block;
    {
        std::lock_guard<std::mutex> guard(lock);
        auto found = blocks.find(p);
        if (found == blocks.end()) return bad_argument("aclrtFree");
        block = found->second;
        blocks.erase(found);
    }
    munmap(p, block.size);
    release(block.card, block.size);
    return ACL_SUCCESS;
}
aclError aclrtMallocHost(void **at, size_t size) {
    if (posix_memalign(at, 4096, size ? size : 1)) return fail(ACL_ERROR_RT_MEMORY_ALLOCATION, "the host refuses %zu bytes", size);
    std::lock_guard<std::mutex> guard(lock);
    host_blocks[*at] = Block{size, -1};
    return ACL_SUCCESS;
}
#ifndef LACKS_aclrtMallocConfig
aclError aclrtMallocHostWithCfg(void **at, uint64_t size, aclrtMallocConfig *) { return aclrtMallocHost(at, size); }
#endif
aclError aclrtFreeHost(void *p) {
    std::lock_guard<std::mutex> guard(lock);
    if (!host_blocks.erase(p)) return bad_argument("aclrtFreeHost");
    free(p);
    return ACL_SUCCESS;
}
static const Block *find(const std::map<void *, Block> &in, const void *p) {
    auto after = in.upper_bound(const_cast<void *>(p));
    if (after == in.begin()) return nullptr;
    --after;
    return p < static_cast<const char *>(after->first) + after->second.size ? &after->second : nullptr;
}
#ifndef LACKS_aclrtPtrAttributes
aclError aclrtPointerGetAttributes(const void *p, aclrtPtrAttributes *out) {
    std::lock_guard<std::mutex> guard(lock);
    memset(out, 0, sizeof *out);
    out->pageSize = 4096;
    const Block *device = find(blocks, p);
    if (!device) device = find(reserved, p);
    out->location.type = device ? ACL_MEM_LOCATION_TYPE_DEVICE
                       : find(host_blocks, p) ? ACL_MEM_LOCATION_TYPE_HOST : ACL_MEM_LOCATION_TYPE_UNREGISTERED;
    out->location.id = device && device->card >= 0 ? uint32_t(device->card) : 0;
    return ACL_SUCCESS;
}
#endif
aclError aclrtHostRegister(void *p, uint64_t size, aclrtHostRegisterType, void **device) {
    { std::lock_guard<std::mutex> guard(lock); host_blocks[p] = Block{size, -1}; }
    *device = p;
    return ACL_SUCCESS;
}
aclError aclrtHostRegisterV2(void *p, uint64_t size, uint32_t) { std::lock_guard<std::mutex> g(lock); host_blocks[p] = Block{size, -1}; return ACL_SUCCESS; }
aclError aclrtHostUnregister(void *p) { std::lock_guard<std::mutex> g(lock); return host_blocks.erase(p) ? ACL_SUCCESS : bad_argument("aclrtHostUnregister"); }

aclError aclrtGetMemInfo(aclrtMemAttr attr, size_t *free_bytes, size_t *total) {
    if (device_now() < 0) return no_context("aclrtGetMemInfo");
    if (attr == ACL_DDR_MEM || attr == ACL_DDR_MEM_HUGE || attr == ACL_DDR_MEM_NORMAL) { *free_bytes = *total = 0; return ACL_SUCCESS; }
    uint64_t taken = used(physical(device_now()));
    *total = hbm_bytes();
    *free_bytes = taken < *total ? *total - taken : 0;
    return ACL_SUCCESS;
}

static int copy(const char *what, void *to, size_t room, const void *from, size_t count) {
    if (count > room || (count && (!to || !from))) return bad_argument(what);
    memmove(to, from, count);
    return ACL_SUCCESS;
}
aclError aclrtMemcpy(void *to, size_t room, const void *from, size_t count, aclrtMemcpyKind) { return copy("aclrtMemcpy", to, room, from, count); }
aclError aclrtMemcpyAsync(void *to, size_t room, const void *from, size_t count, aclrtMemcpyKind, aclrtStream) { return copy("aclrtMemcpyAsync", to, room, from, count); }
aclError aclrtMemcpyAsyncWithCondition(void *to, size_t room, const void *from, size_t count, aclrtMemcpyKind, aclrtStream) {
    return copy("aclrtMemcpyAsyncWithCondition", to, room, from, count);
}
aclError aclrtMemcpyBatch(void **to, size_t *room, void **from, size_t *sizes, size_t n, aclrtMemcpyBatchAttr *, size_t *, size_t, size_t *failed) {
    for (size_t i = 0; i < n; ++i)
        if (int code = copy("aclrtMemcpyBatch", to[i], room[i], from[i], sizes[i])) { if (failed) *failed = i; return code; }
    return ACL_SUCCESS;
}
aclError aclrtMemcpyBatchAsync(void **to, size_t *room, void **from, size_t *sizes, size_t n, aclrtMemcpyBatchAttr *a, size_t *i, size_t na, size_t *failed, aclrtStream) {
    return aclrtMemcpyBatch(to, room, from, sizes, n, a, i, na, failed);
}
aclError aclrtMemset(void *to, size_t room, int32_t value, size_t count) {
    if (count > room) return bad_argument("aclrtMemset");
    memset(to, value, count);
    return ACL_SUCCESS;
}
aclError aclrtMemsetAsync(void *to, size_t room, int32_t value, size_t count, aclrtStream) { return aclrtMemset(to, room, value, count); }

// Expandable segments: a reserved range of addresses, into which pieces of card memory are mapped.
aclError aclrtReserveMemAddress(void **at, size_t size, size_t, void *expected, uint64_t) {
    void *p = mmap(expected, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return fail(ACL_ERROR_RT_MEMORY_ALLOCATION, "the host refuses %zu bytes of address space", size);
    std::lock_guard<std::mutex> guard(lock);
    reserved[p] = Block{size, device_now() < 0 ? -1 : physical(device_now())};
    *at = p;
    return ACL_SUCCESS;
}
aclError aclrtReleaseMemAddress(void *p) {
    std::lock_guard<std::mutex> guard(lock);
    auto found = reserved.find(p);
    if (found == reserved.end()) return bad_argument("aclrtReleaseMemAddress");
    munmap(p, found->second.size);
    reserved.erase(found);
    return ACL_SUCCESS;
}
aclError aclrtMallocPhysical(aclrtDrvMemHandle *handle, size_t size, const aclrtPhysicalMemProp *prop, uint64_t) {
    int card = physical(int(prop->location.id));
    if (card < 0) return bad_device("aclrtMallocPhysical", int(prop->location.id));
    if (!charge(card, size))
        return fail(ACL_ERROR_RT_MEMORY_ALLOCATION,
                    "Memory_Allocation_Failure(EL0004): Failed to allocate memory.\n        Possible Cause: Available memory is insufficient.");
    int fd = memfd_create("emulated-hbm", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, off_t(size)) != 0) { release(card, size); return fail(ACL_ERROR_RT_MEMORY_ALLOCATION, "memfd_create fails"); }
    *handle = new Physical{fd, card, size};
    return ACL_SUCCESS;
}
aclError aclrtFreePhysical(aclrtDrvMemHandle handle) {
    auto *piece = static_cast<Physical *>(handle);
    if (!piece) return bad_argument("aclrtFreePhysical");
    close(piece->fd);
    release(piece->card, piece->size);
    delete piece;
    return ACL_SUCCESS;
}
aclError aclrtMapMem(void *at, size_t size, size_t offset, aclrtDrvMemHandle handle, uint64_t) {
    auto *piece = static_cast<Physical *>(handle);
    if (mmap(at, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, piece->fd, off_t(offset)) == MAP_FAILED) return bad_argument("aclrtMapMem");
    std::lock_guard<std::mutex> guard(lock);
    mapped[at] = size;
    return ACL_SUCCESS;
}
aclError aclrtUnmapMem(void *at) {
    std::lock_guard<std::mutex> guard(lock);
    auto found = mapped.find(at);
    if (found == mapped.end()) return bad_argument("aclrtUnmapMem");
    mmap(at, found->second, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    mapped.erase(found);
    return ACL_SUCCESS;
}

// ---- streams and events ----
aclError aclrtCreateStreamWithConfig(aclrtStream *stream, uint32_t, uint32_t) {
    static std::atomic<int> next{2};
    if (device_now() < 0) return no_context("aclrtCreateStream");
    *stream = new Stream{device_now(), next++, 0};
    return ACL_SUCCESS;
}
aclError aclrtCreateStream(aclrtStream *stream) { return aclrtCreateStreamWithConfig(stream, 0, 0); }
aclError aclrtDestroyStream(aclrtStream stream) { delete static_cast<Stream *>(stream); return ACL_SUCCESS; }
aclError aclrtDestroyStreamForce(aclrtStream stream) { return aclrtDestroyStream(stream); }
aclError aclrtSynchronizeStream(aclrtStream) { return poisoned(); }
aclError aclrtSynchronizeStreamWithTimeout(aclrtStream, int32_t) { return poisoned(); }
aclError aclrtStreamQuery(aclrtStream, aclrtStreamStatus *status) { *status = ACL_STREAM_STATUS_COMPLETE; return poisoned(); }
aclError aclrtStreamGetId(aclrtStream stream, int32_t *id) { *id = stream ? static_cast<Stream *>(stream)->id : 0; return ACL_SUCCESS; }
aclError aclrtCreateEventExWithFlag(aclrtEvent *event, uint32_t flag) {
#ifndef LACKS_ACL_EVENT_IPC
    if (flag & ACL_EVENT_IPC) return unsupported("aclrtCreateEventExWithFlag(ACL_EVENT_IPC)");
#endif
    *event = new Event{0};
    return ACL_SUCCESS;
}
aclError aclrtCreateEventWithFlag(aclrtEvent *event, uint32_t flag) { return aclrtCreateEventExWithFlag(event, flag); }
aclError aclrtDestroyEvent(aclrtEvent event) { delete static_cast<Event *>(event); return ACL_SUCCESS; }
aclError aclrtRecordEvent(aclrtEvent event, aclrtStream) { static_cast<Event *>(event)->recorded_ns = now_ns(); return ACL_SUCCESS; }
aclError aclrtResetEvent(aclrtEvent event, aclrtStream) { static_cast<Event *>(event)->recorded_ns = 0; return ACL_SUCCESS; }
aclError aclrtStreamWaitEvent(aclrtStream, aclrtEvent) { return ACL_SUCCESS; }
aclError aclrtSynchronizeEvent(aclrtEvent) { return poisoned(); }
aclError aclrtQueryEventStatus(aclrtEvent event, aclrtEventRecordedStatus *status) {
    *status = static_cast<Event *>(event)->recorded_ns && !poisoned() ? ACL_EVENT_RECORDED_STATUS_COMPLETE : ACL_EVENT_RECORDED_STATUS_NOT_READY;
    return ACL_SUCCESS;
}
aclError aclrtQueryEventWaitStatus(aclrtEvent event, aclrtEventWaitStatus *status) {
    *status = static_cast<Event *>(event)->recorded_ns ? ACL_EVENT_WAIT_STATUS_COMPLETE : ACL_EVENT_WAIT_STATUS_NOT_READY;
    return ACL_SUCCESS;
}
aclError aclrtEventElapsedTime(float *ms, aclrtEvent start, aclrtEvent end) {
    uint64_t a = static_cast<Event *>(start)->recorded_ns, b = static_cast<Event *>(end)->recorded_ns;
    if (!a || !b) return fail(ACL_ERROR_RT_EVENT_TIMESTAMP_INVALID, "an event has not been recorded (emulated CANN)");
    *ms = float((double(b) - double(a)) / 1e6);
    return ACL_SUCCESS;
}
aclError aclrtEventGetTimestamp(aclrtEvent event, uint64_t *us) { *us = static_cast<Event *>(event)->recorded_ns / 1000; return ACL_SUCCESS; }
aclError aclrtLaunchCallback(aclrtCallback call, void *data, aclrtCallbackBlockType, aclrtStream) { call(data); return ACL_SUCCESS; }
#ifndef LACKS_aclrtHostFunc
aclError aclrtLaunchHostFunc(aclrtStream, aclrtHostFunc call, void *data) { call(data); return ACL_SUCCESS; }
#endif
aclError aclrtSubscribeReport(uint64_t, aclrtStream) { return ACL_SUCCESS; }       // callbacks run when they are launched,
aclError aclrtUnSubscribeReport(uint64_t, aclrtStream) { return ACL_SUCCESS; }     // so there is nothing to report
aclError aclrtProcessReport(int32_t timeout_ms) { usleep(useconds_t(timeout_ms > 0 ? timeout_ms : 1) * 1000); return ACL_ERROR_RT_REPORT_TIMEOUT; }

// The profiler's hooks, with no profiler behind them: CANN, too, drops reports while none is running.
int32_t MsprofRegisterCallback(uint32_t, int32_t (*)(uint32_t, void *, uint32_t)) { return 0; }
int32_t MsprofReportApi(uint32_t, const void *) { return 0; }
int32_t MsprofReportCompactInfo(uint32_t, const void *, uint32_t) { return 0; }
int32_t MsprofReportAdditionalInfo(uint32_t, const void *, uint32_t) { return 0; }
uint64_t MsprofSysCycleTime() { return now_ns(); }
uint64_t MsprofGetHashId(const char *text, size_t length) {
    uint64_t h = 1469598103934665603u;
    for (size_t i = 0; i < length; ++i) h = (h ^ uint8_t(text[i])) * 1099511628211u;
    return h;
}
}
