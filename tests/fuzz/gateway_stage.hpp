#pragma once
// gateway_stage: a gateway on the simulated kernel, between clients and servers that do what a script says.
//
// Owner: the target, for one input. What is wrong ends the program: wrong(), and the simulator's violations.

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "fuzz/actor.hpp"
#include "proto/http1_gateway.hpp"
#include "sim/world.hpp"

namespace fuzz {

using namespace weir;

struct stage;

// What a server got, or what a client sent.
struct request {
    std::string method{}, target{}, host{}, body{};
    bool is_complete = false;
    bool could_be_answered = true; // the server had not ended its side before
    bool is_http_1_0 = false;
    bool may_be_repeated() const { // RFC 9110 section 9.2.2
        for (const char* name : {"GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"})
            if (method == name) return true;
        return false;
    }
    std::string key() const { return method + ' ' + target + ' ' + host + ' ' + body; }
};

struct server : actor {
    stage* home = nullptr;
    std::vector<request> got{}; // the last one may be incomplete
    bool is_tunnel = false;
    bool is_seen = false;     // the request at the front of `in` is got.back(),
    bool is_answered = false; // and its answer is to be sent, or was
    void run();

  private:
    bool read_one();
    void answer(const request& asked, bool wants_upgrade);
};

using client = actor;

// The acts, in their order: perform(), await_all_over(), try_healthy(). Then everything is let go, and checked.
struct stage {
    explicit stage(std::string_view input);
    ~stage();

    const script play;
    const std::string nonce; // marks what the servers here say of themselves: no input contains it
    simtest::world w;
    std::size_t answers_used = 0;
    std::vector<std::unique_ptr<server>> servers{};
    std::vector<std::unique_ptr<client>> clients{};
    std::unique_ptr<http1_gateway> gateway{};

    client& send_client(const part& steps);
    void perform();
    void await_all_over();
    void try_healthy();
    bool is_quiet() const {
        return gateway->clients_count() == 0 && w.conns->live_count() == gateway->idle().idle_count();
    }
    const answer* next_answer() const {
        return answers_used < play.answers.size() ? &play.answers[answers_used] : nullptr;
    }
};

} // namespace fuzz
