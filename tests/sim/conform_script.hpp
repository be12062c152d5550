#pragma once
// conform_script: one random script of system calls, played on the real kernel and on the simulated one.
//
// After every step the two answers are compared, then what poll() says of everything that is open.

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "sim/conform_text.hpp"
#include "sim/machine.hpp"

namespace conform {

struct handle {
    std::string name; // "tcp3"
    family kind;
    role what;
    int address; // a listener's; -1
    int fd[2];   // on each machine
};

// "send tcp: 5 / -32" and what it was about.
struct difference {
    std::string kind; // as the allow-list names it
    std::string text;
};

class script {
  public:
    script(std::uint64_t seed, int pause_ms) : random_(seed) {
        sides_[0] = make_real(pause_ms);
        sides_[1] = make_simulated(seed);
    }

    // True: no difference.
    bool play(difference& found);

  private:
    std::uint32_t below(std::uint32_t n) {
        random_ += 0x9e3779b97f4a7c15u;
        std::uint64_t z = random_;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        return static_cast<std::uint32_t>((z ^ z >> 31) >> 33) % n;
    }

    // Plays one call on both sides. True: the answers agree.
    template <class Call>
    bool on_each(const char* what, const handle& on, Call call) {
        long answer[2];
        for (std::size_t side = 0; side < 2; side++) {
            answer[side] = call(side);
            sides_[side]->settle();
        }
        return agree(what, on, answer[0], answer[1]);
    }
    // One that is about `on` alone.
    template <class Call>
    bool both(const char* what, const handle& on, Call call) {
        return on_each(what, on, [&](std::size_t side) { return call(*sides_[side], on.fd[side]); });
    }
    bool agree(const char* what, const handle& on, long real, long simulated);
    bool made(const char* what, family f, role r, int address, int real, int simulated);
    handle* pick(role r);
    bool step();
    bool open_something();
    bool use_stream(handle& h);
    bool use_counter(handle& h);
    bool watch_something();
    bool wait();
    bool fill(handle& h);
    bool pass(handle& h);
    bool send_with(handle& h);
    bool recv_with(handle& h);
    bool drain(handle& h);
    bool close(handle& h, bool abort);
    bool poll_all();

    std::uint64_t random_;
    std::unique_ptr<machine> sides_[2];
    std::vector<handle> handles_;
    std::map<std::uint64_t, std::string> watched_; // by data
    bool filled_ = false;                          // some socket has met the end of its room
    int names_ = 0;
    std::uint64_t serial_ = 0;
    std::string log_;
    difference* found_ = nullptr;
};

} // namespace conform
