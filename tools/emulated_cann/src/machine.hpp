// What the virtual machine is: its cards, whose memory is taken by whom, and how an error is told.
// Everything is read from the environment; what processes must agree on lies in one shared file.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace emulated {

constexpr int MAX_CARDS = 64, MAX_HOLDERS = 64;

struct Holder {                 // one process on one card; bin/machine.py reads the same layout
    int32_t pid, comms;
    uint64_t bytes;
};
struct Card { Holder holders[MAX_HOLDERS]; };

struct Soc {
    const char *name;           // what aclrtGetSocName answers
    int cubes, vectors, hbm_gb;
    bool bf16;
};

const Soc &soc();
int num_cards();
uint64_t hbm_bytes();                                  // what the runtime calls total, per card
bool fault(const char *name, int card, double *value = nullptr);   // EMULATED_FAULTS=name:card=value,...

struct Visible { std::vector<int> cards; bool unordered; };
Visible visible();                                     // ASCEND_RT_VISIBLE_DEVICES, by CANN's rules

int physical(int logical);                             // -1 when there is no such card
int current();                                         // this thread's logical card, -1 before aclrtSetDevice
bool charge(int physical, uint64_t bytes);             // false: the budget of the card refuses
void release(int physical, uint64_t bytes);
uint64_t used(int physical);
void enter(int physical);                              // this process is now on the card
int foreign_comms(int physical);                       // pid of another live process with communicators there, or 0
void count_comm(int physical, int change);

// Remember the text aclGetRecentErrMsg returns, write it to the plog, and return the code.
int fail(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));
std::string stamp();                                   // 2026-01-02-03:04:05.678.901
void poison(int code, const std::string &text);        // every later synchronisation fails with this
[[noreturn]] void not_emulated(const char *name);
double seconds(const char *emulated_name, const char *real_name, double otherwise);
}
