// leak_storm: who plays the scripts.

#include "tools/leak_storm.hpp"

#include <algorithm>
#include <csignal>
#include <cstring>

#include "proto/tcp.hpp"
#include "tools/child.hpp"
#include "tools/leak_peers.hpp"
#include "tools/process.hpp"

namespace weir::inline WEIR_KERNEL::tools {

struct storm_client {
    storm& home;
    const leak_script& plays;
    bool holds;
    bool in_the_dark; // says nothing: a peer that dies then ends with a FIN instead of a reset
    std::uint8_t answers = 0;

    static const data_cb table;
    static verdict recv(connection& conn) noexcept;
    static verdict wake(connection& conn) noexcept;
    static void late(timer& t, time_point) noexcept;
    verdict hello(connection& conn) noexcept;
    verdict answered(connection& conn) noexcept;
    verdict perform(connection& conn, leak_act what) noexcept;
    verdict end(connection& conn, close_intent intent, end_cause cause) noexcept;
};

namespace {

bool is_loopback(const endpoint& at) noexcept {
    if (at.family() != AF_INET) return false;
    sockaddr_in v4;
    std::memcpy(&v4, at.data(), sizeof v4);
    return ntohl(v4.sin_addr.s_addr) >> 24 == 127;
}

} // namespace

// --- one client

const data_cb storm_client::table{.name = "storm", .recv = recv, .send = keep_on, .wake = wake};

verdict storm_client::end(connection& conn, close_intent intent, end_cause cause) noexcept {
    const bool by_script = (answers > 0) == plays.is_answered;
    home.over(*this, by_script, conn.error());
    return conn.close(intent, cause);
}

void storm_client::late(timer& t, time_point) noexcept {
    connection& conn = connection::of(t);
    storm_client& c = conn.owner_as<storm_client>();
    c.home.result_.late++;
    c.home.over(c, false, ETIMEDOUT);
    conn.close(close_intent::after_fin, end_cause::timed_out); // no reset: it would hide a socket stuck in CLOSE_WAIT
}

verdict storm_client::perform(connection& conn, leak_act what) noexcept {
    switch (what) {
    case leak_act::nothing: break;
    case leak_act::fin: conn.shutdown_send(); break;
    case leak_act::poke: conn.send("!"); break; // where it fails, the end follows
    case leak_act::rst: return end(conn, close_intent::abort, end_cause::done);
    }
    return verdict::keep;
}

verdict storm_client::hello(connection& conn) noexcept {
    conn.want_recv();
    if (!holds) conn.arm(conn.loop().now() + home.options_.deadline, late);
    if (in_the_dark) return verdict::keep;
    switch (plays.say) {
    case leak_text::none: break;
    case leak_text::byte: conn.send({&plays.byte, 1}); break;
    case leak_text::request: conn.send(home.options_.request); break;
    case leak_text::close_request: conn.send(home.close_request_); break;
    }
    return perform(conn, plays.with_hello);
}

verdict storm_client::answered(connection& conn) noexcept {
    if (answers == 2) return verdict::keep;
    answers++;
    if (answers == 1) home.up_++;
    return perform(conn, answers == 1 ? plays.first : plays.second);
}

verdict storm_client::recv(connection& conn) noexcept {
    storm_client& c = conn.owner_as<storm_client>();
    for (;;) {
        const io_result r = conn.recv(conn.home().scratch(), conntab::scratch_bytes);
        switch (r.end) {
        case io::again: return verdict::keep;
        case io::closed: return c.end(conn, close_intent::after_fin, end_cause::peer_closed);
        case io::failed: return c.end(conn, close_intent::silent, end_cause::peer_failed);
        case io::done: break;
        }
        if (c.answered(conn) == verdict::gone) return verdict::gone;
        if (!conn.slot().is(fd_state::recv_ready)) return verdict::keep;
    }
}

verdict storm_client::wake(connection& conn) noexcept {
    storm_client& c = conn.owner_as<storm_client>();
    if (conn.is_broken()) {
        // A client that is reset right after its accept may hear of the reset first.
        const bool was_there = conn.is(conn_flag::connected) || conn.error() == ECONNRESET;
        if (was_there) return c.end(conn, close_intent::silent, conn.failure());
        c.home.over(c, false, conn.error());
        return conn.close(close_intent::silent, conn.failure());
    }
    return conn.slot().is(fd_state::recv_active) || conn.is(conn_flag::recv_ended) ? verdict::keep : c.hello(conn);
}

// --- the storm

storm::storm(conntab& conns, const storm_options& options)
    : conns_(conns), options_(options), clients_(std::make_unique<fixed_pool<storm_client>>(options.jobs + gate_max)) {
    const std::size_t head_end = options_.request.rfind("\r\n");
    close_request_ = options_.request;
    if (head_end != close_request_.npos) close_request_.insert(head_end, "Connection: close\r\n");
}

storm::~storm() { EXPECT(clients_->used() == 0); }

void storm::over(storm_client& c, bool by_script, int error) noexcept {
    if (c.answers > 0) up_--;
    if (c.holds) {
        std::erase(holders_, &c);
    } else {
        live_--;
        ++(by_script ? result_.cycles : result_.failed);
        if (!by_script) result_.error = error;
    }
    clients_->free(c);
}

// Sources of their own, so that TIME_WAIT does not use up the ports of one address.
void storm::start(const leak_script& s, bool holds) {
    const address to =
        options_.proxy ? address{&tcp, options_.proxy->doors[static_cast<std::size_t>(s.door)]} : options_.target;
    constexpr std::uint32_t sources = 0x7f4e0001, sources_count = 60'000; // 127.78.0.1 and on
    dial_options how{.timeout = options_.deadline};
    if (is_loopback(to.at)) how.source = endpoint::ipv4(sources + source_ % sources_count, 0);
    source_++;
    storm_client* c = clients_->make(*this, s, holds, s.door == leak_door::victim && source_ % 2 == 0);
    EXPECT(c != nullptr);
    auto conn = dial(conns_, *to.family, to.at, how, storm_client::table, c);
    if (conn) {
        if (holds) holders_.push_back(c);
        else live_++;
        return;
    }
    clients_->free(*c);
    result_.failed++;
    result_.error = conn.error();
}

void storm::fill() {
    const bool in_batches = ending_ == leak_ending::killed;
    if (in_batches && live_ > 0) return;
    if (in_batches && started_ < wanted_) victim_ = start_victim(options_.victims_socket);
    const bool is_hopeless = result_.late > std::uint64_t{2} * options_.jobs; // the rest would take as long
    if (is_hopeless) wanted_ = started_;
    while (live_ < options_.jobs && started_ < wanted_) {
        started_++;
        start(*script_, false);
    }
}

void storm::hold_gate() {
    const time_point until = conns_.loop().now() + options_.deadline;
    for (std::uint32_t i = 0; i < gate_max; i++)
        start(leak_holder, true);
    while (up_ < gate_max && conns_.loop().now() < until)
        conns_.loop().turn(milliseconds{10});
}

void storm::release_gate() {
    for (connection *conn = conns_.first(), *next = nullptr; conn; conn = next) {
        next = conns_.after(*conn);
        if (&conn->cb() != &storm_client::table || !conn->owner_as<storm_client>().holds) continue;
        over(conn->owner_as<storm_client>(), true, 0);
        conn->close(close_intent::abort, end_cause::done);
    }
}

storm_result storm::run(leak_ending e, std::uint64_t cycles) {
    ending_ = e;
    script_ = &script_of(e, options_.proxy ? leak_side::own : leak_side::target);
    result_ = {};
    started_ = 0;
    wanted_ = cycles;
    event_loop& loop = conns_.loop();
    if (e == leak_ending::rejected) hold_gate();
    const time_point began = sys::now();
    while (started_ < wanted_ || live_ > 0) { // each cycle has a deadline
        fill();
        loop.turn(milliseconds{10});
        if (victim_ < 0 || up_ < live_) continue;
        end_process(victim_, SIGKILL);
        victim_ = -1;
    }
    if (victim_ >= 0) end_process(victim_, SIGKILL);
    victim_ = -1;
    result_.seconds = std::chrono::duration<double>(sys::now() - began).count();
    if (e == leak_ending::rejected) release_gate();
    return result_;
}

} // namespace weir::inline WEIR_KERNEL::tools
