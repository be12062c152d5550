#pragma once
// actor: an end of a connection on the simulated kernel that does what a play says.
//
// Owner: a target's stage, for one input. What is wrong ends the program: wrong(), and the simulator's violations.

#include <deque>
#include <string>
#include <string_view>
#include <utility>

#include "fuzz/gateway_script.hpp"
#include "sim/world.hpp"

namespace fuzz {

using namespace weir;

// An end of a connection, and what it has still to do.
struct actor {
    remote* end = nullptr; // null: it is gone
    std::deque<step> to_do{};
    std::string in{}, out{}, said{};
    time_point not_before{};
    bool deaf = false;
    bool heard_end = false;

    void leave(bool with_reset) {
        remote* r = std::exchange(end, nullptr);
        with_reset ? r->reset() : r->close();
    }
    void play();
    bool is_done() const { return !end || (to_do.empty() && out.empty()); }
    // False: it is gone.
    bool listen();

  private:
    bool say();
    bool perform(const step& next);
};

[[noreturn]] void wrong(const char* what, std::string_view bytes);

} // namespace fuzz
