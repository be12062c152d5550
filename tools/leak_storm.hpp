#pragma once
// leak_storm: clients that bring a proxy to each of its endings, many at a time.
//
//     dial ──> hello ──> first answer ──> act ──> second answer ──> act ──> the end
//
// What is done at each step is a script (leak_script.hpp). A cycle counts only if it went by its script to the end: an
// answer where one is due, none where not.
//
// Owner: main(). Thread: its loop's. Allocation: when made.

#include <memory>
#include <string>
#include <vector>

#include "core/dialer.hpp"
#include "proto/address.hpp"
#include "tools/leak_script.hpp"

namespace weir::inline WEIR_KERNEL::tools {

struct storm_options {
    const leak_proxy* proxy = nullptr; // null: an HTTP server at `target`
    address target{};
    std::string request; // for a target
    int victims_socket = -1;
    std::uint32_t jobs = 64;
    duration deadline = seconds{5}; // for one cycle
};

struct storm_result {
    std::uint64_t cycles = 0; // by their script, to the end
    std::uint64_t failed = 0; // not so
    std::uint64_t late = 0;   // of these: not over at the deadline
    int error = 0;            // errno of the last that failed, 0: an end that was not due
    double seconds = 0;
};

struct storm_client;

class storm {
  public:
    storm(conntab& conns, const storm_options& options);
    ~storm();

    // Takes turns of the loop until as many cycles have ended.
    storm_result run(leak_ending e, std::uint64_t cycles);

  private:
    friend struct storm_client;

    void start(const leak_script& s, bool holds);
    void fill();
    void hold_gate();
    void release_gate();
    void over(storm_client& c, bool by_script, int error) noexcept;

    conntab& conns_;
    const storm_options options_;
    std::string close_request_;
    std::unique_ptr<fixed_pool<storm_client>> clients_;
    const leak_script* script_ = nullptr;
    std::vector<storm_client*> holders_;
    storm_result result_{};
    std::uint64_t started_ = 0, wanted_ = 0;
    std::uint32_t live_ = 0, up_ = 0; // of this run; up: have an answer
    std::uint32_t source_ = 0;
    pid_t victim_ = -1;
    leak_ending ending_{};
};

} // namespace weir::inline WEIR_KERNEL::tools
